"""ReasonSeg: questions and sentences about one region of a picture, drawn as polygons.

``reason_seg/ReasonSeg/<split>/<name>.{jpg,json}`` and, for training, ``reason_seg/ReasonSeg/explanatory/train.json``. Shapes are painted
from the largest to the smallest, so that a small one wins where they overlap. Pixels under ``ignore`` shapes are neither target nor
background: they are an object of their own, named in ``source["ignore"]`` of the medium.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_tools.convert.base import Bundle, field, source_json
from data_tools.convert.images import read_picture, scene_object, still
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, encode_mask

NAME = "reason_seg"
TARGET, IGNORE = 1, 2


def convert(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """ReasonSeg: splits train, val, test; every text is an example, explanations are added to their training pictures."""
    root = folder / "reason_seg" / "ReasonSeg"
    pictures = sorted((root / split).glob("*.jpg"))
    if not pictures:
        raise DataError(f"no pictures in {root / split}: check --input and --split")
    explained = _explanations(root / "explanatory" / "train.json", ledger) if split == "train" else {}
    for path in pictures:
        with ledger.catching(NAME, path.stem):
            yield _bundle(path, explained.pop(path.name, []), ledger)
    for name, rows in explained.items():
        ledger.skip(NAME, name, "frame_missing", f"explained picture is not in {root / split}", examples=len(rows))


def paint_shapes(shapes: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """labelme polygons -> (H, W) uint8 label map: 0, ``TARGET`` or ``IGNORE``; shapes with the label ``flag`` mark nothing.

    Corners are cut to whole pixels, polygons are filled with their outline.

    Raises:
        SampleError: ``bad_masks``: a shape is no polygon, or has another label.
    """
    drawn = []
    for shape in shapes:
        label = field(shape, "label", str).lower()
        if label == "flag":
            continue
        value = IGNORE if "ignore" in label else TARGET if "target" in label else None
        if value is None or shape.get("shape_type", "polygon") != "polygon":
            raise SampleError(f"shape {shape.get('shape_type')!r} labelled {label!r}: expected a polygon target, ignore or flag",
                              reason="bad_masks")
        mask = _filled(field(shape, "points", list), size)
        drawn.append((int(mask.sum()), mask, value))
    labels = np.zeros(size, dtype=np.uint8)
    for _, mask, value in sorted(drawn, key=lambda d: -d[0]):
        labels[mask] = value
    return labels


def _filled(points: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    try:
        corners = [(int(x), int(y)) for x, y in points]
    except (TypeError, ValueError) as error:
        raise SampleError(f"polygon corners are not numbers: {error}", reason="bad_masks") from error
    if len(corners) < 3:
        raise SampleError(f"a polygon of {len(corners)} corners", reason="bad_masks")
    image = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    draw.polygon(corners, fill=1)
    draw.line([*corners, corners[0]], fill=1)  # an outline of the fill's own value is not drawn by Pillow
    return np.asarray(image, dtype=bool)


def _bundle(path: Path, explained: Sequence[Mapping[str, Any]], ledger: SkipLedger) -> Bundle:
    record = _record(path.with_suffix(".json"), ledger)
    data, size = read_picture(path)
    texts = field(record, "text", list)
    labels = paint_shapes(field(record, "shapes", list), size)
    if not (labels == TARGET).any():
        raise SampleError("no pixel is labelled target", reason="masks_empty")
    objects = {"target": scene_object("target", texts[0] if texts else "", encode_mask(labels == TARGET), size)}
    if (labels == IGNORE).any():
        objects["ignore"] = scene_object("ignore", "", encode_mask(labels == IGNORE), size)
    form = "sentence" if field(record, "is_sentence", bool) else "query"
    examples = []
    for n, text in enumerate(texts):
        with ledger.catching(NAME, f"{path.stem}_{n}"):
            examples.append(Example(f"{path.stem}_{n}", "refer", text, targets=(("target",),), form=form,
                                    source={"is_sentence": record["is_sentence"]}))
    for n, row in enumerate(explained):
        with ledger.catching(NAME, f"{path.stem}_explained{n}"):
            examples.append(Example(f"{path.stem}_explained{n}", "refer", field(row, "query", str), answer=field(row, "outputs", str),
                                    targets=(("target",),), form="explanatory"))
    source = {"dataset": NAME, "file_name": path.name} | ({"ignore": "ignore"} if "ignore" in objects else {})
    return Bundle(still(path.stem, size, objects, source), tuple(examples), (data,))


def _record(path: Path, ledger: SkipLedger) -> dict[str, Any]:
    """A few of the released files are not UTF-8 but Windows' western code page."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise SampleError(f"no file {path}", reason="file_missing") from None
    try:
        try:
            return json.loads(raw.decode("utf-8-sig"))
        except UnicodeDecodeError:
            record = json.loads(raw.decode("cp1252"))
    except ValueError as error:  # bytes that the code page does not know are one too
        raise SampleError(f"{path} is not JSON: {error}", reason="bad_json") from error
    ledger.note("annotation files read as cp1252")
    return record


def _explanations(path: Path, ledger: SkipLedger) -> dict[str, list[dict[str, Any]]]:
    """Rows by picture; a release without them is noted."""
    if not path.is_file():
        ledger.note("no explanatory/train.json: packed without explanations")
        return {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(source_json(path, "explanations")):
        with ledger.catching(NAME, f"explanatory row {number}"):
            rows.setdefault(Path(field(row, "image", str)).name, []).append(row)
    return rows
