"""Questions of the synthetic world: every clear question a clip allows, and a balanced choice among them.

A builder per question type turns :class:`~data_tools.synth_facts.Facts` into :class:`Draft` s. A draft is left out when the clip
does not settle its answer beyond doubt. The choice first draws the answer it would like, so that common answers are not asked more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.synth_config import COLOURS, NUMBERS, SHAPES, SynthConfig
from data_tools.synth_facts import MARGIN_S, PLACES, Facts, Life, clock_step, clock_times, rounded, say_time, union, window
from data_tools.synth_scene import SIDES
from unipixel.data.template import format_segments
from unipixel.sample import Segment

OPTION_COUNT = 5
_LEAVES = {"left": "it leaves on the left", "right": "it leaves on the right", "top": "it leaves at the top",
           "bottom": "it leaves at the bottom", "wall": "it goes behind the wall"}


@dataclass(frozen=True)
class Draft:
    """A question without ids. ``wrong`` holds at least four wrong options, the ones to use first."""

    kind: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    segments: tuple[Segment, ...]
    oids: tuple[str, ...]
    rationale: str
    goal: str
    """What to balance over: answers that are alike share it."""


def _seen(life: Life) -> str:
    return " and ".join(f"from {s:.1f} to {e:.1f} seconds" for s, e in life.runs)


def _others(words: Sequence[str], extra: Sequence[str], answer: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Wrong words in random order, those in use (``words``) before others."""
    first = [w for w in words if w != answer]
    rest = [w for w in extra if w != answer and w not in words]
    return tuple(str(w) for part in (first, rest) for w in rng.permutation(part))


def _wrong_names(facts: Facts, config: SynthConfig, answer: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Objects of the clip first, then objects that could be in it."""
    every = [f"{colour} {shape}" for colour in config.colours for shape in config.shapes]
    return _others(facts.names, every, answer, rng)


def _what(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    shapes = [life.actor.shape for life in facts.lives.values()]
    for oid, life in facts.lives.items():
        colour, shape = life.actor.colour, life.actor.shape
        rationale = f"The {shape} is {colour} and is visible {_seen(life)}."
        if shapes.count(shape) == 1:
            question = (f"What colour is the {shape}?", f"Which colour does the {shape} have?")[rng.integers(2)]
            yield Draft("what", question, colour, _others(config.colours, list(COLOURS), colour, rng), life.runs, (oid,), rationale, colour)
        if len(config.shapes) == 1:
            continue  # nothing to tell apart
        question = (f"Which shape is {colour}?", f"What shape does the {colour} object have?")[rng.integers(2)]
        yield Draft("what", question, shape, _others(config.shapes, SHAPES, shape, rng), life.runs, (oid,),
                    f"The {colour} object is a {shape} and is visible {_seen(life)}.", shape)


def _where(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    for oid, life in facts.lives.items():
        asked = [(life.first_place, (f"Where is the {life.name} when it first appears?", f"Where does the {life.name} first appear?"),
                  f"The {life.name} first appears {{}} {say_time(round(life.appears_s, 1))}.")]
        if life.ends[-1] == "clip":
            asked.append((life.last_place, (f"Where is the {life.name} at the end?", f"Where does the {life.name} end up?"),
                          f"The {life.name} is {{}} at the end, {say_time(round(life.runs[-1][1], 1))}."))
        for place, wordings, rationale in asked:
            if place is not None:
                yield Draft("where", wordings[rng.integers(2)], PLACES[place], _others(list(PLACES.values()), (), PLACES[place], rng),
                            life.runs, (oid,), rationale.format(PLACES[place]), place)


def _when(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    asked: list[tuple[float, tuple[str, ...], tuple[str, ...], str]] = []
    for oid, life in facts.lives.items():
        if life.starts[0] in SIDES:
            asked.append((life.appears_s, (oid,), (f"When does the {life.name} enter the picture?", f"When does the {life.name} come in?"),
                          f"The {life.name} enters the picture"))
        if life.leaves_s is not None:
            asked.append((life.leaves_s, (oid,), (f"When does the {life.name} leave the picture?", f"When does the {life.name} go out?"),
                          f"The {life.name} leaves the picture"))
        if life.ends.count("wall") == 1:
            asked.append((life.runs[life.ends.index("wall")][1], (oid,), (f"When does the {life.name} go behind the wall?",) * 2,
                          f"The {life.name} is hidden by the wall"))
        for hit in facts.hits_of(oid):
            if hit.clear and hit.against in facts.lives and sum(h.against == hit.against for h in facts.hits_of(oid)) == 1:
                other = facts.lives[hit.against].name
                asked.append((hit.time_s, (oid, hit.against), (f"When does the {life.name} hit the {other}?",) * 2,
                              f"The {life.name} hits the {other}"))
    clock = clock_times(config)
    for time_s, oids, wordings, rationale in asked:
        nearest = min(clock, key=lambda t: abs(t - time_s))
        if abs(nearest - time_s) <= 0.35 * clock_step(config):
            answer = say_time(nearest)
            yield Draft("when", wordings[rng.integers(2)], answer, _others([say_time(t) for t in clock], (), answer, rng),
                        window(time_s, config), oids, f"{rationale} {say_time(round(time_s, 1))}.", answer)


def _order(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    for verb, times in (("appears", {oid: life.appears_s for oid, life in facts.lives.items()}),
                        ("leaves", {oid: life.leaves_s for oid, life in facts.lives.items() if life.leaves_s is not None})):
        ranked = sorted(times, key=times.__getitem__)
        for which, oid, rival in (("first", ranked[0], ranked[1]), ("last", ranked[-1], ranked[-2])) if len(ranked) > 1 else ():
            if abs(times[oid] - times[rival]) >= MARGIN_S:
                name = facts.lives[oid].name
                question = (f"Which object {verb} {which}?", f"Which object is the {which} one that {verb}?")[rng.integers(2)]
                yield Draft("order", question, name, _wrong_names(facts, config, name, rng), window(times[oid], config), (oid,),
                            f"The {name} {verb} {which}, {say_time(round(times[oid], 1))}.", name)


def _count(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    """Asked less often where the number is common, so that every number is the answer equally often."""
    share = config.object_counts
    if rng.random() >= min(share.values()) / share[len(facts.lives)]:
        return
    answer = NUMBERS[len(facts.lives) - 1]
    seen = union([run for life in facts.lives.values() for run in life.runs])
    question = ("How many objects are there in the video?", "How many objects does the video show?")[rng.integers(2)]
    names = " and ".join(f"the {name}" for name in facts.names)
    yield Draft("count", question, answer, _others(NUMBERS, (), answer, rng), seen, tuple(facts.lives),
                f"Between {seen[0][0]:.1f} and {seen[-1][1]:.1f} seconds the video shows {names}.", answer)


def _why(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Draft]:
    for oid, life in facts.lives.items():
        hits = facts.hits_of(oid)
        if len(hits) == 1 and hits[0].clear and hits[0].turns:
            hit = hits[0]
            edge = hit.against in SIDES
            cause = f"it hits the {hit.against} edge" if edge else f"it hits the {facts.lives[hit.against].name}"
            edges = [f"it hits the {side} edge" for side in rng.permutation(SIDES) if side != hit.against]
            bodies = [f"it hits the {n}" for n in _wrong_names(facts, config, life.name, rng) if edge or n != facts.lives[hit.against].name]
            # always three edges and two objects, so that the options do not give the answer away
            wrong = _others(edges[:2] + bodies[:2] if edge else edges[:3] + bodies[:1], (), cause, rng)
            yield Draft("why", (f"Why does the {life.name} turn around?", f"Why does the {life.name} change direction?")[rng.integers(2)],
                        cause, wrong, window(hit.time_s, config), (oid,) if edge else (oid, hit.against),
                        f"The {life.name} turns around {say_time(round(hit.time_s, 1))} because {cause}.", "edge" if edge else "object")
        gone = [(end, run[1]) for run, end in zip(life.runs, life.ends) if end != "clip"]
        if len(gone) == 1:
            how, time_s = gone[0]
            yield Draft("why", (f"Why does the {life.name} disappear?", f"Why is the {life.name} gone?")[rng.integers(2)], _LEAVES[how],
                        _others(list(_LEAVES.values()), (), _LEAVES[how], rng), window(time_s, config), (oid,),
                        f"The {life.name} disappears {say_time(round(time_s, 1))} because {_LEAVES[how]}.", how)


_BUILDERS: dict[str, Callable[..., Iterator[Draft]]] = {"what": _what, "where": _where, "when": _when, "order": _order, "count": _count,
                                                        "why": _why}


def draft_questions(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> list[Draft]:
    """At most ``questions_per_clip`` drafts, as many types as possible before a type comes twice; no type has two alike answers."""
    left = {kind: list(_BUILDERS[kind](facts, config, rng)) for kind in rng.permutation(config.question_types)}
    chosen: list[Draft] = []
    while len(chosen) < config.questions_per_clip and any(left.values()):
        for kind in [k for k in left if left[k]][:config.questions_per_clip - len(chosen)]:
            goals = sorted({draft.goal for draft in left[kind]})
            goal = goals[rng.integers(len(goals))]
            fitting = [draft for draft in left[kind] if draft.goal == goal]
            draft = fitting[rng.integers(len(fitting))]
            left[kind] = [d for d in left[kind] if d.goal != draft.goal]
            chosen.append(draft)
    return chosen


def place_answer(draft: Draft, position: int) -> tuple[str, ...]:
    """The options, with the answer at ``position``."""
    options = list(draft.wrong[:OPTION_COUNT - 1])
    return (*options[:position], draft.answer, *options[position:])


def draft_references(facts: Facts, config: SynthConfig, rng: np.random.Generator) -> list[tuple[str, str]]:
    """At most ``refers_per_clip`` (expression, oid), one plain name first where possible."""
    shapes = [life.actor.shape for life in facts.lives.values()]
    plain = [(f"the {life.name}", oid) for oid, life in facts.lives.items()]
    other = [(f"the {life.actor.colour} object", oid) for oid, life in facts.lives.items()]
    other += [(f"the {life.actor.shape}", oid) for oid, life in facts.lives.items() if shapes.count(life.actor.shape) == 1]
    for draft in _order(facts, config, rng):
        verb, which = ("appears" if "appears" in draft.question else "leaves"), ("first" if "first" in draft.question else "last")
        other += [(f"the object that {verb} {which}", draft.oids[0])] * 2
    picked: list[tuple[str, str]] = []
    pools = [plain, other]
    for turn in range(config.refers_per_clip):
        pool = [entry for entry in pools[turn % 2] or pools[1 - turn % 2] if entry not in picked]
        if pool:
            picked.append(pool[rng.integers(len(pool))])
    return picked


def narrate(facts: Facts) -> list[tuple[float, str]]:
    """(time, sentence) of everything that happens, in order."""
    told: list[tuple[float, str]] = []
    for oid, life in facts.lives.items():
        for (start, end), begins, ends in zip(life.runs, life.starts, life.ends):
            if begins in SIDES:
                told.append((start, f"The {life.name} comes in {PLACES[begins]}."))
            elif begins == "wall":
                told.append((start, f"The {life.name} comes out from behind the wall."))
            if ends in SIDES:
                told.append((end, f"The {life.name} leaves {PLACES[ends]}."))
            elif ends == "wall":
                told.append((end, f"The {life.name} goes behind the wall."))
        for hit in facts.hits_of(oid):
            if hit.clear and hit.against in SIDES:
                told.append((hit.time_s, f"The {life.name} hits the {hit.against} edge."))
            elif hit.clear and oid < hit.against:
                told.append((hit.time_s, f"The {life.name} hits the {facts.lives[hit.against].name}."))
    return sorted(told)


def describe(facts: Facts) -> str:
    """One sentence per object, in order of appearance (from left to right when they appear together): name, place, visible times, end."""
    def order(life: Life) -> tuple[float, float]:
        return life.appears_s, float(life.actor.at(np.array([life.appears_s]))[0, 0])

    sentences = []
    for life in sorted(facts.lives.values(), key=order):
        place = f" {PLACES[life.first_place]}" if life.first_place else ""
        ending = f" It leaves {PLACES[life.ends[-1]]}." if life.leaves_s is not None else ""
        sentences.append(f"A {life.name}{place}, seen in {format_segments(rounded(life.runs))}.{ending}")
    return " ".join(sentences)
