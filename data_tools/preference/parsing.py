"""What models write, read strictly: a list of questions, three questions with answers, a score, a verdict.

Nothing is guessed. What does not have the asked-for form raises ``SampleError`` and is counted: a score that cannot be read is no score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from unipixel.errors import SampleError

LOWEST, HIGHEST, RIGHT = 1, 5, 3
"""Grades of a reply; from ``RIGHT`` on it counts as right."""
FLAGS = ("misaligned", "different", "preferred_sane")
"""Of a verdict; an adversarial reply is kept when all are true."""
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL)
_LABEL = re.compile(r"^[ \t]*(?:\*\*)?([QA])[ \t]*(\d+)[ \t]*(?:\*\*)?[ \t]*:(?:\*\*)?", re.MULTILINE)
_SCORE = re.compile(r"\bscore\b\s*(?:\*\*)?\s*[:=]?\s*(?:\*\*)?\s*(-?\d+(?:[.,]\d+)?)(?:\s*/\s*(\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one adversarial reply beside the preferred one."""

    misaligned: bool
    different: bool
    preferred_sane: bool
    why: str = ""

    @property
    def keep(self) -> bool:
        return all(getattr(self, flag) for flag in FLAGS)


@dataclass(frozen=True)
class CaptionCheck:
    """What a judge that sees the frames says of a caption: how many claims it makes, which the frames show to be wrong, which they do not
    show at all, and what of importance they show that it leaves out."""

    claims: int
    contradicted: tuple[str, ...]
    unseen: tuple[str, ...]
    missing: tuple[str, ...]


def parse_queries(text: str, count: int) -> list[str]:
    """A JSON list of ``count`` different questions (``bad_queries`` otherwise)."""
    value = _json(text, "bad_queries")
    if not isinstance(value, list) or len(value) != count or not all(isinstance(q, str) and q.strip() for q in value):
        raise SampleError(f"expected a JSON list of {count} questions, got {text[:120]!r}", reason="bad_queries")
    queries = [" ".join(q.split()) for q in value]
    if len(set(queries)) != count:
        raise SampleError(f"the same question twice among {queries}", reason="bad_queries")
    return queries


def parse_dialogues(text: str, count: int) -> list[tuple[str, str]]:
    """(question, answer) of ``Q1: … A1: … Q2: …``; exactly ``count`` of both, in this order (``bad_questions`` otherwise)."""
    labels = list(_LABEL.finditer(text))
    found = [(m[1], int(m[2])) for m in labels]
    if found != [(side, n) for n in range(1, count + 1) for side in "QA"]:
        raise SampleError(f"expected Q1, A1 … Q{count}, A{count}, found {[f'{side}{n}' for side, n in found]}", reason="bad_questions")
    if text[:labels[0].start()].strip():
        raise SampleError(f"text before Q1: {text[:80]!r}", reason="bad_questions")
    ends = [m.start() for m in labels[1:]] + [len(text)]
    parts = [" ".join(text[m.end():end].split()) for m, end in zip(labels, ends, strict=True)]
    if not all(parts):
        raise SampleError(f"{found[parts.index('')]} is empty", reason="bad_questions")
    return list(zip(parts[0::2], parts[1::2], strict=True))


def parse_score(text: str) -> int:
    """The whole number from 1 to 5 behind the word "score".

    ``Score: 4``, ``score 4``, ``**Score:** 4``, ``Score: 4/5`` -> 4, also several times if it is always the same number.

    Raises:
        SampleError: ``no_score``; ``two_scores`` when they differ; ``score_not_whole`` (``4.5``); ``score_range`` (``6``, ``4/10``).
    """
    found = {(m[1], m[2]) for m in _SCORE.finditer(text)}
    if not found:
        raise SampleError(f"no score in {text[-120:]!r}", reason="no_score")
    if len({number for number, _ in found}) > 1:
        raise SampleError(f"several scores {sorted(number for number, _ in found)}", reason="two_scores")
    (number, _), *_ = found
    if not re.fullmatch(r"-?\d+", number):
        raise SampleError(f"score {number} is not a whole number", reason="score_not_whole")
    scales = {scale for _, scale in found} - {None, str(HIGHEST)}
    if not LOWEST <= int(number) <= HIGHEST or scales:
        raise SampleError(f"score {number}{''.join('/' + s for s in sorted(scales))} is not from {LOWEST} to {HIGHEST}", reason="score_range")
    return int(number)


def parse_verdict(text: str) -> Verdict:
    """One JSON object with ``misaligned``, ``different``, ``preferred_sane`` (true or false) and ``why``; nothing else (``bad_verdict``)."""
    value = _json(text, "bad_verdict")
    if not isinstance(value, dict) or not set(FLAGS) <= set(value) <= {*FLAGS, "why"} or not all(isinstance(value[f], bool) for f in FLAGS):
        raise SampleError(f"expected an object of {list(FLAGS)}, each true or false, got {text[:160]!r}", reason="bad_verdict")
    if not isinstance(value.get("why", ""), str):
        raise SampleError(f"why={value['why']!r} is no text", reason="bad_verdict")
    return Verdict(**value)


def parse_caption_check(text: str) -> CaptionCheck:
    """One JSON object with ``claims`` (a number) and the lists ``contradicted``, ``unseen``, ``missing`` (``bad_check`` otherwise)."""
    value = _json(text, "bad_check")
    lists = ("contradicted", "unseen", "missing")
    if not isinstance(value, dict) or set(value) != {"claims", *lists} or type(value["claims"]) is not int or not all(
            isinstance(value[name], list) and all(isinstance(part, str) and part.strip() for part in value[name]) for name in lists):
        raise SampleError(f"expected an object of a number of claims and the lists {list(lists)}, got {text[:160]!r}", reason="bad_check")
    if value["claims"] < max(1, len(value["contradicted"]) + len(value["unseen"])):
        raise SampleError(f"{value['claims']} claims, of which {len(value['contradicted'])} contradicted and {len(value['unseen'])} unseen",
                          reason="bad_check")
    return CaptionCheck(value["claims"], *(tuple(value[name]) for name in lists))


def _json(text: str, reason: str) -> Any:
    """The whole text as JSON, or the whole of the one fenced block that it consists of; a key that stands twice is an error."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError(f"keys {keys} repeat")
        return dict(pairs)

    fenced = _FENCE.fullmatch(text.strip())
    try:
        return json.loads(fenced[1] if fenced else text, object_pairs_hook=once)
    except ValueError as error:
        raise SampleError(f"not JSON ({error}): {text[:120]!r}", reason=reason) from error
