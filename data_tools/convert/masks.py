"""Evidence masks of one entry, from COCO RLE, polygons or PNG folders, and the merging of entries into the objects of a medium.

An object's masks are a mapping frame number -> entry (``unipixel.sample.Entry`` without ``None``); a frame that is not a key was not
annotated. Everything wrong in a file is a :class:`SampleError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from data_tools.convert.base import read_json
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import EMPTY, Entry, MaskTrack, SceneObject, encode_mask

PNG_EXPRESSION = "the evidence"
"""Expression of a mask that comes as PNGs, which name no object."""


@dataclass(frozen=True)
class EvidenceObject:
    """One object of one entry: ``masks`` holds an entry per annotated frame number."""

    expression: str
    track_id: int | str | None
    masks: Mapping[int, Entry]


def rasterise(parts: Iterable[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Polygons ``{exterior, holes}`` -> (H, W) bool: rings filled with their outline, holes cut out with theirs, parts joined by OR."""
    union = np.zeros(size, dtype=bool)
    for part in parts:
        image = Image.new("L", (size[1], size[0]))
        draw = ImageDraw.Draw(image)
        for ring, value in [(part["exterior"], 1), *((hole, 0) for hole in part.get("holes") or ())]:
            points = [(round(x), round(y)) for x, y in ring]
            if not points:
                raise SampleError("a polygon ring has no points", reason="bad_masks")
            if len(points) < 3:
                draw.line(points + points[-1:], fill=value)
            else:
                draw.polygon(points, fill=value, outline=value)
        union |= np.asarray(image, dtype=bool)
    return union


def compressed(rle: Mapping[str, Any] | None, size: tuple[int, int]) -> Entry:
    """COCO RLE dict (counts as text, bytes or list) or ``None`` (not visible) -> entry; decoded once, so that damage is found here.

    Raises:
        SampleError: ``mask_size`` when its size is not the frame size (H, W), ``bad_masks`` when it does not decode.
    """
    if rle is None:
        return EMPTY
    try:
        own = tuple(rle["size"])
        if own == size:
            packed = _packed(rle)
            return packed["counts"].decode("ascii") if coco_mask.decode(packed).any() else EMPTY
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SampleError(f"not a COCO run-length mask: {error!r}", reason="bad_masks") from error
    raise SampleError(f"mask of {own[::-1]} px on frames of {size[::-1]} px (width, height)", reason="mask_size")


def _packed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """COCO RLE with its counts as compressed bytes."""
    size, counts = tuple(rle["size"]), rle["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": size, "counts": counts.encode("ascii") if isinstance(counts, str) else bytes(counts)}


def nested_entry(raw: Any, size: tuple[int, int], ledger: SkipLedger) -> Entry:
    """An entry as the public sets nest it: an RLE dict, a polygon list (flat ``x, y`` lists), ``None``, or a list of these to be joined.

    ``None`` and an empty list mean that the object is not visible. A mask of another resolution but the same shape of picture is scaled
    to the frame size (H, W) and noted.

    Raises:
        SampleError: ``mask_size`` or ``bad_masks``.
    """
    if isinstance(raw, Mapping) and tuple(raw.get("size", size)) != size:
        return _scaled(raw, size, ledger)
    if raw is None or isinstance(raw, Mapping):
        return compressed(raw, size)
    if not isinstance(raw, list):
        raise SampleError(f"not a mask: {raw!r:.60}", reason="bad_masks")
    if raw and all(isinstance(part, list) and part and isinstance(part[0], (int, float)) for part in raw):
        try:
            return compressed(coco_mask.merge(coco_mask.frPyObjects(raw, *size)), size)
        except (TypeError, ValueError, IndexError) as error:
            raise SampleError(f"not a polygon list: {error!r}", reason="bad_masks") from error
    return joined([nested_entry(part, size, ledger) for part in raw], size)


def joined(entries: Iterable[Entry], size: tuple[int, int]) -> Entry:
    """Union of the annotated entries; an empty list counts as not visible."""
    visible = [entry for entry in entries if entry]
    if len(visible) < 2:
        return visible[0] if visible else EMPTY
    return coco_mask.merge([{"size": list(size), "counts": entry.encode("ascii")} for entry in visible])["counts"].decode("ascii")


def _scaled(rle: Mapping[str, Any], size: tuple[int, int], ledger: SkipLedger) -> Entry:
    """A pixel is set where at least half of it is covered, so that no mask grows; a mask too small for that keeps all it touches."""
    own = tuple(rle["size"])
    if abs(own[0] * size[1] - own[1] * size[0]) > max(own) + max(size):  # more than rounding: another picture, or turned
        raise SampleError(f"mask of {own[::-1]} px on frames of {size[::-1]} px (width, height)", reason="mask_size")
    try:
        mask = coco_mask.decode(_packed(rle))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SampleError(f"not a COCO run-length mask: {error!r}", reason="bad_masks") from error
    ledger.note("masks scaled to the size of their frames")
    covered = np.asarray(Image.fromarray(mask * 255).resize(size[::-1], Image.Resampling.BILINEAR))
    return encode_mask(covered >= 128) or encode_mask(covered > 0)


def read_labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) label map of a palette or grey PNG: the pixel value is the object's number.

    Raises:
        SampleError: ``bad_masks`` (unreadable, or a colour picture) or ``mask_size``.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise SampleError(f"cannot read mask {path}: {error}", reason="bad_masks") from error
    if labels.ndim != 2:
        raise SampleError(f"{path} is a picture of mode {image.mode}, expected a palette or grey label map", reason="bad_masks")
    if labels.shape != size:
        raise SampleError(f"{path} is {labels.shape[::-1]} px on frames of {size[::-1]} px (width, height)", reason="mask_size")
    return labels


def read_objects(folder: Path, entry_id: str, size: tuple[int, int], fps: float) -> list[EvidenceObject]:
    """Objects of an entry in their order, from ``masks_rle/<entry>.json``, ``masks/<entry>.json`` or ``gt_masks/<entry>/%05d.png``.

    The first of these that exists is used: RLE is exact, polygons are simplified, PNGs know no objects.

    Raises:
        SampleError: ``no_mask_file``, ``mask_size``, ``mask_fps``, ``bad_json`` or ``bad_masks``.
    """
    rle, polygons, pngs = folder / "masks_rle" / f"{entry_id}.json", folder / "masks" / f"{entry_id}.json", folder / "gt_masks" / entry_id
    if pngs.is_dir() and not rle.is_file() and not polygons.is_file():
        return [_from_pngs(pngs, size)]
    path = rle if rle.is_file() else polygons
    if not path.is_file():
        raise SampleError(f"none of {rle}, {polygons}, {pngs} exists", reason="no_mask_file")
    raw = read_json(path)
    try:
        if float(raw["fps"]) != fps:
            raise SampleError(f"{path.name} numbers its frames at {raw['fps']} per second, the frames come at {fps}", reason="mask_fps")
        own = tuple(raw["size"]) if path == rle else (raw["height"], raw["width"])
        if own != size:
            raise SampleError(f"{path.name} has masks of {own[::-1]} px on frames of {size[::-1]} px (width, height)", reason="mask_size")
        return [_from_rle(o, size) for o in raw["objects"]] if path == rle else [_from_polygons(o, size) for o in raw["evidence_objects"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"{path} is not in the expected form: {error!r}", reason="bad_masks") from error


def _annotated(raw: Mapping[str, Any], masks: Mapping[int, Entry]) -> EvidenceObject:
    """Frames in ``annotated_frames`` without a mask are annotated as empty; without that list nothing is known about them."""
    entries = dict.fromkeys(raw.get("annotated_frames") or (), EMPTY) | dict(masks)
    return EvidenceObject(raw["ref_expression"], raw.get("track_id"), dict(sorted(entries.items())))


def _from_rle(raw: Mapping[str, Any], size: tuple[int, int]) -> EvidenceObject:
    return _annotated(raw, {int(n): compressed({"size": size, "counts": counts}, size) for n, counts in raw["rles"].items()})


def _from_polygons(raw: Mapping[str, Any], size: tuple[int, int]) -> EvidenceObject:
    parts: dict[int, list] = {}
    for item in raw["masks"]:
        parts.setdefault(int(item["frame"]), []).append(item["mask"])
    return _annotated(raw, {n: encode_mask(rasterise(p, size)) for n, p in parts.items()})


def _from_pngs(folder: Path, size: tuple[int, int]) -> EvidenceObject:
    masks = {}
    for path in sorted(folder.glob("*.png")):
        if not re.fullmatch(r"\d+", path.stem):
            raise SampleError(f"mask {path} has no frame number for a name", reason="bad_masks")
        try:
            with Image.open(path) as image:
                mask = np.asarray(image.convert("L")) > 0
        except OSError as error:
            raise SampleError(f"cannot read mask {path}: {error}", reason="bad_masks") from error
        if mask.shape != size:
            raise SampleError(f"{path} is {mask.shape[::-1]} px on frames of {size[::-1]} px (width, height)", reason="mask_size")
        masks[int(path.stem)] = encode_mask(mask)
    return EvidenceObject(PNG_EXPRESSION, None, masks)


class ObjectTable:
    """Objects of one medium, collected from its entries.

    Entries name the same object when they give the same ``track_id`` or, without one, the same expression and masks. Annotations of
    one object are joined over the entries; if two entries disagree on a frame, the later one stays an object of its own.

    Args:
        positions: frame number -> position in the medium.
        size: (H, W) of the frames.
    """

    def __init__(self, positions: Mapping[int, int], size: tuple[int, int], ledger: SkipLedger):
        self._positions, self._size, self._ledger = positions, size, ledger
        self._masks: dict[str, dict[int, Entry]] = {}
        self._expressions: dict[str, str] = {}

    def add(self, objects: Sequence[EvidenceObject], names: Sequence[str]) -> tuple[str, ...]:
        """Ids of the objects in the table; ``names`` are the ids for those that are new and have no ``track_id``.

        Raises:
            SampleError: ``mask_frame``: a mask lies on a frame that is not stored; nothing is added then.
        """
        for obj in objects:
            absent = [n for n, entry in obj.masks.items() if n not in self._positions and entry != EMPTY]
            if absent:
                raise SampleError(f"masks of {obj.expression!r} on frames {absent[:5]}, which are not among the {len(self._positions)} "
                                  "stored ones", reason="mask_frame")
        return tuple(self._add(obj, name) for obj, name in zip(objects, names, strict=True))

    def _add(self, obj: EvidenceObject, name: str) -> str:
        masks = {self._positions[n]: entry for n, entry in obj.masks.items() if n in self._positions}
        if obj.track_id is None:
            same = [o for o, known in self._masks.items() if self._expressions[o] == obj.expression and known == masks]
            oid = same[0] if same else name
        else:
            oid = f"t{obj.track_id}"
            known = self._masks.get(oid, {})
            if any(known[t] != entry for t, entry in masks.items() if t in known):
                self._ledger.note("objects kept apart: same track_id, different masks on one frame")
                oid = name
        self._masks.setdefault(oid, {}).update(masks)
        self._expressions.setdefault(oid, obj.expression)
        return oid

    def scene(self) -> dict[str, SceneObject]:
        tracks = {o: tuple(masks.get(t) for t in range(len(self._positions))) for o, masks in self._masks.items()}
        return {o: SceneObject(o, self._expressions[o], MaskTrack(self._size, entries)) for o, entries in tracks.items()}
