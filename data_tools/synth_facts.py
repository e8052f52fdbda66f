"""What can be seen in a synthetic clip: when each object is visible, how it comes and goes, where it is, what it hits.

Everything is read off the exact masks, so times in questions and masks cannot disagree. A visible run starts at its first visible
frame and ends where the next frame starts (or the clip ends). Words for positions and times live here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.synth_config import SynthConfig
from data_tools.synth_render import Footprint
from data_tools.synth_scene import SIDES, Actor, Scene
from unipixel.sample import Segment

PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom", "middle": "in the middle"}
MARGIN_S = 0.5
"""Events closer than this have no clear order."""
_SHORTEST_RUN_S = 0.5
_TURN_DEG = 50.0
"""A bounce that changes the direction by less is not called turning around."""


@dataclass(frozen=True)
class Life:
    """What is seen of one object.

    Attributes:
        runs: visible intervals in seconds, not rounded, in order.
        starts, ends: per run, how it begins and ends: ``clip`` (border of the clip), an edge, ``wall`` or ``other``.
        first_place, last_place: key of :data:`PLACES` for the visible part in the first and the last visible frame, None if between.
        area: (T,) visible share of the whole object.
    """

    actor: Actor
    runs: tuple[Segment, ...]
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    first_place: str | None
    last_place: str | None
    area: np.ndarray

    @property
    def name(self) -> str:
        return self.actor.name

    @property
    def appears_s(self) -> float:
        return self.runs[0][0]

    @property
    def leaves_s(self) -> float | None:
        """When it leaves through an edge for good, None when it does not."""
        return self.runs[-1][1] if self.ends[-1] in SIDES else None


@dataclass(frozen=True)
class Hit:
    """``oid`` touches ``against`` (an edge or another object); ``turns`` when it clearly turns around there."""

    time_s: float
    oid: str
    against: str
    turns: bool
    clear: bool
    """The objects involved are almost fully visible at that moment."""


@dataclass(frozen=True)
class Facts:
    scene: Scene
    lives: dict[str, Life]
    hits: tuple[Hit, ...]

    @property
    def names(self) -> list[str]:
        return [life.name for life in self.lives.values()]

    def hits_of(self, oid: str) -> list[Hit]:
        return [hit for hit in self.hits if hit.oid == oid]


def observe(scene: Scene, masks: dict[str, np.ndarray], prints: dict[str, Footprint]) -> Facts:
    """``masks`` (T, H, W) and ``prints`` per object, as :func:`data_tools.synth_render.visible_masks` gives them."""
    lives = {}
    for actor in scene.actors:
        lives[actor.oid] = _life(scene, actor, masks[actor.oid], prints[actor.oid].whole)
    hits = []
    for bounce in scene.bounces:
        frame = int(np.abs(scene.times - bounce.time_s).argmin())
        seen = min(lives[oid].area[frame] for oid in (bounce.oid, bounce.against) if oid in lives)
        turns = bounce.turn_deg >= _TURN_DEG
        hits.append(Hit(bounce.time_s, bounce.oid, bounce.against, turns, bool(seen > 0.7)))
    return Facts(scene, lives, tuple(hits))


def _life(scene: Scene, actor: Actor, mask: np.ndarray, whole: int) -> Life:
    pixels = mask.sum(axis=(1, 2))
    seen = np.concatenate([[False], pixels > 0, [False]])
    first, after = np.flatnonzero(~seen[:-1] & seen[1:]), np.flatnonzero(seen[:-1] & ~seen[1:])
    borders = np.append(scene.times, scene.duration_s)
    centres = actor.at(scene.times)
    starts = tuple("clip" if f == 0 else _whereabouts(scene, centres[f - 1]) for f in first)
    ends = tuple("clip" if a == len(pixels) else _whereabouts(scene, centres[a]) for a in after)
    places = [_place(scene, mask[f]) for f in (first[0], after[-1] - 1)] if len(first) else [None, None]
    runs = tuple((float(borders[f]), float(borders[a])) for f, a in zip(first, after))
    return Life(actor, runs, starts, ends, places[0], places[1], pixels / max(whole, 1))


def _whereabouts(scene: Scene, centre: np.ndarray) -> str:
    """Why an object with this centre cannot be seen."""
    x, y = centre
    outside = [side for side, far in zip(SIDES, (-x, x - scene.width, -y, y - scene.height)) if far > 0]
    if len(outside) == 1:
        return outside[0]
    if not outside and scene.wall is not None and scene.wall[0] < x < scene.wall[1]:
        return "wall"
    return "other"


def _place(scene: Scene, mask: np.ndarray) -> str | None:
    """Where the visible pixels (H, W) lie, or None when that could be called two things."""
    y, x = (axis.mean() + 0.5 for axis in np.nonzero(mask))
    u, v = 2 * x / scene.width - 1, 2 * y / scene.height - 1
    if max(abs(u), abs(v)) < 0.3:
        return "middle"
    if max(abs(u), abs(v)) < 0.5 or abs(abs(u) - abs(v)) < 0.2:
        return None
    return ("right" if u > 0 else "left") if abs(u) > abs(v) else ("bottom" if v > 0 else "top")


def acceptable(facts: Facts, config: SynthConfig) -> bool:
    """Clips must be clear (no flicker, every object well seen) and must have some temporal structure."""
    whole_clip = 0
    for life in facts.lives.values():
        if sum(e - s for s, e in life.runs) < config.min_visible_s or min(e - s for s, e in life.runs) < _SHORTEST_RUN_S:
            return False
        if any(b[0] - a[1] < _SHORTEST_RUN_S for a, b in zip(life.runs, life.runs[1:])) or "other" in life.starts + life.ends:
            return False
        if np.mean(life.area > 0.8) * facts.scene.duration_s < _SHORTEST_RUN_S:
            return False
        whole_clip += life.runs == ((0.0, facts.scene.duration_s),)
    return whole_clip < len(facts.lives)


# --- times -----------------------------------------------------------------------------------------------------------------------

def rounded(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """To 0.1 s."""
    return tuple((round(s, 1), round(e, 1)) for s, e in segments)


def union(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Sorted, with overlapping and touching ones joined."""
    joined: list[Segment] = []
    for start, end in sorted(segments):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def tiou(a: Sequence[Segment], b: Sequence[Segment]) -> float:
    """Intersection over union of two sets of disjoint intervals."""
    shared = sum(max(0.0, min(e, f) - max(s, t)) for s, e in a for t, f in b)
    total = sum(e - s for s, e in a) + sum(e - s for s, e in b) - shared
    return shared / total if total else 0.0


def window(time_s: float, config: SynthConfig) -> tuple[Segment, ...]:
    """Evidence of an event: both ends on the grid of ``time_step_s``, clipped to the clip."""
    start, end = (round((time_s + reach) / config.time_step_s) * config.time_step_s for reach in (-config.event_window_s, config.event_window_s))
    return ((max(0.0, start), min(config.duration_s, end)),)


def clock_step(config: SynthConfig) -> float:
    """Distance in seconds of the times that questions offer: whole or half seconds where the clip is long enough for five of them."""
    return next((step for step in (1.0, 0.5) if config.duration_s >= 6 * step), int(config.duration_s / 6 * 10) / 10)


def clock_times(config: SynthConfig) -> list[float]:
    """The times that a question about "when" can offer; at least five."""
    step = clock_step(config)
    return [round(k * step, 1) for k in range(1, int((config.duration_s - step / 2) / step) + 1)]


def say_time(time_s: float) -> str:
    """"at the start", "at 0.8 seconds", "at 1 second", "at 3 seconds"."""
    if time_s == 0:
        return "at the start"
    return f"at {time_s:g} second" + ("" if time_s == 1 else "s")
