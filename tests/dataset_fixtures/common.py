"""What the written examples of public datasets are made of: pictures, masks, their encodings, and files in folders that appear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tests.packing import H, W, jpeg


def box(top: int, left: int, height: int = 6, width: int = 8) -> np.ndarray:
    """(H, W) bool with one rectangle."""
    mask = np.zeros((H, W), dtype=bool)
    mask[top:top + height, left:left + width] = True
    return mask


def blob(seed: int) -> np.ndarray:
    """(H, W) bool of seeded noise: no two are alike, and no encoding keeps it by accident."""
    return np.random.default_rng(seed).random((H, W)) > 0.6


def rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO RLE with compressed counts as text."""
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode("ascii")}


def counts(mask: np.ndarray) -> dict[str, Any]:
    """COCO RLE with a list of run lengths, column by column, zeros first."""
    flat = mask.astype(np.uint8).flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + runs}


def write(path: Path, content: Any) -> Path:
    """Bytes as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def frames(folder: Path, names: Sequence[str], seed: int = 0) -> list[bytes]:
    """One JPEG of ``tests.packing``'s size per name, and their bytes."""
    pictures = [jpeg(1000 * seed + t) for t in range(len(names))]
    for name, picture in zip(names, pictures, strict=True):
        write(folder / name, picture)
    return pictures


def labels(path: Path, values: np.ndarray) -> Path:
    """Palette PNG whose pixel value is the object's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([c for i in range(256) for c in (i, 255 - i, (7 * i) % 256)])
    image.save(path)
    return path
