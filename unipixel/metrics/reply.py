"""Replies of the form ``Answer: X. Temporal Evidence: [[s, e], ...]. Spatial Evidence: <|seg|>.`` taken apart.

Parts may be missing, in another order or case, or surrounded by other text; whatever was not as expected is named in ``problems``, so
that a scorer can count it. Numbers are read by a literal parser; nothing in a reply is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unipixel.metrics.temporal import EMPTY_SEGMENTS, MALFORMED_SEGMENTS, NO_SEGMENTS, normalise_segments

SEG_TOKEN = "<|seg|>"
NO_REPLY, NO_ANSWER, NO_ANSWER_LABEL = "no_reply", "no_answer", "no_answer_label"
NO_TEMPORAL_LABEL, NO_MASK_TOKEN, REPEATED_LABEL = "no_temporal_label", "no_mask_token", "repeated_label"
REPLY_PROBLEMS = (NO_REPLY, NO_ANSWER, NO_ANSWER_LABEL, NO_TEMPORAL_LABEL, NO_SEGMENTS, EMPTY_SEGMENTS, MALFORMED_SEGMENTS, NO_MASK_TOKEN,
                  REPEATED_LABEL)
_BOLD = r"(?:\*\*|__)?"
_LABEL = re.compile(rf"{_BOLD}(?<!\w)(answer|temporal[ _-]evidence|spatial[ _-]evidence)\s*{_BOLD}\s*[:：]\s*{_BOLD}", re.IGNORECASE)
_TOKEN = re.compile(r"<\|[^|<>]*\|>|</?s>")


@dataclass(frozen=True)
class ParsedReply:
    """What a reply says.

    Attributes:
        answer: text of the answer without its closing full stop; ``None`` when there is none.
        segments: ``(start, end)`` in seconds; ``[]`` when the reply says that there are none, ``None`` when it says nothing usable.
        n_masks: number of mask tokens.
        problems: which of :data:`REPLY_PROBLEMS` were met, in that order.
    """

    answer: str | None
    segments: list[tuple[float, float]] | None
    n_masks: int
    problems: tuple[str, ...]


def parse_reply(text: str) -> ParsedReply:
    """Answer, segments and number of masks of one reply; never raises on what a model wrote."""
    if not text.strip():
        return ParsedReply(None, None, 0, (NO_REPLY,))
    lead, parts, problems = _split(text)
    if "temporal" in parts:
        segments, problem = _labelled_segments(parts["temporal"])
        problems.add(problem)
    else:
        segments, lead, parts["answer"] = _stray_segments(lead, parts.get("answer"))
        problems.add(NO_SEGMENTS if segments is None else NO_TEMPORAL_LABEL)
    if parts.get("answer") is None:
        problems.add(NO_ANSWER_LABEL)
    answer = _clean(lead if parts.get("answer") is None else parts["answer"])
    if answer is None:
        problems.add(NO_ANSWER)
    n_masks = text.count(SEG_TOKEN)
    if n_masks == 0:
        problems.add(NO_MASK_TOKEN)
    return ParsedReply(answer, segments, n_masks, tuple(problem for problem in REPLY_PROBLEMS if problem in problems))


def _split(text: str) -> tuple[str, dict[str, str], set[str | None]]:
    """(text before the first label, text after each label, problems). A label met again is text of the part it stands in."""
    labels: dict[str, re.Match] = {}
    problems: set[str | None] = set()
    for match in _LABEL.finditer(text):
        kind = match[1].lower().split()[0].split("_")[0].split("-")[0]
        if kind in labels:
            problems.add(REPEATED_LABEL)
        else:
            labels[kind] = match
    stops = [match.start() for match in labels.values()] + [len(text)]
    parts = {kind: text[match.end() : min(stop for stop in stops if stop >= match.end())] for kind, match in labels.items()}
    return text[: stops[0]], parts, problems


def _labelled_segments(part: str) -> tuple[list[tuple[float, float]] | None, str | None]:
    """Segments of all bracketed lists after the label; those of a cut-off list are not guessed."""
    groups, complete = _bracketed(part)
    if not groups and complete:
        return None, NO_SEGMENTS
    read = [normalise_segments(part[start:end]) for start, end in groups]
    segments = [segment for found, _ in read for segment in found]
    if not complete or any(problem == MALFORMED_SEGMENTS for _, problem in read):
        return segments or None, MALFORMED_SEGMENTS
    return segments, None if segments else EMPTY_SEGMENTS


def _stray_segments(lead: str, answer: str | None) -> tuple[list[tuple[float, float]] | None, str, str | None]:
    """Lists of numbers in a reply without a temporal label, and the same text without them."""
    found: list[tuple[float, float]] = []

    def take(part: str) -> str:
        for start, end in reversed(_bracketed(part)[0]):
            segments, problem = normalise_segments(part[start:end])
            if segments and problem is None:
                found[:0] = segments
                part = part[:start] + part[end:]
        return part

    answer = None if answer is None else take(answer)
    lead = take(lead)
    return found or None, lead, answer


def _bracketed(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Spans of the outermost ``[...]`` in ``text``, and whether the last one is closed."""
    spans, depth, start = [], 0, 0
    for position, char in enumerate(text):
        if char == "[":
            start = position if depth == 0 else start
            depth += 1
        elif char == "]" and depth:
            depth -= 1
            if depth == 0:
                spans.append((start, position + 1))
    return spans, depth == 0


def _clean(text: str) -> str | None:
    """Without special tokens, outer blanks and emphasis, and one closing full stop; ``None`` when nothing is left."""
    text = " ".join(_TOKEN.sub(" ", text).split()).strip("*_ ")
    while text.endswith(" ."):
        text = text[:-1].rstrip()
    return text.removesuffix(".").strip() or None
