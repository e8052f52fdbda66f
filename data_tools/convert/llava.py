"""LLaVA-665K with VideoGPT+ 576K: instruction dialogues about a picture, about a video, or about nothing at all.

One JSON list; pictures under ``llava_instruct/``, videos under ``videogpt_plus/``. All rows about one medium share its bundle. The ids of
the rows repeat, so an example is named by its position in the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, image_size, inside, left_out, one_of, source_json
from data_tools.convert.clips import read_clip
from data_tools.convert.dialogue import PLACEHOLDER, read_turns
from data_tools.convert.images import read_picture, still
from data_tools.convert.referring import check_rate
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, Medium

NAME = "llava_videogpt_plus"
TABLE = "llava_v1_5_mix665k_with_videogpt_plus_576k.json"
Rows = list[tuple[int, Mapping[str, Any]]]


def convert(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 2.0, max_duration_s: float = 300.0) -> Iterator[Bundle]:
    """LLaVA-665K and VideoGPT+: dialogues with pictures, videos or text only; split train.

    Args:
        fps: frames kept per second of video
        max_duration_s: rows that list a longer duration are left out; 0 keeps all
    """
    one_of("split", split, ("train",))
    check_rate(fps)
    rows = source_json(folder / TABLE, "dialogues")
    if not isinstance(rows, list):
        raise DataError(f"{folder / TABLE} is not a list")
    by_medium: dict[tuple[str, str], Rows] = {}
    for number, row in enumerate(rows):
        with ledger.catching(NAME, f"row {number}"):
            if not isinstance(row, Mapping):
                raise SampleError(f"{row!r:.60} is not an object", reason="bad_record")
            duration = row.get("duration")  # rows without one are kept
            if max_duration_s and duration is not None and field(row, "duration", (int, float)) > max_duration_s:
                raise left_out("duration", f"{duration} s is longer than max_duration_s={max_duration_s}")
            by_medium.setdefault(_medium_of(row, number), []).append((number, row))
    for (kind, name), its_rows in by_medium.items():
        with ledger.catching(NAME, name, examples=len(its_rows)):
            yield _bundle(folder, kind, name, its_rows, fps, ledger)


def _medium_of(row: Mapping[str, Any], number: int) -> tuple[str, str]:
    named = [kind for kind in ("image", "video") if row.get(kind)]
    if len(named) > 1:
        raise SampleError("the row names a picture and a video", reason="bad_record")
    if not named:
        if any(PLACEHOLDER.search(str(turn)) for turn in field(row, "conversations", list)):
            raise SampleError("the dialogue shows a picture or video, but the row names none", reason="no_medium")
        return "text", f"text_{number}"
    return named[0], field(row, named[0], str)


def _bundle(folder: Path, kind: str, name: str, rows: Rows, fps: float, ledger: SkipLedger) -> Bundle:
    source = {"dataset": NAME, "file_name": name}
    if kind == "text":
        return Bundle(Medium(name, "none", source={"dataset": NAME}), _examples(rows, ledger))
    if kind == "image":
        data, size = read_picture(inside(folder / "llava_instruct", name))
        return Bundle(still(name, size, {}, source), _examples(rows, ledger), (data,))
    clip = read_clip(folder / "videogpt_plus", name, fps, ledger)
    width, height = image_size(clip.frames[0])
    return Bundle(Medium(name, "frames", width, height, clip.times, clip.duration_s, source=source), _examples(rows, ledger),
                  clip.frames)


def _examples(rows: Sequence[tuple[int, Mapping[str, Any]]], ledger: SkipLedger) -> tuple[Example, ...]:
    examples = []
    for number, row in rows:
        with ledger.catching(NAME, f"row {number}"):
            examples.append(Example(f"row_{number}", "chat", turns=read_turns(field(row, "conversations", list), ledger),
                                    source={"id": row.get("id")}))
    return tuple(examples)
