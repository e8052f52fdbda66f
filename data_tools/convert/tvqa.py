"""TVQA: questions with five options about a minute of a TV show, with its subtitles and the time at which the answer is seen.

In the input folder ``tvqa_qa_release/tvqa_<split>.jsonl``, ``tvqa_subtitles/<clip>.srt`` and the published frames (3 per second)
``frames_hq/<show>/<clip>/%05d.jpg``. One bundle per clip with all its questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, file_number, image_size, inside
from data_tools.convert.clips import frame_files
from data_tools.convert.srt import read_srt
from data_tools.convert.tables import find_table, read_rows
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import SampleError
from unipixel.sample import Example, Medium, Segment, Subtitle

NAME = "tvqa"
FPS = 3.0
OPTIONS = tuple(f"a{n}" for n in range(5))


def convert(folder: Path, *, split: str, ledger: SkipLedger, table: str | None = None) -> Iterator[Bundle]:
    """TVQA: multiple choice about TV clips with subtitles and time evidence; splits train, val (the public test has no answers).

    Args:
        table: JSONL inside the input with the questions, e.g. a subset; default tvqa_qa_release/tvqa_SPLIT.jsonl
    """
    clips: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in read_rows(find_table(folder, table or f"tvqa_qa_release/tvqa_{split}.jsonl")):
        with ledger.catching(NAME, f"row {number}"):
            clips.setdefault(field(row, "vid_name", str), []).append((number, row))
    for clip, rows in clips.items():
        with ledger.catching(NAME, clip, examples=len(rows)):
            yield _bundle(folder, clip, rows, ledger)


def read_span(text: str) -> tuple[Segment, ...] | None:
    """``"12.5-20.1"`` -> ((12.5, 20.1),); ``None`` when either end is ``nan``, as for questions without a located moment."""
    match = re.fullmatch(r"\s*(nan|\d+(?:\.\d*)?)\s*-\s*(nan|\d+(?:\.\d*)?)\s*", text, re.IGNORECASE)
    if match is None:
        raise SampleError(f"ts {text!r} is not start-end in seconds", reason="bad_time")
    start, end = map(float, match.groups())
    return None if math.isnan(start) or math.isnan(end) else ((start, end),)


def _bundle(folder: Path, clip: str, rows: list[tuple[int, dict[str, Any]]], ledger: SkipLedger) -> Bundle:
    inside(folder, clip)
    shows = sorted(p for p in (folder / "frames_hq").glob("*") if (p / clip).is_dir())
    if not shows:
        raise SampleError(f"no folder {clip!r} in any show of {folder / 'frames_hq'}", reason="no_frames")
    files = frame_files(shows[0] / clip)
    times = tuple((file_number(p) - 1) / FPS for p in files)
    frames = read_frames(files)
    width, height = image_size(frames[0])
    examples = []
    for number, row in rows:
        with ledger.catching(NAME, f"row {number}"):
            examples.append(_example(row, ledger))
    medium = Medium(clip, "frames", width, height, times, times[-1] + 1 / FPS, subtitles=_subtitles(folder, clip, ledger),
                    source={"dataset": NAME, "vid_name": clip, "show_name": rows[0][1].get("show_name")})
    return Bundle(medium, tuple(examples), frames)


def _example(row: Mapping[str, Any], ledger: SkipLedger) -> Example:
    options = tuple(field(row, name, str) for name in OPTIONS)
    if "answer_idx" not in row:
        raise SampleError("the question has no answer_idx: the public test split has no answers", reason="no_answer")
    given = str(row["answer_idx"])
    if given not in map(str, range(len(options))):
        raise SampleError(f"answer_idx={given} of {len(options)} options", reason="answer_not_in_options")
    segments = read_span(field(row, "ts", str)) if "ts" in row else None
    if segments is None:
        ledger.note("questions without a located moment: packed without time evidence")
    return Example(f"q{field(row, 'qid', (int, str))}", "evidence", field(row, "q", str), options, options[int(given)], segments)


def _subtitles(folder: Path, clip: str, ledger: SkipLedger) -> tuple[Subtitle, ...]:
    path = folder / "tvqa_subtitles" / f"{clip}.srt"
    if not path.is_file():
        ledger.note("clips without a subtitle file")
        return ()
    with ledger.catching(NAME, f"tvqa_subtitles/{path.name}", examples=0):
        return read_srt(path, encodings=("utf-8-sig", "latin-1"))
    return ()
