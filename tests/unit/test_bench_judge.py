"""Judged answers: verdicts read strictly, unjudged replies that block the headline, graded captions, the adversarial probe."""

from __future__ import annotations

import json

import pytest

from benchmarks import score as scoring
from benchmarks.judge import CAPTION_DIMENSIONS, read_grades, read_yes_no
from tests.bench_samples import all_perfect, packed, questions_of
from tests.chat_server import chat_server, text_of, write_videos
from tests.dataset_fixtures import choice
from unipixel.errors import EXIT_USER_ERROR, SampleError
from unipixel.infer.predictions import Prediction, write_predictions
from unipixel.sample import Example


@pytest.mark.parametrize("text, yes, score", [
    ("{'pred': 'yes', 'score': 4.8}", True, 4.8), ('{"pred": "No", "score": 2}', False, 2.0), ("Sure: {'pred': 'no', 'score': 0} yes!", False, 0.0),
    ("```python\n{'pred': 'yes', 'score': 5}\n```", True, 5.0)])
def test_verdicts(text, yes, score):
    verdict = read_yes_no(text)
    assert (verdict.yes, verdict.scores) == (yes, {"score": score}), "decimals are kept, and only the field decides"


@pytest.mark.parametrize("text", ["yes", "{'pred': 'yes'}", "{'pred': 'yes', 'score': 6}", "{'pred': 'maybe', 'score': 3}", "{'score': 4}", "",
                                  "{'pred': 'yes', 'score': '4'}", "{'pred': 'yes', 'score': True}", "{__import__('os')}"])
def test_what_is_no_verdict(text):
    with pytest.raises(SampleError):
        read_yes_no(text)


def test_grades():
    text = "1. subject correspondence: 4\n2. appearance description: 3.5\n 3) temporal description: 2/5\n4. hallucination detection: 0"
    assert dict(read_grades(text).scores) == dict(zip(CAPTION_DIMENSIONS, (4, 3.5, 2, 0)))
    for wrong in (text.replace("4. hall", "5. hall"), text + "\n1. subject: 3", text.replace("3.5", "6"), "all fine"):
        with pytest.raises(SampleError):
            read_grades(wrong)


@pytest.fixture
def open_qa(tmp_path):
    """Shards with three open questions and predictions for two of them, one failed."""
    examples = {f"v{n}": [Example(f"v{n}_q", "evidence", f"What is seen in {n}?", answer="A dog")] for n in range(3)}
    write_videos(tmp_path / "shards", list(examples), seconds=1, fps=2, examples=examples, split="test")
    write_predictions(tmp_path / "p.jsonl", [Prediction("v0_q", "v0", reply="Answer: A puppy.", answer="A puppy"),
                                             Prediction("v1_q", "v1", reply="A tree"), Prediction("v2_q", "v2", "decode_error", error="x")])
    return tmp_path


def flags(folder, models, *more):
    return ["msvd-qa", "--predictions", str(folder / "p.jsonl"), "--shards", str(folder / "shards"), "--out", str(folder / "s.json"),
            "--models", str(models), "--bootstrap", "0", *more]


def test_open_answers(open_qa, capsys):
    def judge(body):
        return "{'pred': 'yes', 'score': 4.8}" if "A puppy" in text_of(body) else "{'pred': 'no', 'score': 1}"

    with chat_server(judge) as server:
        models = server.models(open_qa / "models.yaml", "judge")
        assert scoring.main(flags(open_qa, models)) == 0
        assert len(server.requests) == 2, "a failed prediction is wrong without asking"
        asked = "".join(map(text_of, server.requests))
        assert "Question: What is seen in 0?\nCorrect Answer: A dog\nPredicted Answer: A puppy\n" in asked
        assert scoring.main(flags(open_qa, models)) == 0
        assert len(server.requests) == 2, "replies are kept"
    result = json.loads((open_qa / "s.json").read_text())
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3) and result["metrics"]["score"]["value"] == pytest.approx(5.8 / 3)
    assert result["units"]["score"] == "score_0_5" and result["card"]["judge"]["model"] == "toy" and result["status"] == {"decode_error": 1, "ok": 2}
    assert " 1.93 " in capsys.readouterr().out


def test_unjudged_replies_block_the_headline(open_qa, capsys):
    with chat_server(lambda body: "I cannot say." if "puppy" in text_of(body) else "{'pred': 'no', 'score': 1}") as server:
        models = server.models(open_qa / "models.yaml", "judge")
        assert scoring.main(flags(open_qa, models, "--allow-missing")) == EXIT_USER_ERROR
        assert len(server.requests) == 2 + 2, "asked three times in all"
    captured = capsys.readouterr()
    assert "1 replies are not judged: v0_q (bad_verdict)" in captured.err and "accuracy" not in captured.out and not (open_qa / "s.json").exists()
    assert scoring.main(flags(open_qa, "", "--allow-missing")) == EXIT_USER_ERROR
    assert "needs a judge" in capsys.readouterr().err


def test_recorded_judgements(open_qa):
    with chat_server(lambda body: "{'pred': 'yes', 'score': 5}") as server:
        assert scoring.main(flags(open_qa, server.models(open_qa / "models.yaml", "judge"))) == 0
    recorded = open_qa / "recorded.yaml"
    recorded.write_text("judge: {model: toy, backend: recorded}\n")
    before = (open_qa / "s.json").read_text()
    assert scoring.main(flags(open_qa, recorded)) == 0
    assert json.loads((open_qa / "s.json").read_text())["per_example"] == json.loads(before)["per_example"]


def test_captions(tmp_path):
    shards = packed("videorefer_bench_d", choice.videorefer_bench, tmp_path, "test")
    task, protocol, samples, truths = questions_of("videorefer-d", shards)
    assert samples[0].examples[0].question.endswith("highlighted object [1] in the video.")
    from benchmarks.judge import judge_all  # noqa: PLC0415
    from data_tools.preference.chat import ChatClient  # noqa: PLC0415
    from data_tools.preference.journal import Journal  # noqa: PLC0415

    grades = "\n".join(f"{n}. {name}: {n}" for n, name in enumerate(CAPTION_DIMENSIONS, 1))
    with chat_server(lambda body: grades) as server, Journal(tmp_path / "j.jsonl") as journal:
        judgement = judge_all(task.cases(truths, all_perfect(samples)), ChatClient("judge", server.endpoint(), journal))
    result = task.with_judgement(judgement).score(truths, all_perfect(samples), protocol, bootstrap=0)
    assert result["metrics"]["average"]["value"] == 2.5 and result["metrics"]["hallucination detection"]["value"] == 4
    assert task.judgement is None, "the registered task has no verdicts of its own"


def test_adversarial_probe(tmp_path):
    """Two numbers per mode; a model that always refuses looks good on them and bad on the answerable twins."""
    examples = {}
    for mode in ("spatial", "temporal", "cross_frame"):
        facts = {"mode": mode}
        examples[mode] = [
            Example(f"{mode}_u", "evidence", "Where is the lion?", answer="There is none", source=facts | {"probe": "unanswerable"}),
            Example(f"{mode}_n", "evidence", "What is on the left?", ("A lion", "A tiger", "None of the above"), "None of the above",
                    source=facts | {"probe": "none_of_the_above"}),
            Example(f"{mode}_a", "evidence", "Where is the dog?", answer="On the left", source=facts | {"probe": "answerable"})]
    write_videos(tmp_path / "shards", list(examples), seconds=1, fps=2, examples=examples, split="test")
    refusal = "There is no such thing in the video."
    predictions = [Prediction(e.example_id, m, answer="C" if e.options else refusal) for m, group in examples.items() for e in group]
    predictions[0] = Prediction("spatial_u", "spatial", answer="On the sofa")
    write_predictions(tmp_path / "p.jsonl", predictions)

    def judge(body):
        return "{'pred': 'yes', 'score': 5}" if refusal in text_of(body) else "{'pred': 'no', 'score': 5}"

    with chat_server(judge) as server:
        models = server.models(tmp_path / "models.yaml", "judge")
        assert scoring.main(["pasta-probe", *flags(tmp_path, models)[1:]]) == 0
        assert len(server.requests) == 3, "equal requests are asked once, and options need no judge"
    result = json.loads((tmp_path / "s.json").read_text())
    values = {name: m["value"] for name, m in result["metrics"].items()}
    assert values == {"unanswerable rejected": pytest.approx(2 / 3), "none of the above chosen": 1, "answerable refused": 1}
    modes = result["groups"]["mode"]
    assert sorted(modes) == ["cross_frame", "spatial", "temporal"] and modes["spatial"]["metrics"]["unanswerable rejected"]["value"] == 0
