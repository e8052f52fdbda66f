"""From referring expressions to masks: the second step of models that cannot draw.

A segmenter is an interface; ours asks a grounded model. Masks are on all frames of the medium; ``frames`` limits only what its language model
sees, and is one of a step, a rate or a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from benchmarks.adapters.grounded import GroundedAdapter
from benchmarks.protocol import Protocol as Rules
from unipixel.errors import ConfigError
from unipixel.sample import Entry, Example, Medium, Sample

Grouping = Literal["separate", "concat", "both"]
Track = Mapping[int, Entry]


class Segmenter(Protocol):
    identity: Mapping[str, Any]

    def segment(self, sample: Sample, expressions: Sequence[str], *, careful: bool = False) -> list[Track]:
        """Mask tracks of what the expressions mean: frame position -> mask entry, in the size of the medium."""


@dataclass(frozen=True, kw_only=True)
class SegmenterFrames:
    """Frames that the segmenter's language model sees, spread evenly; at most one of the settings is given, else 1 per second."""

    every_n_frames: int = 0
    target_fps: float = 0.0
    frame_num: int = 0

    def __post_init__(self):
        given = [name for name, value in vars(self).items() if value]
        if len(given) > 1 or any(value < 0 for value in vars(self).values()):
            raise ConfigError(f"segmenter frames {given}: give one of every_n_frames, target_fps and frame_num, not negative")

    def count(self, medium: Medium) -> int:
        total = len(medium.frame_times)
        if self.frame_num:
            return min(total, self.frame_num)
        if self.every_n_frames:
            return math.ceil(total / self.every_n_frames)
        return max(1, min(total, math.ceil(medium.duration_s * (self.target_fps or 1.0))))


class GroundedSegmenter:
    """
    Args:
        grouping: one pass per expression, all expressions in one sentence, or both; the masks are united when they are scored.
    """

    def __init__(self, model: GroundedAdapter, grouping: Grouping = "separate", frames: SegmenterFrames = SegmenterFrames()):
        self.model, self.grouping, self.frames = model, grouping, frames
        self.identity = {"segmenter": dict(model.identity), "grouping": grouping, "frames": vars(frames)}

    def segment(self, sample: Sample, expressions: Sequence[str], *, careful: bool = False) -> list[Track]:
        wanted = list(expressions) if self.grouping != "concat" else []
        if self.grouping == "concat" or (self.grouping == "both" and len(expressions) > 1):
            wanted.append(joined(expressions))
        examples = tuple(Example(f"expression {n}", "refer", text) for n, text in enumerate(wanted))
        predictor = self.model.predictor_for(sample, Rules(frames=self.frames.count(sample.medium)), careful)
        tracks: list[Track] = []
        for prediction in predictor.predict([replace(sample, examples=examples)]):
            tracks += prediction.masks
        return tracks


def joined(expressions: Sequence[str]) -> str:
    """``a, b and c``"""
    return expressions[0] if len(expressions) == 1 else f"{', '.join(expressions[:-1])} and {expressions[-1]}"
