"""ST-Evidence-Bench, multiple choice: for each entry its question, which time segments prove the answer, and which picture shows the proof.

``st_evidence_mcq.csv``, ``temp_options.json``, ``mask_options.json`` with the pictures it names, videos or frames as for the generation
table. Columns are read under both published names (``video``/``video_path``, ``options``/``candidates``), spatial options in both
published forms. An entry becomes up to three examples, ``<entry>:qa``, ``:time`` and ``:space``; pictures are stored with theirs.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, image_size, inside, literal_list, read_csv, source_file, source_json
from data_tools.convert.st_evidence import Video, video_frames
from unipixel.data.ledger import SkipLedger
from unipixel.data.template import format_segments
from unipixel.errors import SampleError
from unipixel.metrics import normalise_segments
from unipixel.sample import Example, Medium

NAME = "st_evidence_mcq"
TABLE = "st_evidence_mcq.csv"
PARTS = ("qa", "time", "space")
TIME_QUESTION = "{question}\nWhich time segments, in seconds, prove the answer to this question?"
SPACE_QUESTION = "{question}\nWhich of the four pictures marks, with a red outline, what proves the answer to this question?"


def convert(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """ST-Evidence-Bench, multiple choice (st_evidence_mcq.csv, temp_options.json, mask_options.json), all splits are one."""
    times, spaces = (source_json(folder / name, name) if (folder / name).is_file() else {} for name in ("temp_options.json", "mask_options.json"))
    videos: dict[str, Video] = {}
    for row in read_csv(source_file(folder / TABLE, "table"), ("entry_id", "question", "answer")):
        with ledger.catching(NAME, row["entry_id"], examples=1 + (row["entry_id"] in times) + (row["entry_id"] in spaces)):
            path = row.get("video_path") or row.get("video") or ""
            if not path:
                raise SampleError("neither column video_path nor video names a file", reason="no_video_path")
            videos.setdefault(path, Video(path, row.get("video_id") or Path(path).stem)).rows.append(row)
    for video in videos.values():
        entries = [row["entry_id"] for row in video.rows]
        with ledger.catching(NAME, video.path, examples=sum(1 + (i in times) + (i in spaces) for i in entries)):
            yield _bundle(folder, video, times, spaces, ledger)


def _bundle(folder: Path, video: Video, times: Mapping[str, Any], spaces: Mapping[str, Any], ledger: SkipLedger) -> Bundle:
    frames = video_frames(folder, video, ledger)
    width, height = image_size(frames.frames[0])
    examples = []
    for row in video.rows:
        entry = row["entry_id"]
        with ledger.catching(NAME, f"{entry}:qa"):
            examples.append(_question(row))
        if entry in times:
            with ledger.catching(NAME, f"{entry}:time"):
                examples.append(_time(entry, row["question"], times[entry]))
        if entry in spaces:
            with ledger.catching(NAME, f"{entry}:space"):
                examples.append(_space(folder, entry, row["question"], spaces[entry]))
    medium = Medium(video.medium_id, "frames", width, height, frames.times, frames.duration_s,
                    source={"dataset": NAME, "video_path": video.path, "video_id": video.video_id})
    return Bundle(medium, tuple(examples), frames.frames)


def _question(row: Mapping[str, str]) -> Example:
    options = tuple(str(option) for option in literal_list(row.get("options") or row.get("candidates") or "", "options"))
    return Example(f"{row['entry_id']}:qa", "evidence", row["question"], options, _named(row["answer"], options), question_type="qa")


def _time(entry: str, question: str, raw: Mapping[str, Any]) -> Example:
    lists = [normalise_segments(one) for one in raw.get("time_evidence_options") or ()]
    if len(lists) != 4 or any(problem for _, problem in lists):
        raise SampleError(f"time_evidence_options of {entry} are not four lists of segments", reason="bad_record")
    options = tuple(format_segments(segments) for segments, _ in lists)
    return Example(f"{entry}:time", "evidence", TIME_QUESTION.format(question=question), options, _named(str(raw.get("correct_answer", "")), options),
                   question_type="time")


def _space(folder: Path, entry: str, question: str, raw: Mapping[str, Any]) -> Example:
    """``options`` (older: ``mcq_options``) name the pictures in order; ``answer`` is an index, older ``correct_answer`` a letter."""
    names = raw.get("options") or raw.get("mcq_options")
    if not isinstance(names, list) or sorted(map(str, names)) != ["d1", "d2", "d3", "gt"]:
        raise SampleError(f"options {names!r} of {entry} are not a permutation of gt, d1, d2, d3", reason="bad_record")
    options = tuple(f"picture {letter}" for letter in "ABCD")
    answer = raw.get("answer", raw.get("correct_answer"))
    index = answer if isinstance(answer, int) else "ABCD".find(str(answer).strip() or "?")
    if not 0 <= index < 4 or names[index] != "gt":
        raise SampleError(f"answer {answer!r} of {entry} does not point at 'gt' in {names}", reason="answer_not_in_options")
    pictures = []
    for name in names:
        path = inside(folder, str(raw.get(name, "")))
        if not path.is_file():
            raise SampleError(f"no picture {path}", reason="file_missing")
        data = path.read_bytes()
        image_size(data)
        pictures.append(base64.b64encode(data).decode("ascii"))
    return Example(f"{entry}:space", "evidence", SPACE_QUESTION.format(question=question), options, options[index], question_type="space",
                   source={"option_pictures": pictures})


def _named(answer: str, options: tuple[str, ...]) -> str:
    """The option that a letter or a text names."""
    if answer in options:
        return answer
    index = "ABCDEF".find(answer.strip()) if len(answer.strip()) == 1 else -1
    if not 0 <= index < len(options):
        raise SampleError(f"answer {answer!r} is neither a letter nor one of {list(options)}", reason="answer_not_in_options")
    return options[index]
