"""What every converter shares: the bundle it yields, reading source files with typed errors, and the check of decoded frames.

A converter is a generator ``convert(folder, *, split, ledger, **options) -> Iterator[Bundle]``. A damaged row, mask or video becomes
an entry of the ledger; only a source that cannot be read at all raises ``DataError``. Options are its further keyword arguments
(``data_tools.convert.options``); what they leave out on purpose is listed like damage, under a reason that starts with ``FILTER``.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from unipixel.data.stored_video import StoredVideo
from unipixel.errors import ConfigError, DataError, SampleError, nearest
from unipixel.sample import Example, Medium

FILTER = "filter_"
"""Begin of the reasons for items that an option of the converter, or the dataset's own definition, leaves out."""


@dataclass(frozen=True)
class Bundle:
    """One medium, its examples, and the encoded bytes (JPEG or PNG) of each of its frames."""

    medium: Medium
    examples: tuple[Example, ...]
    frames: tuple[bytes, ...] = ()


def read_json(path: Path) -> Any:
    """Parsed JSON of a file that belongs to one item.

    Raises:
        SampleError: ``file_missing`` or ``bad_json``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SampleError(f"no file {path}", reason="file_missing") from None
    except ValueError as error:
        raise SampleError(f"{path} is not JSON: {error}", reason="bad_json") from error


def source_json(path: Path, what: str) -> Any:
    """Parsed JSON of a file that the whole source depends on; :class:`DataError` when it is missing or damaged."""
    try:
        return read_json(source_file(path, what))
    except SampleError as error:
        raise DataError(str(error)) from error


def listed_videos(path: Path) -> dict[str, dict[str, Any]]:
    """``videos`` of an expression file ``{"videos": {id: {...}}}``, in its order."""
    raw = source_json(path, path.name)
    if not isinstance(raw, Mapping) or not isinstance(raw.get("videos"), Mapping):
        raise DataError(f"{path} is not of the form {{'videos': {{id: ...}}}}")
    return raw["videos"]


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """``value`` when the source knows it, else :class:`ConfigError`."""
    if value not in (known := list(choices)):
        raise ConfigError(f"--{name} {value!r}: this source has {known}{nearest(value, known)}")
    return value


def left_out(rule: str, message: str) -> SampleError:
    """The error that leaves an item out by a rule and not for damage; its reason is ``filter_<rule>``."""
    return SampleError(message, reason=FILTER + rule)


def field(raw: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """``raw[name]``, which must be of ``kind`` (``bad_record`` otherwise)."""
    value = raw.get(name) if isinstance(raw, Mapping) else None
    if not isinstance(value, kind):
        raise SampleError(f"{name!r} is {value!r:.80}, expected {kind}", reason="bad_record")
    return value


def file_number(path: Path | str) -> int:
    """The number in a file name such as ``frame_000012.jpg`` or ``0000012.png``: all that follows the leading non-digits."""
    match = re.fullmatch(r"\D*(\d+)", PurePosixPath(path).stem)
    if match is None:
        raise SampleError(f"{path} has no number in its name", reason="bad_name")
    return int(match[1])


def source_file(path: Path, what: str) -> Path:
    """``path`` when it exists; a source without it cannot be converted (:class:`DataError`)."""
    if not path.is_file():
        raise DataError(f"no {what} at {path}: check --input and --source")
    return path


def read_csv(path: Path, required: Iterable[str]) -> Iterator[dict[str, str]]:
    """Rows of a UTF-8 CSV with a header; :class:`DataError` when a required column is missing."""
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restval="")
        missing = [c for c in required if c not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
        yield from reader


def literal_list(text: str, column: str) -> list:
    """Python or JSON list literal of a CSV cell; an empty cell is an empty list."""
    if not text.strip():
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise SampleError(f"column {column} is not a literal: {text[:80]!r}", reason="bad_literal") from error
    if not isinstance(value, (list, tuple)):
        raise SampleError(f"column {column} is not a list: {text[:80]!r}", reason="bad_literal")
    return list(value)


def inside(root: Path, relative: str) -> Path:
    """``root / relative``; a path that is absolute or climbs out of ``root`` is refused (``unsafe_path``)."""
    path = PurePosixPath(relative)
    if not relative.strip() or path.is_absolute() or ".." in path.parts:
        raise SampleError(f"path {relative!r} must be relative and stay inside its folder", reason="unsafe_path")
    return root / path


def below_first(root: Path, relative: str) -> Path:
    """``inside`` for paths of a release whose first component is not on disk: ``x/a/b.mp4`` -> ``root/a/b.mp4``."""
    return inside(root, str(PurePosixPath(*PurePosixPath(relative).parts[1:])))


def image_size(frame: bytes) -> tuple[int, int]:
    """(width, height) from the image header; ``frame_unreadable`` when there is none."""
    try:
        with Image.open(io.BytesIO(frame)) as image:
            return image.size
    except OSError as error:
        raise SampleError(f"not an image: {error}", reason="frame_unreadable") from error


def check_frames(medium: Medium, frames: Sequence[bytes], pool: Executor) -> None:
    """Decode every frame completely.

    Raises:
        SampleError: ``frame_unreadable`` or ``frame_size``, naming the first bad frame and its time.
    """
    sizes = _video_sizes(frames) if isinstance(frames, StoredVideo) else pool.map(_decoded_size, frames)
    for t, problem in enumerate(sizes):
        where = f"frame {t} at {medium.frame_times[t]:.3f} s" if t < len(medium.frame_times) else f"frame {t}"
        if isinstance(problem, str):
            raise SampleError(f"{where} cannot be decoded: {problem}", reason="frame_unreadable", key=medium.medium_id)
        if problem != (medium.width, medium.height):
            raise SampleError(f"{where} is {problem[0]}x{problem[1]} px, the medium says {medium.width}x{medium.height} px",
                              reason="frame_size", key=medium.medium_id)


def _video_sizes(video: StoredVideo) -> Iterator[tuple[int, int]]:
    for first in range(0, len(video), 32):
        frames = video.decode(range(first, min(first + 32, len(video))))
        yield from [frames.shape[2:0:-1]] * len(frames)


def _decoded_size(frame: bytes) -> tuple[int, int] | str:
    try:
        with Image.open(io.BytesIO(frame)) as image:
            image.load()
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged files
        return f"{type(error).__name__}: {error}"
