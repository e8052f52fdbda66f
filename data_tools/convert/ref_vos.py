"""Ref-YouTube-VOS and Ref-DAVIS17 as released: expression files, and masks in a pickle under a running number.

The number of an expression is its place when videos and expression ids are both sorted as text ("10" before "2"). Releases and loaders
disagree about that order, and a wrong one gives silently the masks of other objects, so every object's mask is compared with the palette
PNG of the dataset, and expressions of one object must have one mask; a difference ends the conversion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.base import Bundle, inside, listed_videos, one_of
from data_tools.convert.base import field as field_of
from data_tools.convert.masks import read_labels
from data_tools.convert.referring import (
    MAX_FRAMES,
    Clip,
    Expression,
    ReadTrack,
    at_rate,
    check_length,
    check_rate,
    dense_entries,
    listed_frames,
    no_public_masks,
    referring_bundle,
)
from data_tools.convert.rvos import untold
from data_tools.convert.safe_pickle import load_pickle
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import Entry, decode_entry

SPLITS = ("train", "valid", "test")
SAME_IOU = 0.9
"""Masks of one object agree at least this well: the pickle and the PNGs may differ at the border, other objects differ everywhere."""
VOICES = tuple((annotator, view) for annotator in (1, 2) for view in ("first_frame", "full_video"))
"""Who wrote the expressions of a Ref-DAVIS17 object, in their order, and what they had seen."""


@dataclass
class Source:
    """One split of one of the two sets; ``palettes`` are folders that may hold ``<video>/<frame>.png``."""

    name: str
    split: str
    videos: Mapping[str, Mapping[str, Any]]
    masks: Mapping[str, Sequence]
    frames: Path
    palettes: Sequence[Path]
    verify: bool
    ledger: SkipLedger
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self):
        numbers = count()
        self.numbers = {(video, key): str(next(numbers)) for video in sorted(self.videos) for key in sorted(_said(self.videos[video]))}
        if not isinstance(self.masks, Mapping):
            raise DataError(f"the mask pickle of {self.name} holds a {type(self.masks).__name__}, expected a dictionary")
        if len(self.masks) != len(self.numbers):
            raise DataError(f"the mask pickle of {self.name} holds {len(self.masks)} entries for {len(self.numbers)} expressions of split "
                            f"{self.split!r}: it belongs to another release or split")


def youtube(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = MAX_FRAMES, verify: bool = True,
            server: bool = False) -> Iterator[Bundle]:
    """Ref-YouTube-VOS (meta_expressions/<split>/, mask_dict.pkl, <split>/JPEGImages; only train has public masks)."""
    videos = _videos(folder, split)
    masks = folder / "mask_dict.pkl" if split == "train" else folder / split / "mask_dict.pkl"
    root = folder / split
    if server:
        yield from untold("ref_youtube_vos", videos, partial(listed_frames, root / "JPEGImages"), ledger, fps)
        return
    yield from _bundles("ref_youtube_vos", split, videos, masks, root / "JPEGImages", [root / "Annotations"], ledger, fps, max_frames, verify)


def davis(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 24.0, max_frames: int = MAX_FRAMES, verify: bool = True
          ) -> Iterator[Bundle]:
    """Ref-DAVIS17 (meta_expressions/<split>/, <split>/mask_dict.pkl, DAVIS/JPEGImages/480p)."""
    videos, root = _videos(folder, split), folder / "DAVIS"
    palettes = [root / "Annotations" / "480p", root / "Annotations_unsupervised" / "480p", folder / split / "Annotations"]
    yield from _bundles("ref_davis17", split, videos, folder / split / "mask_dict.pkl", root / "JPEGImages" / "480p", palettes, ledger, fps,
                        max_frames, verify)


def _videos(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Videos of a split; the released ``valid`` file may list those of ``test`` too, which are taken out."""
    root = folder / "meta_expressions"
    videos = listed_videos(root / one_of("split", split, SPLITS) / "meta_expressions.json")
    test = root / "test" / "meta_expressions.json"
    if split == "valid" and test.is_file():
        hidden = listed_videos(test)
        videos = {name: video for name, video in videos.items() if name not in hidden}
    return videos


def _bundles(name: str, split: str, videos: dict, masks: Path, frames: Path, palettes: Sequence[Path], ledger: SkipLedger, fps: float,
             max_frames: int, verify: bool) -> Iterator[Bundle]:
    check_rate(fps)
    if not masks.is_file():
        raise no_public_masks(name, split, videos, masks)
    source = Source(name, split, videos, load_pickle(masks), frames, palettes, verify, ledger)
    for video, raw in videos.items():
        with ledger.catching(name, video, examples=len(_said(raw))):
            names = field_of(raw, "frames", list)
            check_length(len(names), split, max_frames)
            pictures = listed_frames(frames, video, names)
            said = _expressions(source, video)
            clip = Clip(video, pictures, *at_rate(len(names), fps), said, {"frames": names})
            yield referring_bundle(name, split, clip, _reader(source, video, names, said), ledger)


def _expressions(source: Source, video: str) -> list[Expression]:
    """One object of the medium per ``obj_id``; Ref-DAVIS17 tells in their order who wrote them.

    An expression without ``obj_id``, or without any mask (Ref-DAVIS17 has five), has an object of its own.
    """
    said: list[Expression] = []
    voices: dict[str, Iterator[int]] = {}
    for key, raw in _said(source.videos[video]).items():
        with source.ledger.catching(source.name, f"{video}_{key}"):
            number, obj = source.numbers[video, key], raw.get("obj_id")
            facts = {"obj_id": obj, "pickle_index": number}
            if source.name == "ref_davis17" and obj is not None:
                annotator, view = VOICES[next(voices.setdefault(obj, count())) % len(VOICES)]
                facts |= {"annotator": annotator, "seen": view}
            oid = f"e{number}" if obj is None or not _shown(source.masks.get(number)) else f"o{obj}"
            said.append(Expression(f"{video}_{key}", field_of(raw, "exp", str).strip(), (oid,), source=facts))
    return said


def _said(video: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return video.get("expressions") or {}


def _shown(masks: Sequence | None) -> bool:
    return any(mask is not None for mask in masks or ())


def _reader(source: Source, video: str, names: Sequence[str], said: Sequence[Expression]) -> ReadTrack:
    """Reads the masks of an object from the pickle and verifies them; a contradiction is a :class:`DataError`, which ends the pack."""
    numbers: dict[str, list[str]] = {}
    for one in said:
        numbers.setdefault(one.oids[0], []).append(one.source["pickle_index"])
    files = {t: path for t, name in enumerate(names) for root in source.palettes if (path := inside(root, f"{video}/{name}.png")).is_file()}

    def read(oid: str, size: tuple[int, int]) -> tuple[Entry, ...]:
        first, *others = (dense_entries(source.masks, number, len(names), size, source.ledger) for number in numbers[oid])
        visible = [t for t, entry in enumerate(first) if entry]
        if not visible:
            return first
        mask = decode_entry(first[visible[0]], size)
        for number, other in zip(numbers[oid][1:], others, strict=True):
            if not other[visible[0]] or _iou(mask, decode_entry(other[visible[0]], size)) < SAME_IOU:
                raise _contradiction(source, video, oid, f"the masks {numbers[oid][0]} and {number} differ, both should be this object's")
        if source.verify:
            t = next((t for t in visible if t in files), None)
            if t is None or oid.startswith("e"):
                raise _unverifiable(source, video, no_png=t is None)
            if _iou(decode_entry(first[t], size), read_labels(files[t], size) == _palette_value(oid)) < SAME_IOU:
                raise _contradiction(source, video, oid, f"mask {numbers[oid][0]} is not what {files[t]} shows under that number")
        return first

    return read


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return 1.0 if union == 0 else float((a & b).sum() / union)


def _palette_value(oid: str) -> int:
    try:
        return int(oid[1:])
    except ValueError:
        raise SampleError(f"obj_id {oid[1:]!r} is not a number", reason="object_id") from None


def _unverifiable(source: Source, video: str, no_png: bool) -> DataError:
    why = f"no palette PNG in {[str(p) for p in source.palettes]}" if no_png else "its expressions have no obj_id"
    return DataError(f"{source.name}: the masks of video {video!r} cannot be verified: {why}. Unpack the PNGs, or accept the numbering "
                     "unverified with --set verify=false")


def _contradiction(source: Source, video: str, oid: str, what: str) -> DataError:
    return DataError(f"{source.name}, video {video!r}, object {oid[1:]}: {what}. The pickle is numbered in another order than sorted videos "
                     "and text-sorted expression ids, so other masks may be wrong too; nothing was packed")
