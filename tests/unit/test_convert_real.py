"""The small real set, packed completely and compared with its source files."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.packing import examples_of, run, skipped
from unipixel.data.shards import ShardDataset
from unipixel.sample import EMPTY


@pytest.mark.parametrize("split,media,entries,pairs", [("train", 4, 27, 26), ("test", 2, 14, 15)])
def test_mini_real_is_packed_completely(shared_data, tmp_path, split, media, entries, pairs):
    root = shared_data / "mini_real"
    data = run("st_evidence", root, tmp_path / "out", "--split", split, "--set", "preferences=true")
    manifest = data.manifests[0]
    assert (manifest["bundles"], manifest["kinds"], manifest["skipped"], manifest["notes"]) == (
        media, {"video": pairs, "video_masks": entries}, {}, {})
    with open(root / "st_evidence.csv", newline="") as table:
        rows = {r["entry_id"]: r for r in csv.DictReader(table)}
    for example_id, (medium, example) in examples_of(data).items():
        assert len(medium.subtitles) >= 4
        if example_id not in rows:
            assert len(example.pairs) == 1
            continue
        exact = json.loads((root / "masks_rle" / f"{example_id}.json").read_text())["objects"]
        assert [medium.objects[o].expression for o in example.targets[0]] == [o["ref_expression"] for o in exact]
        for oid, reference in zip(example.targets[0], exact, strict=True):
            entries = medium.objects[oid].track.entries
            assert all(entries[n] == reference["rles"].get(str(n), EMPTY) for n in reference["annotated_frames"])
        assert example.answer == rows[example_id]["answer"] and example.question_type != "other"
    frames = data.sample(0).frames
    assert frames[7] == (root / "frames_6fps" / data.sample(0).medium.medium_id / "frame_0007.jpg").read_bytes()


def test_mini_real_polygons_and_videos_agree_with_the_reference(shared_data, tmp_path):
    root, copy = shared_data / "mini_real", tmp_path / "in"
    for name in ("masks", "videos"):
        (copy / name).mkdir(parents=True)
    for path in [*root.glob("masks/juggle_0*.json"), *root.glob("videos/juggle.mp4"), root / "st_evidence_gen.csv"]:
        shutil.copyfile(path, copy / path.relative_to(root))
    found = examples_of(run("st_evidence", copy, tmp_path / "a", "--split", "test"))
    reference = run("st_evidence", root, tmp_path / "b", "--split", "test")
    exact = examples_of(reference)
    assert sorted(found) == sorted(e for e in exact if e.startswith("juggle_0"))
    assert set(skipped(tmp_path / "a").values()) == {"no_frames"}
    medium, other = found["juggle_01"][0], exact["juggle_01"][0]
    assert medium.frame_times == other.frame_times
    for oid, obj in other.objects.items():
        track = medium.objects[oid].track
        assert (track.annotated == obj.track.annotated).all() and (track.visible == obj.track.visible).all()
        for t in np.flatnonzero(obj.track.visible)[::9]:
            a, b = track.decode([t])[0], obj.track.decode([t])[0]
            assert (a & b).sum() / (a | b).sum() > 0.97
    decoded = ShardDataset(tmp_path / "a").sample(0).frames
    row = reference.rows["example_id"].to_pylist().index("juggle_01")
    stored = reference.sample(row).frames
    for t in (1, 15, 30, 45, 60):  # the same picture at another JPEG quality: nearer to its own frame than to the neighbours
        near = {n: np.abs(luminance(decoded[t]) - luminance(stored[n])).mean() for n in (t - 1, t, t + 1)}
        assert min(near, key=near.get) == t


def luminance(frame: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(frame)) as image:
        return np.asarray(image.convert("L")).astype(int)


def test_mini_real_expressions(shared_data, tmp_path):
    root = shared_data / "mini_real" / "rvos"
    masks = json.loads((root / "mask_dict.json").read_text())
    for split, count in (("train", 8), ("test", 7)):
        data = run("rvos", root, tmp_path / split, "--split", split)
        assert len(data) == count and data.manifests[0]["skipped"] == {}
        for medium, _ in examples_of(data).values():
            for oid, obj in medium.objects.items():
                assert [e or None for e in obj.track.entries] == [m and m["counts"] for m in masks[oid.removeprefix("a")]]
