"""VideoRefer-700K as released: masks by place in the list, texts with object marks, single frames, and the filters."""

from __future__ import annotations

import io
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from tests.dataset_fixtures import video as written
from tests.dataset_fixtures.common import blob, rle, write
from tests.packing import examples_of, run, skipped
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Region


def masks_of(medium, oid) -> dict[int, np.ndarray]:
    """Source frame number -> mask, for the annotated frames."""
    track = medium.objects[oid].track
    return {medium.source["frame_numbers"][t]: track.decode([t])[0] for t in np.flatnonzero(track.annotated)}


def grey(frame: bytes) -> int:
    with Image.open(io.BytesIO(frame)) as image:
        return round((np.asarray(image.convert("L")).mean() - 40) / 4)


def same(found: dict[int, np.ndarray], **expected: np.ndarray) -> bool:
    return sorted(found) == sorted(int(k[1:]) for k in expected) and all(np.array_equal(found[int(k[1:])], m) for k, m in expected.items())


def test_masks_belong_to_the_place_in_the_list(tmp_path):
    """Row 0 is filtered and row 2 skipped, rows 1 and 2 have one id: counting what is left, or ids, would give other masks."""
    layout = written.videorefer(tmp_path / "in")
    data = run("videorefer_detailed_caption", layout.root, tmp_path / "out", "--set", "context_frames=0")
    found = examples_of(data)
    assert list(found) == ["detailed_caption_1", "detailed_caption_3"]
    assert skipped(tmp_path / "out") == {"0": "filter_ratio", "2": "mask_frame"}
    medium, example = found["detailed_caption_1"]
    assert same(masks_of(medium, "1-0"), f5=blob(31)) and same(masks_of(found["detailed_caption_3"][0], "3-0"), f4=blob(33))
    (region,) = example.regions
    assert [t.text for t in example.turns] == [f"Please describe [{region.label}] in the video.", "A red ball."]
    assert example.visual_prompt == "mask" and example.source["id"] == "r0" and 0 <= int(region.label) < 16
    assert [grey(f) for f in data.sample(0).frames] == [5] and list(data.sample(1).frames) == [layout.frames["b"][4]]
    assert medium.frame_times == (pytest.approx(5 / 24),) and medium.duration_s == pytest.approx(0.5)


def test_context_surrounds_a_single_annotated_frame(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    data = run("videorefer_short_caption", layout.root, tmp_path / "out", "--set", "context_frames=3")
    medium, example = examples_of(data)["short_caption_1"]
    assert medium.source["frame_numbers"] == [0, 5, 6, 11] and [grey(f) for f in data.sample(0).frames] == [0, 5, 6, 11]
    assert same(masks_of(medium, example.regions[0].oid), f5=blob(31))


def test_short_captions_with_a_point_or_box_have_no_filters(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    found = examples_of(run("videorefer_short_caption_ref", layout.root, tmp_path / "out"))
    assert list(found) == ["short_caption_0", "short_caption_1", "short_caption_3"]
    medium, example = found["short_caption_0"]
    assert example.visual_prompt == "point_or_box" and same(masks_of(medium, "0-0"), f3=blob(30))
    assert example.turns[0].text == f"Describe [{example.regions[0].label}]."
    written.edit_json(layout.root / "videorefer-short-caption-500k-wo-masks.json", lambda rows: rows[3].update(
        annotation=[{"4": {}}] * 2, conversations=written.dialogue("<video>\n<object0><region> and <object1><region>", "Two.")))
    run("videorefer_short_caption_ref", layout.root, tmp_path / "b")
    assert skipped(tmp_path / "b") == {"2": "mask_frame", "3": "region_count"}


def test_questions_mention_objects_by_number_and_drop_the_introduction(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    found = examples_of(run("videorefer_qa", layout.root, tmp_path / "out"))
    assert list(found) == ["qa_2", "qa_3", "qa_4"] and skipped(tmp_path / "out") == {"0": "filter_objects", "1": "filter_no_objects"}
    medium, example = found["qa_2"]
    assert [t.text for t in example.turns] == ["What does [1] do to [3]?", "[1] chases [3]."]
    assert example.regions == (Region("3", "2-0"), Region("1", "2-1")) and example.visual_prompt == "mask" and example.targets == ()
    assert same(masks_of(medium, "2-0"), f2=blob(40), f10=blob(41)) and same(masks_of(medium, "2-1"), f4=blob(42))
    assert same(masks_of(medium, "3-0"), f0=blob(43)) and same(masks_of(found["qa_4"][0], "4-0"), f0=blob(44), f5=blob(45))


def test_an_object_that_only_the_introduction_mentions_keeps_it(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    written.edit_json(layout.root / "videorefer-qa-75k-wo-masks.json", lambda rows: rows[2].update(conversations=written.dialogue(
        "<video>\nThere are <object3><region>, <object1><region> in the video.\nWhat does <object1> do?", "<object1> runs.")))
    example = examples_of(run("videorefer_qa", layout.root, tmp_path / "out"))["qa_2"][1]
    assert example.turns[0].text == "There are [3], [1] in the video.\nWhat does [1] do?"


def test_a_first_line_that_introduces_nothing_is_no_introduction(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    written.edit_json(layout.root / "videorefer-qa-75k-wo-masks.json", lambda rows: rows[4].update(conversations=written.dialogue(
        "<video>\nLook closely.\nWhat is <region>?", "A dog.")))
    example = examples_of(run("videorefer_qa", layout.root, tmp_path / "out"))["qa_4"][1]
    assert example.turns[0].text == f"Look closely.\nWhat is [{example.regions[0].label}]?"


def test_questions_whose_reply_is_the_masks(tmp_path):
    layout = written.videorefer(tmp_path / "in")
    found = examples_of(run("videorefer_qa_mem", layout.root, tmp_path / "out"))
    assert list(found) == ["qa_2", "qa_4"]
    assert skipped(tmp_path / "out") == {"0": "filter_objects", "1": "filter_no_objects", "3": "filter_single_frame"}
    medium, example = found["qa_2"]
    assert (example.task, example.visual_prompt, example.targets) == ("locate", "point_or_box", (("2-0",), ("2-1",)))
    assert example.question == "There are [3], [1] in the video.\nWhat does [1] do to [3]?"
    assert (example.options, example.answer) == (("[1] chases [3].",), "[1] chases [3].") and [r.label for r in example.regions] == ["3", "1"]
    assert medium.source["frame_numbers"] == [2, 4, 10]


@pytest.mark.parametrize("option,lost", [("max_frames=1", {"2": "filter_frames", "4": "filter_frames"}), ("max_words=5", {"2": "filter_words",
                                         "3": "filter_words", "4": "filter_words"}), ("min_ratio=0.5", {"3": "filter_ratio", "4": "filter_ratio"}),
                                         ("max_objects=1", {"2": "filter_objects"})])
def test_filters(tmp_path, option, lost):
    layout = written.videorefer(tmp_path / "in")
    with pytest.raises(DataError, match="empty dataset") if len(lost) == 3 else nullcontext():
        run("videorefer_qa", layout.root, tmp_path / "out", "--set", option)
    assert skipped(tmp_path / "out") == {"0": "filter_objects", "1": "filter_no_objects", **lost}


@pytest.mark.parametrize("change,reason", [
    ({"conversations": written.dialogue("What is <region>?", "x")}, "bad_question"),
    ({"conversations": written.dialogue("<video>\nWhat is <region> in <video>, say?", "x")}, "bad_question"),
    ({"conversations": written.dialogue("<video>\nWhat is it?", "x")}, "region_count"),
    ({"conversations": written.dialogue("<video>\nWhat is <region>?", "<object")}, "bad_question"),
    ({"conversations": []}, "bad_record"),
    ({"annotation": [{"zero": {}}]}, "bad_record"),
    ({"annotation": [{}]}, "no_masks"),
    ({"annotation": [{"0": {}, "1": {}, "5": {}}]}, "mask_count"),
    ({"video": "../b"}, "unsafe_path"),
    ({"video": "gone.mp4"}, "no_frames"),
])
def test_every_unusable_row_is_listed(tmp_path, change, reason):
    layout = written.videorefer(tmp_path / "in")
    written.edit_json(layout.root / "videorefer-qa-75k-wo-masks.json", lambda rows: rows[4].update(change))
    assert list(examples_of(run("videorefer_qa", layout.root, tmp_path / "out"))) == ["qa_2", "qa_3"]
    found = skipped(tmp_path / "out")
    assert reason in {found.get("4"), found.get("../b"), found.get("gone.mp4")}


def test_masks_in_the_other_encodings(tmp_path):
    """Uncompressed counts and several parts of one object: lists are joined, all of them decode to the same pixels."""
    layout = written.videorefer(tmp_path / "in")
    a, b = blob(44), blob(45)
    write(layout.root / "masks_qa/4.json", [[[written.counts(a)], [rle(b), rle(a)]]])
    medium, _ = examples_of(run("videorefer_qa", layout.root, tmp_path / "out"))["qa_4"]
    assert same(masks_of(medium, "4-0"), f0=a, f5=a | b)


def test_only_training_is_released(tmp_path):
    with pytest.raises(ConfigError, match="--split 'val'"):
        run("videorefer_qa", written.videorefer(tmp_path / "in").root, tmp_path / "out", "--split", "val")
