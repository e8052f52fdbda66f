"""Referring expressions in the layout of MeViS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.packing import H, W, examples_of, jpeg, run, skipped
from unipixel.errors import DataError
from unipixel.sample import EMPTY


def rle(mask: np.ndarray) -> dict:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def mevis(root: Path, expressions: dict, masks: dict, n_frames=3) -> Path:
    frames = [f"{t:05d}" for t in range(n_frames)]
    (root / "JPEGImages" / "v").mkdir(parents=True)
    for t, frame in enumerate(frames):
        (root / "JPEGImages" / "v" / f"{frame}.jpg").write_bytes(jpeg(t))
    (root / "meta_expressions.json").write_text(json.dumps({"videos": {"v": {"expressions": expressions, "vid_id": 0, "frames": frames}}}))
    (root / "mask_dict.json").write_text(json.dumps(masks))
    return root


def expression(text, *annotations):
    return {"exp": text, "obj_id": list(annotations), "anno_id": list(annotations)}


def test_mevis_layout(tmp_path):
    masks = np.random.default_rng(0).random((3, H, W)) > 0.5
    dense = [rle(m) for m in masks]
    root = mevis(tmp_path / "in" / "valid_u", {
        "0": expression("both cats", 1, 2), "1": expression("the left cat", 1), "2": expression("nothing"), "3": expression("gone", 3),
        "4": expression("short", 4), "5": expression("big", 5)},
        {"1": dense, "2": [None, dense[1], None], "4": dense[:2], "5": [rle(np.ones((H, 2 * W)))] * 3})
    found = examples_of(run("rvos", tmp_path / "in", tmp_path / "out", "--split", "valid_u", "--set", "fps=5"))
    assert sorted(found) == ["v_0", "v_1", "v_2"] and found["v_2"][1].targets == ((),)  # evaluation: nothing is meant, nothing may be drawn
    medium, both = found["v_0"]
    assert medium.frame_times == (0, 0.2, 0.4) and both.task == "refer" and both.targets == (("a1", "a2"),)
    assert {o: medium.objects[o].expression for o in medium.objects} == {"a1": "the left cat", "a2": ""}
    assert (medium.objects["a1"].track.decode() == masks).all()
    assert medium.objects["a2"].track.entries[0] == EMPTY and medium.objects["a2"].track.annotated.all()
    assert skipped(tmp_path / "out") == {"v_3": "mask_missing", "v_4": "mask_count", "v_5": "mask_size"}
    assert root.is_dir()


def test_mevis_frame_missing_and_no_such_split(tmp_path):
    root = mevis(tmp_path / "in", {"0": expression("x", 1)}, {"1": [None, rle(np.ones((H, W))), None]})
    (root / "layout.json").write_text(json.dumps({"split": {"v": "test"}}))
    with pytest.raises(DataError, match="no videos of split 'train'"):
        run("rvos", root, tmp_path / "out")
    (root / "JPEGImages" / "v" / "00001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 items were skipped \{'frame_missing': 1\}"):
        run("rvos", root, tmp_path / "out", "--split", "test")
