"""A model in this process: its replies, log-probabilities, and the implicit rewards of a policy against its reference."""

from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image

from data_tools.preference.endpoints import Endpoint
from data_tools.preference.journal import Journal
from data_tools.preference.local import LocalModel
from data_tools.preference.messages import ChatRequest, Picture, Sampling, user
from data_tools.preference.questions import Candidate, Question, read_questions, write_questions
from data_tools.preference.score import main as score_main
from tests.chat_server import write_videos
from tests.packing import jpeg
from tests.tiny_chat_model import write_chat_model
from unipixel.errors import ConfigError

PICTURES = Picture(jpeg(1, (56, 56))), Picture(jpeg(2, (56, 56)))
TEXT = "What is moved?"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(policy, reference): the same architecture with other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [LocalModel(Endpoint(model=str(write_chat_model(folder / str(seed), seed)), backend="local")) for seed in (0, 1)]


def test_replies_depend_on_the_seed_only(models):
    def say(seed: int, temperature: float, **extra: float) -> str:
        sampling = Sampling(temperature=temperature, max_tokens=12, seed=seed, extra=extra)
        return models[0].reply(ChatRequest("m", user(*PICTURES, TEXT), sampling))["text"]

    before = torch.random.get_rng_state()
    drawn = [say(seed, 1.0) for seed in (0, 1, 2, 0, 1, 2)]
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3
    assert say(0, 0.0) == say(1, 0.0)
    assert say(0, 0.0) != say(0, 0.0, repetition_penalty=5.0)
    assert torch.random.get_rng_state().equal(before)


def test_the_record_of_a_reply(models):
    request = ChatRequest("m", user(*PICTURES, TEXT), Sampling(temperature=1.0, max_tokens=1))
    record = models[0].reply(request)
    assert record["finish"] == "length" and record["usage"]["completion"] == 1
    ids = models[0].processor(text=[prompt_text()], images=pictures(), return_tensors="pt")["input_ids"]
    assert record["usage"]["prompt"] == ids.shape[1]


def prompt_text() -> str:
    """The dialogue as the template writes it, by hand."""
    block = "<|vision_start|><|image_pad|><|vision_end|>"
    return f"<|im_start|>user\n{block}{block}{TEXT}<|im_end|>\n<|im_start|>assistant\n"


def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(p.data)).convert("RGB") for p in PICTURES]


def by_hand(model: LocalModel, reply: str) -> float:
    """Sum over the reply and the token that ends it of log p(token | everything before it)."""
    whole = model.processor(text=[prompt_text() + reply + "<|im_end|>"], images=pictures(), return_tensors="pt")
    prompt = model.processor(text=[prompt_text()], images=pictures(), return_tensors="pt")["input_ids"].shape[1]
    with torch.no_grad():
        logits = model.model(**whole).logits[0].double()
    ids = whole["input_ids"][0]
    return sum(float(logits[t - 1, ids[t]] - logits[t - 1].logsumexp(0)) for t in range(prompt, len(ids)))


def test_log_probabilities_by_hand(models):
    for reply in ("The red cup.", "dog"):
        got = [model.log_prob(user(*PICTURES, TEXT), reply) for model in models]
        assert [value for value, _ in got] == pytest.approx([by_hand(model, reply) for model in models], abs=1e-4)
        assert got[0][1] == got[1][1] == len(models[0].tokenizer.encode(reply)) + 1


def test_an_implicit_reward_is_the_difference_of_two_log_probabilities(models, tmp_path):
    """Through the command, with the frames that the replies were made from; a second run reads the journal; one without shards lists."""
    shards = write_videos(tmp_path / "shards", ["v"], seconds=1, fps=4)
    origin = {"frames": {"rule": {"fps": 0.0, "count": 2, "width": 0}, "times": [0.0, 0.75]}}
    candidates = (Candidate("sample", 0, "The red cup.", origin), Candidate("sample", 1, "A dog.", origin), Candidate("sample", 2, "No frames."))
    write_questions(tmp_path / "q.jsonl", [Question("q", "hound", "toy-train-v", TEXT, "correctness", candidates=candidates)])
    roles = {role: {"model": m.endpoint.model, "backend": "local"} for role, m in zip(("policy", "reference"), models, strict=True)}
    (tmp_path / "m.yaml").write_text(json.dumps(roles))

    def run(out: str, *more: str) -> int:
        return score_main(["--questions", str(tmp_path / "q.jsonl"), "--by", "implicit", "--models", str(tmp_path / "m.yaml"),
                           "--out", str(tmp_path / out), *more])

    assert run("a.jsonl", "--shards", str(shards)) == 0
    (question,) = read_questions(tmp_path / "a.jsonl")
    seen = user(Picture(jpeg(0)), Picture(jpeg(3)), f"The 2 pictures are frames of one video, in order, at 0.0, 0.8 seconds.\n{TEXT}")
    for candidate, messages in zip(question.candidates, (seen, seen, user(TEXT)), strict=True):
        (first, tokens), (second, _) = (m.log_prob(messages, candidate.text) for m in models)
        assert candidate.reward == pytest.approx(first - second, abs=1e-5) and abs(candidate.reward) > 0.01
        assert candidate.tokens == tokens and candidate.judged["reward"]["log_probs"] == pytest.approx([first, second], abs=1e-5)
    with Journal(tmp_path / "replies.jsonl") as journal:
        assert len(journal) == 6
    lines = (tmp_path / "replies.jsonl").read_bytes()
    assert run("b.jsonl", "--shards", str(shards)) == 0
    assert (tmp_path / "replies.jsonl").read_bytes() == lines and read_questions(tmp_path / "b.jsonl") == [question]
    assert run("c.jsonl") == 0
    assert [c.reward is None for c in read_questions(tmp_path / "c.jsonl")[0].candidates] == [True, True, False]
    assert "no_medium" in (tmp_path / "c.jsonl.skipped.jsonl").read_text()


def test_rewards_need_models_in_this_process(tmp_path, capsys):
    write_questions(tmp_path / "q.jsonl", [Question("q", "hound", "m", TEXT, "correctness", candidates=(Candidate("sample", 0, "x"),))])
    (tmp_path / "m.yaml").write_text(json.dumps({role: {"model": "m", "base_url": "http://x/v1"} for role in ("policy", "reference")}))
    assert score_main(["--questions", str(tmp_path / "q.jsonl"), "--by", "implicit", "--models", str(tmp_path / "m.yaml"),
                       "--out", str(tmp_path / "o.jsonl")]) == 2
    assert "backend: local" in capsys.readouterr().err


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        LocalModel(Endpoint(model=str(tmp_path), backend="local"))
