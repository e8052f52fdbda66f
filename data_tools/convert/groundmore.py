"""GroundMoRe as released: motion questions with a spoken answer and the objects that it is about.

``trainval_v2.json`` and ``test_v2.json``; per clip ``annotations/<clip>/images/*.jpg`` at 6 per second and palette PNGs in ``masks/`` for
some of them, matched by the number in the name. The clip's name ends with its start and end in the film (``MMSS_MMSS``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.base import Bundle, field, file_number, inside, listed_videos, one_of
from data_tools.convert.masks import read_labels
from data_tools.convert.referring import MAX_FRAMES, TRAIN, Clip, Expression, check_length, check_rate, referring_bundle
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import SampleError
from unipixel.sample import Entry, encode_mask

NAME = "groundmore"
FILES = {"train": "trainval_v2.json", "test": "test_v2.json"}
CLOCK = re.compile(r"(\d{1,2}):(\d\d)")
WINDOW = re.compile(r".*_(\d\d)(\d\d)_(\d\d)(\d\d)")


def convert(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = MAX_FRAMES) -> Iterator[Bundle]:
    """GroundMoRe (trainval_v2.json, test_v2.json, annotations/<clip>/images and masks).

    Training clips hold the frames that have a mask PNG, test clips all frames; a frame without one is not annotated.
    """
    check_rate(fps)
    for name, raw in listed_videos(folder / FILES[one_of("split", split, FILES)]).items():
        questions = raw.get("questions") or {}
        with ledger.catching(NAME, name, examples=len(questions)):
            yield _bundle(folder / "annotations", split, name, questions, fps, max_frames, ledger)


def _bundle(root: Path, split: str, name: str, questions: Mapping[str, Any], fps: float, max_frames: int, ledger: SkipLedger) -> Bundle:
    images, masks = (_numbered(inside(root, name) / kind, pattern) for kind, pattern in (("images", "*.jpg"), ("masks", "*.png")))
    numbers = sorted(masks if split == TRAIN else images)
    if not numbers:
        raise SampleError(f"no pictures{' with masks' if split == TRAIN else ''} in {root / name}", reason="no_frames")
    absent = sorted(set(masks) - set(images))
    if absent:
        raise SampleError(f"masks of the frames {absent[:5]}, which have no picture", reason="mask_frame")
    check_length(len(numbers), split, max_frames)
    window = WINDOW.fullmatch(name)
    start, end = (_seconds(*window.groups()[i:i + 2]) for i in (0, 2)) if window else (0.0, 0.0)
    said = []
    for key, raw in questions.items():
        with ledger.catching(NAME, f"{name}_{key}"):
            said.append(_expression(f"{name}_{key}", raw, start if window else None))
    times = tuple(n / fps for n in numbers)
    clip = Clip(name, read_frames([images[n] for n in numbers]), times, max(times[-1] + 1 / fps, end - start), said,
                {"frame_numbers": numbers, "clip_in_film_s": [start, end] if window else None})
    return referring_bundle(NAME, split, clip, partial(_entries, masks, numbers), ledger)


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if found.setdefault(number := file_number(path), path) != path:
            raise SampleError(f"{found[number].name} and {path.name} have the same number", reason="bad_name")
    return found


def _expression(example_id: str, raw: Mapping[str, Any], clip_start: float | None) -> Expression:
    """``obj_id`` is one number or several ("1, 2"); the action's times are counted from the start of the clip."""
    question, answer, ids = (field(raw, name, str).strip() for name in ("question", "answer", "obj_id"))
    oids = tuple(dict.fromkeys(part.strip() for part in ids.split(",")))
    if not all(oid.isdecimal() for oid in oids):
        raise SampleError(f"obj_id {ids!r} is not a list of numbers", reason="object_id")
    clocks = {name: raw.get(name) for name in ("action_start", "action_end")}
    matches = [CLOCK.fullmatch(str(clock).strip()) for clock in clocks.values()]
    action = [_seconds(*m.groups()) - clip_start for m in matches] if clip_start is not None and all(matches) else None
    return Expression(example_id, question if question.endswith("?") else question + "?", oids, "question", answer, str(raw.get("q_type")),
                      {"obj_id": ids, **clocks, "action_s": action})


def _seconds(minutes: str, seconds: str) -> float:
    return 60.0 * int(minutes) + int(seconds)


def _entries(masks: Mapping[int, Path], numbers: list[int], oid: str, size: tuple[int, int]) -> list[Entry]:
    return [encode_mask(np.equal(read_labels(masks[n], size), int(oid))) if n in masks else None for n in numbers]
