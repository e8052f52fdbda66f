"""Multiple-choice questions from packed data: IoU bands, letters, totals, refusals, determinism, and that the benchmark reads them."""

import base64
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from benchmarks import builder
from benchmarks import score as scoring
from benchmarks.distractors import Band, mask_distractors, mask_iou, outlined, rounded, segment_distractors
from benchmarks.truth import read_samples
from data_tools.synth import SynthConfig, make_clip
from tests.evidence_samples import discs, real_samples, small_sample
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, ConfigError, SampleError
from unipixel.infer.predictions import Prediction, write_predictions
from unipixel.metrics import normalise_segments, temporal_iou

RED = np.array([255, 0, 0])


def jpeg(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Five synthetic clips, and one whose questions cannot be built: open, without time and without a visible mask."""
    folder = tmp_path_factory.mktemp("mcq") / "shards"
    poor = small_sample("poor", np.zeros((4, 48, 64), bool), options=(), segments=None, answer="nothing")
    with ShardWriter(folder, dataset="made", split="test") as writer:
        for i in range(5):
            clip = make_clip(SynthConfig(max_objects=3), "test", i)
            writer.write(clip.medium, clip.examples, [jpeg(frame) for frame in clip.frames])
        writer.write(poor.medium, poor.examples, poor.frames)
    return folder


def run(shards, out, *more, code=0):
    assert builder.main(["--shards", str(shards), "--out", str(out), *more]) == code
    return {e.example_id: (e, s) for s in read_samples(str(out)) for e in s.examples} if code == 0 else {}


@pytest.fixture(scope="module")
def built(shards, tmp_path_factory):
    return run(shards, tmp_path_factory.mktemp("built") / "mcq")


def sources(shards):
    return {e.example_id: (e, s) for s in read_samples(str(shards)) for e in s.examples}


def test_wrong_segments_lie_in_their_band(shards, built):
    truths, n = sources(shards), 0
    for example, _ in built.values():
        if example.question_type == "time":
            n += 1
            truth = rounded(truths[example.source["builder"]["from"]][0].segments)
            options = [tuple(map(tuple, normalise_segments(option)[0])) for option in example.options]
            right = example.options.index(example.answer)
            assert options[right] == truth and len(options) == 4
            ious = [temporal_iou(option, truth) for i, option in enumerate(options) if i != right]
            assert ious == pytest.approx(example.source["builder"]["iou"]) and max(ious) <= 0.3
            assert all(0 <= s < e <= 6.05 for option in options for s, e in option)
    assert n > 10


def test_pictures_outline_the_regions(shards, built):
    """The right picture has red just outside the true mask and nothing inside; a wrong one is red elsewhere."""
    truths, n = sources(shards), 0
    for example, _ in built.values():
        if example.question_type != "space":
            continue
        n += 1
        facts, right = example.source["builder"], example.options.index(example.answer)
        original, sample = truths[facts["from"]]
        mask = np.any([sample.medium.objects[oid].track.decode([facts["frame"]])[0] for target in original.targets for oid in target], axis=0)
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int) for data in example.source["option_pictures"]]
        frame = np.asarray(Image.open(io.BytesIO(sample.frames[facts["frame"]])))
        ring = (outlined(frame, mask) != frame).any(axis=2)
        redness = [np.abs(picture[ring] - RED).sum(axis=1).mean() for picture in pictures]
        assert len(pictures) == 4 and int(np.argmin(redness)) == right and all(iou <= 0.3 for iou in facts["iou"])
    assert n > 10


def test_letters_are_balanced(built):
    for part, count in (("qa", 5), ("time", 4), ("space", 4)):
        letters = Counter(e.options.index(e.answer) for e, _ in built.values() if e.question_type == part)
        assert len(letters) == count and max(letters.values()) - min(letters.values()) <= 1


def test_what_is_refused_is_listed(shards, tmp_path):
    run(shards, tmp_path / "mcq")
    skipped = {row["key"]: row["reason"] for row in map(json.loads, (tmp_path / "mcq" / "skipped.jsonl").read_text().splitlines())}
    assert {key: skipped[key] for key in ("poor:qa", "poor:time", "poor:space")} == {
        "poor:qa": "no_options", "poor:time": "no_segments", "poor:space": "no_masks"}
    facts = json.loads((tmp_path / "mcq" / builder.PROVENANCE).read_text())
    assert sum(facts["refused"].values()) == len(skipped) and facts["left_over"] == {"qa": 0, "time": 0, "space": 0}
    questions = sum(len(builder.source_examples(sample)) for sample in read_samples(str(shards)))
    assert sum(facts["built"].values()) + len(skipped) == 3 * questions, "every question is either built or listed"


def test_totals_are_exact(shards, tmp_path, capsys):
    found = run(shards, tmp_path / "mcq", "--total", "12")
    assert Counter(e.question_type for e, _ in found.values()) == {"qa": 12, "time": 12, "space": 12}
    assert all(n == 3 for n in Counter(e.options.index(e.answer) for e, _ in found.values() if e.question_type == "time").values())
    run(shards, tmp_path / "more", "--total", "100000", code=EXIT_USER_ERROR)
    assert "questions can be built" in capsys.readouterr().err and not (tmp_path / "more").exists()


def test_the_same_seed_gives_the_same_files(shards, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run(shards, tmp_path / name, "--seed", seed, "--parts", "time", "--total", "10")
    a, b, c = ((tmp_path / name / "shard-000000.tar").read_bytes() for name in "abc")
    assert a == b != c


def test_nothing_else_tells_the_answer(built):
    for _, sample in built.values():
        assert sample.medium.objects == {} and sample.medium.subtitles == ()
    assert all(e.segments is None and e.targets == () for e, _ in built.values())


def test_the_benchmark_scores_them(shards, built, tmp_path):
    run(shards, tmp_path / "mcq", "--total", "10")
    examples = [(e, s) for s in read_samples(str(tmp_path / "mcq")) for e in s.examples]
    right = [Prediction(e.example_id, s.medium.medium_id, "no_mask", answer="ABCDE"[e.options.index(e.answer)]) for e, s in examples]
    write_predictions(tmp_path / "p.jsonl", right)
    assert scoring.main(["st-evidence-mcq", "--predictions", str(tmp_path / "p.jsonl"), "--shards", str(tmp_path / "mcq"),
                         "--out", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert {name: result["metrics"][name]["value"] for name in result["headline"]} == dict.fromkeys(result["headline"], 1.0)
    assert result["chance"]["qa accuracy"] == pytest.approx(0.2) and result["chance"]["time accuracy"] == 0.25 == result["chance"]["space accuracy"]


def test_real_clips(shared_data, tmp_path):
    """Entries whose evidence is the whole clip leave no room for a wrong list in the band 0.5-0.6 with the same length; all else is built."""
    with ShardWriter(tmp_path / "shards", dataset="real", split="test") as writer:
        for i, sample in enumerate(real_samples(shared_data / "mini_real")):
            medium = type(sample.medium)(**(vars(sample.medium) | {"medium_id": f"{sample.medium.medium_id}-{i}"}))
            writer.write(medium, sample.examples, sample.frames)
    found = run(tmp_path / "shards", tmp_path / "mcq", "--mask_bands", "0-0.1", "0.1-0.3", "0.3-0.5", "--time_bands", "0-0.2", "0.2-0.4", "0.4-0.6")
    assert Counter(e.question_type for e, _ in found.values())["time"] >= 12
    bands = [(0, 0.1), (0.1, 0.3), (0.3, 0.5)]
    spaces = [e.source["builder"] for e, _ in found.values() if e.question_type == "space"]
    assert len(spaces) >= 12
    for facts in spaces:
        assert all(bands[band][0] <= iou <= bands[band][1] for iou, band in zip(facts["iou"], facts["band"])) and sorted(facts["band"]) == [0, 1, 2]


# --- distractors alone -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("low, high", [(0, 0), (0, 0.1), (0.2, 0.3), (0.45, 0.55), (0.7, 0.75)])
def test_bands_of_segments(low, high):
    truth = [(4.0, 6.5), (9.0, 12.0)]
    found = segment_distractors(truth, 30.0, [Band(low, high)] * 3, np.random.default_rng(0))
    assert len({option.content for option in found}) == 3 and all(low <= option.iou <= high for option in found)
    assert all(len(option.content) == 2 and option.iou == temporal_iou(option.content, truth) for option in found)
    if high <= 0.3:
        lengths = [sorted(round(e - s, 1) for s, e in option.content) for option in found]
        assert lengths == [[2.5, 3.0]] * 3, "lengths do not give the answer away"


def test_segments_that_leave_no_room():
    with pytest.raises(SampleError, match=r"IoU 0-0 fit into 5\.0 s") as error:
        segment_distractors([(0.0, 5.0)], 5.0, [Band(0, 0)], np.random.default_rng(0))
    assert error.value.reason == "no_time_distractor"
    with pytest.raises(SampleError, match="no length"):
        segment_distractors([(1.0, 1.0)], 5.0, [Band(0, 0.3)], np.random.default_rng(0))


@pytest.mark.parametrize("low, high", [(0, 0), (0, 0.2), (0.2, 0.4), (0.5, 0.7)])
def test_bands_of_masks(low, high):
    truth = discs(4, (90, 160), 12)[2]
    found = mask_distractors(truth, {}, [Band(low, high)] * 3, np.random.default_rng(1))
    assert all(low <= mask_iou(option.content, truth) == option.iou <= high for option in found) and {o.origin for o in found} == {"moved"}


def test_other_objects_come_first():
    truth, near, far = np.zeros((3, 60, 90), bool)
    truth[10:30, 10:30], near[10:30, 15:35], far[35:55, 60:80] = True, True, True
    found = mask_distractors(truth, {"near": near, "far": far}, [Band(0, 0.3)] * 2 + [Band(0.5, 0.7)], np.random.default_rng(0))
    assert [option.origin for option in found] == ["object far", "moved", "object near"]
    with pytest.raises(SampleError, match="at least 20") as error:
        mask_distractors(truth & (np.arange(90) < 11) & (np.arange(60) < 29)[:, None], {}, [Band(0, 0.3)], np.random.default_rng(0))
    assert error.value.reason == "region_too_small"
    with pytest.raises(SampleError, match="no region with IoU 0-0 "):
        mask_distractors(np.ones((60, 90), bool), {}, [Band(0, 0)], np.random.default_rng(0))


@pytest.mark.parametrize("text", ["0.3", "a-b", "0.5-0.2", "-0.1-0.2", "0-1", ""])
def test_malformed_bands(text):
    with pytest.raises(ConfigError, match="low-high"):
        Band.parse(text)


@pytest.mark.parametrize("more, message", [
    (["--parts", "when"], "must be some of"), (["--total", "-1"], "not be negative"), (["--time_bands", "0-0.3"], "3 IoU bands"),
    (["--mask_bands", "0-1", "0-1", "0-1"], "low-high")])
def test_wrong_settings_are_named(shards, tmp_path, capsys, more, message):
    run(shards, tmp_path / "mcq", *more, code=EXIT_USER_ERROR)
    assert message in capsys.readouterr().err


def test_folders_with_content_are_left_alone(shards, tmp_path, capsys):
    (tmp_path / "kept").write_text("x")
    run(shards, tmp_path, code=EXIT_USER_ERROR)
    assert "already holds something" in capsys.readouterr().err
