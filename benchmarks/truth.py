"""What is true of one example, as every task scores it, and how it comes out of packed shards.

A truth holds no pictures: masks are run lengths, so that a whole benchmark fits into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from unipixel.sample import EMPTY, Entry, Example, MaskTrack, Medium, Sample, Segment


@dataclass(frozen=True)
class GroundTruth:
    """What is true of one example.

    Attributes:
        options: candidate answers; empty for an open question.
        segments: seconds; ``None`` when time was not annotated, ``()`` when there is no evidence in time.
        size: (H, W) of the masks in pixels, ``None`` without masks.
        evidence: frame position -> union of the evidence objects, as (H, W) bool or as compressed COCO counts (``""``: not visible).
        unlisted_frames: what a frame absent from ``evidence`` is: not annotated and never scored, or known to be empty.
        duration_s: length of the medium; 0 when unknown.
        facts: what a single task needs besides: kinds for its groups, further masks.
    """

    example_id: str
    medium_id: str
    answer: str
    options: tuple[str, ...] = ()
    segments: tuple[Segment, ...] | None = None
    size: tuple[int, int] | None = None
    frame_times: tuple[float, ...] = ()
    evidence: Mapping[int, Entry | np.ndarray] = field(default_factory=dict)
    question_type: str = "other"
    duration_s: float = 0.0
    unlisted_frames: Literal["unscored", "empty"] = "unscored"
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_samples(shards: str | Sequence[str]) -> Iterator[Sample]:
    """Every bundle of packed datasets with all its examples of one kind."""
    from unipixel.data.shards import ShardDataset  # pyarrow and webdataset are not needed to score a CSV

    dataset = ShardDataset(shards)
    for rows in dataset.groups(max_turns=len(dataset) or 1):
        yield dataset.sample(rows[0], rows)


def truth_of(example: Example, medium: Medium, **changes: Any) -> GroundTruth:
    """Truth of one example; ``changes`` replace fields."""
    size = (medium.height, medium.width) if example.targets else None
    fields = {"options": example.options, "segments": example.segments, "size": size, "frame_times": medium.frame_times,
              "evidence": evidence_union(example, medium), "question_type": example.question_type, "duration_s": medium.duration_s}
    return GroundTruth(example.example_id, medium.medium_id, example.answer, **(fields | changes))


def evidence_union(example: Example, medium: Medium) -> dict[int, Entry]:
    """Frame position -> union of all evidence objects. A frame counts as annotated only when every one of them is annotated there.

    A target that names no object is known to be empty on every frame.
    """
    if example.targets and not any(example.targets):
        return dict.fromkeys(range(len(medium.frame_times)), EMPTY)
    tracks = [medium.objects[oid].track for oid in dict.fromkeys(oid for target in example.targets for oid in target)]
    return tracks_union(tracks, (medium.height, medium.width))


def tracks_union(tracks: Sequence[MaskTrack], size: tuple[int, int]) -> dict[int, Entry]:
    columns = zip(*(track.entries for track in tracks))
    return {frame: union_entry(entries, size) for frame, entries in enumerate(columns) if None not in entries}


def union_entry(entries: Iterable[Entry], size: tuple[int, int]) -> Entry:
    """Union of mask entries of one frame, none of them ``None``."""
    seen = [entry for entry in entries if entry != EMPTY]
    if len(seen) < 2:
        return seen[0] if seen else EMPTY
    return coco_mask.merge([{"size": list(size), "counts": entry.encode("ascii")} for entry in seen])["counts"].decode("ascii")
