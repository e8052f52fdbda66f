"""Small copies of the image, region and instruction sets in the layouts of their releases. Each function writes one and returns what
was written, so that tests can compare."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tests.dataset_fixtures.common import counts, rle, write
from tests.dataset_fixtures.common import labels as write_palette
from tests.packing import H, W, jpeg

TRIANGLE = [[2.5, 3.0, 20.25, 4.5, 9.0, 19.75]]
TWO_PARTS = [[1, 1, 9, 1, 9, 8, 1, 8], [15, 10, 28, 11, 27, 22]]


def filled(polygons: list) -> np.ndarray:
    """(H, W) bool as pycocotools fills polygons."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, H, W))).astype(bool)


def refer(root: Path, name: str, split_by: str, pictures: str, *, protocol: int = 2) -> dict[str, bytes]:
    """REFER: picture 7 with two references, picture 8 with one of the test split and one whose polygons are empty.

    The names in the pickle carry the annotation's number, as in the release.
    """
    left, right = np.zeros((H, W), bool), np.zeros((H, W), bool)
    left[3:9, 2:7], right[10:20, 20:30] = True, True
    segmentations = {71: TRIANGLE, 72: TWO_PARTS, 81: [rle(left), counts(right)], 82: []}

    def ref(ref_id: int, ann_id: int, split: str, *sentences: str) -> dict[str, Any]:
        said = [{"raw": s.upper(), "sent": s, "sent_id": ref_id * 10 + n, "tokens": s.split()} for n, s in enumerate(sentences)]
        return {"ref_id": ref_id, "ann_id": ann_id, "category_id": 1, "image_id": ann_id // 10, "split": split, "sentences": said,
                "sent_ids": [s["sent_id"] for s in said], "file_name": f"COCO_train2014_{ann_id // 10:012d}_{ann_id}.jpg"}

    refs = [ref(1, 71, "train", "the left one", "café table"), ref(2, 72, "train", "both parts"), ref(3, 81, "testA", "two boxes"),
            ref(4, 82, "train", "nothing drawn")]
    names = {i: f"COCO_train2014_{i:012d}.jpg" for i in (7, 8)}
    write(root / "refer_seg" / name / f"refs({split_by}).p", pickle.dumps(refs, protocol=protocol))
    write(root / "refer_seg" / name / "instances.json", {
        "images": [{"id": i, "file_name": n, "height": H, "width": W} for i, n in names.items()],
        "annotations": [{"id": a, "image_id": a // 10, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": s}
                        for a, s in segmentations.items()],
        "categories": [{"id": 1, "name": "thing"}]})
    frames = {str(i): jpeg(i) for i in names}
    for i, file_name in names.items():
        write(root / "refer_seg" / pictures / file_name, frames[str(i)])
    return frames


def coco_parts(annotations: Path, pictures: Path, prefix: str) -> dict[str, bytes]:
    """PACO-LVIS and Pascal-Part: picture 5 with four annotations (one without a pixel), picture 6 with one; 9 is not on disk."""
    images = [{"id": i, "file_name": f"{prefix}{i}.jpg", "height": H, "width": W} for i in (5, 6, 9)]
    categories = {1: "dog_(animal):ear", 2: "trash_can", 3: "trash_can:inner_side", 4: "a:b:c"}
    rows = [(50, 5, 1, TRIANGLE), (51, 5, 1, rle(filled(TWO_PARTS))), (52, 5, 2, TWO_PARTS), (53, 5, 2, []), (61, 6, 3, TRIANGLE),
            (62, 6, 4, TRIANGLE), (91, 9, 2, TRIANGLE)]
    write(annotations, {"images": images, "categories": [{"id": i, "name": n} for i, n in categories.items()],
                        "annotations": [{"id": a, "image_id": i, "category_id": c, "segmentation": s, "bbox": [0, 0, 5, 5]}
                                        for a, i, c, s in rows]})
    frames = {str(i): jpeg(i) for i in (5, 6)}
    for i, data in frames.items():
        write(pictures / f"{prefix}{i}.jpg", data)
    return frames


def reason_seg(root: Path) -> dict[str, bytes]:
    """``a``: a target with a smaller ignore region inside and a still smaller target in that; ``b``: code page 1252, two texts; ``c``: no target."""
    base = root / "reason_seg" / "ReasonSeg"

    def square(label: str, first: float, last: float) -> dict[str, Any]:
        return {"label": label, "shape_type": "polygon", "image_name": "x.jpg",
                "points": [[first, first], [last, first], [last, last], [first, last]]}

    a = {"text": ["the thing that keeps rain away"], "is_sentence": False,  # listed small to large: the order of painting is by area
         "shapes": [square("target", 10.9, 12.9), square("ignore", 8, 15), square("target", 2, 20), square("flag", 0, 1)]}
    b = {"text": ["Which part of the café is open?", "What – in this picture – is blue?"], "is_sentence": True,
         "shapes": [square("target", 3, 9)]}
    c = {"text": ["nothing"], "is_sentence": True, "shapes": [square("ignore", 3, 9)]}
    write(base / "train" / "a.json", a)
    write(base / "train" / "b.json", json.dumps(b, ensure_ascii=False).encode("cp1252"))
    write(base / "train" / "c.json", c)
    frames = {name: jpeg(ord(name)) for name in "abc"}
    for name, data in frames.items():
        write(base / "train" / f"{name}.jpg", data)
    write(base / "explanatory" / "train.json", [
        {"image": "b.jpg", "query": "What is open?", "outputs": "The door, because light comes out."},
        {"image": "gone.jpg", "query": "?", "outputs": "."}])
    return frames


def semantic(labels: Path, pictures: Path, values: dict[str, list[int]]) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """One label map per name: the picture is cut into vertical stripes, one per value."""
    frames, maps = {}, {}
    for seed, (name, stripes) in enumerate(values.items()):
        maps[name] = np.repeat(np.asarray(stripes), -(-W // len(stripes)))[:W][None].repeat(H, 0)
        write_palette(labels / f"{name}.png", maps[name])
        frames[name] = jpeg(seed)
        write(pictures / f"{name}.jpg", frames[name])
    return frames, maps


def osprey(root: Path) -> dict[str, bytes]:
    """The three tables, with each known misspelling of a region tag, tags that cannot be repaired and numbers out of range."""
    masks = [{"segmentation": s, "bbox": [0, 0, 1, 1]} for s in (TRIANGLE, TWO_PARTS, TRIANGLE, [[0, 0, 3, 0, 3, 3]])]

    def record(n: int, **more: Any) -> dict[str, Any]:
        return {"id": n, "file_name": f"{n}.jpg", "height": H, "width": W, "annotation": masks, **more}

    def dialogue(*texts: str) -> list[dict[str, str]]:
        return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]

    base = root / "Osprey-724K"
    write(base / "osprey_conversation.json", [
        record(1, conversations=dialogue("<image>\nWhat is <region2>?", "A cup beside <region1>.", "And <region1>?", "A hat.")),
        record(2, conversations=dialogue("Is < region1> near <region 2>, <Region3> or <regin4>?",
                                         "<region of 1> is near <region2, not <of region3>.")),
        record(3, conversations=dialogue("What is <region12 made of?", "Wood.")),
        record(4, conversations=dialogue("What is <region> here?", "A hat.")),
        record(5, conversations=dialogue("What is <region5>?", "A hat.")),
        record(6, conversations=dialogue("What is <region0>?", "A hat."))])
    write(base / "osprey_detail_description.json", [
        record(1, description=["<region1>: A red hat.", "<region2>: A cup left of <region1>.", "no tag at all", "<region3>:"]),
        record(7, description=["<region2>: The picture of this one is not there."])])
    write(base / "osprey_lvis_positive_negative.json", [
        record(1, conversations=dialogue("Is <region1> a hat? Answer yes or no.", "Yes")),
        record(2, conversations=dialogue("Is <region2> a dog? Answer yes or no.", "No")) | {"height": H + 1}])
    frames = {f"{n}_{n + 1}": jpeg(n) for n in range(7)}
    for folder in ("train2014", "imgs"):
        for n in range(6):
            write(root / "coco" / folder / f"{n + 1}.jpg", jpeg(n))
    return frames
