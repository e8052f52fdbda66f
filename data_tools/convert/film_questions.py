"""Questions about films: ``<film>.json`` (a list, or an object around one) and ``<film>.jsonl`` in the form of ReasonVQA.

Every item is checked by itself: six fields, times as HH:MM:SS, a window that ends after it starts, an index no other item has. What is wrong
is listed with file, item and field, and the other items are used; preparing films, packing them and ``film split`` all read through here.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.base import field, read_json
from data_tools.convert.windows import Window
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError

WRAPPERS = ("items", "qa", "annotations", "data")
"""Names under which some annotation files keep their list."""
SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class FilmQuestion:
    """One item. ``timestamp`` and ``context`` as annotated, ``paused_s`` and ``window`` in seconds of the film."""

    index: int
    timestamp: str
    context: str
    question: str
    answer: str
    reasoning: str
    paused_s: int
    window: Window

    @property
    def key_name(self) -> str:
        """Name of its key frame, without suffix."""
        return f"KEY_{self.timestamp.strip().replace(':', '-')}_{self.index:04d}"


def clock_s(text: str) -> int:
    """``HH:MM:SS`` -> seconds (``bad_time`` otherwise)."""
    match = re.fullmatch(r"\s*(\d+):([0-5]\d):([0-5]\d)\s*", text)
    if match is None:
        raise SampleError(f"time {text!r} is not HH:MM:SS", reason="bad_time")
    hours, minutes, seconds = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds


def question_files(folder: Path) -> dict[str, Path]:
    """Film -> its file, sorted by film; :class:`DataError` where there is none, or two of one film."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*")):
        if path.suffix in SUFFIXES and not path.name.startswith("."):
            found[path.stem].append(path)
    if not found:
        raise DataError(f"no annotation files ({', '.join(f'<film>{suffix}' for suffix in SUFFIXES)}) in {folder}")
    twice = {film: [p.name for p in paths] for film, paths in found.items() if len(paths) > 1}
    if twice:
        raise DataError(f"{folder} holds several files of one film: {twice}; remove all but one")
    return {film: found[film][0] for film in sorted(found)}


def read_film_questions(path: Path, ledger: SkipLedger) -> list[FilmQuestion]:
    """The sound items of a file, in its order; the others are listed as ``<file> item <number from 0>``.

    Raises:
        SampleError: the file is not JSON, or holds no list (``bad_json``, ``bad_record``).
    """
    questions: dict[int, FilmQuestion] = {}
    for number, item in _items(path):
        where = f"{path.name} item {number}"
        with ledger.catching(path.stem, where):
            question = _checked(item)
            if question.index in questions:
                raise SampleError(f"'index' {question.index} occurs a second time", reason="duplicate_index")
            questions[question.index] = question
    return list(questions.values())


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(line for line in lines if line.strip()):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, error
        return
    raw = read_json(path)
    if isinstance(raw, Mapping):
        raw = next((raw[name] for name in WRAPPERS if name in raw), None)
    if not isinstance(raw, list):
        raise SampleError(f"{path.name} is neither a list nor holds one under {WRAPPERS}", reason="bad_record")
    yield from enumerate(raw)


def _checked(item: Any) -> FilmQuestion:
    """Messages name the field."""
    if isinstance(item, ValueError):
        raise SampleError(f"the line is not JSON: {item}", reason="bad_json")
    texts = {name: field(item, name, str) for name in ("timestamp", "contextTimestamp", "question", "answer", "reasoning")}
    index = field(item, "index", int)
    if isinstance(index, bool) or index < 0:
        raise SampleError(f"'index' is {index!r}, expected a whole number from 0", reason="bad_record")
    for name in ("question", "answer"):
        if not texts[name].strip():
            raise SampleError(f"{name!r} is empty", reason=f"empty_{name}")
    paused = _within("timestamp", lambda: clock_s(texts["timestamp"]))
    start, dash, end = texts["contextTimestamp"].partition(" - ")
    if not dash:
        raise SampleError(f"'contextTimestamp' is {texts['contextTimestamp']!r}, expected HH:MM:SS - HH:MM:SS", reason="bad_time")
    window = _within("contextTimestamp", lambda: Window(clock_s(start), clock_s(end)))
    return FilmQuestion(index, texts["timestamp"], texts["contextTimestamp"], texts["question"], texts["answer"], texts["reasoning"], paused, window)


def _within(name: str, read):
    """What ``read`` gives; its error names the field."""
    try:
        return read()
    except SampleError as error:
        raise SampleError(f"{name!r}: {error.message}", reason=error.reason) from error
