"""Inst-IT as released: order of frames and of objects, repaired tags, filters, captions of images."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dataset_fixtures import video as written
from tests.packing import examples_of, run, skipped
from unipixel.errors import DataError
from unipixel.sample import Region, example_kind


def test_video_questions(tmp_path, capsys):
    layout = written.inst_it(tmp_path / "in")
    data = run("inst_it_video_qa_raw", layout.root, tmp_path / "out")
    found = examples_of(data)
    assert list(found) == ["7_0", "7_1", "8_0", "8_1"]
    assert skipped(tmp_path / "out") == {"9": "filter_frames", **{f"{v}_2": "filter_no_objects" for v in (7, 8)},
                                         **{f"{v}_3": "empty_region" for v in (7, 8)}}
    medium, example = found["7_0"]
    assert [t.text for t in example.turns] == ["What does [2] give to [1] at <1>?", "A ball."]
    assert example.source == {"question": "What does [2] give to [01] at <0>?", "answer": "A ball."}
    assert example.regions == (Region("2", "2"), Region("1", "1")) and example.visual_prompt == "mask"
    assert found["7_1"][1].regions == (Region("10", "10"), Region("2", "2")) and found["7_1"][1].source == {}
    for oid in ("1", "2", "10"):
        track, truth = medium.objects[oid].track, layout.masks[f"7/{oid}"]
        assert track.annotated.tolist() == [True, oid != "2", True]  # no segmentation is no statement
        listed = np.flatnonzero(track.annotated)
        assert np.array_equal(track.decode(listed), truth[listed])
    rows = data.rows["example_id"].to_pylist()
    assert list(data.sample(rows.index("7_0")).frames) == layout.frames["7"] and list(data.sample(rows.index("8_0")).frames) == layout.frames["8"]
    assert "2 questions with a repaired object or frame tag" in capsys.readouterr().out


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    layout = written.inst_it(tmp_path / "in")
    data = run("inst_it_video_qa_raw", layout.root, tmp_path / "out", "--set", "max_frames=0")
    rows = data.rows["example_id"].to_pylist()
    sample = data.sample(rows.index("9_0"))
    assert sample.medium.source["frames"][-2:] == ["10.jpg", "11.jpg"] and list(sample.frames) == layout.frames["9"]


def test_questions_whose_reply_is_the_masks(tmp_path):
    """An object that only the answer mentions counts; the order is that of the text, whatever the process."""
    layout = written.inst_it(tmp_path / "in")
    found = examples_of(run("inst_it_video_qa_raw_mem", layout.root, tmp_path / "out"))
    assert list(found) == ["7_0", "7_1"]
    lost = skipped(tmp_path / "out")
    assert {lost["8"], lost["9"]} == {"filter_frames"} and lost["7_3"] == "empty_region"
    example = found["7_1"][1]
    assert (example.task, example.question, example.options) == ("locate", "Who is near the door?", ("It is [10], then [2].",))
    assert [r.label for r in example.regions] == ["10", "2"] and example.targets == (("10",), ("2",))
    assert example_kind(*found["7_1"][::-1]) == "video_prompts_masks"
    assert found["7_0"][1].question == "What does [2] give to [1] at <1>?" and found["7_0"][1].targets == (("2",), ("1",))


def test_limits_on_objects_count_the_video_or_the_question(tmp_path):
    layout = written.inst_it(tmp_path / "in")
    with pytest.raises(DataError, match="filter_objects"):
        run("inst_it_video_qa_raw", layout.root, tmp_path / "a", "--set", "max_objects=3")  # 1, 2, 10 and the unknown 9
    assert len(run("inst_it_video_qa_raw_mem", layout.root, tmp_path / "b", "--set", "max_objects=2")) == 2
    with pytest.raises(DataError, match="filter_objects"):
        run("inst_it_video_qa_raw_mem", layout.root, tmp_path / "c", "--set", "max_objects=1")
    with pytest.raises(DataError, match="'filter_words': 4"):
        run("inst_it_video_qa_raw", layout.root, tmp_path / "d", "--set", "max_words=9")
    assert len(run("inst_it_video_qa_raw", layout.root, tmp_path / "e", "--set", "max_words=10")) == 4


def test_captions_of_objects_in_images(tmp_path):
    layout = written.inst_it(tmp_path / "in")
    data = run("inst_it_image_short_caption_raw_ref", layout.root, tmp_path / "out")
    found = examples_of(data)
    assert list(found) == ["5_2", "5_1"] and skipped(tmp_path / "out") == {"5_3": "mask_missing"}
    medium, example = found["5_2"]
    assert [t.text for t in example.turns] == ["[2]", "a red cup"] and example.question_type == "region_short"
    assert example_kind(example, medium) == "image_prompts" and list(data.sample(0).frames) == layout.frames["5"]
    assert np.array_equal(medium.objects["2"].track.decode(), layout.masks["5/2"])
