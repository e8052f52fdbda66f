"""ReasonSeg: painting order, ignored pixels, code pages, explanations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_tools.convert.reason_seg import IGNORE, TARGET, paint_shapes
from tests.dataset_fixtures import images
from tests.packing import H, W, examples_of, run, skipped
from unipixel.errors import DataError, SampleError


def test_reason_seg(tmp_path):
    frames = images.reason_seg(tmp_path / "in")
    data = run("reason_seg", tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert sorted(found) == ["a_0", "b_0", "b_1", "b_explained0"]
    medium, query = found["a_0"]
    assert query.form == "query" and query.targets == (("target",),) and medium.source["ignore"] == "ignore"
    target, ignore = (medium.objects[oid].track.decode()[0] for oid in ("target", "ignore"))
    expected = np.zeros((H, W), bool)
    expected[2:21, 2:21] = True
    expected[8:16, 8:16] = False
    expected[10:13, 10:13] = True  # the smallest shape is painted last; its corners are cut to whole pixels, not rounded
    assert (target == expected).all()
    ring = np.zeros((H, W), bool)
    ring[8:16, 8:16] = True
    assert (ignore == (ring & ~expected)).all() and not (ignore & target).any()
    assert data.sample(0).frames[0] == frames["a"]
    assert [found[e][1].question for e in ("b_0", "b_1")] == ["Which part of the café is open?", "What – in this picture – is blue?"]
    assert found["b_0"][1].form == "sentence" and "ignore" not in found["b_0"][0].objects and "ignore" not in found["b_0"][0].source
    explained = found["b_explained0"][1]
    assert (explained.form, explained.question, explained.answer) == ("explanatory", "What is open?", "The door, because light comes out.")
    assert skipped(tmp_path / "out") == {"c": "masks_empty", "gone.jpg": "frame_missing"}
    assert data.manifests[0]["notes"] == {"annotation files read as cp1252": 1}


def test_explanations_belong_to_training_only(tmp_path):
    images.reason_seg(tmp_path / "in")
    (tmp_path / "in/reason_seg/ReasonSeg/train").rename(tmp_path / "in/reason_seg/ReasonSeg/val")
    assert sorted(examples_of(run("reason_seg", tmp_path / "in", tmp_path / "out", "--split", "val"))) == ["a_0", "b_0", "b_1"]
    with pytest.raises(DataError, match="no pictures"):
        run("reason_seg", tmp_path / "in", tmp_path / "b", "--split", "test")


STAR = """
................
.####...........
.##########.....
.##############.
.#############..
..###########...
..####.#####....
..###..#####....
..#.....###.....
.........#......
................"""
KITE = """
................
.###............
.#######........
.###########....
..#############.
..###########...
..#######.......
..#####.........
...###..........
...#............
................"""


@pytest.mark.parametrize(("points", "picture"), (([[1, 1], [14, 3], [9, 9], [6, 5], [2, 8]], STAR),
                                                 ([[1.9, 1.2], [14.5, 4.9], [7.5, 6], [3.1, 9.7]], KITE)))
def test_polygons_are_filled_with_their_outline(points, picture):
    """The pictures are OpenCV's (``fillPoly`` and ``polylines`` of the corners cut to int32), which the set was drawn with."""
    expected = np.array([[c == "#" for c in line] for line in picture.split()])
    assert (paint_shapes([{"label": "target", "points": points}], expected.shape) == expected).all()


def test_shapes_that_cannot_be_painted(tmp_path):
    box = [[1, 1], [5, 1], [5, 5]]
    assert (paint_shapes([{"label": "Target", "points": box}], (H, W)) == TARGET).any()
    assert (paint_shapes([{"label": "ignore_region", "points": box}], (H, W)) == IGNORE).any()
    for shape in ({"label": "other", "points": box}, {"label": "target", "points": box[:2]}, {"label": "target", "points": [["x", 1]] * 3},
                  {"label": "target", "points": box, "shape_type": "circle"}):
        with pytest.raises(SampleError) as caught:
            paint_shapes([shape], (H, W))
        assert caught.value.reason == "bad_masks"
    images.reason_seg(tmp_path / "in")
    path = tmp_path / "in/reason_seg/ReasonSeg/train/a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_sentence": "no"}))
    path.with_name("c.json").write_bytes(b'{"text": ["\x81"]}')  # neither UTF-8 nor in the code page
    run("reason_seg", tmp_path / "in", tmp_path / "out")
    assert skipped(tmp_path / "out") == {"a": "bad_record", "c": "bad_json", "gone.jpg": "frame_missing"}
