"""Preference pairs of the synthetic world: a right reply against one that is wrong in exactly one named way.

A reply is "Answer: X." plus, for the modes that are about place or order, one more sentence that is true on the chosen side.
Time and mask evidence is not repeated in the words, so that each pair differs in words, in segments or in objects, never in two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_tools.synth_config import SynthConfig
from data_tools.synth_facts import MARGIN_S, PLACES, Facts, rounded, tiou
from data_tools.synth_questions import Draft
from unipixel.sample import PreferencePair, Segment

TEMPORAL_TIOU = 0.3
"""A wrong segment overlaps the right one by at most this."""
Sides = dict[str, tuple]
"""The fields in which the rejected side differs, as (chosen, rejected)."""


def _answer(text: str) -> str:
    return f"Answer: {text}."


def _correctness(draft: Draft, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Sides | None:
    """Another option; a wrong place is a spatial failure and is left to that mode."""
    if draft.kind == "where":
        return None
    return {"text": (_answer(draft.answer), _answer(draft.wrong[rng.integers(4)]))}


def _spatial(draft: Draft, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Sides | None:
    """Another place for the object."""
    if draft.kind == "where":
        return {"text": (_answer(draft.answer), _answer(draft.wrong[rng.integers(4)]))}
    life = facts.lives[draft.oids[0]]
    if life.first_place is None:
        return None
    wrong = [place for place in PLACES if place != life.first_place]
    sides = (life.first_place, wrong[rng.integers(len(wrong))])
    return {"text": tuple(f"{_answer(draft.answer)} The {life.name} first appears {PLACES[place]}." for place in sides)}


def _cross_frame(draft: Draft, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Sides | None:
    """Two objects trade places in the order of events; one of them is an object of the question."""
    lives = facts.lives.items()
    ordered = [(a.name, b.name) for i, a in lives for j, b in lives if b.appears_s - a.appears_s >= MARGIN_S and {i, j} & {*draft.oids}]
    if not ordered:
        return None
    early, late = ordered[rng.integers(len(ordered))]
    return {"text": tuple(f"{_answer(draft.answer)} The {a} appears before the {b}." for a, b in ((early, late), (late, early)))}


def _temporal(draft: Draft, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Sides | None:
    """The same segments at another time of the clip."""
    shifts = rng.permutation(np.concatenate([np.arange(0.5, config.duration_s, 0.1), -np.arange(0.5, config.duration_s, 0.1)]))
    truth = rounded(draft.segments)
    for shift in shifts:
        moved = _shift(draft.segments, float(shift), config.duration_s)
        if moved and tiou(moved, truth) <= TEMPORAL_TIOU:
            return {"segments": (truth, moved)}
    return None


def _shift(segments: tuple[Segment, ...], by: float, duration: float) -> tuple[Segment, ...]:
    """What is left inside the clip after moving; parts shorter than half a second are dropped."""
    moved = ((max(0.0, s + by), min(duration, e + by)) for s, e in segments)
    return rounded([(s, e) for s, e in moved if e - s >= 0.5])


def _evidence(draft: Draft, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Sides | None:
    """The mask of another object."""
    others = [oid for oid in facts.lives if oid not in draft.oids]
    return {"objects": (draft.oids, (others[rng.integers(len(others))],))} if others else None


_MODES: dict[str, Callable[..., Sides | None]] = {"correctness": _correctness, "spatial": _spatial, "cross_frame": _cross_frame,
                                                  "temporal": _temporal, "evidence": _evidence}


def make_pairs(draft: Draft, facts: Facts, example_id: str, config: SynthConfig, rng: np.random.Generator) -> tuple[PreferencePair, ...]:
    """Up to ``pairs_per_question`` pairs of different modes, out of those that the clip allows."""
    pairs: list[PreferencePair] = []
    for mode in rng.permutation(list(_MODES)):
        if len(pairs) == config.pairs_per_question:
            break
        sides = _MODES[mode](draft, facts, config, rng)
        if sides is None:
            continue
        same = {"text": (_answer(draft.answer),) * 2, "segments": (rounded(draft.segments),) * 2, "objects": (draft.oids,) * 2}
        both = {**same, **sides}
        pairs.append(PreferencePair(
            f"{example_id}_{mode}", both["text"][0], both["text"][1], str(mode), chosen_segments=both["segments"][0],
            rejected_segments=both["segments"][1], chosen_objects=both["objects"][0], rejected_objects=both["objects"][1],
            origin={"generator": "synth"}))
    return tuple(pairs)
