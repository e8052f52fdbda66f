"""What is asked about a synthetic clip: answers are right, balanced and backed by the masks; pairs differ in one way only."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from data_tools.synth import SynthConfig, make_clip, plan_clip
from data_tools.synth_config import NUMBERS, QUESTION_TYPES
from data_tools.synth_facts import PLACES, clock_times, say_time, tiou, union, window
from data_tools.synth_questions import draft_references

CONFIG = SynthConfig()
FRAME = 1 / 6


@pytest.fixture(scope="module")
def plans():
    return [plan_clip(CONFIG, "train", index) for index in range(300)]


@pytest.fixture(scope="module")
def asked(plans):
    """[(plan, example)] of all evidence questions."""
    return [(plan, example) for plan in plans for example in plan.examples if example.task == "evidence"]


def visible(plan, oid) -> np.ndarray:
    """(T,) bool from the exact masks."""
    return plan.masks[oid].any(axis=(1, 2))


def of_name(plan, name) -> str:
    return next(oid for oid, life in plan.facts.lives.items() if name in (life.name, f"the {life.name}"))


def subject(plan, example) -> str:
    """The first object that a question names."""
    found = [(example.question.find(life.name), oid) for oid, life in plan.facts.lives.items() if life.name in example.question]
    return min(found)[1]


def test_every_question_is_complete(asked):
    for plan, example in asked:
        assert len(example.options) == 5 == len(set(example.options)) and example.answer in example.options
        assert all(1 <= len(option.split()) <= 5 and option == option.lower() for option in example.options)
        assert example.segments and all(0 <= s < e <= 6.0 and round(s, 1) == s and round(e, 1) == e for s, e in example.segments)
        assert len(example.targets) == 1 and set(example.targets[0]) <= set(plan.facts.lives)
        assert example.question.endswith("?") and example.rationale.endswith(".")
        assert any(life.name in example.rationale or life.actor.shape in example.rationale for life in plan.facts.lives.values())


def test_answers_are_balanced(asked):
    answers = defaultdict(Counter)
    for _, example in asked:
        answers[example.question_type][example.answer] += 1
    assert set(answers) == set(QUESTION_TYPES)
    for kind, counts in answers.items():
        assert counts.total() >= 150, f"{kind} is asked often enough"
        word, times = counts.most_common(1)[0]
        assert times / counts.total() <= 0.35, f"{kind}: {word} is the answer too often"


def test_answer_positions_are_balanced(asked):
    positions = Counter(example.options.index(example.answer) for _, example in asked)
    assert min(positions.values()) / positions.total() > 0.19 and max(positions.values()) / positions.total() < 0.21


def test_options_do_not_tell_the_kind_of_cause(asked):
    """Three edges and two objects, whichever is right."""
    turns = [e for _, e in asked if e.question_type == "why" and any("edge" in o for o in e.options)]
    assert {sum("edge" in o for o in e.options) for e in turns} == {3}
    assert 0.25 < np.mean(["edge" in e.answer for e in turns]) < 0.75


@pytest.mark.parametrize("setting", [{}, {"fps": "24000/1001", "duration_s": 4.0}, {"variable_fps": True}, {"fps": "3"}])
def test_state_segments_are_the_visible_frames(setting):
    """Half a frame after its start, a frame is inside the segments exactly when a mask of the evidence is visible in it."""
    config = SynthConfig(**setting, question_types=["what", "where", "count"])
    checked = 0
    for index in range(12):
        clip = make_clip(config, "train", index)
        borders = np.array([*clip.times, clip.medium.duration_s])
        for example in clip.examples:
            if example.task != "evidence":
                continue
            shown = np.any([clip.medium.objects[oid].track.visible for oid in example.targets[0]], axis=0)
            for (start, end), seen in zip(pairwise(borders), shown, strict=True):
                covered = sum(max(0.0, min(end, f) - max(start, s)) for s, f in example.segments)
                assert abs(covered - (end - start) * seen) <= 0.1 + 1e-9, "segments leave the masks by more than their rounding"
            checked += 1
    assert checked >= 40


def test_what_names_the_look(asked):
    for plan, example in asked:
        if example.question_type != "what":
            continue
        (oid,) = example.targets[0]
        actor = plan.facts.lives[oid].actor
        given, answer = (actor.shape, actor.colour) if "olour" in example.question.split("the")[0] else (actor.colour, actor.shape)
        assert given in example.question and example.answer == answer
        if given == actor.shape:
            assert sum(life.actor.shape == given for life in plan.facts.lives.values()) == 1, "the shape must be unique"


def test_where_agrees_with_the_mask(asked):
    seen = Counter()
    for plan, example in asked:
        if example.question_type != "where":
            continue
        oid = subject(plan, example)
        frames = np.flatnonzero(visible(plan, oid))
        last = "end" in example.question
        assert not last or frames[-1] == 35
        y, x = (axis.mean() for axis in np.nonzero(plan.masks[oid][frames[-1 if last else 0]]))
        u, v = x / 64 - 1, y / 48 - 1
        expected = {"on the left": u < -0.45 and -u > abs(v), "on the right": u > 0.45 and u > abs(v),
                    "at the top": v < -0.45 and -v > abs(u), "at the bottom": v > 0.45 and v > abs(u),
                    "in the middle": max(abs(u), abs(v)) < 0.35}
        assert expected[example.answer], (plan.clip_id, example.question, u, v)
        seen[example.answer] += 1
    assert set(seen) == set(PLACES.values())


def test_when_agrees_with_the_mask(asked):
    seen = Counter()
    for plan, example in asked:
        if example.question_type != "when":
            continue
        oid = subject(plan, example)
        frames = visible(plan, oid)
        changes = np.flatnonzero(np.diff(frames.astype(int))) + 1
        if "hit" in example.question:
            times = [hit.time_s for hit in plan.facts.hits if hit.oid == oid and hit.against in example.targets[0]]
            assert len(times) == 1 and set(example.targets[0]) == {oid, next(o for o in example.targets[0] if o != oid)}
        elif "behind" in example.question:
            times = [t * FRAME for t in changes if not frames[t]]
        elif "leave" in example.question or "go out" in example.question:
            times = [(np.flatnonzero(frames)[-1] + 1) * FRAME]
        else:
            times = [np.flatnonzero(frames)[0] * FRAME]
        (start, end), = example.segments
        said = float(example.answer.split()[1])
        time_s = min(times, key=lambda t: abs(t - said))
        assert abs(time_s - said) <= 0.36
        assert start == round(max(0.0, time_s - 0.75), 1) and end == round(min(6.0, time_s + 0.75), 1)
        seen[example.question.split()[-1]] += 1
    assert len(seen) >= 3


def test_order_agrees_with_the_masks(asked):
    for plan, example in asked:
        if example.question_type != "order":
            continue
        first = {oid: np.flatnonzero(visible(plan, oid))[0] for oid in plan.facts.lives}
        last = {oid: np.flatnonzero(visible(plan, oid))[-1] for oid, life in plan.facts.lives.items() if life.leaves_s is not None}
        times = first if "appears" in example.question else last
        oid = of_name(plan, example.answer)
        best = (min if "first" in example.question else max)(times.values())
        assert [o for o, t in times.items() if t == best] == [oid]
        rivals = [abs(t - best) * FRAME for o, t in times.items() if o != oid]
        assert min(rivals) >= 0.49, "too close to call"
        assert example.targets == ((oid,),)
        assert set(example.options) >= {life.name for life in plan.facts.lives.values()}


def test_count_counts_and_common_numbers_are_asked_less(plans, asked):
    clips, questions = Counter(len(plan.masks) for plan in plans), Counter()
    for plan, example in asked:
        if example.question_type == "count":
            assert example.answer == NUMBERS[len(plan.masks) - 1] and set(example.targets[0]) == set(plan.masks)
            questions[len(plan.masks)] += 1
    shares = {n: questions[n] / clips[n] for n in clips}
    assert shares[1] == shares[4] == 1 and 0.3 < shares[2] < 0.7 and 0.3 < shares[3] < 0.7


def test_why_gives_the_cause(asked):
    causes = Counter()
    for plan, example in asked:
        if example.question_type != "why":
            continue
        oid = subject(plan, example)
        (start, end), = example.segments
        if "hits" in example.answer:
            (hit,) = [h for h in plan.facts.hits if h.oid == oid]
            name = f"{hit.against} edge" if hit.against not in plan.facts.lives else plan.facts.lives[hit.against].name
            assert example.answer == f"it hits the {name}" and start <= hit.time_s <= end
            assert set(example.targets[0]) == {oid, hit.against} & set(plan.masks)
        else:
            frames = visible(plan, oid)
            (gone,) = [t for t in range(1, 36) if frames[t - 1] and not frames[t]]
            columns = np.flatnonzero(plan.masks[oid][gone - 1].any(axis=0))
            rows = np.flatnonzero(plan.masks[oid][gone - 1].any(axis=1))
            wall = plan.facts.scene.wall
            touches = {"it leaves on the left": columns[0] == 0, "it leaves on the right": columns[-1] == 127,
                       "it leaves at the top": rows[0] == 0, "it leaves at the bottom": rows[-1] == 95,
                       "it goes behind the wall": wall and (columns[-1] == wall[0] - 1 or columns[0] == wall[1])}
            assert touches[example.answer], (plan.clip_id, example.question, example.answer)
            assert start <= gone * FRAME <= end
        causes[example.answer.split()[1]] += 1
    assert set(causes) == {"hits", "leaves", "goes"}


def test_only_the_chosen_types_are_asked():
    config = SynthConfig(question_types=["order", "count"], questions_per_clip=2, refers_per_clip=1)
    kinds = Counter(e.question_type for i in range(20) for e in plan_clip(config, "train", i).examples)
    assert set(kinds) == {"order", "count", "refer", "caption"} and kinds["refer"] == kinds["caption"] == 20


def test_caption_names_every_object_in_order_of_appearance():
    for index in range(20):
        plan = plan_clip(CONFIG, "train", index)
        (caption,) = [e for e in plan.examples if e.task == "chat"]
        text, lives = caption.turns[-1].text, plan.facts.lives.values()
        assert all(f"A {life.name}" in text for life in lives)
        starts = [life.appears_s for life in sorted(lives, key=lambda life: text.index(life.name))]
        assert starts == sorted(starts)
    assert not any(e.task == "chat" for e in plan_clip(SynthConfig(captions=False), "train", 0).examples)


def test_one_shape_is_not_asked_for():
    config = SynthConfig(shapes=["circle"], question_types=["what"])
    questions = [e.question for i in range(30) for e in plan_clip(config, "train", i).examples if e.question_type == "what"]
    assert questions and not any("shape" in question for question in questions)


def test_references_point_at_the_object(plans):
    kinds = Counter()
    for plan in plans:
        lives = plan.facts.lives
        for expression, oid in draft_references(plan.facts, SynthConfig(refers_per_clip=4), np.random.default_rng(0)):
            words = expression.split()
            assert words[0] == "the"
            if "that" in words:
                times = {o: life.leaves_s if "leaves" in words else life.appears_s for o, life in lives.items()}
                times = {o: t for o, t in times.items() if t is not None}
                assert oid == (min if "first" in words else max)(times, key=times.__getitem__)
                kinds["relation"] += 1
            else:
                fits = [o for o, life in lives.items() if {*words[1:]} <= {life.actor.colour, life.actor.shape, "object"}]
                assert fits == [oid]
                kinds["look"] += 1
        for example in plan.examples:
            if example.task == "refer":
                assert example.options == () and example.segments is None and len(example.targets[0]) == 1
    assert kinds["relation"] > 100 and kinds["look"] > 100


# --- preference pairs ------------------------------------------------------------------------------------------------------------

def differing(pair) -> set[str]:
    sides = {"text": (pair.chosen, pair.rejected), "segments": (pair.chosen_segments, pair.rejected_segments),
             "objects": (pair.chosen_objects, pair.rejected_objects)}
    return {name for name, (a, b) in sides.items() if a != b}


def test_pairs_differ_in_exactly_the_named_way(asked):
    modes = Counter()
    for plan, example in asked:
        assert len({pair.failure_mode for pair in example.pairs}) == len(example.pairs) <= 2
        for pair in example.pairs:
            assert pair.chosen_segments == example.segments and pair.chosen_objects == example.targets[0]
            assert pair.chosen.startswith(f"Answer: {example.answer}.")
            mode, (changed,) = pair.failure_mode, differing(pair)
            assert changed == {"temporal": "segments", "evidence": "objects"}.get(mode, "text")
            if mode == "temporal":
                assert tiou(pair.chosen_segments, pair.rejected_segments) <= 0.3 and pair.rejected_segments
                assert all(0 <= s < e <= 6.0 for s, e in pair.rejected_segments)
            elif mode == "evidence":
                assert not set(pair.rejected_objects) & set(pair.chosen_objects) and set(pair.rejected_objects) <= set(plan.masks)
            elif mode == "correctness":
                assert example.question_type != "where"
                assert pair.rejected in {f"Answer: {option}." for option in example.options if option != example.answer}
            elif mode == "spatial":
                sides = [next((side.removesuffix(f"{place}."), place) for place in PLACES.values() if side.endswith(f"{place}."))
                         for side in (pair.chosen, pair.rejected)]
                assert sides[0][0] == sides[1][0] and sides[0][1] != sides[1][1], "only the place at the end differs"
            else:
                assert Counter(pair.chosen.rstrip(".").split()) == Counter(pair.rejected.rstrip(".").split()), "same words, other order"
            modes[mode] += 1
    assert set(modes) == {"spatial", "temporal", "cross_frame", "correctness", "evidence"} and min(modes.values()) > 100


def test_extra_sentences_of_chosen_replies_are_true(asked):
    checked = Counter()
    for plan, example in asked:
        for pair in example.pairs:
            _, _, extra = pair.chosen.partition(". ")
            if " first appears " in extra:
                name, place = extra.rstrip(".").split(" first appears ")
                assert PLACES[plan.facts.lives[of_name(plan, name.lower())].first_place] == place
            elif " appears before " in extra:
                early, late = (of_name(plan, name.lower()) for name in extra.rstrip(".").split(" appears before "))
                assert np.flatnonzero(visible(plan, early))[0] < np.flatnonzero(visible(plan, late))[0]
            else:
                assert not extra
            checked[bool(extra)] += 1
    assert checked[True] > 200


@pytest.mark.parametrize("count", [0, 1, 5])
def test_number_of_pairs_is_a_setting(count):
    config = SynthConfig(pairs_per_question=count, min_objects=3)
    pairs = [len(e.pairs) for i in range(10) for e in plan_clip(config, "train", i).examples if e.task == "evidence"]
    assert max(pairs) == min(count, 5) or (count == 5 and max(pairs) >= 4)


# --- subtitles and words ---------------------------------------------------------------------------------------------------------

def test_subtitles_narrate_with_silence(plans):
    for plan in plans:
        lines = plan.subtitles
        assert lines
        borders = [0.0, *(t for line in lines for t in (line.start_s, line.end_s)), 6.0]
        assert borders == sorted(borders)
        assert max(b - a for a, b in zip(borders[::2], borders[1::2], strict=True)) >= 1.0
        assert all(any(life.name in line.text for life in plan.facts.lives.values()) for line in lines)


def test_interval_arithmetic():
    assert union([(2.0, 3.0), (0.0, 1.0), (1.0, 1.5), (2.5, 4.0)]) == ((0.0, 1.5), (2.0, 4.0))
    assert tiou([(0, 2)], [(1, 3)]) == pytest.approx(1 / 3) and tiou([(0, 1)], [(2, 3)]) == 0
    assert tiou([(0, 1), (2, 3)], [(0, 3)]) == pytest.approx(2 / 3)
    assert window(0.25, CONFIG) == ((0.0, pytest.approx(1.0)),) and window(5.75, CONFIG) == ((pytest.approx(5.0), 6.0),)
    assert window(1.6, SynthConfig(time_step_s=0.5, event_window_s=1.0)) == ((0.5, 2.5),)


@pytest.mark.parametrize(("duration", "times"), [(6.0, [1, 2, 3, 4, 5]), (3.0, [0.5, 1, 1.5, 2, 2.5]), (8.0, [1, 2, 3, 4, 5, 6, 7])])
def test_times_on_offer_fit_the_clip(duration, times):
    assert clock_times(SynthConfig(duration_s=duration)) == pytest.approx(times)


def test_times_in_words():
    assert [say_time(t) for t in (0.0, 1.0, 2.5)] == ["at the start", "at 1 second", "at 2.5 seconds"]
