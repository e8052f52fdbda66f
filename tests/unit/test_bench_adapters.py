"""Adapters: what each model is shown and asked, how its replies are read, and that grounded models run every kind of benchmark."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.adapters.chat import ChatAdapter, open_chat
from benchmarks.adapters.evidence_reply import TURNS, join_turns, parse_evidence, parse_turns, read_evidence, reply_of
from benchmarks.adapters.grounded import GroundedAdapter, frame_count, pointer
from benchmarks.adapters.presets import PRESETS
from benchmarks.adapters.segmenter import GroundedSegmenter, SegmenterFrames, joined
from benchmarks.adapters.stages import MASK_TURN, GroundedSpeaker, Sa2VASpeaker, ThreeStage
from benchmarks.adapters.two_step import TwoStep
from benchmarks.protocol import Protocol
from benchmarks.runner.export import write_release
from benchmarks.score import ScoreArguments
from benchmarks.score import run as score
from benchmarks.tasks import get_task
from data_tools.preference.chat import ChatClient
from data_tools.preference.journal import Journal
from tests.bench_samples import packed, questions_of
from tests.chat_server import chat_server, pictures_of, text_of, write_videos
from tests.dataset_fixtures import choice
from tests.evidence_samples import discs, small_sample
from tests.tiny_run import clip, questions, tiny_parts
from tests.unit.test_preference_server import served  # noqa: F401
from unipixel.data.shards import ShardWriter
from unipixel.data.template import TemplateSettings
from unipixel.errors import ConfigError, SampleError
from unipixel.infer.predict import Predictor
from unipixel.infer.predictions import Prediction, read_predictions, write_predictions
from unipixel.sample import EMPTY, Example, Sample, decode_entry, encode_mask

GENERATION = get_task("st-evidence-gen")
GOOD = '{"answer": "A", "segments": [[1.0, 3.0]], "referring_expressions": ["the disc"]}'


# --- replies ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [
    GOOD, f"```json\n{GOOD}\n```", f"[{GOOD}]", f"Here it is:\n{GOOD}\nThat is all.", GOOD.replace("segments", "time_segments"),
    GOOD.replace("[[1.0, 3.0]]", '[{"start": 1.0, "end": 3.0}]'), GOOD.replace('["the disc"]', '[{"expression": "the disc"}]'),
    'Answer: A. Temporal Evidence: [[1.0, 3.0]]. Referring expressions: "the disc"'])
def test_every_spelling_of_a_reply(text):
    reply = parse_evidence(text)
    assert (reply.answer, reply.segments, reply.expressions) == ("A", ((1.0, 3.0),), ("the disc",)) and reply.complete


@pytest.mark.parametrize("text, missing", [
    ("", {"answer", "segments", "expressions"}), ('{"answer": "A"}', {"segments", "expressions"}), ("B", {"segments", "expressions"}),
    ('{"answer": "A", "segments": [], "referring_expressions": []}', {"expressions"}), ("{" * 5000, {"segments", "expressions"}),
    ('{"answer": 3, "segments": [[1, 2]], "referring_expressions": ["x"]}', {"answer"})])
def test_what_is_missing_is_not_invented(text, missing):
    reply = parse_evidence(text)
    assert {name for name in ("answer", "segments", "expressions") if getattr(reply, name) is None} == missing
    assert reply.problems and not reply.complete


def test_turns_are_kept_and_read_back():
    replies = ["The answer is B.", "It happens in [[0.5, 2.0], [4.0, 6.5]].", '["the red cup", "the ball"]']
    reply = parse_turns(replies)
    assert (reply.segments, reply.expressions) == (((0.5, 2.0), (4.0, 6.5)), ("the red cup", "the ball")) and not reply.problems
    prediction = read_evidence(Prediction("a", "m", "no_mask", reply=join_turns(replies)))
    assert prediction.answer == reply.answer and prediction.segments == reply.segments and reply_of(prediction) == reply


# --- general models --------------------------------------------------------------------------------------------------------------

@pytest.fixture
def clip_sample():
    sample = small_sample("clip", discs(10))
    return dataclasses.replace(sample, examples=sample.examples)


def ask(tmp_path, preset, answer, sample, task=GENERATION, mode="single-turn", endpoint=None):
    with chat_server(answer) as server, Journal(tmp_path / "replies.jsonl") as journal:
        adapter = ChatAdapter(preset, PRESETS[preset], ChatClient("answerer", server.endpoint(**(endpoint or {})), journal), mode)
        return list(adapter.answer(task, sample, task.protocol())), server.requests, adapter


@pytest.mark.parametrize("preset, frames, limit, sent", [
    ("gpt-4o", 5, 2048, {"temperature": 0.0}), ("gemini-2.5-pro", 5, 4096, {"temperature": 0.1}), ("internvl3.5", 5, 4096, {}),
    ("qwen2.5-vl", 5, 4096, {"temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05}),
    ("qwen3-vl", 5, 4096, {"temperature": 0.1, "top_p": 0.8, "top_k": 20, "seed": 0}), ("videollama3", 5, 2048, {}), ("llava-ov-1.5", 5, 2048, {})])
def test_each_preset_sends_its_settings(tmp_path, clip_sample, preset, frames, limit, sent):
    """The clip has 10 frames in 5 s; one per second is shown, each behind its time."""
    (prediction,), (request,), adapter = ask(tmp_path, preset, lambda body: GOOD, clip_sample)
    assert pictures_of(request) == frames and request["max_completion_tokens"] == limit and {k: request[k] for k in sent} == sent
    parts = request["messages"][0]["content"]
    assert [part["text"] for part in parts[:-1:2]] == [f"{t:.1f} s:" for t in range(frames)]
    assert parts[-1]["text"].startswith("What moves?\nOptions:\n(A) A disc\n(B) A box\n(C) Nothing at all\n\nThe video is 5.0 seconds long.")
    assert prediction.status == "no_mask" and (prediction.answer, prediction.segments) == ("A", ((1.0, 3.0),))
    assert adapter.identity["preset"] == preset and adapter.identity["frames"]["fps"] == 1


def test_services_that_choose_their_temperature(tmp_path):
    with chat_server(lambda body: GOOD) as server:
        adapter = open_chat("o3", str(server.models(tmp_path / "m.yaml", "answerer")), tmp_path / "r.jsonl")
        list(adapter.answer(GENERATION, small_sample("clip", discs(4)), Protocol(prompt="{question}")))
        adapter.close()
        assert not {"temperature", "top_p"} & set(server.requests[0])
    with pytest.raises(ConfigError, match="answerer"):
        open_chat("o3", "", tmp_path / "r.jsonl")


def test_partial_replies_are_asked_for_again_and_the_better_is_kept(tmp_path, clip_sample):
    replies = iter(['{"answer": "A", "segments": [[1, 2]]}', '{"answer": "B"}'])
    (prediction,), requests, _ = ask(tmp_path, "gpt-4o", lambda body: next(replies), clip_sample)
    assert len(requests) == 2 and prediction.segments == ((1.0, 2.0),) and prediction.answer == "A"


def test_a_request_that_fails_is_a_status(tmp_path, clip_sample):
    (prediction,), _, _ = ask(tmp_path, "gpt-4o", lambda body: (400, {"error": {"message": "too many pictures"}}), clip_sample)
    assert prediction.status == "refused" and "too many pictures" in prediction.error and prediction.failed


def test_three_turns_see_the_earlier_ones(tmp_path, clip_sample):
    replies = ["A", "[[1.0, 3.0]]", '["the disc"]']
    (prediction,), requests, adapter = ask(tmp_path, "gpt-4o", lambda body: replies[(len(body["messages"]) - 1) // 2], clip_sample, mode="multi-turn")
    assert [len(r["messages"]) for r in requests] == [1, 3, 5]
    assert [m["content"] for m in requests[2]["messages"][1::2]] == replies[:2] and pictures_of(requests[2]) == 5
    assert requests[2]["messages"][4]["content"] == TURNS[2] and reply_of(prediction).complete and prediction.segments == ((1.0, 3.0),)
    assert adapter.identity["mode"] == "multi-turn"


def test_option_pictures_come_under_their_letters(tmp_path):
    shards = packed("st_evidence_mcq", choice.st_evidence_mcq, tmp_path, "test")
    task, protocol, samples, truths = questions_of("st-evidence-mcq-space", shards)
    predictions, requests, _ = ask(tmp_path, "qwen3-vl", lambda body: "B", samples[0], task)
    parts = requests[0]["messages"][0]["content"]
    assert [part["text"] for part in parts if part["type"] == "text"][-5:-1] == [f"Picture {letter}:" for letter in "ABCD"]
    shown = PRESETS["qwen3-vl"].frames.choose(samples[0].medium.frame_times)
    assert "(B) picture B" in parts[-1]["text"] and pictures_of(requests[0]) == 4 + len(shown)
    result = task.score(truths, {p.example_id: p for p in predictions}, protocol, bootstrap=0)
    assert result["metrics"]["space accuracy"]["value"] == 0.5


def test_chat_models_are_not_asked_for_masks():
    adapter = ChatAdapter.__new__(ChatAdapter)
    for name in ("revos", "refcoco", "pixelqa-point", "videorefer-q"):
        with pytest.raises(ConfigError, match="masks"):
            adapter.check(get_task(name))
    adapter.check(get_task("mvbench"))


def test_a_real_model_in_process(tmp_path, tmp_path_factory):
    """Qwen2.5-VL at toy widths through transformers: pictures, chat template, generation; its words mean nothing."""
    from tests.tiny_chat_model import write_chat_model  # noqa: PLC0415

    (tmp_path / "m.yaml").write_text(f"answerer: {{model: {write_chat_model(tmp_path / 'model')}, backend: local}}\n")
    preset = dataclasses.replace(PRESETS["qwen2.5-vl"], temperature=0.0, max_tokens=24)
    adapter = open_chat("qwen2.5-vl", str(tmp_path / "m.yaml"), tmp_path / "r.jsonl")
    adapter.preset = preset
    examples = {"v": [Example("v_q", "evidence", "What is seen?", ("a dog", "a cat"), "a dog")]}
    shards = write_videos(tmp_path / "shards", ["v"], seconds=2, fps=2, examples=examples, split="test")
    _, protocol, samples, _ = questions_of("mvbench", shards)
    first = list(adapter.answer(get_task("mvbench"), samples[0], protocol))
    adapter.close()
    assert first[0].status in ("ok", "cut_reply", "empty_reply") and (first[0].failed or first[0].reply)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_a_real_server(served, tmp_path):  # noqa: F811
    """`transformers serve` with the same toy model: pictures and text over HTTP, through the whole adapter."""
    address, model, arrived = served
    before = len(arrived)
    (tmp_path / "m.yaml").write_text(f"answerer: {{model: {model}, base_url: '{address}'}}\n")
    examples = {"v": [Example("v_q", "evidence", "What is seen?", ("a dog", "a cat"), "a dog")]}
    shards = write_videos(tmp_path / "shards", ["v"], seconds=2, fps=2, examples=examples, split="test")
    task, protocol, samples, truths = questions_of("mvbench", shards)
    adapter = open_chat("qwen3-vl", str(tmp_path / "m.yaml"), tmp_path / "r.jsonl")
    adapter.preset = dataclasses.replace(adapter.preset, max_tokens=24, extra={})
    (prediction,) = adapter.answer(task, samples[0], protocol)
    adapter.close()
    assert len(arrived) == before + 1 and arrived[-1].count("image_url") >= 2 and "What is seen?" in arrived[-1]
    assert prediction.status in ("ok", "cut_reply", "empty_reply") and (prediction.failed or prediction.reply)
    task.score(truths, {"v_q": prediction}, protocol, bootstrap=0)


# --- two steps -------------------------------------------------------------------------------------------------------------------

class StubSegmenter:
    """Draws the disc for "the disc" and nothing else; runs out of memory for "too much"."""

    identity = {"segmenter": "stub"}

    def segment(self, sample, expressions, *, careful=False):
        if "too much" in expressions:
            raise SampleError("no", reason="oom")
        return [{t: encode_mask(mask) for t, mask in enumerate(discs(10))} for text in expressions if text == "the disc"]


def test_reply_expressions_masks_and_the_published_layout(tmp_path, clip_sample):
    other = Sample("other", clip_sample.medium, (dataclasses.replace(clip_sample.examples[0], example_id="other"),), clip_sample.frames)
    replies = {"clip": GOOD, "other": GOOD.replace('"the disc"', "")}
    with chat_server(lambda body: replies["clip"] if len(body["messages"]) else "") as server, Journal(tmp_path / "r.jsonl") as journal:
        speaker = ChatAdapter("gpt-4o", PRESETS["gpt-4o"], ChatClient("answerer", server.endpoint(), journal))
        adapter = TwoStep(speaker, StubSegmenter())
        (prediction,) = adapter.answer(GENERATION, clip_sample, GENERATION.protocol())
        assert adapter.identity["second_step"] == {"segmenter": "stub"} and prediction.status == "ok" and prediction.size == (48, 64)
    result = GENERATION.score(GENERATION.truths(clip_sample, Protocol()), {"clip": prediction}, Protocol(), bootstrap=0)
    assert result["metrics"]["joint@0.5"]["value"] == 1
    nothing = TwoStep(_Says(replies["other"]), StubSegmenter())
    assert [p.status for p in nothing.answer(GENERATION, other, Protocol())] == ["no_mask"]
    path = write_release([prediction], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out/clip/masks").iterdir()) == [f"{t:05d}.png" for t in range(10)]
    with ShardWriter(tmp_path / "shards", dataset="made", split="test") as writer:
        writer.write(clip_sample.medium, clip_sample.examples, clip_sample.frames)
    scored = score(ScoreArguments(predictions=str(path), pred_masks=str(tmp_path / "out"), shards=[str(tmp_path / "shards")], bootstrap=0))
    assert scored["metrics"]["joint@0.5"]["value"] == 1


class _Says:
    name, identity = "says", {"model": "fixed"}

    def __init__(self, reply):
        self.reply = reply

    def answer(self, task, sample, protocol, *, careful=False):
        for example in sample.examples:
            yield task.read(example, Prediction(example.example_id, sample.medium.medium_id, "no_mask", reply=self.reply))


def test_problems_of_json_replies_survive_the_file(tmp_path):
    """The file stores no problems: they are found again from the reply, in the form it has."""
    (prediction,) = _Says('{"answer": "A", "segments": [[1, 2]]}').answer(GENERATION, small_sample("clip", discs(4)), Protocol())
    write_predictions(tmp_path / "p.jsonl", [prediction])
    assert GENERATION.load(str(tmp_path / "p.jsonl"), "")["clip"].problems == prediction.problems == ("no_expressions",)


def test_segmenter_settings_exclude_each_other():
    medium = small_sample("clip", discs(10)).medium
    assert [SegmenterFrames(**given).count(medium) for given in ({}, {"target_fps": 2.0}, {"every_n_frames": 4}, {"frame_num": 7})] == [5, 10, 3, 7]
    with pytest.raises(ConfigError, match="every_n_frames"):
        SegmenterFrames(every_n_frames=2, frame_num=3)
    assert joined(["a"]) == "a" and joined(["a", "b", "c"]) == "a, b and c"


# --- grounded models -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tiny_model(tiny):
    """A toy model whose output head knows four digits, the mask token and the end of a reply, so that masks appear."""
    import torch  # noqa: PLC0415

    model, tokenizer, encoder, _ = tiny_parts(tiny, num_frames=4)
    words = tokenizer.convert_tokens_to_ids([*"0123", "<|seg|>", "<|im_end|>"])
    torch.manual_seed(15)
    head = torch.zeros_like(model.core.lm_head.weight)
    head[words] = torch.randn(len(words), head.shape[1])
    model.core.lm_head.weight = torch.nn.Parameter(head)
    frames = dataclasses.replace(encoder.frame_settings, frame_sampling="uniform")
    predictor = Predictor(model.eval(), tokenizer, frames, TemplateSettings(paraphrase=False), max_new_tokens=8)
    return GroundedAdapter(predictor, {"folder": "tiny", "content": "0"})


def tiny_sample(index=0):
    medium, frames, _ = clip(index)
    return Sample(medium.medium_id, medium, tuple(questions(index)[:2]), frames)


def short(task):
    return dataclasses.replace(task.protocol(), max_new_tokens=8)


def test_frames_of_a_protocol():
    sample = small_sample("clip", discs(10))
    protocols = (Protocol(), Protocol(frames=16), Protocol(frames=3, fps=1), Protocol(fps=2), Protocol(frames=128, fps=1))
    assert [frame_count(sample, protocol) for protocol in protocols] == [0, 16, 3, 10, 5]


def test_a_grounded_model_draws_by_itself(tiny_model):
    sample = tiny_sample()
    predictions = list(tiny_model.answer(GENERATION, sample, short(GENERATION)))
    assert [p.example_id for p in predictions] == ["clip0_q", "clip0_r"] and all(p.reply for p in predictions)
    careful = list(tiny_model.answer(GENERATION, sample, short(GENERATION), careful=True))
    assert [p.reply for p in careful] == [p.reply for p in predictions] and [p.masks for p in careful] == [p.masks for p in predictions]
    assert tiny_model.predictor_for(sample, Protocol(frames=2, max_pixels=1568)).encoder.frame_settings.num_frames == 2
    with pytest.raises(ConfigError, match="st-evidence-mcq-qa"):
        tiny_model.check(get_task("st-evidence-mcq"))
    assert tiny_model.identity["frames"]["num_frames"] == 4 and tiny_model.identity["checkpoint"] == "0"


@pytest.mark.parametrize("grouping, passes", [("separate", 2), ("concat", 1), ("both", 3)])
def test_a_grounded_model_as_segmenter(tiny_model, grouping, passes, monkeypatch):
    asked = []
    predict = Predictor.predict

    def remember(self, samples):
        asked.extend(e.question for s in samples for e in s.examples)
        return predict(self, samples)

    monkeypatch.setattr(Predictor, "predict", remember)
    segmenter = GroundedSegmenter(tiny_model, grouping)
    tracks = segmenter.segment(tiny_sample(), ["the red box", "the blue box"])
    assert len(asked) == passes and ("the red box and the blue box" in asked) == (grouping != "separate")
    assert all(set(track) == set(range(6)) for track in tracks)


def test_three_stages_with_a_grounded_model(tiny_model):
    (prediction, _) = ThreeStage(GroundedSpeaker(tiny_model)).answer(GENERATION, tiny_sample(), short(GENERATION))
    assert prediction.status in ("ok", "no_mask") and len(json.loads(prediction.reply)["turns"]) == 3


def test_sa2va_by_its_own_interface():
    """Recorded replies: what its remote code is called with, and its masks brought back to the size of the medium."""
    calls = []

    class Model:
        def predict_forward(self, *, video, text, processor):
            calls.append((len(video), video[0].size, text, processor))
            if MASK_TURN in text:
                masks = np.zeros((len(video), video[0].height, video[0].width), bool)
                masks[:, : video[0].height // 2] = True
                return {"prediction": "Sure, [SEG].", "prediction_masks": [masks]}
            return {"prediction": "A" if "alone" in text and "times" not in text else "[[1.0, 2.0]]", "prediction_masks": []}

    sample = small_sample("clip", np.zeros((10, 24, 1024), bool))
    sample = dataclasses.replace(sample, medium=dataclasses.replace(sample.medium))
    (prediction,) = ThreeStage(Sa2VASpeaker(Model(), "processor", "Sa2VA-7B")).answer(GENERATION, sample, Protocol())
    assert [(n, size) for n, size, _, _ in calls] == [(5, (512, 12)), (5, (512, 12)), (10, (512, 12))]
    assert "assistant: A" in calls[1][2] and "assistant: A" in calls[2][2] and "[[1.0, 2.0]]" not in calls[2][2], "stage 3 sees stage 1 only"
    assert prediction.size == (24, 1024) and prediction.segments == ((1.0, 2.0),) and prediction.answer == "A"
    assert decode_entry(prediction.masks[0][3], (24, 1024)).sum() == 12 * 1024


def test_pixelqa_finds_objects_first(tiny_model, tmp_path):
    shards = packed("videorefer_bench_q", choice.videorefer_bench, tmp_path, "test")
    for kind in ("point", "box"):
        task, protocol, samples, truths = questions_of(f"pixelqa-{kind}", shards)
        predictions = {p.example_id: p for p in tiny_model.answer(task, samples[0], dataclasses.replace(protocol, max_new_tokens=8))}
        assert set(predictions) == {t.example_id for t in truths} and all(len(p.masks) == 1 and p.size == (24, 32) for p in predictions.values())
        result = task.score(truths, predictions, protocol, bootstrap=0)
        assert 0 <= result["metrics"]["J_vol"]["value"] <= result["metrics"]["Dice_vol"]["value"] <= 1


def test_pixelqa_measures_whole_volumes(tmp_path):
    shards = packed("videorefer_bench_q", choice.videorefer_bench, tmp_path, "test")
    task, protocol, samples, truths = questions_of("pixelqa-mix", shards)
    assert {task.prompt_kind(e) for e in (Example(f"q{n}", "evidence", "x") for n in range(20))} == {"point", "box"}
    sample = samples[0]
    predictions = {}
    for truth, example in zip(truths, sample.examples):
        (true,) = truth.facts["objects"]
        first = min(true)
        predictions[example.example_id] = Prediction(example.example_id, "v", answer=example.answer, size=truth.size, frame_times=truth.frame_times,
                                                     masks=({t: entry if t == first else EMPTY for t, entry in true.items()},))
    areas = [[decode_entry(entry, truths[0].size).sum() for entry in t.facts["objects"][0].values()] for t in truths]
    result = task.score(truths, predictions, protocol, bootstrap=0)
    assert result["metrics"]["J_vol"]["value"] == pytest.approx(np.mean([a[0] / sum(a) for a in areas]))
    assert result["metrics"]["Dice_vol"]["value"] == pytest.approx(np.mean([2 * a[0] / (sum(a) + a[0]) for a in areas]))
    assert result["metrics"]["accuracy"]["value"] == 1
    empty = {i: dataclasses.replace(p, masks=()) for i, p in predictions.items()}
    assert task.score(truths, empty, protocol, bootstrap=0)["metrics"]["J_vol"]["value"] == 0


def test_a_point_lies_on_its_object(tmp_path):
    ring = np.zeros((1, 40, 40), bool)
    ring[0, 5:35, 5:35], ring[0, 10:30, 10:30] = True, False
    sample = small_sample("clip", ring, segments=None)
    example = dataclasses.replace(sample.examples[0], source={"prompt_frame": 0})
    (point,) = pointer(sample, example, "1", "a", "point").masks.values()
    assert point.sum() == 1 and (point & ring[0]).sum() == 1
    (box,) = pointer(sample, example, "1", "a", "box").masks.values()
    assert box.sum() == 30 * 30


def test_predictions_of_adapters_can_be_stored(tiny_model, tmp_path):
    predictions = list(tiny_model.answer(GENERATION, tiny_sample(3), short(GENERATION)))
    write_predictions(tmp_path / "p.jsonl", predictions)
    assert [p.masks for p in read_predictions(tmp_path / "p.jsonl").values()] == [p.masks for p in predictions]


def test_all_texts_reach_the_model(tmp_path, clip_sample):
    _, (request,), _ = ask(tmp_path, "gpt-4o", lambda body: GOOD, clip_sample)
    assert '{"answer": "<letter of the option>"' in text_of(request), "braces of the prompt are not placeholders"
