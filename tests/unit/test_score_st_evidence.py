"""Scoring of evidence: the protocol on worked examples, the command, and what must not raise a score."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from benchmarks import score as scoring
from benchmarks.masks import resize_entry
from benchmarks.result import differences
from benchmarks.st_evidence import GroundTruth, Protocol, from_samples, from_st_evidence, score_example
from tests.evidence_samples import discs, predict, real_samples, small_sample, write_masks
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, DataError
from unipixel.infer.predictions import (
    Prediction,
    read_predictions,
    write_predictions,
)
from unipixel.metrics import jf, jf_sequence
from unipixel.sample import Example, PreferencePair, decode_entry, encode_mask

SEED = Protocol("seed")


def truth_of(sample):
    (truth,) = from_samples([sample])
    return truth


@pytest.fixture
def sample():
    return small_sample("clip", discs(10))


# --- the score of one example ----------------------------------------------------------------------------------------------------

def test_a_perfect_prediction(sample):
    score = score_example(truth_of(sample), predict(sample))
    assert (score.correct, score.iou, score.iop, score.j, score.f, score.n_frames) == (True, 1, 1, 1, 1, 10)
    assert score.joint(0.5) is True


@pytest.mark.parametrize("answer, correct", [("A", True), ("(A) A disc", True), ("a disc.", True), ("a", False), ("B", False), ("", False),
                                             (None, False)])
def test_answers(sample, answer, correct):
    prediction = dataclasses.replace(predict(sample), answer=answer)
    assert score_example(truth_of(sample), prediction).correct is correct


def test_open_questions_compare_text():
    truth = GroundTruth("a", "m", "On the left")
    for answer, correct in (("on the left.", True), ("A", False), ("It is on the left side", False)):
        assert score_example(truth, Prediction("a", "m", answer=answer)).correct is correct


def test_leaving_frames_out_cannot_help(sample):
    """One perfect frame of ten is at most a tenth; the published evaluator gives it 1."""
    whole = predict(sample)
    one = dataclasses.replace(whole, masks=({4: whole.masks[0][4]},))
    score = score_example(truth_of(sample), one)
    assert score.j == pytest.approx(0.1) and score.f == pytest.approx(0.1) and score.n_frames == 10
    assert (score_example(truth_of(sample), one, SEED).j, score_example(truth_of(sample), one, SEED).n_frames) == (1.0, 1)


def test_union_of_several_tracks(sample):
    masks = discs(10)
    left, right = masks.copy(), masks.copy()
    left[:, :, 25:], right[:, :, :24] = False, False
    halves = tuple({t: encode_mask(mask) for t, mask in enumerate(side)} for side in (left, right))
    score = score_example(truth_of(sample), dataclasses.replace(predict(sample), masks=halves))
    assert (score.j, score.f) == (1, 1)


def test_unannotated_frames_are_not_scored():
    masks = discs(6)
    sample = small_sample("clip", masks, [True, True, False, True, False, True])
    score = score_example(truth_of(sample), predict(small_sample("clip", masks), masks=({t: encode_mask(~masks[t]) for t in (2, 4)},)))
    assert (score.j, score.f, score.n_frames) == (0, 0, 4)


def test_a_frame_counts_only_when_all_evidence_is_annotated():
    sample = small_sample("clip", discs(4), [True, True, False, True])
    medium = sample.medium
    other = dataclasses.replace(medium.objects["a"], oid="b", track=dataclasses.replace(
        medium.objects["a"].track, entries=("", None, "", "")))
    example = dataclasses.replace(sample.examples[0], targets=(("a",), ("b",)))
    both = dataclasses.replace(sample, medium=dataclasses.replace(medium, objects={"a": medium.objects["a"], "b": other}),
                               examples=(example,))
    assert sorted(truth_of(both).evidence) == [0, 3]


def test_what_the_benchmark_holds(sample):
    example = sample.examples[0]
    pair = PreferencePair("p", "yes", "no", "other")
    examples = (example, dataclasses.replace(example, example_id="with pair", pairs=(pair,)),
                dataclasses.replace(example, example_id="open", options=()),
                dataclasses.replace(example, example_id="pair only", options=(), pairs=(pair,)),
                Example("refer", "refer", "the disc", targets=(("a",),)))
    assert [truth.example_id for truth in from_samples([dataclasses.replace(sample, examples=examples)])] == ["clip", "with pair", "open"]


def test_empty_frames():
    masks = discs(4)
    masks[2:] = False
    truth = truth_of(small_sample("clip", masks))
    perfect_absence = score_example(truth, Prediction("clip", "clip", "no_mask"))
    assert (perfect_absence.j, perfect_absence.f) == (0.5, 0.5), "both empty counts 1, one empty 0"
    full_time = predict(small_sample("clip", masks), masks=({t: encode_mask(discs(4)[t]) for t in range(4)},))
    assert score_example(truth, full_time).j == 0.5


@pytest.mark.parametrize("prediction", [None, Prediction("clip", "clip", "no_reply"),
                                        Prediction("clip", "clip", "decode_error", error="x")])
def test_missing_and_failed_score_zero_even_on_empty_frames(prediction):
    truth = truth_of(small_sample("clip", np.zeros((3, 8, 8), bool)))
    score = score_example(truth, prediction)
    assert (score.correct, score.iou, score.iop, score.j, score.f) == (False, 0, 0, 0, 0)
    assert score.status == ("missing" if prediction is None else prediction.status)


def test_what_has_no_truth_is_not_scored(sample):
    bare = dataclasses.replace(truth_of(sample), segments=None, evidence={})
    score = score_example(bare, predict(sample))
    assert (score.correct, score.iou, score.j, score.joint(0.3)) == (True, None, None, None)


def test_other_mask_size(sample):
    truth = truth_of(sample)
    half = predict(sample, size=(24, 32), masks=({t: encode_mask(mask[::2, ::2]) for t, mask in enumerate(discs(10))},))
    score = score_example(truth, half)
    assert score.resized and 0.85 < score.j < 1
    with pytest.raises(DataError, match=r"\(24, 32\).*\(48, 64\)"):
        score_example(truth, half, Protocol(on_size_mismatch="error"))
    mask = np.random.default_rng(0).random((6, 9)) < 0.5
    assert np.array_equal(decode_entry(resize_entry(encode_mask(mask), (6, 9), (12, 27)), (12, 27)), mask.repeat(2, 0).repeat(3, 1))


def test_frames_are_placed_by_time(sample):
    whole = predict(sample)
    times = tuple(whole.frame_times[t] for t in (1, 5, 9))
    thinned = dataclasses.replace(whole, frame_times=times, masks=({i: whole.masks[0][t] for i, t in enumerate((1, 5, 9))},))
    assert score_example(truth_of(sample), thinned).j == pytest.approx(0.3)
    with pytest.raises(DataError, match="made on other frames"):
        score_example(truth_of(sample), dataclasses.replace(thinned, frame_times=(0.5, 2.6, 4.5)))


def test_damaged_masks_are_named(sample):
    with pytest.raises(DataError, match="example 'clip'"):
        score_example(truth_of(sample), predict(sample, masks=({0: "abc"}, {0: "abc"})))


def test_seed_arithmetic(sample):
    truth = dataclasses.replace(truth_of(sample), segments=((0.0, 10.0),))
    twice = predict(sample, segments=((0.0, 10.0), (0.0, 10.0)))
    assert score_example(truth, twice).iou == 1
    assert score_example(truth, dataclasses.replace(twice, segments=((0.0, 10.0),) * 2), SEED).iop == 1
    assert score_example(dataclasses.replace(truth, segments=((0.0, 6.0), (4.0, 10.0))), predict(sample, segments=((0.0, 10.0),)),
                         SEED).iou == 1.2
    letter = dataclasses.replace(twice, answer="(A)")
    assert score_example(truth, letter).correct and not score_example(truth, letter, SEED).correct
    assert score_example(truth, dataclasses.replace(twice, answer=" A "), SEED).correct
    assert not score_example(truth, dataclasses.replace(twice, answer="a disc"), SEED).correct
    assert score_example(truth, dataclasses.replace(twice, masks=(dict.fromkeys(range(10), ""),), answer="F"), SEED).j == 0


# --- ground truth and averages on real annotations -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def real(shared_data):
    return real_samples(shared_data / "mini_real")


def test_shards_and_release_layout_agree(shared_data, real):
    """cups_02 and juggle_03 are annotated on every frame and have PNG unions."""
    folder = shared_data / "mini_real"
    released = {truth.example_id: truth for truth in from_st_evidence(folder / "st_evidence_gen.csv", folder / "gt_masks")}
    assert len(released) == 14 and released["cups_01"].evidence == {}
    for sample in real:
        ours, theirs = truth_of(sample), released[sample.key]
        assert (ours.answer, ours.options, ours.segments) == (theirs.answer, theirs.options, theirs.segments)
        if theirs.evidence:
            prediction = predict(sample, shift_px=4, shift_s=0.3)
            assert (ours.size, ours.evidence, ours.frame_times) == (theirs.size, theirs.evidence, theirs.frame_times)
            assert score_example(ours, prediction) == dataclasses.replace(score_example(theirs, prediction),
                                                                          question_type=ours.question_type)


def test_dense_and_encoded_truth_are_the_same(sample):
    truth = truth_of(sample)
    dense = dataclasses.replace(truth, evidence={t: decode_entry(entry, truth.size) for t, entry in truth.evidence.items()})
    assert score_example(dense, predict(sample, shift_px=3)) == score_example(truth, predict(sample, shift_px=3))


@pytest.mark.parametrize("row, message", [
    (["c", "['a', 'b']", "x", "[[1, 2]]"], "answer='x'"), (["c", "['a', 'b']", "a", "[[2, 1]]"], r"segment='\[\[2, 1\]\]'"),
    (["c", "f()", "a", "[[1, 2]]"], "candidates"), (["../c", "['a']", "a", "[[1, 2]]"], "folder name")])
def test_release_rows_are_checked(tmp_path, row, message):
    (tmp_path / "gt").mkdir()
    with open(tmp_path / "gen.csv", "w", newline="") as file:
        csv.writer(file).writerows([["entry_id", "candidates", "answer", "segment"], row])
    with pytest.raises(DataError, match=message):
        list(from_st_evidence(tmp_path / "gen.csv", tmp_path / "gt"))
    with pytest.raises(DataError, match="does not exist"):
        list(from_st_evidence(tmp_path / "gen.csv", tmp_path / "nowhere"))


def test_the_other_release_table_is_refused(shared_data):
    with pytest.raises(DataError, match="st_evidence_gen.csv"):
        list(from_st_evidence(shared_data / "mini_real" / "st_evidence_mcq.csv"))


def test_real_masks_against_single_frames(real):
    sample = next(s for s in real if s.key == "juggle_02")
    truth, prediction = truth_of(sample), predict(sample, shift_px=5)
    expected = [jf(decode_entry(prediction.masks[0][t], truth.size), decode_entry(entry, truth.size))
                for t, entry in truth.evidence.items()]
    score = score_example(truth, prediction)
    assert (score.j, score.f) == pytest.approx(tuple(np.mean(expected, axis=0)), abs=1e-12)
    assert 0.3 < score.j < 0.99 and score.n_frames == len(expected) < len(truth.frame_times)


def test_averages(real):
    truths = list(from_samples(real))
    predictions = {s.key: predict(s, shift_px=3 * (i % 4), shift_s=0.4 * (i % 3), answer=None if i % 3 else "E")
                   for i, s in enumerate(real)}
    result = scoring.score(truths, predictions)
    rows = list(result["per_example"].values())
    metrics = result["metrics"]
    for name, key in (("mIoU", "iou"), ("mIoP", "iop"), ("J", "j"), ("F", "f"), ("J&F", "jf"), ("t-mean", "t_mean"),
                      ("accuracy", "correct")):
        assert metrics[name]["value"] == pytest.approx(np.mean([row[key] for row in rows]))
        low, high = metrics[name]["ci95"]
        assert low <= metrics[name]["value"] <= high and high > low
    assert metrics["TIoU@0.5"]["value"] == np.mean([row["iou"] >= 0.5 for row in rows])
    assert metrics["joint@0.5"]["value"] == np.mean([row["correct"] and row["iou"] >= 0.5 and row["jf"] >= 0.5 for row in rows])
    grounded = [row["iou"] >= 0.5 and row["jf"] >= 0.5 for row in rows]
    assert metrics["grounded@0.5 if right"]["value"] == np.mean([g for g, row in zip(grounded, rows) if row["correct"]])
    assert metrics["right if grounded@0.5"] | {"ci95": 0} == {"value": np.mean([row["correct"] for g, row in zip(grounded, rows) if g]),
                                                              "n": sum(grounded), "ci95": 0}
    assert metrics["J&F"]["value"] == pytest.approx((metrics["J"]["value"] + metrics["F"]["value"]) / 2)
    assert result["trivial"]["accuracy"] == pytest.approx(0.2) and result["trivial"]["mIoP"] == pytest.approx(result["trivial"]["mIoU"])
    assert 0 < result["trivial"]["J"] < metrics["J"]["value"]
    assert sum(group["n"] for group in result["groups"]["question type"].values()) == 14
    assert scoring.score(truths, predictions) == result, "seeded"
    empty = scoring.score(truths, {s.key: Prediction(s.key, s.medium.medium_id, "no_reply") for s in real})
    change = differences(result, empty, 1000, 0)
    assert change["J&F"] == metrics["J&F"] and change["grounded@0.5 if right"]["value"] is None
    with pytest.raises(DataError, match="different examples"):
        differences(result, {**empty, "per_example": {}}, 0, 0)
    assert scoring.score(truths, predictions, seed=1)["metrics"]["J"]["ci95"] != metrics["J"]["ci95"]


def test_the_interval_covers_the_truth_most_of_the_time():
    rng = np.random.default_rng(12)
    hits = 0
    for draw in range(100):
        truths = [GroundTruth(str(i), "m", "x") for i in range(40)]
        predictions = {str(i): Prediction(str(i), "m", answer="x" if rng.random() < 0.6 else "y") for i in range(40)}
        low, high = scoring.score(truths, predictions, bootstrap=300, seed=draw)["metrics"]["accuracy"]["ci95"]
        hits += low <= 0.6 <= high
    assert 85 <= hits <= 99


def test_ids_are_checked(sample):
    truth = truth_of(sample)
    with pytest.raises(DataError, match="repeat"):
        scoring.score([truth, truth], {})
    with pytest.raises(DataError, match="no example"):
        scoring.score([], {})
    assert scoring.score([truth], {"other": predict(sample)}, bootstrap=0)["unknown"] == ["other"]


# --- the command -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def packed(tmp_path, sample):
    later = small_sample("later", discs(10), question_type="when")
    with ShardWriter(tmp_path / "shards", dataset="made", split="test") as writer:
        for each in (sample, later):
            writer.write(each.medium, each.examples, each.frames)
    write_predictions(tmp_path / "p.jsonl", [predict(sample, shift_px=2), predict(later, answer="B")])
    return tmp_path


def test_command_on_shards(packed, capsys):
    flags = ["st-evidence", "--predictions", str(packed / "p.jsonl"), "--shards", str(packed / "shards"), "--out",
             str(packed / "score.json")]
    assert scoring.main(flags) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "accuracy 50.0" in printed and "when 1 0.0" in printed
    result = json.loads((packed / "score.json").read_text())
    assert result["schema"] == scoring.SCHEMA and result["card"]["protocol"]["compat"] == "none"
    masks = discs(10)
    js, fs = jf_sequence(np.roll(masks, 2, axis=2), masks)
    assert (result["per_example"]["clip"]["j"], result["per_example"]["clip"]["f"]) == (js.mean(), fs.mean())
    assert scoring.main([*flags, "--compat", "seed"]) == 0
    assert json.loads((packed / "score.json").read_text())["card"]["protocol"]["compat"] == "seed"


def test_no_headline_while_predictions_are_missing(packed, capsys):
    first = next(iter(read_predictions(packed / "p.jsonl").values()))
    write_predictions(packed / "part.jsonl", [first])
    flags = ["st-evidence", "--predictions", str(packed / "part.jsonl"), "--shards", str(packed / "shards"), "--out",
             str(packed / "score.json")]
    assert scoring.main(flags) == EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert "1 of 2 predictions are missing: later" in captured.err and "accuracy" not in captured.out
    assert not (packed / "score.json").exists()
    assert scoring.main([*flags, "--allow-missing"]) == 0
    assert "they count as wrong" in capsys.readouterr().out
    assert json.loads((packed / "score.json").read_text())["metrics"]["accuracy"] == {"value": 0.5, "n": 2, "ci95": [0.0, 1.0]}


def test_command_on_the_release_layout(tmp_path, sample, capsys):
    masks = discs(10)
    with open(tmp_path / "gen.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["entry_id", "video_id", "video_path", "question", "candidates", "answer", "segment"])
        writer.writerow(["clip", "v", "v.mp4", "What moves?", "['A disc', 'A box']", "A disc", "[[1.0, 3.0]]"])
    write_masks(tmp_path / "gt" / "clip", dict(enumerate(masks)))
    write_masks(tmp_path / "pred" / "clip" / "masks", {t: masks[t] for t in range(5)})
    (tmp_path / "p.json").write_text(json.dumps({"clip": {"video_id": "v", "parsed_response": {"answer": "A", "segments": [[1, 3]]}}}))
    flags = ["st-evidence", "--predictions", str(tmp_path / "p.json"), "--csv", str(tmp_path / "gen.csv"), "--out",
             str(tmp_path / "s.json")]
    with_masks = [*flags, "--gt-masks", str(tmp_path / "gt"), "--pred-masks", str(tmp_path / "pred")]
    values = []
    for more in (with_masks, [*with_masks, "--compat", "seed"], flags):
        assert scoring.main(more) == 0
        values.append(json.loads((tmp_path / "s.json").read_text())["metrics"]["J&F"]["value"])
    assert values == [0.5, 1.0, None]
    assert "masks are not scored" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    ([], "must name the benchmark"), (["mevi"], "'mevi'"), (["st-evidence"], "--predictions is needed"),
    (["st-evidence", "--predictions", "p"], "ground truth once"),
    (["st-evidence", "--predictions", "p", "--shards", "d", "--shrads", "d"], "nearest: '--shards'"),
    (["st-evidence", "--predictions", "p", "--shards", "d", "--gt-masks", "m"], "belongs to --csv"),
    (["st-evidence", "--predictions", "p", "--csv", "/nowhere.csv"], "/nowhere.csv")])
def test_command_errors(flags, message, capsys):
    assert scoring.main(flags) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
