"""TVQA: questions with five options about a minute of a TV show, with its subtitles and the time at which the answer is seen.

In the input folder ``tvqa_qa_release/tvqa_<split>.jsonl``, ``tvqa_subtitles/<clip>.srt`` and the published frames (3 per second)
``frames_hq/<show>/<clip>/%05d.jpg``; or, with an operator, the pooled pictures and text tables of ``film prepare`` in
``processed_tvqa/<clip>``. One bundle per clip with all its questions, or one per question that shows its moment alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, file_number, image_size, inside, one_of, read_json, source_file
from data_tools.convert.clips import frame_files
from data_tools.convert.povqa import CHUNKS, chunk_seconds, spoken_segments
from data_tools.convert.srt import read_srt
from data_tools.convert.tables import find_table, read_rows
from data_tools.convert.windows import Window, cut_subtitles
from data_tools.pooling.operators import full_name
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import SampleError
from unipixel.sample import Example, Medium, Segment, Subtitle

NAME = "tvqa"
FPS = 3.0
OPTIONS = tuple(f"a{n}" for n in range(5))


@dataclass(frozen=True)
class Clip:
    """Pictures of a clip, the seconds that each stands for, and what is said."""

    name: str
    files: Sequence[Path]
    spans: Sequence[Segment]
    subtitles: Sequence[Subtitle]
    source: Mapping[str, Any]


def convert(folder: Path, *, split: str, ledger: SkipLedger, table: str | None = None, pooling: str | None = None,
            context: str = "clip", rationales: str | None = None) -> Iterator[Bundle]:
    """TVQA: multiple choice about TV clips with subtitles and time evidence; splits train, val (the public test has no answers).

    Args:
        table: JSONL inside the input with the questions, e.g. a subset; default tvqa_qa_release/tvqa_SPLIT.jsonl
        pooling: show the pooled pictures in processed_tvqa instead of the published frames; operator by full or short name
        context: clip; or ts, the annotated moment alone, as POVQA evaluates: it gives away where the answer is seen, and a question without
            one is listed
        rationales: file that film rationales wrote; a question gets its rationale from there
    """
    one_of("context", context, ("clip", "ts"))
    method = None if pooling is None else full_name(pooling)
    written = _read_rationales(Path(rationales), ledger) if rationales else {}
    clips: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in read_rows(find_table(folder, table or f"tvqa_qa_release/tvqa_{split}.jsonl")):
        with ledger.catching(NAME, f"row {number}"):
            clips.setdefault(field(row, "vid_name", str), []).append((number, row))
    for name, rows in clips.items():
        with ledger.catching(NAME, name, examples=len(rows)):
            inside(folder, name)
            clip = _frames(folder, name, rows, ledger) if method is None else _pooled(folder, name, method, rows, ledger)
            yield from _bundles(clip, rows, context, written, ledger)


def _read_rationales(path: Path, ledger: SkipLedger) -> dict[str, str]:
    """Example id -> rationale whose citations hold; every other one is listed and not used."""
    found: dict[str, str] = {}
    for number, record in read_rows(source_file(path, "file of rationales (check --set rationales)")):
        with ledger.catching(NAME, f"{path.name} record {number}", examples=0):
            verdict = field(record, "verdict", dict)
            if verdict.get("ok") is not True:
                raise SampleError(f"its citations were not found to hold: {verdict.get('reasons')}", reason="rationale_unverified")
            found[field(record, "example_id", str)] = field(record, "generated_cot", str)
    return found


def read_span(text: str) -> tuple[Segment, ...] | None:
    """``"12.5-20.1"`` -> ((12.5, 20.1),); ``None`` when either end is ``nan``, as for questions without a located moment."""
    match = re.fullmatch(r"\s*(nan|\d+(?:\.\d*)?)\s*-\s*(nan|\d+(?:\.\d*)?)\s*", text, re.IGNORECASE)
    if match is None:
        raise SampleError(f"ts {text!r} is not start-end in seconds", reason="bad_time")
    start, end = map(float, match.groups())
    return None if math.isnan(start) or math.isnan(end) else ((start, end),)


def _frames(folder: Path, name: str, rows: list[tuple[int, dict[str, Any]]], ledger: SkipLedger) -> Clip:
    shows = sorted(p for p in (folder / "frames_hq").glob("*") if (p / name).is_dir())
    if not shows:
        raise SampleError(f"no folder {name!r} in any show of {folder / 'frames_hq'}", reason="no_frames")
    files = frame_files(shows[0] / name)
    spans = [((n - 1) / FPS, n / FPS) for n in map(file_number, files)]
    return Clip(name, files, spans, _subtitles(folder, name, ledger), _source(name, rows))


def _pooled(folder: Path, name: str, method: str, rows: list[tuple[int, dict[str, Any]]], ledger: SkipLedger) -> Clip:
    """Times come from the chunk table that ``film prepare`` leaves; published pictures, which have none, are one second each."""
    folder = folder / "processed_tvqa" / name
    files, table = frame_files(folder / method), folder / method / CHUNKS
    if table.is_file():
        number = (int, float)
        known = {row["saved_chunk_filename"]: (field(row, "chunk_start_time_sec", number), field(row, "chunk_end_time_sec", number))
                 for row in read_json(table)["chunks"]}
        if unknown := [p.name for p in files if p.name not in known]:
            raise SampleError(f"{len(unknown)} pictures are not in {table}, e.g. {unknown[0]}", reason="no_chunk")
        spans = [known[p.name] for p in files]
    else:
        chunk_s = chunk_seconds(folder / "run_summary.json", ledger)
        spans = [((n - 1) * chunk_s, n * chunk_s) for n in map(file_number, files)]
    return Clip(name, files, spans, spoken_segments(folder, method),
                _source(name, rows) | {"method": method, "frame_names": [p.stem for p in files]})


def _source(name: str, rows: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    return {"dataset": NAME, "vid_name": name, "show_name": rows[0][1].get("show_name")}


def _bundles(clip: Clip, rows: list[tuple[int, dict[str, Any]]], context: str, written: Mapping[str, str],
             ledger: SkipLedger) -> Iterator[Bundle]:
    frames = read_frames(clip.files)
    size = image_size(frames[0])
    examples = []
    for number, row in rows:
        with ledger.catching(NAME, f"row {number}"):
            example = _example(row)
            example = replace(example, rationale=written.get(example.example_id, ""))
            if written and not example.rationale:
                ledger.note("questions without a rationale in the file of rationales")
            if context == "ts":
                yield _moment(clip, example, frames, size)
            else:
                examples.append(example)
                if example.segments is None:
                    ledger.note("questions without a located moment: packed without time evidence")
    if context == "clip":
        medium = Medium(clip.name, "frames", *size, tuple(start for start, _ in clip.spans), clip.spans[-1][1], subtitles=tuple(clip.subtitles),
                        source=clip.source)
        yield Bundle(medium, tuple(examples), frames)


def _moment(clip: Clip, example: Example, frames: Sequence[bytes], size: tuple[int, int]) -> Bundle:
    """The annotated seconds of a question as a medium of its own, whose time starts with them; as the moment is given, it is not asked for.

    A picture belongs to it when some of what it stands for does: a moment may be shorter than a picture.
    """
    if not example.segments:
        raise SampleError("no located moment to show", reason="no_ts", key=example.example_id)
    window = Window(example.segments[0][0], min(example.segments[0][1], clip.spans[-1][1]))
    chosen = [i for i, span in enumerate(clip.spans) if window.overlaps(*span)]
    if not chosen:
        raise SampleError(f"moment {window.start_s}-{window.end_s} s holds none of the {len(clip.spans)} pictures", reason="no_frames")
    source = {**clip.source, "window_s": [window.start_s, window.end_s]}
    if "frame_names" in source:
        source["frame_names"] = [source["frame_names"][i] for i in chosen]
    times = tuple(max(0.0, window.local(clip.spans[i][0])) for i in chosen)
    medium = Medium(f"{clip.name}_{example.example_id}", "frames", *size, times, window.length_s,
                    subtitles=cut_subtitles(clip.subtitles, window, window.length_s), source=source)
    return Bundle(medium, (replace(example, segments=None),), tuple(frames[i] for i in chosen))


def _example(row: Mapping[str, Any]) -> Example:
    options = tuple(field(row, name, str) for name in OPTIONS)
    if "answer_idx" not in row:
        raise SampleError("the question has no answer_idx: the public test split has no answers", reason="no_answer")
    given = str(row["answer_idx"])
    if given not in map(str, range(len(options))):
        raise SampleError(f"answer_idx={given} of {len(options)} options", reason="answer_not_in_options")
    segments = read_span(field(row, "ts", str)) if "ts" in row else None
    return Example(f"q{field(row, 'qid', (int, str))}", "evidence", field(row, "q", str), options, options[int(given)], segments,
                   source={"ts": row["ts"]} if segments else {})


def _subtitles(folder: Path, clip: str, ledger: SkipLedger) -> tuple[Subtitle, ...]:
    path = folder / "tvqa_subtitles" / f"{clip}.srt"
    if not path.is_file():
        ledger.note("clips without a subtitle file")
        return ()
    with ledger.catching(NAME, f"tvqa_subtitles/{path.name}", examples=0):
        return read_srt(path, encodings=("utf-8-sig", "latin-1"))
    return ()
