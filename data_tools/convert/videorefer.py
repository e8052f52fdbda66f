"""VideoRefer-700K as released (annotations without masks): captions and questions about pointed-at objects of videos.

``videorefer-<set>-wo-masks.json`` is a list; the masks of its row i are in ``masks_<set>/<i>.json`` whatever the row's id, so rows keep their
place from reading to resolving. A mask file holds, per object, one list of RLEs for each annotated frame of the row in ascending order.
``videos/<video>`` is a file or a folder of frames; only annotated frames are stored, and, for rows with a single one, some context.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.base import Bundle, field, file_number, image_size, inside, left_out, one_of, read_json, source_json
from data_tools.convert.masks import nested_entry
from data_tools.convert.referring import MAX_FRAMES, check_rate
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import JPEG_QUALITY, count_frames, decode_numbered, read_frames
from unipixel.errors import DataError, SampleError
from unipixel.sample import Entry, Example, MaskTrack, Medium, Region, SceneObject, Turn

FILES = {"short_caption": "short-caption-500k", "detailed_caption": "detailed-caption-125k", "qa": "qa-75k"}
MARKER = "<video>"
INTRODUCED = re.compile(r"<object(\d+)><region>")
LABELS = 16
"""A row that names its only object by no number gets one of 0..15, as a hash of its place decides."""


@dataclass(frozen=True)
class Rules:
    """What is read and what is left out; 0 switches a limit off."""

    name: str
    annotations: str
    use: str = "chat"
    max_frames: int = MAX_FRAMES
    min_ratio: float = 0.0
    max_objects: int = 0
    max_words: int = 0
    context_frames: int = 0
    fps: float = 6.0


@dataclass(frozen=True)
class Row:
    """A row at its ``place`` in the list: texts with ``[label]`` mentions, and per object the frames it is annotated on."""

    place: int
    raw: Mapping[str, Any]
    question: str
    answer: str
    labels: tuple[str, ...]
    annotated: tuple[frozenset[int], ...]

    @property
    def frames(self) -> list[int]:
        return sorted(frozenset().union(*self.annotated))


def short_caption(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES, min_ratio: float = 0.3, max_objects: int = 5,
                  max_words: int = 0, context_frames: int = 16, fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-700K, short captions of one object, given by its mask (videos/, masks_short_caption/)."""
    yield from _convert(folder, split, ledger, Rules("videorefer_short_caption", "short_caption", "chat", max_frames, min_ratio, max_objects,
                                                     max_words, context_frames, fps))


def detailed_caption(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES, min_ratio: float = 0.3,
                     max_objects: int = 5, max_words: int = 0, context_frames: int = 16, fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-700K, detailed captions of one object, given by its masks (videos/, masks_detailed_caption/)."""
    yield from _convert(folder, split, ledger, Rules("videorefer_detailed_caption", "detailed_caption", "chat", max_frames, min_ratio,
                                                     max_objects, max_words, context_frames, fps))


def qa(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES, min_ratio: float = 0.3, max_objects: int = 5,
       max_words: int = 0, context_frames: int = 16, fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-700K, questions about one or more objects, given by their masks (videos/, masks_qa/)."""
    yield from _convert(folder, split, ledger, Rules("videorefer_qa", "qa", "chat", max_frames, min_ratio, max_objects, max_words,
                                                     context_frames, fps))


def qa_mem(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES, min_ratio: float = 0.3, max_objects: int = 5,
           fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-700K, the questions with objects given by a point or box, whose masks are the reply (videos/, masks_qa/)."""
    yield from _convert(folder, split, ledger, Rules("videorefer_qa_mem", "qa", "locate", max_frames, min_ratio, max_objects, fps=fps))


def short_caption_ref(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES, context_frames: int = 16,
                      fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-700K, short captions of one object given by a point or box (videos/, masks_short_caption/)."""
    yield from _convert(folder, split, ledger, Rules("videorefer_short_caption_ref", "short_caption", "prompted", max_frames,
                                                     context_frames=context_frames, fps=fps))


def _convert(folder: Path, split: str, ledger: SkipLedger, rules: Rules) -> Iterator[Bundle]:
    """One bundle per video with all its rows, in the order in which the videos occur first."""
    one_of("split", split, ("train",))
    check_rate(rules.fps)
    path = folder / f"videorefer-{FILES[rules.annotations]}-wo-masks.json"
    rows = source_json(path, path.name)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a list")
    videos: dict[str, list[Row]] = {}
    for place, raw in enumerate(rows):
        with ledger.catching(rules.name, str(place)):
            row = _row(place, raw, rules)
            videos.setdefault(field(raw, "video", str), []).append(row)
    for video, its_rows in videos.items():
        with ledger.catching(rules.name, video, examples=len(its_rows)):
            yield _bundle(folder, video, its_rows, rules, ledger)


def _row(place: int, raw: Mapping[str, Any], rules: Rules) -> Row:
    """The checked texts of a row; what the rules leave out is raised with its reason."""
    annotation = field(raw, "annotation", list)
    if not annotation:
        raise left_out("no_objects", "the row has no object")
    if 0 < rules.max_objects < len(annotation):
        raise left_out("objects", f"{len(annotation)} objects are more than max_objects={rules.max_objects}")
    if rules.min_ratio and field(raw, "ratio", (int, float)) < rules.min_ratio:
        raise left_out("ratio", f"ratio {raw['ratio']} is under min_ratio={rules.min_ratio}")
    if rules.use == "prompted" and len(annotation) != 1:
        raise SampleError(f"{len(annotation)} objects, expected one", reason="region_count")
    try:
        annotated = tuple(frozenset(int(number) for number in one) for one in annotation)
        question, answer = (turn["value"].strip() for turn in raw["conversations"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"not one question and one answer with numbered frames per object: {error!r}", reason="bad_record") from error
    question, answer, labels = _mentions(place, _without_marker(question), answer, len(annotation), rules)
    row = Row(place, raw, question, answer, labels, annotated)
    if not row.frames or not all(annotated):
        raise SampleError("an object has no annotated frame", reason="no_masks")
    if 0 < rules.max_frames < len(row.frames):
        raise left_out("frames", f"{len(row.frames)} annotated frames are more than max_frames={rules.max_frames}")
    if rules.use == "locate" and len(row.frames) == 1:
        raise left_out("single_frame", "only one frame is annotated, there is nothing to follow")
    words = len(f"{question} {answer}".split())
    if 0 < rules.max_words < words:
        raise left_out("words", f"{words} words are more than max_words={rules.max_words}")
    return row


def _without_marker(question: str) -> str:
    """The question without the video marker, which stands on a line of its own at one end."""
    bare = question.removeprefix(MARKER + "\n").removesuffix("\n" + MARKER).strip()
    if bare == question or MARKER in bare:
        raise SampleError(f"{MARKER} does not stand at one end of {question!r:.80}", reason="bad_question")
    return bare


def _mentions(place: int, question: str, answer: str, count: int, rules: Rules) -> tuple[str, str, tuple[str, ...]]:
    """(question, answer, labels) with every mention as ``[label]``; labels in the order of the row's objects.

    The first line of a question may only introduce the objects. A reply in masks needs it; a question that is asked with the masks as
    input does not, and it is kept there only for objects that nothing else mentions.
    """
    if question.count("<region>") != count:
        raise SampleError(f"{question.count('<region>')} <region> marks for {count} objects", reason="region_count")
    labels = tuple(INTRODUCED.findall(question))
    if not labels and count == 1:
        labels = (str(zlib.crc32(f"{rules.annotations}/{place}".encode()) % LABELS),)
        question = question.replace("<region>", f"[{labels[0]}]")
    elif len(labels) != count:
        raise SampleError(f"{len(labels)} of {count} objects are introduced as <object…><region>", reason="region_count")
    question = INTRODUCED.sub(r"[\1]", question)
    question, answer = (re.sub(r"<object(\d+)>", r"[\1]", text) for text in (question, answer))
    if any(mark in text for mark in ("<region>", "<object") for text in (question, answer)):
        raise SampleError("a mark of an object is left over in the texts", reason="bad_question")
    intro, newline, asked = question.partition("\n")
    introduces, mentions = (all(f"[{x}]" in text for x in labels) for text in (intro, f"{asked} {answer}"))
    if newline and rules.use == "chat" and rules.annotations == "qa" and introduces and mentions:
        question = asked.strip()
    return question, answer, labels


def _bundle(folder: Path, video: str, rows: Sequence[Row], rules: Rules, ledger: SkipLedger) -> Bundle:
    numbers, frames, times, duration = annotated_frames(inside(folder / "videos", video), rows, rules, ledger)
    width, height = image_size(frames[0])
    position = {number: t for t, number in enumerate(numbers)}
    objects: dict[str, SceneObject] = {}
    examples = []
    for row in rows:
        with ledger.catching(rules.name, str(row.place)):
            absent = [number for number in row.frames if number not in position]
            if absent:
                raise SampleError(f"annotated frames {absent[:5]} are not in the video", reason="mask_frame")
            tracks = _tracks(folder, row, rules, (height, width), position, ledger)
            oids = [f"{row.place}-{k}" for k in range(len(tracks))]
            examples.append(_example(row, oids, rules))
            objects |= {oid: SceneObject(oid, "", MaskTrack((height, width), track)) for oid, track in zip(oids, tracks, strict=True)}
    medium = Medium(video, "frames", width, height, times, duration, objects,
                    source={"dataset": rules.name, "video": video, "frame_numbers": list(numbers)})
    return Bundle(medium, tuple(examples), frames)


def _example(row: Row, oids: Sequence[str], rules: Rules) -> Example:
    regions = tuple(Region(label, oid) for label, oid in zip(row.labels, oids, strict=True))
    source = {"id": row.raw.get("id"), "place": row.place, "ratio": row.raw.get("ratio"), "frame_idx": row.raw.get("frame_idx")}
    example_id = f"{rules.annotations}_{row.place}"
    if rules.use == "locate":  # the only option is the true answer: the question is context, the reply is the masks
        return Example(example_id, "locate", row.question, (row.answer,), row.answer, targets=tuple((oid,) for oid in oids), source=source,
                       regions=regions, visual_prompt="point_or_box")
    turns = (Turn("user", row.question), Turn("assistant", row.answer))
    return Example(example_id, "chat", turns=turns, source=source, regions=regions,
                   visual_prompt="mask" if rules.use == "chat" else "point_or_box")


def annotated_frames(path: Path, rows: Sequence[Row], rules: Rules, ledger: SkipLedger):
    """(numbers, bytes, times, duration) of the frames that the rows are annotated on, with context where a row has only one."""
    single = any(len(row.frames) == 1 for row in rows)
    wanted = {number for row in rows for number in row.frames}
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")), key=file_number)
        numbers = sorted(n for n in wanted | _context(len(files), rules, single) if n < len(files))
        if not numbers:
            raise SampleError(f"{path} holds none of the annotated frames", reason="no_frames")
        return numbers, read_frames([files[n] for n in numbers]), tuple(n / rules.fps for n in numbers), len(files) / rules.fps
    if not path.is_file():
        raise SampleError(f"no video {path}", reason="no_frames")
    if single and rules.context_frames:
        wanted |= _context(count_frames(path), rules, single)
    listed, times = decode_numbered(path, wanted.__contains__)
    if not listed.frames:
        raise SampleError(f"{path} holds none of the annotated frames", reason="no_frames")
    ledger.note(f"frames decoded from video files and stored as JPEG of quality {JPEG_QUALITY}", len(times))
    return listed.numbers, listed.frames, times, listed.duration_s


def _context(total: int, rules: Rules, single: bool) -> set[int]:
    """Frame numbers spread evenly over the video, its ends included."""
    return set(np.linspace(0, total - 1, rules.context_frames).round().astype(int).tolist()) if single and total else set()


def _tracks(folder: Path, row: Row, rules: Rules, size: tuple[int, int], position: Mapping[int, int],
            ledger: SkipLedger) -> list[tuple[Entry, ...]]:
    """Per object one entry per stored frame; frames that the object is not annotated on stay unannotated."""
    path = folder / f"masks_{rules.annotations}" / f"{row.place}.json"
    raw, frames = read_json(path), row.frames
    if not isinstance(raw, list) or len(raw) != len(row.annotated) or any(not isinstance(o, list) or len(o) != len(frames) for o in raw):
        raise SampleError(f"{path} does not hold {len(row.annotated)} objects with masks for {len(frames)} frames", reason="mask_count")
    tracks = []
    for masks, annotated in zip(raw, row.annotated, strict=True):
        entries: list[Entry] = [None] * len(position)
        for number, mask in zip(frames, masks, strict=True):
            if number in annotated:
                entries[position[number]] = nested_entry(mask, size, ledger)
        tracks.append(tuple(entries))
    return tracks
