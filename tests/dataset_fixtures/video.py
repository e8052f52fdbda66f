"""Small examples of public video datasets in the layouts in which they are released.

Each function writes one under ``root`` and returns what a converter must find in it. Masks are seeded noise, so that a mix-up of objects,
frames or expressions cannot go unseen.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.dataset_fixtures.common import blob, box, counts, frames, labels, rle, write
from tests.packing import H, W

NAMES = [f"{t:05d}" for t in range(4)]


@dataclass
class Written:
    """``masks``: example id -> (T, H, W) bool of the union of its targets, ``frames``: medium id -> encoded frames."""

    root: Path
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    frames: dict[str, list[bytes]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def track(seed: int, hidden: tuple[int, ...] = (), count: int = 4) -> np.ndarray:
    """(T, H, W) noise with nothing on the ``hidden`` frames."""
    masks = np.stack([blob(100 * seed + t) for t in range(count)])
    masks[list(hidden)] = False
    return masks


def or_null(masks: np.ndarray, encode: Callable = rle) -> list:
    return [encode(mask) if mask.any() else None for mask in masks]


def said(text: str, *ids: int, **more: Any) -> dict[str, Any]:
    return {"exp": text, "obj_id": list(ids), "anno_id": [10 + i for i in ids], **more}


def mevis(root: Path, splits=("train", "valid_u", "valid")) -> Written:
    """Two videos per split; ``valid`` comes without masks. Video ids and expressions repeat in the splits."""
    out = Written(root)
    a, b = track(1), track(2, hidden=(0, 3))
    for split in splits:
        for n, video in enumerate(("v1", "v2")):
            out.frames[video] = frames(root / split / "JPEGImages" / video, [f"{name}.jpg" for name in NAMES], n)
        videos = {"v1": {"expressions": {"0": said("The cat that jumps", 1), "1": said("both cats", 1, 2), "2": said("nobody")},
                         "frames": NAMES, "vid_id": 0},
                  "v2": {"expressions": {"0": said("the other cat ", 2)}, "frames": NAMES, "vid_id": 1}}
        write(root / split / "meta_expressions.json", {"videos": videos})
        if split != "valid":
            write(root / split / "mask_dict.json", {"11": or_null(a, counts), "12": or_null(b)})
    out.masks = {"v1_0": a, "v1_1": a | b, "v2_0": b}
    out.texts = {"v1_0": "The cat that jumps", "v1_1": "both cats", "v2_0": "the other cat"}
    return out


def lvvis(root: Path) -> Written:
    out = Written(root, frames={"00001": frames(root / "train/JPEGImages/00001", [f"{name}.jpg" for name in NAMES])})
    a = track(3)
    write(root / "meta_expressions.json", {"videos": {"00001": {"frames": NAMES, "expressions": {"0": said("baby_carriage", 1), "1": said("sled")}}}})
    write(root / "mask_dict.json", {"11": or_null(a)})
    out.masks, out.texts = {"00001_0": a}, {"00001_0": "baby carriage"}
    return out


def revos(root: Path, pictures: str = "") -> Written:
    """A video of LV-VIS and one of TAO, where object 1 is seen in frames 1..2, object 2 in 0..3, and object 3 in frame 3 only."""
    out = Written(root)
    tao, lv = "TAO/train/YFCC100M/v_1", "LVVIS/train/00002"
    a, b, c, d = track(4, (0, 3)), track(5), track(6, (0, 1, 2)), track(7)
    for n, video in enumerate((lv, tao)):
        out.frames[video] = frames(root / pictures / video, [f"{name}.jpg" for name in NAMES], n)
    shape = {"frames": NAMES, "height": H, "width": W}
    cats = {"0": said("Which cat runs away?", 4, type_id=1), "1": said("the cat", 4, type_id=0), "2": said("no one", type_id=1)}
    cars = {"0": said("the car", 1, type_id=0), "1": said("all cars", 2, 1, type_id=0), "2": said("the vehicle", 1, type_id=0),
            "3": said("the bus", 3, type_id=0)}
    videos = {lv: {"expressions": cats, "vid_id": 0, **shape}, tao: {"expressions": cars, "vid_id": 1, **shape}}
    for split in ("train", "valid"):
        write(root / f"meta_expressions_{split}_.json", {"videos": videos})
    write(root / "mask_dict.json", {str(10 + i): or_null(m) for i, m in ((1, a), (2, b), (3, c), (4, d))})
    everything = [[rle(x), None, rle(y)] if x.any() else rle(y) for x, y in zip(a, b, strict=True)]
    write(root / "mask_dict_foreground.json", {tao: {"masks_rle": everything, "foreground_ratio": 0.25}})
    out.masks = {f"{lv}_0": d, f"{lv}_1": d, f"{tao}_0": a, f"{tao}_1": a | b, f"{tao}_2": a, f"{tao}_3": c, "foreground": a | b}
    return out


def _numbered(videos: Mapping[str, Mapping], tracks: Mapping[tuple[str, str], np.ndarray], order: str) -> dict[str, list]:
    """The pickle of Ref-YouTube-VOS and Ref-DAVIS17: running number -> masks, in one of the orders that loaders use."""
    if order == "sorted":
        keys = [(v, e) for v in sorted(videos) for e in sorted(videos[v]["expressions"])]
    elif order == "file, text-sorted":
        keys = [(v, e) for v in videos for e in sorted(videos[v]["expressions"])]
    else:
        keys = [(v, e) for v in videos for e in videos[v]["expressions"]]
    return {str(n): or_null(tracks[v, videos[v]["expressions"][e].get("obj_id")]) for n, (v, e) in enumerate(keys)}


def ref_youtube_vos(root: Path, order: str = "sorted") -> Written:
    """Training videos in the file's order b, a; 12 expressions of two objects in b. ``valid`` lists a video of ``test``."""
    out = Written(root)
    videos = {"b": {"frames": NAMES, "expressions": {str(i): {"exp": f"thing {i}", "obj_id": str(1 + i // 6)} for i in range(12)}},
              "a": {"frames": NAMES, "expressions": {"0": {"exp": "the only one ", "obj_id": "1"}}}}
    tracks = {("b", "1"): np.stack([box(0, 2 * t) for t in range(4)]), ("b", "2"): np.stack([box(12, 2 * t) for t in range(4)]),
              ("a", "1"): np.stack([box(6, 5 + t) & (t > 0) for t in range(4)])}
    for n, video in enumerate(videos):
        out.frames[video] = frames(root / "train/JPEGImages" / video, [f"{name}.jpg" for name in NAMES], n)
        for t, name in enumerate(NAMES):
            labels(root / "train/Annotations" / video / f"{name}.png", sum(int(o) * m[t] for (v, o), m in tracks.items() if v == video))
    write(root / "meta_expressions/train/meta_expressions.json", {"videos": videos})
    unseen = {name: {"frames": NAMES, "expressions": {"0": {"exp": "x"}, "1": {"exp": "y"}}} for name in ("w", "x")}
    write(root / "meta_expressions/valid/meta_expressions.json", {"videos": unseen})
    write(root / "meta_expressions/test/meta_expressions.json", {"videos": {"x": unseen["x"]}})
    write(root / "mask_dict.pkl", pickle.dumps(_numbered(videos, tracks, order)))
    out.masks = {f"{v}_{e}": tracks[v, raw["obj_id"]] for v in videos for e, raw in videos[v]["expressions"].items()}
    out.texts = {"a_0": "the only one", "b_11": "thing 11"}
    return out


def ref_davis17(root: Path, order: str = "sorted") -> Written:
    """A video with five objects and four expressions of each; the last expression has no mask at all."""
    out = Written(root)
    expressions = {str(4 * o + i): {"exp": f"fish {o + 1}, said {i}", "obj_id": str(o + 1)} for o in range(5) for i in range(4)}
    tracks = {("gold-fish", str(o + 1)): np.stack([box(4 * o, 4 * t, 4) for t in range(4)]) for o in range(5)}
    videos = {"gold-fish": {"frames": NAMES, "expressions": expressions}}
    out.frames["gold-fish"] = frames(root / "DAVIS/JPEGImages/480p/gold-fish", [f"{name}.jpg" for name in NAMES])
    for t, name in enumerate(NAMES):
        labels(root / "DAVIS/Annotations/480p/gold-fish" / f"{name}.png", sum(int(o) * m[t] for (_, o), m in tracks.items()))
    numbers = _numbered(videos, tracks, order)
    if order == "sorted":
        numbers[str(sorted(expressions).index("19"))] = [None] * 4
    for split in ("train", "valid"):
        write(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
        write(root / split / "mask_dict.pkl", pickle.dumps(numbers, protocol=2))
    out.masks = {f"gold-fish_{e}": tracks["gold-fish", raw["obj_id"]] for e, raw in expressions.items()}
    return out


def video_file(path: Path, count: int, rate: int = 24) -> Path:
    """Frame t of the file is grey 40 + 4 * t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = W, H, "yuv420p", {"crf": "1"}
        for t in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((H, W, 3), 40 + 4 * t, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


def ref_sav(root: Path) -> Written:
    """A file of 18 frames, masks on frames 0, 4, 8, 12, 16 for two objects, of which both are described."""
    out = Written(root)
    masks = np.stack([track(8, count=5), track(9, hidden=(1,), count=5)])
    folder = "sav_train/sav_000"
    video_file(root / "sav" / folder / "sav_000002.mp4", 18)
    write(root / "sav" / folder / "sav_000002_manual.json", {"masklet_id": [0, 1], "masklet": [[rle(m) for m in masks[:, k]] for k in range(5)]})
    objects = {str(o): {"video_id": "sav_000002", "obj_id": o, "formated": f"A long description of thing {o}. "} for o in (1, 0)}
    write(root / "ref_sav/Ref-SAV-Min-Ratio-0.3.json", {"sav_000002": {
        "video_path": f"x/{folder}/sav_000002.mp4", "anno_path": f"x/{folder}/sav_000002_manual.json", "objects": objects}})
    out.masks = {f"sav_000002_{o}": masks[o] for o in (0, 1)}
    valid, seen = root / "ref_sav/valid", track(12)
    out.frames["sav_9"] = frames(valid / "videos/sav_9", [f"{name}.jpg" for name in NAMES])
    write(valid / "meta_expressions_valid.json", {"videos": {"sav_9": {"frames": NAMES, "expressions": {
        "0": said("A brown dog with a red collar.", 1, type_id=0), "1": said("dog", 1, type_id=1)}}}})
    write(valid / "mask_dict.json", {"11": or_null(seen)})
    out.masks |= {"sav_9_0": seen, "sav_9_1": seen}
    return out


def groundmore(root: Path) -> Written:
    """Frames 0, 1, 2, 9, 10, 11, of which 1, 2 and 10 have masks; one clip with each style of names, one without a folder."""
    out = Written(root)
    numbers, annotated, questions = [0, 1, 2, 9, 10, 11], [1, 2, 10], {}
    values = {n: np.where(box(2, n), 1, 0) + np.where(box(12, n), 2, 0) for n in annotated}
    for clip, image, mask in (("film_0110_0115", "frame_{:d}.jpg", "frame_{:d}.png"), ("other_0000_0004", "{:07d}.jpg", "{:07d}.png")):
        out.frames[clip] = frames(root / "annotations" / clip / "images", [image.format(n) for n in numbers], len(out.frames))
        for n in annotated:
            labels(root / "annotations" / clip / "masks" / mask.format(n), values[n])
        action = {"action_start": "01:11", "action_end": "01:13"} if clip.startswith("film") else {"action_start": "00:01", "action_end": "00:03"}
        questions[clip] = {"questions": {
            "0": {"question": "Who pushes the cart", "answer": "the man", "obj_id": "1", "q_type": "Causal", **action},
            "1": {"question": "Who meets?", "answer": "both men", "obj_id": "1, 2", "q_type": "Descriptive", **action}}}
    questions["gone_0000_0004"] = questions["other_0000_0004"]
    for name in ("trainval_v2.json", "test_v2.json"):
        write(root / name, {"videos": questions})
    for clip in out.frames:
        out.masks |= {f"{clip}_0": np.stack([values[n] == 1 for n in annotated]), f"{clip}_1": np.stack([values[n] > 0 for n in annotated])}
    return out


def vicas(root: Path, inline: bool = False) -> Written:
    """Video 10375 with tracks 1 and 2 at frames 0, 30, 60; track 2 is not in the last one. The second referral means both."""
    out = Written(root)
    names = ["00000.jpg", "00030.jpg", "00060.jpg"]
    one, two = track(10, count=3), track(11, hidden=(2,), count=3)
    out.frames["010375"] = frames(root / "video_frames/010375", names)
    segmentations: list[dict[str, Any]] = [{"filename": name, "is_gt": t != 1} for t, name in enumerate(names)]
    referrals = [{"prompt": "Where is the man who falls? ", "track_ids": [1]}, {"prompt": "Who falls into the water?", "track_ids": [2, 1]}]
    record = {"filename": "010375_oops.mp4", "video_id": 10375, "caption_parsed_en_gpt": "Two men fall.", "object_referrals": referrals,
              "segmentations": segmentations}
    if inline:
        for t, frame in enumerate(segmentations):
            ids = [1, 2] if t < 2 else [1]
            frame |= {"track_ids": ids, "mask_rles": [rle((one, two)[i - 1][t]) for i in ids]}
        write(root / "annotations/v1.0/010375.json", record)
    else:
        write(root / "annotations/annotations_wo_masks_v1.0.json", {"010375": record})
        write(root / "masks/010375/0.json", [[rle(m)] for m in one])
        write(root / "masks/010375/1.json", [[rle(b) if b.any() else None, rle(a)] for a, b in zip(one, two, strict=True)])
    for split, ids in (("train", [10375]), ("val", [10375]), ("test", [])):
        write(root / f"splits/v1.0/{split}.json", ids)
    out.masks = {"010375_0": one, "010375_1": one | two, "t2": two}
    return out


def st_evidence_vicas(root: Path) -> Written:
    """The published tree: ``st-evidence-instruct/gen_qa/vicas`` beside ``vicas``; ``root`` of the result is the former."""
    out = vicas(root / "vicas")
    out.root = root / "st-evidence-instruct/gen_qa/vicas"
    row = {"video_id": "10375", "video_path": "010375_video.mp4", "question": "Who falls?", "answer": "A man", "candidates": "['A dog', 'A man']",
           "source": "vicas", "split": "train", "qa_source": "gemini", "temporal_evidence": "[[0.0, 1.5]]"}
    rows = [{"entry_id": "10375_0", "mask_evidence": "[1, 2]"} | row, {"entry_id": "10375_1", "mask_evidence": "[2]"} | row,
            {"entry_id": "10375_2", "mask_evidence": "[7]"} | row, {"entry_id": "10375_3", "mask_evidence": "[]"} | row]
    out.root.mkdir(parents=True)
    with open(out.root / "st_evidence_vicas.csv", "w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    out.masks = {"10375_0": out.masks["010375_1"], "10375_1": out.masks["t2"]}
    return out


def st_evidence(root: Path) -> Written:
    """The mask set: one entry with one polygon on one frame; deeper cases are in the test of that converter."""
    out = Written(root, frames={"v1": frames(root / "video_frames_6fps/v1", [f"frame_{t:04d}.jpg" for t in range(4)])})
    ring = [[8, 2], [15, 2], [15, 7], [8, 7]]
    write(root / "masks/e1.json", {"entry_id": "e1", "fps": 6.0, "width": W, "height": H, "evidence_objects": [
        {"ref_expression": "the box", "masks": [{"frame": 1, "mask": {"exterior": ring, "holes": []}}]}]})
    header = "entry_id,video_id,video_path,question,answer,candidates,mask_evidence,source,split,qa_source,temporal_evidence\n"
    (root / "st_evidence.csv").write_text(header + "e1,v1,v1.mp4,What?,a box,\"['a box', 'a cat']\",[1],s,train,q,\"[[0.0, 0.3]]\"\n")
    out.masks = {"e1": np.stack([box(2, 8)])}
    return out


def videorefer(root: Path) -> Written:
    """All three files. Masks are addressed by place in the list: rows 0 and 1 are left out by the filters of some converters."""
    out = Written(root)
    video_file(root / "videos/clips/a.mp4", 12)
    out.frames["b"] = frames(root / "videos/b", [f"{t:05d}.jpg" for t in range(6)], 3)
    for name, count, rows in (("short_caption", "short-caption-500k", _captions()), ("detailed_caption", "detailed-caption-125k", _captions()),
                              ("qa", "qa-75k", _questions())):
        write(root / f"videorefer-{count}-wo-masks.json", [row for row, _ in rows])
        for place, (_, masks) in enumerate(rows):
            write(root / f"masks_{name}" / f"{place}.json", [[[rle(m)] if m is not None else [None] for m in obj] for obj in masks])
            out.masks |= {f"{name}_{place}": np.stack([m for m in masks[0] if m is not None])} if masks else {}
    return out


def dialogue(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _captions() -> list[tuple[dict[str, Any], list]]:
    """(row, objects -> masks on the union of annotated frames). The ids repeat, and are places of other rows."""
    ask, low = "<video>\nPlease describe <region> in the video.", "Describe <region>.\n<video>"
    return [(_row("r1", "clips/a.mp4", low, "A cut-off thing.", [{"3": {}}], 0.1), [[blob(30)]]),
            (_row("r0", "clips/a.mp4", ask, "A red ball.", [{"5": {}}], 0.5), [[blob(31)]]),
            (_row("r0", "b", ask, "A dog.", [{"10": {}}], 0.9), [[blob(32)]]),
            (_row("r2", "b", ask, "A cat.", [{"4": {}}], 0.9), [[blob(33)]])]


def _row(name: str, video: str, question: str, answer: str, annotation: list, ratio: float) -> dict[str, Any]:
    return {"id": name, "video": video, "conversations": dialogue(question, answer), "annotation": annotation, "ratio": ratio}


def _questions() -> list[tuple[dict[str, Any], list]]:
    """Row 2 has objects 3 and 1 on different frames: 2 and 10 (listed in the file's order "10", "2"), and 4."""
    intro = "There are <object3><region>, <object1><region> in the video.\nWhat does <object1> do to <object3>?\n<video>"
    lone = "<video>\nWhat is <region> doing?"
    crowd = "<video>\nWhat are " + ", ".join(["<region>"] * 6) + "?"
    return [(_row("q_4", "b", crowd, "They dance.", [{"1": {}}] * 6, 0.9), [[blob(1)]] * 6),
            (_row("q_3", "b", lone, "It sleeps.", [], 0.9), []),
            (_row("q_1", "clips/a.mp4", intro, "<object1> chases <object3>.", [{"10": {}, "2": {}}, {"4": {}}], 0.7),
             [[blob(40), None, blob(41)], [None, blob(42), None]]),
            (_row("q_0", "clips/a.mp4", lone, "It sleeps.", [{"0": {}}], 0.3), [[blob(43)]]),
            (_row("q_2", "b", lone, "It runs.", [{"0": {}, "5": {}}], 0.4), [[blob(44), blob(45)]])]


def inst_it(root: Path) -> Written:
    """A video of 3 frames with the questions of all kinds, one of 9 and one of 11 frames, and a picture with two captions."""
    out = Written(root)
    asked = [("What does [2] give to [01] at <0>?", "A ball."), ("Who is near the door?", "It is [10], then [2]."), ("What time is it?", "Noon."),
             ("Where is [9]?", "Nowhere.")]
    videos = []
    for video, count in ((7, 3), (8, 9), (9, 11)):
        names = [f"{t}.jpg" for t in range(1, count + 1)]  # as text, 10.jpg would come before 2.jpg
        out.frames[str(video)] = frames(root / f"videos_raw/set/{video}", names, video)
        masks = {o: track(50 + int(o), count=count) for o in ("1", "2", "10")}
        shown = {name: {o: {"mask": rle(m[t])} for o, m in masks.items() if (o, t) != ("2", 1)} for t, name in enumerate(names)}
        videos.append({"video_id": video, "video_path": f"videos/set/{video}", "segmentations": shown,
                       "question_answer_pairs": [{"question": q, "answer": a} for q, a in asked]})
        out.masks |= {f"{video}/{o}": m for o, m in masks.items()}
    write(root / "inst_it_dataset_video_21k_w_mask.json", videos)
    out.frames["5"] = frames(root / "images_raw/set", ["p.jpg"], 5)
    pictures = {o: blob(60 + int(o)) for o in ("1", "2")}
    captions = {oid: {"short": text, "long": f"{text}, at length"} for oid, text in (("2", "a red cup "), ("1", "a man"), ("3", "lost"))}
    write(root / "inst_it_dataset_image_51k_w_mask.json", [{
        "image_id": 5, "image_path": "images/set/p.jpg", "segmentations": {o: {"mask": rle(m)} for o, m in pictures.items()},
        "instance_level_caption": captions}])
    out.masks |= {f"5/{o}": m[None] for o, m in pictures.items()}
    return out


def synth(root: Path) -> Written:
    """The toolkit's own form, as in the test of packing."""
    from tests.unit.test_pack import synth_clip  # its builder; at the top it would be a circle

    synth_clip(root, "clip", 1)
    return Written(root)


def rvos(root: Path) -> Written:
    out = mevis(root, ("train",))
    out.root = root / "train"
    return out


WRITERS: dict[str, tuple[Callable[[Path], Written], str]] = {
    "synth": (synth, "train"), "rvos": (rvos, "train"), "mevis": (mevis, "train"), "lvvis": (lvvis, "train"), "revos": (revos, "train"),
    "ref_youtube_vos": (ref_youtube_vos, "train"), "ref_davis17": (ref_davis17, "train"), "ref_sav": (ref_sav, "train"),
    "groundmore": (groundmore, "train"), "vicas": (vicas, "train"), "st_evidence": (st_evidence, "train"),
    "st_evidence_vicas": (st_evidence_vicas, "train"),
    **dict.fromkeys(("videorefer_short_caption", "videorefer_short_caption_ref", "videorefer_detailed_caption", "videorefer_qa",
                     "videorefer_qa_mem"), (videorefer, "train")),
    **dict.fromkeys(("inst_it_video_qa_raw", "inst_it_video_qa_raw_mem", "inst_it_image_short_caption_raw_ref"), (inst_it, "train")),
}
"""Source -> (writer of its example, a split that it has)."""


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a written JSON file in place; ``change`` edits the value it gets."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    write(path, raw)
