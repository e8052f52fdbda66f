"""Files of a prepared film: written under a temporary name and renamed, so that what has its name is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipixel.errors import ConfigError

QUALITIES = 1, 100


@dataclass(frozen=True)
class PictureFormat:
    """JPEG of a quality from 1 to 100, or PNG where ``quality`` is None."""

    quality: int | None = 95

    def __post_init__(self):
        if self.quality is not None and not QUALITIES[0] <= self.quality <= QUALITIES[1]:
            raise ConfigError(f"quality={self.quality} must be in {QUALITIES[0]}..{QUALITIES[1]}, or set lossless")

    @property
    def suffix(self) -> str:
        return ".png" if self.quality is None else ".jpg"

    def save(self, picture: np.ndarray, path: Path) -> None:
        """(H, W, 3) uint8."""
        options = {"compress_level": 1} if self.quality is None else {"quality": self.quality}
        Image.fromarray(picture).save(path, **options)


def write_json(path: Path, content: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


@contextmanager
def partial_folders(folder: Path, names: list[str]) -> Iterator[dict[str, Path]]:
    """Empty folders to write into, by name; what an interrupted run left there is removed, and so is what is left at the end."""
    parts = {name: folder / f".{name}.part" for name in names}
    try:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        yield parts
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)
