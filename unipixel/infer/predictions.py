"""The prediction file: one JSON record per example, written while a model runs and read by every scorer.

Owns the record, its strict reader and its resumable writer, and the reading of the two JSON forms of the ST-Evidence release. It knows
nothing of ground truth. A record is never dropped: what went wrong is its ``status``, and a damaged file is an error with a line number.

Format (JSON Lines, schema ``unipixel-prediction/1``): the fields of :class:`Prediction`, ``masks`` as one object per predicted mask
track with frame positions as keys and compressed COCO counts or ``""`` (empty) as values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from PIL import Image

from unipixel.errors import DataError, nearest
from unipixel.metrics import normalise_segments, parse_reply
from unipixel.sample import Entry, Segment, encode_mask

SCHEMA = "unipixel-prediction/1"
SCORED_STATUSES = ("ok", "no_mask")
"""A reply was made and is scored by what it holds; any other status (``no_reply``, ``decode_error``, ...) is a failure and scores 0."""
_STATUS = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Prediction:
    """What a model answered to one example.

    Attributes:
        status: ``ok``, ``no_mask`` (answered without a mask), or a slug for a failure: ``no_reply``, ``decode_error``, ...
        reply: the raw text; ``answer`` and ``segments`` (seconds) are what was parsed from it, ``None`` when it held none.
        size: (H, W) of the masks in pixels; ``None`` without masks.
        frame_times: seconds of the frames that the mask positions count; empty when they count the frames of the medium.
        masks: one mapping per predicted mask track, frame position -> compressed COCO counts or ``""``.
        shown: positions of the medium's frames that the language model saw, in their order; ``None`` when that is not known.
        seconds: time the model took.
        problems: what was wrong with the form of the reply; found on reading, not stored.
    """

    example_id: str
    medium_id: str
    status: str = "ok"
    reply: str | None = None
    answer: str | None = None
    segments: tuple[Segment, ...] | None = None
    size: tuple[int, int] | None = None
    frame_times: tuple[float, ...] = ()
    masks: tuple[Mapping[int, Entry], ...] = ()
    error: str | None = None
    seconds: float = 0.0
    shown: tuple[int, ...] | None = None
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.status not in SCORED_STATUSES


_FIELDS = tuple(field.name for field in dataclasses.fields(Prediction) if field.name != "problems")


def to_record(prediction: Prediction) -> dict[str, Any]:
    record = {"schema": SCHEMA} | {name: getattr(prediction, name) for name in _FIELDS}
    record["masks"] = [{str(frame): entry for frame, entry in sorted(track.items())} for track in prediction.masks]
    return record


def from_record(raw: Any) -> Prediction:
    """Checks every field; raises :class:`DataError` naming the first one that does not fit."""
    if not isinstance(raw, Mapping):
        raise DataError(f"a record must be a JSON object, not {type(raw).__name__}")
    if raw.get("schema") != SCHEMA:
        raise DataError(f"schema={raw.get('schema')!r}, expected {SCHEMA!r}")
    raw = {"shown": None} | dict(raw)  # files of other programs, and older ones, do not have it
    unknown, absent = set(raw) - {"schema", *_FIELDS}, set(_FIELDS) - set(raw)
    if unknown or absent:
        hint = "".join(nearest(name, absent) for name in unknown)
        raise DataError(f"unknown fields {sorted(unknown)}, missing fields {sorted(absent)}{hint}")

    def check(name: str, fits: bool, expected: str):
        if not fits:
            raise DataError(f"{name}={str(raw[name])[:80]!r} must be {expected}")

    for name in ("example_id", "medium_id"):
        check(name, isinstance(raw[name], str) and raw[name] != "", "a non-empty string")
    for name in ("reply", "answer", "error"):
        check(name, raw[name] is None or isinstance(raw[name], str), "a string or null")
    check("status", isinstance(raw["status"], str) and _STATUS.fullmatch(raw["status"]) is not None,
          "'ok', 'no_mask' or the slug of a failure")
    check("seconds", _is_time(raw["seconds"]), "a finite number, not negative")
    check("frame_times", isinstance(raw["frame_times"], list) and all(map(_is_time, raw["frame_times"])), "a list of seconds")
    shown = raw["shown"]
    check("shown", shown is None or (isinstance(shown, list) and all(isinstance(t, int) and t >= 0 for t in shown)), "null or a list of positions")
    segments = raw["segments"]
    check("segments", segments is None or (isinstance(segments, list) and all(
        isinstance(s, list) and len(s) == 2 and all(map(_is_number, s)) and s[0] <= s[1] for s in segments)),
        "null or a list of [start_s, end_s]")
    check("masks", isinstance(raw["masks"], list) and all(isinstance(track, Mapping) for track in raw["masks"]), "a list of objects")
    size = raw["size"]
    check("size", (size is None and not any(raw["masks"])) or (isinstance(size, list) and len(size) == 2 and all(
        isinstance(side, int) and side > 0 for side in size)), "[height, width] in pixels (null only without masks)")
    n_frames = len(raw["frame_times"]) or math.inf
    for track in raw["masks"]:
        for frame, entry in track.items():
            check("masks", frame.isdecimal() and int(frame) < n_frames, f"keyed by frame positions below {n_frames}, not {frame!r}")
            check("masks", isinstance(entry, str), "counts or an empty string per frame")
    return Prediction(
        **{name: raw[name] for name in ("example_id", "medium_id", "status", "reply", "answer", "error")}, seconds=float(raw["seconds"]),
        segments=None if segments is None else tuple((float(start), float(end)) for start, end in segments),
        size=None if size is None else (size[0], size[1]), frame_times=tuple(map(float, raw["frame_times"])),
        masks=tuple({int(frame): entry for frame, entry in track.items()} for track in raw["masks"]),
        shown=None if shown is None else tuple(shown),
        problems=() if raw["reply"] is None else parse_reply(raw["reply"]).problems)


def read_predictions(path: str | Path) -> dict[str, Prediction]:
    """A finished file -> predictions by ``example_id``. Raises :class:`DataError` with the line number of what is malformed or repeated."""
    predictions: dict[str, Prediction] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                prediction = from_record(json.loads(line, parse_constant=_refuse_constant))
            except (DataError, json.JSONDecodeError) as error:
                raise DataError(f"{path}:{number}: {error}") from error
            if prediction.example_id in predictions:
                raise DataError(f"{path}:{number}: example_id={prediction.example_id!r} is already in this file")
            predictions[prediction.example_id] = prediction
    return predictions


def load_predictions(path: str | Path, mask_dir: str | Path | None = None) -> dict[str, Prediction]:
    """Our records (``.jsonl``) or a JSON file of the ST-Evidence release (``.json``, masks as PNG under ``mask_dir``)."""
    path = Path(path)
    if not path.is_file():
        hint = f"; {part_path(path)} is an unfinished run, start its command again" if part_path(path).exists() else ""
        raise DataError(f"predictions={str(path)!r} does not exist{hint}")
    if path.suffix == ".json":
        return read_release_predictions(path, mask_dir)
    if mask_dir is not None:
        raise DataError(f"pred_masks={str(mask_dir)!r} is only read beside the .json form; {path.name} holds its masks itself")
    return read_predictions(path)


# --- writing ---------------------------------------------------------------------------------------------------------------------

def part_path(path: str | Path) -> Path:
    """Where the records of an unfinished run lie."""
    return Path(f"{path}.part")


def completed_ids(path: str | Path) -> set[str]:
    """Ids in an unfinished file; a last line that was cut off while it was written is removed from the file. No file: empty set."""
    path = Path(path)
    if not path.exists():
        return set()
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)
    return set(read_predictions(path))


class PredictionWriter:
    """Appends records to ``<path>.part`` and renames it to ``path`` when told that the run is complete.

    Started again after a crash it goes on behind the last whole record; skip the ids in ``completed``. Use as a context manager: leaving
    the block closes the file, only :meth:`finish` gives it its final name.
    """

    def __init__(self, path: str | Path):
        self.path, self._part = Path(path), part_path(path)
        if self.path.exists():
            raise DataError(f"{self.path} already exists: remove it or choose another name to predict again")
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self.completed = completed_ids(self._part)
        self._file: IO[str] = open(self._part, "a", encoding="utf-8")  # noqa: SIM115 - stays open between writes

    def write(self, prediction: Prediction) -> None:
        if prediction.example_id in self.completed:
            raise DataError(f"example_id={prediction.example_id!r} was already written to {self._part}")
        record = json.loads(json.dumps(to_record(prediction), allow_nan=False))
        from_record(record)
        self._file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()
        self.completed.add(prediction.example_id)

    def finish(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """A complete file at once, for instance one merged from the files of several workers."""
    with PredictionWriter(path) as writer:
        for prediction in predictions:
            writer.write(prediction)
        writer.finish()


# --- the JSON forms of the ST-Evidence release -----------------------------------------------------------------------------------

def read_release_predictions(path: str | Path, mask_dir: str | Path | None = None) -> dict[str, Prediction]:
    """``{entry_id: {...}}`` with a nested ``parsed_response`` (what its evaluator reads) or flat fields (what its README shows).

    Masks are ``<mask_dir>/<entry_id>/masks/%05d.png``, one per frame, non-zero = evidence. Raises :class:`DataError` on another shape.
    """
    if mask_dir is not None and not Path(mask_dir).is_dir():
        raise DataError(f"pred_masks={str(mask_dir)!r} is not a folder")
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(entries, Mapping):
        raise DataError(f"{path}: expected an object {{entry_id: prediction}}, found {type(entries).__name__}")
    return {str(entry_id): _release_prediction(str(entry_id), entry, mask_dir, path) for entry_id, entry in entries.items()}


def _release_prediction(entry_id: str, entry: Any, mask_dir: str | Path | None, path: str | Path) -> Prediction:
    if not isinstance(entry, Mapping) or not ("parsed_response" in entry or "time_segments" in entry or "answer" in entry):
        raise DataError(f"{path}: entry {entry_id!r} has neither 'parsed_response' nor the flat fields 'answer' and 'time_segments'")
    nested = "parsed_response" in entry
    said = entry["parsed_response"] if nested else entry
    if said is not None and not isinstance(said, Mapping):
        raise DataError(f"{path}: entry {entry_id!r}: parsed_response must be an object or null, not {type(said).__name__}")
    said = said or {}
    segments, problem = normalise_segments(said.get("segments" if nested else "time_segments"))
    size, masks = (None, ()) if mask_dir is None else read_png_masks(Path(mask_dir) / safe_name(entry_id) / "masks")
    answer = said.get("answer")
    status = "error" if entry.get("error") else "no_reply" if not said else "ok" if masks or mask_dir is None else "no_mask"
    return Prediction(entry_id, str(entry.get("video_id", entry_id)), status, answer=None if answer is None else str(answer), size=size,
                      segments=None if problem == "no_segments" else tuple(segments), masks=(masks,) if masks else (),
                      error=str(entry["error"]) if entry.get("error") else None, problems=() if problem is None else (problem,))


def read_png_masks(folder: Path) -> tuple[tuple[int, int] | None, dict[int, Entry]]:
    """``%05d.png`` files, non-zero = inside -> ((H, W), frame -> mask entry); (None, {}) when there are none."""
    size, masks = None, {}
    for file in sorted(folder.glob("*.png")):
        if not file.stem.isdecimal():
            raise DataError(f"{file}: mask files are named by their frame number, as 00012.png")
        with Image.open(file) as image:
            pixels = np.asarray(image) != 0
        mask = pixels[..., :3].any(axis=2) if pixels.ndim == 3 else pixels
        if size is not None and mask.shape != size:
            raise DataError(f"{file} is {mask.shape[1]}x{mask.shape[0]} px, other masks of this entry are {size[1]}x{size[0]} px")
        size, masks[int(file.stem)] = mask.shape, encode_mask(mask)
    return size, masks


def safe_name(entry_id: str) -> str:
    """``entry_id`` as a folder name; ids that would lead outside are refused."""
    if entry_id in ("", ".", "..") or "/" in entry_id or "\\" in entry_id or "\0" in entry_id:
        raise DataError(f"entry_id={entry_id!r} is not a plain folder name")
    return entry_id


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _refuse_constant(name: str):
    raise DataError(f"{name} is not a number")
