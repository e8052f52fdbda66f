"""VideoRefer-Bench as released: questions (Q, with options) and captions (D) about objects that are shown by their masks.

``VideoRefer-Bench-Q.json`` and ``VideoRefer-Bench-D.json`` are lists with their masks inline: ``annotation`` holds, per object, frame number ->
``{"segmentation": RLE}``. ``--input`` is the folder of the JSON and of the videos (or ``--set videos=DIR``). ``source["prompt_frame"]`` is the
position of ``frame_idx``, the one frame of the benchmark's "single" mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, image_size, inside, source_json
from data_tools.convert.masks import nested_entry
from data_tools.convert.referring import check_rate
from data_tools.convert.video_choice import LETTERED
from data_tools.convert.videorefer import Rules, annotated_frames
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import Entry, Example, MaskTrack, Medium, Region, SceneObject

_MENTION = re.compile(r"<object\s*(\d+)>\s*(?:<region>)?")


@dataclass(frozen=True)
class Row:
    """One row: the texts with ``[label]`` mentions, and per object frame number -> mask as stored."""

    row_id: str
    raw: Mapping[str, Any]
    masks: tuple[Mapping[int, Any], ...]

    @property
    def frames(self) -> list[int]:
        return sorted({number for one in self.masks for number in one} | {self.prompt_frame})

    @property
    def prompt_frame(self) -> int:
        return int(self.raw["frame_idx"])


def questions(folder: Path, *, split: str, ledger: SkipLedger, videos: str = "", fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-Bench-Q (VideoRefer-Bench-Q.json and the videos it names), all splits are one.

    Args:
        videos: folder of the videos; default: the input
    """
    yield from _convert("videorefer_bench_q", folder, "VideoRefer-Bench-Q.json", videos, fps, _question, ledger)


def captions(folder: Path, *, split: str, ledger: SkipLedger, videos: str = "", fps: float = 6.0) -> Iterator[Bundle]:
    """VideoRefer-Bench-D (VideoRefer-Bench-D.json and the videos it names), all splits are one.

    Args:
        videos: folder of the videos; default: the input
    """
    yield from _convert("videorefer_bench_d", folder, "VideoRefer-Bench-D.json", videos, fps, _caption, ledger)


def _convert(name: str, folder: Path, file: str, videos: str, fps: float, make, ledger: SkipLedger) -> Iterator[Bundle]:
    check_rate(fps)
    rows = source_json(folder / file, file)
    if not isinstance(rows, list):
        raise DataError(f"{folder / file} is not a list")
    by_video: dict[str, list[Row]] = {}
    for place, raw in enumerate(rows):
        with ledger.catching(name, str(place)):
            by_video.setdefault(field(raw, "video", str), []).append(_row(place, raw))
    for video, asked in by_video.items():
        with ledger.catching(name, video, examples=len(asked)):
            yield _bundle(name, inside(Path(videos) if videos else folder, video), video, asked, fps, make, ledger)


def _row(place: int, raw: Mapping[str, Any]) -> Row:
    annotation = field(raw, "annotation", list)
    try:
        masks = tuple({int(number): mask["segmentation"] for number, mask in one.items()} for one in annotation)
        int(raw["frame_idx"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"not frame_idx and, per object, frame number -> segmentation: {error!r}", reason="bad_record") from error
    if not masks or not all(masks):
        raise SampleError("an object has no annotated frame", reason="no_masks")
    return Row(str(raw.get("id", place)), raw, masks)


def _bundle(name: str, path: Path, video: str, rows: Sequence[Row], fps: float, make, ledger: SkipLedger) -> Bundle:
    numbers, frames, times, duration = annotated_frames(path, rows, Rules(name, "qa", context_frames=16, fps=fps), ledger)
    width, height = image_size(frames[0])
    position = {number: t for t, number in enumerate(numbers)}
    objects: dict[str, SceneObject] = {}
    examples = []
    for row in rows:
        with ledger.catching(name, row.row_id):
            if absent := [number for number in row.frames if number not in position]:
                raise SampleError(f"annotated frames {absent[:5]} are not in the video", reason="mask_frame")
            oids = [f"{row.row_id}-{k}" for k in range(len(row.masks))]
            example = make(row, oids, {"frame_idx": row.raw["frame_idx"], "prompt_frame": position[row.prompt_frame]})
            tracks = [_track(masks, position, (height, width), ledger) for masks in row.masks]
            objects |= {oid: SceneObject(oid, "", MaskTrack((height, width), track)) for oid, track in zip(oids, tracks, strict=True)}
            examples.append(example)
    medium = Medium(video, "frames", width, height, times, duration, objects,
                    source={"dataset": name, "video": video, "frame_numbers": list(numbers)})
    return Bundle(medium, tuple(examples), frames)


def _track(masks: Mapping[int, Any], position: Mapping[int, int], size: tuple[int, int], ledger: SkipLedger) -> tuple[Entry, ...]:
    entries: list[Entry] = [None] * len(position)
    for number, mask in masks.items():
        entries[position[number]] = nested_entry(mask, size, ledger)
    return tuple(entries)


def _question(row: Row, oids: Sequence[str], source: Mapping[str, Any]) -> Example:
    text, options = field(row.raw, "Question", str), [str(option) for option in field(row.raw, "options", list)]
    answer = field(row.raw, "Answer", str)
    if answer not in options:
        raise SampleError(f"Answer {answer!r} is not among {options}", reason="answer_not_in_options")
    text, *options = (_mentions(part) for part in (text, *(LETTERED.sub("", option) for option in options)))
    index = [str(option) for option in row.raw["options"]].index(answer)
    labels = list(dict.fromkeys(re.findall(r"\[(\d+)\]", " ".join((text, *options)))))
    if not labels and len(oids) == 1:  # the only object, said as <region> or not at all
        labels = ["1"]
        text = text.replace("<region>", "[1]", 1) if "<region>" in text else f"About [1]: {text}"
    if len(labels) != len(oids) or "<region>" in text:
        raise SampleError(f"{len(labels)} objects are mentioned in {text!r:.80}, {len(oids)} have masks", reason="region_count")
    labels.sort(key=int)
    return Example(row.row_id, "evidence", text, tuple(options), options[index], question_type=str(row.raw.get("type") or "other"), source=source,
                   regions=tuple(Region(label, oid) for label, oid in zip(labels, oids, strict=True)), visual_prompt="mask")


def _caption(row: Row, oids: Sequence[str], source: Mapping[str, Any]) -> Example:
    if len(oids) != 1:
        raise SampleError(f"{len(oids)} objects, expected one", reason="region_count")
    return Example(row.row_id, "evidence", "Please give a detailed description of the highlighted object [1] in the video.",
                   answer=field(row.raw, "caption", str), question_type="caption", source=source, regions=(Region("1", oids[0]),),
                   visual_prompt="mask")


def _mentions(text: str) -> str:
    return _MENTION.sub(r"[\1]", text.strip())
