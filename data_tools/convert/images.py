"""What the converters of still pictures share: reading a picture, its medium, masks that must show something, COCO-style files.

Picture bytes pass through unchanged. The public image sets keep the folders of LISA's data directory, which is their ``--input``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.base import image_size, source_json
from data_tools.convert.masks import nested_entry
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import DataError, SampleError
from unipixel.sample import EMPTY, Entry, MaskTrack, Medium, SceneObject


def read_picture(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Bytes of the file, unchanged, and (H, W); ``frame_missing`` or ``frame_unreadable`` otherwise."""
    data, = read_frames([path])
    width, height = image_size(data)
    return data, (height, width)


def scene_object(oid: str, expression: str, entry: Entry, size: tuple[int, int]) -> SceneObject:
    """An object of a still picture."""
    return SceneObject(oid, expression, MaskTrack(size, (entry,)))


def still(medium_id: str, size: tuple[int, int], objects: Mapping[str, SceneObject], source: Mapping[str, Any]) -> Medium:
    """The medium of one picture of ``size`` (H, W)."""
    return Medium(medium_id, "image", size[1], size[0], (0.0,), objects=dict(objects), source=source)


def visible_mask(raw: Any, size: tuple[int, int], ledger: SkipLedger) -> Entry:
    """Segmentation of one instance (polygons, RLE or a list of RLEs) -> entry with at least one pixel (``masks_empty`` otherwise).

    Polygons are filled by pycocotools at the size of the picture (H, W), as the datasets' own tools do.
    """
    entry = nested_entry(raw, size, ledger)
    if entry == EMPTY:
        raise SampleError("the mask has no pixel", reason="masks_empty")
    return entry


def check_size(record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """``height`` and ``width`` of a record must be those of the picture: polygons are in its pixels (``mask_size``)."""
    listed = record.get("height"), record.get("width")
    if listed != size:
        raise SampleError(f"annotated on {listed[1]}x{listed[0]} px, the picture has {size[1]}x{size[0]} px", reason="mask_size")


@dataclass(frozen=True)
class CocoFile:
    """A COCO-style annotation file by id; ``of_image`` gives the annotations of each picture in file order."""

    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]
    categories: dict[int, str]
    of_image: dict[int, list[dict[str, Any]]]


def read_coco(path: Path) -> CocoFile:
    """:class:`DataError` when the file is missing or has not the tables of COCO."""
    raw = source_json(path, "annotations")
    try:
        of_image = defaultdict(list)
        for annotation in raw["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        return CocoFile({i["id"]: i for i in raw["images"]}, {a["id"]: a for a in raw["annotations"]},
                        {c["id"]: c["name"] for c in raw["categories"]}, dict(of_image))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a COCO-style file: {error!r}") from error
