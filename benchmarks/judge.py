"""A text model that judges replies: its prompts, its verdicts read strictly, and which replies it has not judged.

What cannot be read is asked again a bounded number of times and then stays unjudged: no default score is invented, and a result with
unjudged replies has no headline. Absolute scores move with the judge by more than ten points, so its name and revision are part of every
result, and results of different judges are different protocols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.protocol import content_hash
from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.messages import Message, Sampling
from unipixel.errors import ConfigError, SampleError
from unipixel.metrics.temporal import parse_literal

TRIES = 3
QA_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer pairs. "
    "Your task is to compare the predicted answer with the correct answer and determine if they match meaningfully. "
    "Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the meaningful match between the predicted answer and the "
    "correct answer.\n- Consider synonyms or paraphrases as valid matches.\n- Evaluate the correctness of the prediction compared to the "
    "answer.")
QA_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: {question}\nCorrect Answer: {answer}\n"
    "Predicted Answer: {reply}\n\nProvide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, "
    "with 5 indicating the highest meaningful match. Please generate the response in the form of a Python dictionary string with keys "
    "'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING."
    "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. "
    "For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}.")
REFUSAL_SYSTEM = "You read one question about a video and one reply, and decide a single thing about the reply."
REFUSAL_USER = (
    "Question: {question}\nReply: {reply}\n\nDoes the reply say that the question cannot be answered from the video, or that what it "
    "presupposes is not there? A reply that answers the question, even carefully, does not. Reply with a Python dictionary alone: "
    "{{'pred': 'yes' or 'no', 'score': 5 if you are certain, less if not}}.")
CAPTION_DIMENSIONS = ("subject correspondence", "appearance description", "temporal description", "hallucination detection")
CAPTION_SYSTEM = "You compare a description of one object of a video with the true description, and grade four things from 0 to 5."
CAPTION_USER = (
    "True description: {answer}\nDescription to grade: {reply}\n\nGrade from 0 (wrong or missing) to 5 (as good as the true one); halves are "
    "allowed:\n1. subject correspondence: is it about the same object?\n2. appearance description: colour, shape, clothing, parts.\n"
    "3. temporal description: what it does and how it moves over time.\n4. hallucination detection: 5 when nothing is made up.\n"
    "Reply with four lines and nothing else, each as: <number>. <name>: <grade>")
_GRADE = re.compile(r"^\s*(\d)\s*[.)]\s*([A-Za-z ]+?)\s*:\s*(-?\d+(?:\.\d+)?)\s*(?:/\s*5)?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What a judge said about one reply.

    Attributes:
        yes: right, or (refusals) refused; ``None`` for graded captions.
        scores: name -> 0-5, decimals kept.
    """

    yes: bool | None
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Rubric:
    """One kind of judgement. ``read`` raises :class:`SampleError` on what is no verdict."""

    system: str
    user: str
    read: Callable[[str], Verdict]

    def messages(self, **parts: str) -> tuple[Message, ...]:
        return Message("system", (self.system,)), Message("user", (self.user.format(**parts),))

    @property
    def hash(self) -> str:
        return content_hash([self.system, self.user])


def read_yes_no(text: str) -> Verdict:
    """``{'pred': 'yes', 'score': 4.8}``, alone or inside other text; only the field ``pred`` decides.

    Raises:
        SampleError: ``bad_verdict``.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        value = parse_literal(text[start:end + 1]) if start >= 0 else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SampleError(f"expected {{'pred': ..., 'score': ...}}, got {text[:120]!r}", reason="bad_verdict")
    pred, score = str(value.get("pred", "")).strip().lower(), value.get("score")
    if pred not in ("yes", "no") or isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 5:
        raise SampleError(f"pred={pred!r} must be yes or no, score={score!r} a number from 0 to 5", reason="bad_verdict")
    return Verdict(pred == "yes", {"score": float(score)})


def read_grades(text: str) -> Verdict:
    """Four lines ``n. name: grade`` (``bad_verdict`` when one is missing, repeated or out of range)."""
    found = {int(number): float(grade) for number, _, grade in _GRADE.findall(text)}
    if sorted(found) != [1, 2, 3, 4] or len(_GRADE.findall(text)) != 4 or not all(0 <= grade <= 5 for grade in found.values()):
        raise SampleError(f"expected the grades 1 to 4, each from 0 to 5, got {text[:160]!r}", reason="bad_verdict")
    return Verdict(None, {name: found[n] for n, name in enumerate(CAPTION_DIMENSIONS, 1)})


RUBRICS = {"qa": Rubric(QA_SYSTEM, QA_USER, read_yes_no), "refusal": Rubric(REFUSAL_SYSTEM, REFUSAL_USER, read_yes_no),
           "caption": Rubric(CAPTION_SYSTEM, CAPTION_USER, read_grades)}


@dataclass(frozen=True)
class Case:
    """One reply to judge."""

    example_id: str
    rubric: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Judgement:
    """Verdicts by example, what stayed unjudged with the reason, and who judged."""

    verdicts: Mapping[str, Verdict]
    unjudged: Mapping[str, str]
    judge: Mapping[str, Any]


def judge_all(cases: Sequence[Case], client: ChatClient, tries: int = TRIES) -> Judgement:
    """Ask about each case at temperature 0; what could not be read is asked again with another seed."""
    verdicts: dict[str, Verdict] = {}
    unjudged: dict[str, str] = {}
    for attempt in range(tries):
        waiting = [case for case in cases if case.example_id not in verdicts]
        unjudged = {}
        jobs = ((case, client.request(RUBRICS[case.rubric].messages(**case.parts), Sampling(max_tokens=300, seed=attempt, sample=attempt)))
                for case in waiting)
        for case, future in client.ask_all(jobs, "judge"):
            try:
                verdicts[case.example_id] = RUBRICS[case.rubric].read(future.result().text)
            except SampleError as error:
                unjudged[case.example_id] = error.reason
        if not unjudged:
            break
    used = sorted({case.rubric for case in cases})
    return Judgement(verdicts, unjudged, {"model": client.endpoint.identity, "prompts": {name: RUBRICS[name].hash for name in used}})


def judge_with(models: str, replies: str | Path, cases: Sequence[Case]) -> Judgement:
    """:func:`judge_all` by the role ``judge`` of a models file; its replies are kept in ``replies``, so that nothing is asked twice."""
    if not models:
        raise ConfigError("this benchmark needs a judge: --models FILE with the role 'judge' (backend: recorded reads stored replies)")
    with clients(models, ("judge",), replies) as found:
        return judge_all(cases, found["judge"])
