"""ST-Evidence tables: rows to examples, entries merged into videos, and what each unusable row turns into."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.masks import rasterise
from tests.packing import H, W, examples_of, grey_video, jpeg, run, skipped
from unipixel.errors import DataError
from unipixel.sample import EMPTY, encode_mask

SQUARE = {"exterior": [[2, 3], [8, 3], [8, 9], [2, 9]], "holes": [[[4, 5], [6, 5], [6, 7], [4, 7]]]}
DOT = {"exterior": [[20, 20]], "holes": []}


def mask_file(*objects, width=W, height=H, fps=6.0):
    return {"fps": fps, "width": width, "height": height, "evidence_objects": list(objects)}


def evidence(expression="the box", parts=((0, SQUARE),), **more):
    return {"ref_expression": expression, "masks": [{"frame": n, "mask": m} for n, m in parts], **more}


def entry(entry_id, video="v1", **more):
    return {"entry_id": entry_id, "video_id": video, "video_path": f"{video}.mp4", "question": f"What is {entry_id}?", "answer": "a box",
            "candidates": "['a box', 'a cat']", "mask_evidence": "[1]", "source": "s", "split": "train", "qa_source": "q",
            "temporal_evidence": "[[0.0, 0.3]]"} | more


def st_layout(root: Path, entries, masks, frames=("v1",), n_frames=4, table="st_evidence.csv") -> Path:
    (root / "masks").mkdir(parents=True)
    with open(root / table, "w", newline="") as out:
        writer = csv.DictWriter(out, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
    for entry_id, raw in masks.items():
        (root / "masks" / f"{entry_id}.json").write_text(json.dumps(raw))
    for video in frames:
        folder = root / "video_frames_6fps" / video
        folder.mkdir(parents=True)
        for t in range(n_frames):
            (folder / f"frame_{t:04d}.jpg").write_bytes(jpeg(t))
    return root


def test_entries_of_a_video_share_frames_and_objects(tmp_path):
    shared = evidence("the dot", [(1, DOT)])
    root = st_layout(tmp_path / "in", [entry("e1", mask_evidence="[1, 2]"), entry("e2", split="test"), entry("e3", temporal_evidence=""),
                                       entry("e4", temporal_evidence="[]")], {
        "e1": mask_file(evidence(track_id=7, annotated_frames=[0, 2]), shared),
        "e3": mask_file(evidence("a box", [(0, SQUARE), (3, SQUARE)], track_id=7)), "e4": mask_file(shared)})
    found = examples_of(run("st_evidence", root, tmp_path / "out"))
    assert sorted(found) == ["e1", "e3", "e4"] and skipped(tmp_path / "out") == {}
    medium = found["e1"][0]
    assert medium.frame_times == (0, 1 / 6, 2 / 6, 3 / 6) and medium.duration_s == 4 / 6
    assert {o.oid: o.expression for o in medium.objects.values()} == {"t7": "the box", "e1-2": "the dot"}
    square = encode_mask(rasterise([SQUARE], (H, W)))
    assert medium.objects["t7"].track.entries == (square, None, EMPTY, square)
    assert medium.objects["e1-2"].track.entries == (None, encode_mask(rasterise([DOT], (H, W))), None, None)
    assert [found[e][1].targets for e in ("e1", "e3", "e4")] == [(("t7", "e1-2"),), (("t7",),), (("e1-2",),)]
    assert [found[e][1].segments for e in ("e1", "e3", "e4")] == [((0.0, 0.3),), None, ()]
    assert found["e1"][1].options == ("a box", "a cat") and found["e1"][1].source == {"source": "s", "qa_source": "q"}


def test_parts_on_one_frame_are_joined_and_conflicts_kept_apart(tmp_path, capsys):
    root = st_layout(tmp_path / "in", [entry("e1"), entry("e2")], {
        "e1": mask_file(evidence(parts=[(0, SQUARE), (0, DOT)], track_id=1)), "e2": mask_file(evidence(parts=[(0, DOT)], track_id=1))})
    found = examples_of(run("st_evidence", root, tmp_path / "out"))
    objects = found["e1"][0].objects
    assert (objects["t1"].track.decode([0])[0] == rasterise([SQUARE, DOT], (H, W))).all()
    assert found["e2"][1].targets == (("e2-1",),) and objects["e2-1"].track.decode([0]).sum() == 1
    assert "1 objects kept apart" in capsys.readouterr().out


def test_every_unusable_row_is_listed_with_its_reason(tmp_path):
    good = mask_file(evidence())
    rows = {
        "ok": {}, "answer": {"answer": "a dog"}, "ids": {"mask_evidence": "[]"}, "range": {"mask_evidence": "[2]"}, "file": {},
        "empty": {}, "size": {}, "fps": {}, "late": {}, "literal": {"candidates": "__import__('os')"}, "times": {"temporal_evidence": "[[1]]"},
        "order": {"temporal_evidence": "[[2, 1]]"}, "after": {"temporal_evidence": "[[60, 61]]"}, "form": {}, "json": {}, "../climb": {},
        "noframes": {"video_id": "v2", "video_path": "v2.mp4"}, "unsafe": {"video_id": "v3", "video_path": "../v3.mp4"},
        "nopath": {"video_path": ""}}
    masks = dict.fromkeys(set(rows) - {"file", "../climb"}, good) | {
        "empty": mask_file(evidence(parts=[], annotated_frames=[0, 1])), "size": mask_file(evidence(), width=W * 2),
        "fps": mask_file(evidence(), fps=30.0), "late": mask_file(evidence(parts=[(9, SQUARE)])), "form": {"fps": 6.0}}
    root = st_layout(tmp_path / "in", [entry(e, **more) for e, more in rows.items()], masks)
    (root / "masks" / "json.json").write_text("{")
    data = run("st_evidence", root, tmp_path / "out")
    assert data.rows["example_id"].to_pylist() == ["ok"]
    assert skipped(tmp_path / "out") == {
        "answer": "answer_not_in_options", "ids": "no_mask_ids", "range": "mask_ids", "file": "no_mask_file", "empty": "masks_empty",
        "size": "mask_size", "fps": "mask_fps", "late": "mask_frame", "literal": "bad_literal", "times": "bad_literal",
        "order": "segment_order", "after": "segment_range", "form": "bad_masks", "json": "bad_json", "../climb": "unsafe_path",
        "v2.mp4": "no_frames", "../v3.mp4": "unsafe_path", "nopath": "no_video_path"}


def test_gap_in_the_frames_keeps_the_times(tmp_path):
    root = st_layout(tmp_path / "in", [entry("e1")], {"e1": mask_file(evidence(parts=[(0, DOT), (3, SQUARE)]))})
    (root / "video_frames_6fps" / "v1" / "frame_0001.jpg").unlink()
    medium = examples_of(run("st_evidence", root, tmp_path / "out"))["e1"][0]
    assert medium.frame_times == (0, 2 / 6, 3 / 6)
    assert medium.objects["e1-1"].track.visible.tolist() == [True, False, True]


def test_benchmark_table_with_png_masks(tmp_path):
    row = {k: v for k, v in entry("e1").items() if k not in ("mask_evidence", "split", "temporal_evidence")} | {"segment": "[[0.1, 0.2]]"}
    root = st_layout(tmp_path / "in", [row], {}, table="st_evidence_gen.csv")
    (root / "gt_masks" / "e1").mkdir(parents=True)
    for t, mask in enumerate([np.zeros((H, W), bool), rasterise([SQUARE], (H, W))]):
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "gt_masks" / "e1" / f"{t:05d}.png")
    medium, example = examples_of(run("st_evidence", root, tmp_path / "out", "--split", "test"))["e1"]
    assert example.segments == ((0.1, 0.2),)
    assert medium.objects[example.targets[0][0]].track.entries == (EMPTY, encode_mask(rasterise([SQUARE], (H, W))), None, None)


def test_preference_pairs(tmp_path, capsys):
    root = st_layout(tmp_path / "in", [entry("e1")], {"e1": mask_file(evidence())})
    side = {"video": "v1.mp4", "chosen": "yes", "rejected": "no", "failure_mode": "temporal", "split": "train"}
    pairs = [side | {"id": "p1", "prompt": "Is it so?", "chosen_segments": [[0, 0.2]], "rejected_segments": [[0.4, 0.5]],
                     "chosen_object": "the box", "rejected_object": "the moon"},
             side | {"id": "p2", "prompt": "What is e1?"}, side | {"id": "p3", "prompt": "Is it so?", "chosen": "no", "rejected": "yes"},
             side | {"id": "p4", "prompt": "Equal?", "chosen": "no"}, side | {"id": "p5", "split": "test"},
             {"id": "p6", "video": "v1.mp4"}, side | {"id": "p7", "prompt": "Odd?", "failure_mode": "mood"}]
    (root / "preferences.jsonl").write_text("\n".join(json.dumps(p) for p in pairs))
    found = examples_of(run("st_evidence", root, tmp_path / "out", "--set", "preferences=true"))
    assert sorted(found) == ["e1", "p1"]
    assert [p.pair_id for p in found["e1"][1].pairs] == ["p2"]
    own = found["p1"][1]
    assert (own.task, own.question, own.answer, own.options, own.segments) == ("evidence", "Is it so?", "yes", (), ((0.0, 0.2),))
    assert [p.pair_id for p in own.pairs] == ["p1", "p3"]
    assert own.pairs[0].chosen_objects == ("e1-1",) and own.pairs[0].rejected_objects is None
    assert own.pairs[0].rejected_segments == ((0.4, 0.5),) and own.pairs[1].chosen_segments is None
    assert skipped(tmp_path / "out") == {"p4": "equal_sides", "p6": "bad_pair", "p7": "failure_mode"}
    assert "1 objects of preference pairs without masks" in capsys.readouterr().out
    assert sorted(examples_of(run("st_evidence", root, tmp_path / "plain"))) == ["e1"]


def test_bad_subtitles_cost_only_the_subtitles(tmp_path):
    root = st_layout(tmp_path / "in", [entry("e1")], {"e1": mask_file(evidence())})
    (root / "subtitles").mkdir()
    (root / "subtitles" / "v1.srt").write_text("nothing")
    assert examples_of(run("st_evidence", root, tmp_path / "out"))["e1"][0].subtitles == ()
    assert skipped(tmp_path / "out") == {"subtitles/v1.srt": "bad_subtitles"}


def test_video_stands_in_for_missing_frames(tmp_path, capsys):
    entries = [entry("e1"), entry("e2", video="v2")]
    masks = {e: mask_file(evidence(), width=64, height=48) for e in ("e1", "e2")}
    root = st_layout(tmp_path / "in", entries, masks, frames=())
    (root / "videos").mkdir()
    grey_video(root / "videos" / "v1.mp4", 24, 24)
    (root / "videos" / "v2.mp4").write_bytes(b"not a video")
    data = run("st_evidence", root, tmp_path / "out")
    assert len(data.sample(0).frames) == 6 and data.sample(0).medium.duration_s == pytest.approx(1.0)
    assert skipped(tmp_path / "out") == {"v2.mp4": "video_unreadable"}
    (root / "videos").rename(root / "videos_6fps")  # as the benchmark has them
    assert len(run("st_evidence", root, tmp_path / "again").sample(0).frames) == 6
    assert "6 frames decoded from video files and stored as JPEG of quality 95" in capsys.readouterr().out


def test_missing_table_and_column(tmp_path):
    with pytest.raises(DataError, match=r"no table \(--set table=...\) at .*st_evidence\.csv"):
        run("st_evidence", tmp_path, tmp_path / "out")
    (tmp_path / "t.csv").write_text("entry_id,question\n1,x\n")
    with pytest.raises(DataError, match=r"lacks the columns \['video_id'"):
        run("st_evidence", tmp_path, tmp_path / "out", "--set", "table=t.csv")
