"""Label maps: which number is which class, and which classes are left out."""

from __future__ import annotations

import pytest
from PIL import Image

from data_tools.convert.class_tables import ADE20K, COCO_STUFF
from tests.dataset_fixtures import images
from tests.dataset_fixtures.common import write
from tests.packing import H, W, examples_of, run, skipped
from unipixel.errors import ConfigError, DataError

BRICK, CONCRETE, PERSON, BUSH = COCO_STUFF.index("wall-brick"), COCO_STUFF.index("wall-concrete"), 0, COCO_STUFF.index("bush")


def questions(data) -> dict[str, str]:
    return {e: x.question for e, (_, x) in examples_of(data).items()}


def test_ade20k(tmp_path):
    root = tmp_path / "in/ade20k"
    frames, maps = images.semantic(root / "annotations/training", root / "images/training", {
        "x": [0, 1, 150, 255], "y": [3, 3], "z": [0, 255], "w": [1, 151]})
    data = run("ade20k", tmp_path / "in", tmp_path / "out")
    assert questions(data) == {"x_1": "wall", "x_150": "flag", "y_3": "sky"}
    medium, example = examples_of(data)["x_150"]
    assert example.task == "refer" and example.targets == (("c150",),)
    assert (medium.objects["c150"].track.decode()[0] == (maps["x"] == 150)).all() and medium.objects["c150"].track.decode().any()
    assert data.sample(0).frames[0] == frames["x"]
    assert skipped(tmp_path / "out") == {"z": "no_classes", "w": "unknown_class"}
    with pytest.raises(ConfigError, match="'test'"):
        run("ade20k", tmp_path / "in", tmp_path / "b", "--split", "test")


def test_cocostuff_counts_from_0_and_leaves_out_hyphens(tmp_path):
    images.semantic(tmp_path / "in/cocostuff/train2017", tmp_path / "in/coco/train2017", {"x": [PERSON, BRICK, CONCRETE, BUSH, 255]})
    assert questions(run("cocostuff", tmp_path / "in", tmp_path / "out")) == {f"x_{PERSON}": "person", f"x_{BUSH}": "bush"}
    legacy = run("cocostuff", tmp_path / "in", tmp_path / "legacy", "--set", "legacy_ignore=true")
    assert questions(legacy) == {f"x_{BRICK}": "wall-brick"}  # person, wall-concrete (after wall-brick) and bush (after building-other) are gone


@pytest.mark.parametrize("value", (len(COCO_STUFF), COCO_STUFF.index("door"), 44))
def test_cocostuff_that_counts_from_1_is_refused(tmp_path, value):
    images.semantic(tmp_path / "in/cocostuff/train2017", tmp_path / "in/coco/train2017", {"x": [1, 2], "y": [1, value]})
    with pytest.raises(DataError, match="seem to count from 1"):
        run("cocostuff", tmp_path / "in", tmp_path / "out")


def test_mapillary_names_come_from_the_release(tmp_path):
    root = tmp_path / "in/mapillary"
    _, maps = images.semantic(root / "training/v2.0/labels", root / "training/images", {"x": [0, 1, 2, 255], "y": [1]})
    with pytest.raises(DataError, match="config_v2.0.json"):
        run("mapillary", tmp_path / "in", tmp_path / "a")
    write(root / "config_v2.0.json", {"labels": [{"readable": n} for n in ("Bird", "Lane Marking - Dashed Line", "Unlabeled")]})
    data = run("mapillary", tmp_path / "in", tmp_path / "out")
    assert questions(data) == {"x_0": "bird", "x_1": "lane marking - dashed line", "y_1": "lane marking - dashed line"}
    medium, _ = examples_of(data)["x_1"]
    assert (medium.objects["c1"].track.decode()[0] == (maps["x"] == 1)).all()


def test_a_colour_picture_or_another_size_is_no_label_map(tmp_path):
    root = tmp_path / "in/ade20k"
    images.semantic(root / "annotations/training", root / "images/training", {"x": [1], "y": [1], "z": [1]})
    Image.new("RGB", (W, H)).save(root / "annotations/training/x.png")
    Image.new("L", (W + 1, H)).save(root / "annotations/training/y.png")
    assert questions(run("ade20k", tmp_path / "in", tmp_path / "out")) == {"z_1": "wall"}
    assert skipped(tmp_path / "out") == {"x": "bad_masks", "y": "mask_size"}


def test_class_tables():
    assert len(ADE20K) == len(set(ADE20K)) == 150 and len(COCO_STUFF) == len(set(COCO_STUFF)) == 182
    assert (COCO_STUFF[0], COCO_STUFF[90], COCO_STUFF[181]) == ("person", "hair brush", "wood") and ADE20K[4] == "tree"
