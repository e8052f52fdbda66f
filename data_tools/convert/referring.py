"""Referring expressions over a video -> bundle: what the converters of the segmentation sets share.

A converter says which frames a video has, what is said about it (:class:`Expression`) and how the masks of one object are read; here
tracks are read once per object, expressions become ``refer`` examples whose target is the union of their objects, and what cannot be
used is listed. Training splits leave out what has nothing to learn from; evaluation splits keep it, because it counts in a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, image_size, inside, left_out
from data_tools.convert.masks import nested_entry
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Entry, Example, Form, MaskTrack, Medium, SceneObject

TRAIN = "train"
MAX_FRAMES = 500
"""Longest training video in listed frames, as the published mixture has it."""

ReadTrack = Callable[[str, tuple[int, int]], Sequence[Entry]]
"""(object id, (H, W) of the frames) -> one entry per listed frame."""


@dataclass(frozen=True)
class Expression:
    """Something that is said about objects of a video; fields as in ``unipixel.sample.Example``."""

    example_id: str
    text: str
    oids: tuple[str, ...]
    form: Form = "query"
    answer: str = ""
    question_type: str = "other"
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Clip:
    """A video with its frames as bytes and their times in seconds."""

    name: str
    frames: tuple[bytes, ...]
    times: tuple[float, ...]
    duration_s: float
    expressions: Sequence[Expression]
    source: Mapping[str, Any] = field(default_factory=dict)


def at_rate(count: int, fps: float) -> tuple[tuple[float, ...], float]:
    """(times, duration) in seconds of ``count`` frames that are listed without times."""
    return tuple(t / fps for t in range(count)), count / fps


def check_rate(fps: float) -> None:
    if fps <= 0:
        raise ConfigError(f"--set fps={fps} must be positive")


def listed_frames(folder: Path, video: str, names: Sequence[str]) -> tuple[bytes, ...]:
    """Bytes of ``folder/video/<name>.jpg`` for every listed name."""
    root = inside(folder, video)
    frames = read_frames([inside(root, f"{name}.jpg") for name in names])
    if not frames:
        raise SampleError("no frames are listed", reason="no_frames")
    return frames


def check_length(count: int, split: str, max_frames: int) -> None:
    """The filter on long training videos; evaluation is never filtered."""
    if split == TRAIN and 0 < max_frames < count:
        raise left_out("frames", f"{count} listed frames are more than max_frames={max_frames}")


def dense_entries(masks: Any, key: str, count: int, size: tuple[int, int], ledger: SkipLedger, window: slice | None = None
                  ) -> tuple[Entry, ...]:
    """Entries of ``masks[key]``, a list with one mask for each of ``count`` listed frames; ``window`` keeps a part of them."""
    if key not in masks:
        raise SampleError(f"there are no masks under {key!r}", reason="mask_missing")
    if len(masks[key]) != count:
        raise SampleError(f"{len(masks[key])} masks under {key!r} for {count} frames", reason="mask_count")
    return tuple(nested_entry(raw, size, ledger) for raw in masks[key][window or slice(None)])


def by_annotation(masks: Any, count: int, ledger: SkipLedger, window: slice | None = None) -> ReadTrack:
    """Reader of a mask dictionary whose keys are annotation ids; the object ids are ``a<annotation>``."""
    return lambda oid, size: dense_entries(masks, oid.removeprefix("a"), count, size, ledger, window)


def no_public_masks(dataset: str, split: str, videos: Mapping[str, Mapping[str, Any]], path: Path) -> DataError:
    """The error for a split whose masks only the benchmark's server has: an example without its truth is not invented."""
    expressions = sum(len(v.get("expressions", ())) for v in videos.values())
    return DataError(f"split {split!r} of {dataset} lists {len(videos)} videos with {expressions} expressions, but there is no {path}: its "
                     "masks are not public, so there is nothing to train on or to score here; to predict for its server, set server=true")


def referring_bundle(dataset: str, split: str, clip: Clip, read_track: ReadTrack, ledger: SkipLedger) -> Bundle:
    """One bundle with an example per usable expression; an object is named by the first noun phrase that means it alone."""
    width, height = image_size(clip.frames[0])
    objects: dict[str, SceneObject] = {}
    examples = []
    for said in clip.expressions:
        with ledger.catching(dataset, said.example_id):
            example = Example(said.example_id, "refer", said.text, answer=said.answer, targets=(said.oids,), question_type=said.question_type,
                              source=said.source, form=said.form)
            if not said.oids and split == TRAIN:
                raise left_out("no_objects", "the expression means no object")
            found = {o: objects.get(o) or SceneObject(o, "", MaskTrack((height, width), tuple(read_track(o, (height, width)))))
                     for o in said.oids}
            if split == TRAIN and not any(obj.track.visible.any() for obj in found.values()):
                raise SampleError(f"the objects {list(said.oids)} are visible in no frame", reason="masks_empty")
            if len(said.oids) == 1 and said.form in ("query", "description"):
                found = {o: obj if obj.expression else replace(obj, expression=said.text) for o, obj in found.items()}
            objects.update(found)
            examples.append(example)
    medium = Medium(clip.name, "frames", width, height, clip.times, clip.duration_s, objects, source={"dataset": dataset, **clip.source})
    return Bundle(medium, tuple(examples), clip.frames)


def untold_bundle(dataset: str, clip: Clip) -> Bundle:
    """One bundle of expressions whose masks only the benchmark's server has: examples without targets, to predict and to export."""
    width, height = image_size(clip.frames[0])
    examples = tuple(Example(said.example_id, "refer", said.text, question_type=said.question_type, source=said.source, form=said.form)
                     for said in clip.expressions)
    medium = Medium(clip.name, "frames", width, height, clip.times, clip.duration_s, source={"dataset": dataset, **clip.source})
    return Bundle(medium, examples, clip.frames)


def distinct(ids: Iterable[Any], prefix: str = "") -> tuple[str, ...]:
    """Object ids as text, each once, in their order."""
    return tuple(dict.fromkeys(f"{prefix}{i}" for i in ids))
