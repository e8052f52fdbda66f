"""Wrong answers without a model (POVQA, arXiv 2510.01009): the right reply against one whose final answer belongs to another question.

A reply is two lines, ``Reasoning:`` and ``Final Answer:``. Distractors are answers of training media to questions of the same type. The
published code draws them from all films, those of the test part included, and of any type; here that cannot be asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.preference.messages import seed_of
from data_tools.preference.questions import Candidate, Question
from data_tools.preference.steps import Media
from data_tools.preference.textual import equivalent, words
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.data.media import stable_rng
from unipixel.data.template import FINAL_ANSWER, REASONING, two_lines
from unipixel.errors import ConfigError, SampleError
from unipixel.metrics.text import token_f1
from unipixel.sample import Example, Sample

NAME = "correctness"
HINT = "Yet something else that can be seen speaks for another conclusion."
UNSEEN = "The scene refers to things that are not visible in these pictures, so the answer follows from what usually happens."
PADDING = "This is the answer because everything in the pictures and in the words that are spoken leads to it and to nothing else."
WRONG = ("same_reasoning", "hinted", "unseen")
"""Variants whose answer is wrong: the right reasoning; the same with a doubt at its end; a reasoning that saw nothing."""
FORM = ("swapped", "overlong")
"""Variants whose answer is right and whose form is not: the lines change places; the answer does not end. Their mode is ``other``."""
_ASKS = re.compile(r"\b(how (?:many|much|often|long)|who|whom|whose|where|when|why|which|what|how)(?:'s|'re)?\b", re.IGNORECASE)


@dataclass(kw_only=True)
class CorrectnessSettings:
    """What a wrong answer may be."""

    variants: list[str] = setting(list(WRONG), "kinds of wrong reply, one drawn per question: same_reasoning, hinted, unseen; swapped and overlong "
                                               "break the form and keep the answer")
    train_splits: list[str] = setting(["train"], "splits of packed data that are for training; folders of another split are refused")
    distractor_films: str = setting("all", "whose answers are drawn: all, other (not of the same film or medium) or same")
    max_overlap: float = setting(0.5, "largest token F1 of a distractor with the right answer")
    max_length_ratio: float = setting(3.0, "a distractor has at most this many times the words of the right answer, and at least the inverse")
    seed: int = setting(42, "of all draws")

    def __post_init__(self):
        if not self.variants or set(self.variants) - {*WRONG, *FORM}:
            raise ConfigError(f"variants={self.variants} must be some of {(*WRONG, *FORM)}")
        if self.distractor_films not in ("all", "other", "same"):
            raise ConfigError(f"distractor_films={self.distractor_films!r} must be all, other or same")
        if not 0 <= self.max_overlap <= 1 or self.max_length_ratio < 1:
            raise ConfigError(f"max_overlap={self.max_overlap} must be in [0, 1], max_length_ratio={self.max_length_ratio} at least 1")


@dataclass(frozen=True)
class Answer:
    """An answer of the pool, with the question that it is right for."""

    text: str
    kind: str
    film: str
    medium: str
    example_id: str


def question_kind(example: Example) -> str:
    """Type of a question: as annotated, else its first question word; ``how many``, ``how much`` … are kinds of their own."""
    if example.question_type not in ("", "other"):
        return example.question_type
    match = _ASKS.search(example.question)
    return re.sub(r"\s+", " ", match[1].lower()) if match else "other"


def film_of(sample: Sample) -> str:
    return str(sample.medium.source.get("film") or sample.medium.medium_id)


def make(media: Media, settings: CorrectnessSettings, ledger: SkipLedger, limit: int = 0) -> list[Question]:
    """One question with a preferred and an adversarial reply for every open question or question with options.

    Raises:
        ConfigError: a folder is not of a training split.
    """
    media.require_splits(settings.train_splits)
    asked = list(_asked(media, ledger, limit))
    pool = list(dict.fromkeys(Answer(e.answer.strip(), question_kind(e), film_of(s), s.key, e.example_id) for s, e in asked))
    by_kind: dict[str, list[Answer]] = {}
    for answer in pool:
        by_kind.setdefault(answer.kind, []).append(answer)
    questions: list[Question] = []
    for sample, example in asked:
        with ledger.catching(NAME, example.example_id):
            questions.append(_question(sample, example, by_kind, settings, ledger))
    shares = Counter(q.candidates[1].origin["variant"] for q in questions)
    for variant, count in shares.items():
        ledger.note(f"wrong replies of variant {variant}", count)
    return questions


def _asked(media: Media, ledger: SkipLedger, limit: int) -> Iterator[tuple[Sample, Example]]:
    for key in media.first(limit):
        with ledger.catching(NAME, key):
            sample = media.sample(key)
            for example in sample.examples:
                if example.task == "evidence" and example.answer.strip():
                    yield sample, example
                else:
                    ledger.note("examples that are no question with an answer: passed over")


def _question(sample: Sample, example: Example, by_kind: dict[str, list[Answer]], settings: CorrectnessSettings, ledger: SkipLedger) -> Question:
    rng = stable_rng(settings.seed, sample.dataset, example.example_id)
    variants, reasoning, gold = settings.variants, example.rationale.strip(), example.answer.strip()
    if not reasoning:
        ledger.note("questions without a rationale: replies of one line")
        variants = [v for v in variants if v in ("same_reasoning", "overlong")]
        if not variants:
            raise SampleError(f"no rationale, which the variants {settings.variants} need", reason="no_rationale")
    variant = variants[rng.integers(len(variants))]
    origin = {"generator": NAME, "variant": variant, "seed": seed_of(settings.seed, sample.dataset, example.example_id)}
    preferred = two_lines(reasoning, gold)
    if variant in FORM:
        text = f"{FINAL_ANSWER} {gold}\n{REASONING} {reasoning}" if variant == "swapped" else two_lines(reasoning, f"{gold} {PADDING}")
    else:
        drawn = _draw(sample, example, by_kind.get(question_kind(example), []), settings, rng)
        origin["distractor"] = {"medium": drawn.medium, "film": drawn.film, "example_id": drawn.example_id, "kind": drawn.kind}
        why = {"same_reasoning": reasoning, "hinted": f"{reasoning} {HINT}", "unseen": UNSEEN}[variant]
        text = two_lines(why, drawn.text)
    candidates = Candidate("preferred", 0, preferred, {"generator": "annotation"}), Candidate("adversarial", 0, text, origin)
    return Question(f"{sample.key}/{example.example_id}", NAME, sample.key, example.question, "other" if variant in FORM else NAME, gold,
                    example_id=example.example_id, origin={"source": dict(sample.medium.source)}, candidates=candidates)


def _draw(sample: Sample, example: Example, pool: Sequence[Answer], settings: CorrectnessSettings, rng: np.random.Generator) -> Answer:
    """The first answer, in a random order, that is surely another one than the right one, and than every other option that is listed."""
    film, gold, length = film_of(sample), example.answer.strip(), max(1, len(words(example.answer)))
    for i in rng.permutation(len(pool)):
        answer = pool[i]
        if settings.distractor_films != "all" and (answer.film == film) != (settings.distractor_films == "same"):
            continue
        ratio = max(1, len(words(answer.text))) / length
        if not 1 / settings.max_length_ratio <= ratio <= settings.max_length_ratio:
            continue
        if not equivalent(answer.text, gold) and token_f1(answer.text, gold) <= settings.max_overlap:
            return answer
    raise SampleError(f"none of {len(pool)} answers to questions of type {question_kind(example)!r} is a fit distractor for {gold[:60]!r}",
                      reason="no_distractor")
