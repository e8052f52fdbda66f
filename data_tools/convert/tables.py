"""Tables of rows: CSV with a header, JSON lines, or a JSON list of objects."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.convert.base import inside, literal_list, read_csv, source_file, source_json
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Segment

READERS = (".csv", ".jsonl", ".json")


def find_table(folder: Path, name: str | None) -> Path:
    """``folder/name``; without a name the only CSV or JSONL file of the folder (:class:`ConfigError` when that is not one file)."""
    if name is not None:
        try:
            return source_file(inside(folder, name), "table (check --set table)")
        except SampleError as error:
            raise ConfigError(f"--set table={name}: {error}") from error
    found = sorted(p.name for p in folder.iterdir() if p.suffix in READERS[:2])
    if len(found) != 1:
        raise ConfigError(f"{folder} holds the tables {found}: name one with --set table=...")
    return folder / found[0]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row), counted from 1; cells of a CSV are text, those of JSON have their types.

    Raises:
        DataError: another suffix, or the file cannot be read as what its suffix says.
    """
    try:
        yield from _rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}; save it again in that encoding") from error


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix == ".csv":
        yield from enumerate(read_csv(path, ()), 1)
    elif path.suffix == ".jsonl":
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(path, number, line)
    elif path.suffix == ".json":
        rows = source_json(path, "table")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} is not a list of objects")
        yield from enumerate(rows, 1)
    else:
        raise DataError(f"{path}: a table is one of {READERS}")


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} is not an object: {line[:60]!r}")
    return row


def row_split(row: Mapping[str, Any], default: str) -> str:
    """The split a row belongs to: ``default`` in a table without that column; a cell without text belongs to none (``empty_split``)."""
    own = str(row.get("split", default) or "").strip()
    if not own:
        raise SampleError("column split is empty", reason="empty_split")
    return own


def cell_list(value: Any, column: str) -> list | None:
    """A list, or the literal of one in a text cell; ``None`` when the cell is empty or absent."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return literal_list(value, column)
    if not isinstance(value, list):
        raise SampleError(f"column {column} is not a list: {value!r:.80}", reason="bad_literal")
    return value


def cell_segments(value: Any, column: str) -> tuple[Segment, ...] | None:
    """``[[start, end], ...]`` in seconds; ``None`` when the cell is empty, ``()`` when the list is."""
    items = cell_list(value, column)
    try:
        return None if items is None else tuple((float(start), float(end)) for start, end in items)
    except (TypeError, ValueError) as error:
        raise SampleError(f"column {column} is not a list of [start, end]: {value!r:.80}", reason="bad_literal") from error
