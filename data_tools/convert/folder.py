"""A plain folder: videos (or folders of frames) and one table of questions about them. For data of one's own.

The table is CSV or JSON lines; its columns are ``COLUMNS``, everything else is kept in the example's ``source``. Lists are JSON or Python
literals in a CSV cell, e.g. ``["red", "blue"]`` and ``[[0.5, 2.0]]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, image_size, inside, one_of
from data_tools.convert.clips import read_clip
from data_tools.convert.referring import check_rate
from data_tools.convert.srt import read_srt
from data_tools.convert.tables import cell_list, cell_segments, find_table, read_rows, row_split
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError, nearest
from unipixel.sample import Example, Medium, Subtitle

NAME = "folder"
COLUMNS = {
    "video": "path of the video file or folder of frames inside the input; required",
    "question": "required",
    "answer": "required; with options, the text of one of them",
    "id": "name of the example; default: the number of its row",
    "options": "list of candidate answers; empty for an open question",
    "segments": "list of [start, end] in seconds that prove the answer; empty: not annotated, []: annotated as nowhere",
    "question_type": "free label, reported per type by the benchmarks",
    "rationale": "reasoning that leads to the answer",
    "subtitles": "path of an .srt file inside the input; one per video",
    "split": "which --split the row belongs to; without the column all rows are used",
}
REQUIRED = ("video", "question", "answer")


def convert(folder: Path, *, split: str, ledger: SkipLedger, table: str | None = None, fps: float = 2.0,
            store: str = "frames") -> Iterator[Bundle]:
    """A plain folder of videos or frame folders with a table of questions (columns: docs/datasets.md).

    Args:
        table: CSV or JSONL file inside the input; default: the only one there is
        fps: frames kept per second of video, or the rate at which folders of frames were taken
        store: frames keeps JPEGs of video files, which read 9 to 13 times faster; video keeps the files themselves
    """
    check_rate(fps)
    one_of("store", store, ("frames", "video"))
    path = find_table(folder, table)
    videos: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    splits: set[str] = set()
    columns: set[str | None] = set()
    for number, row in read_rows(path):
        if set(row) != columns:
            _check_columns(path, row, first=not columns)
            columns = set(row)
        with ledger.catching(NAME, f"row {number}"):
            own = row_split(row, split)
            splits.add(own)
            if own == split:
                videos.setdefault(_text(row, "video"), []).append((number, row))
    if split not in splits:
        raise DataError(f"{path} has no rows of split {split!r}; it has {sorted(splits)}")
    for video, rows in videos.items():
        with ledger.catching(NAME, video, examples=len(rows)):
            yield _bundle(folder, video, rows, fps, store, ledger)


def _check_columns(path: Path, row: Mapping[str | None, Any], *, first: bool) -> None:
    """The first row must have the required columns; a column whose name is nearly a known one is taken for a mistake."""
    if None in row:
        raise DataError(f"{path}: a row has more cells than the header: {row[None]}; quote cells that hold commas")
    missing = [name for name in REQUIRED if name not in row]
    if missing and first:
        raise DataError(f"{path} lacks the columns {missing}; it has {list(row)}{''.join(nearest(name, row, 1) for name in missing)}")
    for name in row:
        if name not in COLUMNS and (hint := nearest(name, [c for c in COLUMNS if c not in row], 1)):
            raise DataError(f"{path}: column {name!r} is not known{hint}; rename it")


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None or not str(value).strip():
        raise SampleError(f"column {column} is empty", reason=f"empty_{column}")
    return str(value).strip()


def _bundle(folder: Path, video: str, rows: Sequence[tuple[int, dict[str, Any]]], fps: float, store: str, ledger: SkipLedger) -> Bundle:
    clip = read_clip(folder, video, fps, ledger, store)
    width, height = image_size(clip.frames[0])
    examples = []
    for number, row in rows:
        with ledger.catching(NAME, f"row {number}"):
            examples.append(_example(number, row))
    medium = Medium(video, "frames", width, height, clip.times, clip.duration_s, subtitles=_subtitles(folder, rows, ledger),
                    source={"dataset": NAME, "video": video})
    return Bundle(medium, tuple(examples), clip.frames)


def _example(number: int, row: Mapping[str, Any]) -> Example:
    options = tuple(str(option) for option in cell_list(row.get("options"), "options") or ())
    own = {str(name): value for name, value in row.items() if name not in COLUMNS}
    return Example(str(row.get("id") or number), "evidence", _text(row, "question"), options, _text(row, "answer"),
                   cell_segments(row.get("segments"), "segments"), question_type=str(row.get("question_type") or "other"),
                   rationale=str(row.get("rationale") or ""), source=own)


def _subtitles(folder: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], ledger: SkipLedger) -> tuple[Subtitle, ...]:
    paths = sorted({str(row["subtitles"]).strip() for _, row in rows if row.get("subtitles")} - {""})
    for path in paths[1:]:
        ledger.skip(NAME, path, "second_subtitles", f"the video has the subtitles {paths[0]} already", examples=0)
    for path in paths[:1]:
        with ledger.catching(NAME, path, examples=0):
            if not inside(folder, path).is_file():
                raise SampleError(f"no file {folder / path}", reason="file_missing")
            return read_srt(inside(folder, path))
    return ()
