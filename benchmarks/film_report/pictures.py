"""Pictures of prepared films for pages: where they are, at what time, which are missing, and how a page refers to them.

``<pictures>/<film>/<method>/frame00001.jpg`` and ``<film>/KEY_FRAMES/`` as ``unipixel film prepare`` and the release of POVQA lay them out.
A picture that should be there and is not goes to the ledger and leaves an empty place; it is never replaced by a neighbour.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from data_tools.convert.base import file_number, inside, read_json
from data_tools.convert.clips import FRAME_SUFFIXES, frame_files
from data_tools.convert.povqa import chunk_seconds
from data_tools.film.prepare import KEYS
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError

MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
COPIES = "pictures"


@dataclass(frozen=True)
class Picture:
    """One picture of a film. ``time_s`` is where its chunk starts; ``path`` is where it should be; ``key``: the sharp one of the pause."""

    time_s: float
    path: Path
    key: bool = False


@dataclass(frozen=True)
class Pooled:
    """What one method made of a film: a picture per chunk, in order of time, listed also where its file is missing."""

    film: str
    method: str
    chunk_s: float
    pictures: Sequence[Picture]

    def between(self, start_s: float, end_s: float) -> list[Picture]:
        """Pictures whose chunks overlap the window."""
        return [picture for picture in self.pictures if picture.time_s < end_s and picture.time_s + self.chunk_s > start_s]


def film_folder(root: Path, film: str) -> Path:
    """Raises :class:`SampleError` when the name leaves the folder (``unsafe_path``) or there is no such film (``no_film``)."""
    folder = inside(root, film)
    if not folder.is_dir():
        raise SampleError(f"no folder {film!r} in {root}", reason="no_film")
    return folder


def read_pooled(root: Path, film: str, method: str, ledger: SkipLedger) -> Pooled:
    """Pictures 1 to the number of chunks that the film's summary counts, or to the last file where there is none.

    Raises:
        SampleError: there is no such film or method, or the times of its chunks are unknown.
    """
    folder = film_folder(root, film)
    files = {file_number(path): path for path in frame_files(folder / method)}
    chunk_s = chunk_seconds(folder / "run_summary.json", ledger)
    suffix = next(iter(files.values())).suffix
    last = max(max(files), _total(folder, method))
    return Pooled(film, method, chunk_s, [Picture((number - 1) * chunk_s, files.get(number, folder / method / f"frame{number:05d}{suffix}"))
                                          for number in range(1, last + 1)])


def _total(folder: Path, method: str) -> int:
    path = next((p for name in (f"run_summary_{method}", "run_summary") if (p := folder / f"{name}.json").is_file()), None)
    return int(read_json(path).get("total_chunks") or 0) if path else 0


def key_picture(root: Path, film: str, timestamp: str, index: int, time_s: float) -> Picture:
    """The key frame of a question; its path is the JPEG's where neither that nor a PNG exists."""
    name = f"KEY_{timestamp.strip().replace(':', '-')}_{index:04d}"
    paths = [inside(root, f"{film}/{KEYS}/{name}{suffix}") for suffix in FRAME_SUFFIXES]
    return Picture(time_s, next((path for path in paths if path.is_file()), paths[0]), key=True)


def key_times(root: Path, film: str) -> list[float]:
    """Seconds of all key frames of a film, from their names."""
    names = [re.fullmatch(r"KEY_(\d+)-(\d\d)-(\d\d)_\d+", path.stem) for path in (inside(root, film) / KEYS).glob("KEY_*")]
    return sorted({3600.0 * int(found[1]) + 60 * int(found[2]) + int(found[3]) for found in names if found})


@dataclass
class PictureStore:
    """How pages in ``out`` refer to pictures below ``root``: copied beside them, or embedded.

    ``missing`` are pictures that were asked for and are not there, each listed once in the ledger.
    """

    root: Path
    out: Path
    embed: bool
    ledger: SkipLedger
    missing: set[Path] = field(default_factory=set)

    def address(self, picture: Picture, film: str) -> str | None:
        """Address for a page in ``out``; ``None`` where the file is missing."""
        if not picture.path.is_file():
            if picture.path not in self.missing:
                self.missing.add(picture.path)
                self.ledger.skip(film, str(picture.path.relative_to(self.root)), "missing_picture", f"no file {picture.path}", examples=0)
            return None
        if self.embed:
            kind = MEDIA_TYPES[picture.path.suffix.lower()]
            return f"data:{kind};base64," + base64.b64encode(picture.path.read_bytes()).decode("ascii")
        copy = self.out / COPIES / picture.path.relative_to(self.root)
        if not copy.is_file() or _stamp(copy) != _stamp(picture.path):
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f".{copy.name}.part")
            shutil.copy2(picture.path, part)
            os.replace(part, copy)
        return quote(copy.relative_to(self.out).as_posix())


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: a copy of the same picture has both."""
    return path.stat().st_size, path.stat().st_mtime_ns
