"""ST-Evidence-Instruct and the tables of the ST-Evidence benchmark: questions with answers, time segments and masks.

Layout inside the input folder: a table (``st_evidence.csv`` for training, ``st_evidence_gen.csv`` for the benchmark), masks per entry
(see ``data_tools.convert.masks``), frames at 6 per second in ``frames_6fps/<video>/`` or ``video_frames_6fps/<video>/`` or else
``videos/<video_path>`` or ``videos_6fps/<video_path>``, and optionally ``subtitles/<video>.srt``, ``question_types.csv`` and ``preferences.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.convert.base import Bundle, image_size, inside, literal_list, read_csv, source_file
from data_tools.convert.masks import EvidenceObject, ObjectTable, read_objects
from data_tools.convert.srt import read_srt
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import JPEG_QUALITY, FrameList, decode_video, read_folder
from unipixel.errors import DataError, SampleError
from unipixel.sample import EMPTY, Example, Medium, PreferencePair, SceneObject, Segment

FPS = 6.0
NAME = "st_evidence"
TABLES = ("st_evidence.csv", "st_evidence_gen.csv")
COLUMNS = ("entry_id", "video_id", "video_path", "question", "answer", "candidates")
SEGMENT_COLUMNS = ("temporal_evidence", "segment")


@dataclass
class Video:
    """What the tables say about one video."""

    path: str
    video_id: str
    rows: list[dict[str, str]] = field(default_factory=list)
    preferences: list[dict[str, Any]] = field(default_factory=list)

    @property
    def medium_id(self) -> str:
        return str(PurePosixPath(self.path).with_suffix(""))

    @property
    def names(self) -> list[str]:
        """Names its frame folder and its subtitles may have."""
        return list(dict.fromkeys(n for n in (self.medium_id, PurePosixPath(self.path).stem, self.video_id) if n))


def convert(folder: Path, *, split: str, ledger: SkipLedger, preferences: bool = False, table: str | None = None) -> Iterator[Bundle]:
    """ST-Evidence-Instruct (gen_mask: st_evidence.csv, masks/, video_frames_6fps/) and the benchmark's st_evidence_gen.csv.

    One bundle per video with all its entries of ``split``; a table without a ``split`` column is taken as a whole.

    Args:
        preferences: read preferences.jsonl too; a pair goes to the entry that asks its prompt, else to an example of its own
        table: CSV file inside the input; default: st_evidence.csv, else st_evidence_gen.csv
    """
    present = [table] if table else [name for name in TABLES if (folder / name).is_file()]
    path = source_file(folder / (present[0] if present else TABLES[0]), "table (--set table=...)")
    videos: dict[str, Video] = {}
    for row in read_csv(path, COLUMNS):
        if row.get("split", split) == split:
            with ledger.catching(NAME, row["entry_id"]):
                _video(videos, row["video_path"], row["video_id"]).rows.append(row)
    if preferences:
        for pair in _jsonl(source_file(folder / "preferences.jsonl", "preference pairs (leave out --set preferences=true)")):
            if pair.get("split", split) == split:
                with ledger.catching(NAME, pair.get("id", "pair without id")):
                    _video(videos, pair.get("video", ""), "").preferences.append(pair)
    types_file = folder / "question_types.csv"
    types = {row["entry_id"]: row["type"] for row in read_csv(types_file, ("entry_id", "type"))} if types_file.is_file() else {}
    for video in videos.values():
        with ledger.catching(NAME, video.path, examples=len(video.rows) + len(video.preferences)):
            yield _bundle(folder, video, types, ledger)


def _video(videos: dict[str, Video], path: str, video_id: str) -> Video:
    if not PurePosixPath(path).name:
        raise SampleError(f"video path {path!r} names no file", reason="no_video_path")
    return videos.setdefault(path, Video(path, video_id))


def _bundle(folder: Path, video: Video, types: dict[str, str], ledger: SkipLedger) -> Bundle:
    frames = video_frames(folder, video, ledger)
    width, height = image_size(frames.frames[0])
    objects = ObjectTable(frames.positions, (height, width), ledger)
    examples = []
    for row in video.rows:
        with ledger.catching(NAME, row["entry_id"]):
            example = entry_example(row, types.get(row["entry_id"], "other"))
            entry_id, chosen = row["entry_id"], _evidence(folder, row, (height, width))
            oids = objects.add([o for _, o in chosen], [f"{entry_id}-{n}" for n, _ in chosen])
            examples.append(replace(example, targets=(tuple(dict.fromkeys(oids)),)))
    scene = objects.scene()
    examples = _with_preferences(examples, video.preferences, scene, ledger)
    medium = Medium(video.medium_id, "frames", width, height, frames.times, frames.duration_s, scene, _subtitles(folder, video, ledger),
                    {"dataset": NAME, "video_path": video.path, "video_id": video.video_id})
    return Bundle(medium, tuple(examples), frames.frames)


def video_frames(folder: Path, video: Video, ledger: SkipLedger) -> FrameList:
    roots = [folder / "frames_6fps", folder / "video_frames_6fps"]
    frames = read_folder([inside(root, name) for root in roots for name in video.names], FPS)
    if frames is None:
        files = [inside(root, video.path) for root in (folder / "videos", folder / "videos_6fps", folder)]
        path = next((p for p in files if p.is_file()), None)
        if path is None:
            raise SampleError(f"no folder {video.names} in {[str(r) for r in roots]} and none of {[str(p) for p in files]}", reason="no_frames")
        frames = decode_video(path, FPS)
        ledger.note(f"frames decoded from video files and stored as JPEG of quality {JPEG_QUALITY}", len(frames.frames))
    return frames


def entry_example(row: dict[str, str], question_type: str = "other") -> Example:
    """A row of the table without its masks; checks options and answer."""
    options = tuple(str(c) for c in literal_list(row["candidates"], "candidates"))
    source = {name: row[name] for name in ("source", "qa_source") if row.get(name)}
    return Example(row["entry_id"], "evidence", row["question"], options, row["answer"], _segments(row),
                   question_type=question_type, source=source)


def mask_ids(row: dict[str, str]) -> list[int]:
    """The numbers in ``mask_evidence``, which must name at least one object."""
    ids = literal_list(row["mask_evidence"], "mask_evidence")
    if not ids or not all(isinstance(i, int) for i in ids):
        raise SampleError(f"mask_evidence {ids} names no objects by number", reason="no_mask_ids")
    return ids


def _segments(row: dict[str, str]) -> tuple[Segment, ...] | None:
    column = next((c for c in SEGMENT_COLUMNS if row.get(c, "").strip()), None)
    return None if column is None else _pairs_of_times(literal_list(row[column], column), column)


def _pairs_of_times(value: Any, where: str) -> tuple[Segment, ...]:
    try:
        return tuple((float(start), float(end)) for start, end in value)
    except (TypeError, ValueError) as error:
        raise SampleError(f"{where} is not a list of [start, end]: {value!r}", reason="bad_literal") from error


def _evidence(folder: Path, row: dict[str, str], size: tuple[int, int]) -> list[tuple[int, EvidenceObject]]:
    """(1-based number, object) of the entry's evidence; a table without ``mask_evidence`` means all objects of the entry."""
    inside(folder, row["entry_id"])
    ids = mask_ids(row) if "mask_evidence" in row else None
    objects = read_objects(folder, row["entry_id"], size, FPS)
    wrong = [i for i in ids or () if i not in range(1, len(objects) + 1)]
    if wrong:
        raise SampleError(f"mask_evidence {wrong} out of 1..{len(objects)}, the evidence objects of the entry", reason="mask_ids")
    chosen = [(i, objects[i - 1]) for i in ids or range(1, len(objects) + 1)]
    if not any(entry != EMPTY for _, obj in chosen for entry in obj.masks.values()):
        raise SampleError(f"all masks of {[o.expression for _, o in chosen]} are empty", reason="masks_empty")
    return chosen


def _subtitles(folder: Path, video: Video, ledger: SkipLedger):
    path = next((p for name in video.names if (p := inside(folder / "subtitles", f"{name}.srt")).is_file()), None)
    if path is not None:
        with ledger.catching(NAME, f"subtitles/{path.name}", examples=0):
            return read_srt(path)
    return ()


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from error


def _with_preferences(examples: list[Example], preferences: list[dict[str, Any]], scene: dict[str, SceneObject],
                      ledger: SkipLedger) -> list[Example]:
    """Attach each pair to the example that asks the same question, or add an open question for it."""
    result = {e.example_id: e for e in examples}
    asked = {e.question: e.example_id for e in examples}
    for raw in preferences:
        with ledger.catching(NAME, raw.get("id", "pair without id")):
            pair = _pair(raw, scene, ledger)
            if raw["prompt"] not in asked:
                asked[raw["prompt"]] = pair.pair_id
                result[pair.pair_id] = Example(pair.pair_id, "evidence", raw["prompt"], answer=pair.chosen, segments=pair.chosen_segments,
                                               source={"table": "preferences.jsonl"})
            example = result[asked[raw["prompt"]]]
            result[example.example_id] = replace(example, pairs=(*example.pairs, pair))
    return list(result.values())


def _pair(raw: dict[str, Any], scene: dict[str, SceneObject], ledger: SkipLedger) -> PreferencePair:
    """``*_object`` expressions become object ids; an expression without masks in this split is counted and left out."""
    missing = [name for name in ("id", "prompt", "chosen", "rejected", "failure_mode") if name not in raw]
    if missing:
        raise SampleError(f"preference pair lacks {missing}", reason="bad_pair")
    by_expression = {obj.expression: oid for oid, obj in scene.items()}
    evidence: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        segments, expression = raw.get(f"{side}_segments"), raw.get(f"{side}_object")
        evidence[f"{side}_segments"] = None if segments is None else _pairs_of_times(segments, f"{side}_segments")
        if expression is not None and expression not in by_expression:
            ledger.note("objects of preference pairs without masks in this split, left out")
        evidence[f"{side}_objects"] = (by_expression[expression],) if expression in by_expression else None
    return PreferencePair(raw["id"], raw["chosen"], raw["rejected"], raw["failure_mode"], **evidence, origin={"table": "preferences.jsonl"})
