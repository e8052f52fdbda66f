"""The table between the steps: a question about a medium with all replies to it, as JSON Lines.

``make`` writes it, ``score`` adds what judges say, ``filter`` makes pairs of it. Nothing that was made is dropped from it by a score: what is
not used later can be counted there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipixel.data.index import replace_file
from unipixel.errors import DataError
from unipixel.sample import FAILURE_MODES

SCHEMA = "unipixel-questions/1"
ROLES = ("preferred", "adversarial", "control_instruction", "control_sampling", "sample")
"""What a reply is for. ``sample``: drawn like the others, to be ranked; the controls share one cause of an adversarial reply's faults each."""
REJECTABLE = ROLES[1:4]


@dataclass(frozen=True)
class Candidate:
    """One reply.

    Attributes:
        number: of the reply among those of its role.
        origin: generator, prompt, sampling, frames: all that it takes to make it again.
        score: 1 to 5 by a judge; ``None``: unscored.
        verdict: of a judge that compared it with the preferred reply; ``None``: not judged, or not readable.
        reward: log-probability under the policy minus that under the reference, in nats; ``None``: not computed.
        tokens: tokens that the reward sums over.
        judged: provenance of score, verdict and reward, by their names.
    """

    role: str
    number: int
    text: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    score: int | None = None
    verdict: Mapping[str, Any] | None = None
    reward: float | None = None
    tokens: int | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A question about the medium with the bundle key ``medium``.

    Attributes:
        recipe: which of ``correctness``, ``pasta``, ``hound`` made it.
        mode: failure mode that the question is about (``unipixel.sample.FAILURE_MODES``).
        reference: a right answer, when there is one.
        caption: text that stands for the video when a judge reads.
        example_id: the example of the medium that it is; empty: a new one.
        origin: where question, reference and caption come from.
    """

    question_id: str
    recipe: str
    medium: str
    prompt: str
    mode: str
    reference: str = ""
    caption: str = ""
    example_id: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()

    def of(self, *roles: str) -> list[Candidate]:
        return [c for c in self.candidates if c.role in roles]


def write_questions(path: str | Path, questions: Iterable[Question]) -> None:
    """The whole file at once: it has its name when it is complete."""
    lines = [json.dumps({"schema": SCHEMA} | dataclasses.asdict(q), ensure_ascii=False, allow_nan=False) + "\n" for q in questions]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), "".join(lines).encode())


def read_questions(path: str | Path) -> list[Question]:
    """
    Raises:
        DataError: no such file, a line of another form, or an id that occurs twice.
    """
    if not Path(path).is_file():
        raise DataError(f"no questions at {str(path)!r}: `unipixel pairs make …` writes them")
    questions, seen = [], set()
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                question = _question(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number} is not a question of schema {SCHEMA!r}: {error}") from error
            if question.question_id in seen:
                raise DataError(f"{path}, line {number}: question_id={question.question_id!r} occurs twice")
            seen.add(question.question_id)
            questions.append(question)
    if not questions:
        raise DataError(f"{path} holds no question")
    return questions


def _question(raw: dict[str, Any]) -> Question:
    if raw.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    question = Question(**raw | {"candidates": tuple(Candidate(**c) for c in raw["candidates"])})
    if question.mode not in FAILURE_MODES:
        raise ValueError(f"mode={question.mode!r} is not one of {FAILURE_MODES}")
    if wrong := {c.role for c in question.candidates} - set(ROLES):
        raise ValueError(f"roles {sorted(wrong)} are not among {ROLES}")
    return question
