"""Is everything that a rationale cites in its context? Pictures by number or file, times, segments, and speech in double quotes.

Only what can be looked up is judged, not whether the reasoning is good. Durations ("for 3 seconds", "2 s later") and decades are no times; a
quotation of one word is no speech, because signs and letters are quoted too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from data_tools.preference.textual import words
from data_tools.rationale.context import Context

ROUNDED_S = 0.051
"""Times are shown with one decimal."""
_UNIT = r"\s*(?:s|secs?|seconds)\b"
_NUMBER = rf"#?\s*\d+(?!\d|\.\d|:\d|{_UNIT})"
_TO = r"\s*(?:-|–|to|through)\s*"
_PICTURE = r"\b(?:picture|frame|image)s?(?:\s+(?:number|no\.))?(?:\s*#\s*|\s+)"
PICTURES = re.compile(rf"(?:{_PICTURE}(?={_NUMBER})|(?=#\s*\d))({_NUMBER}(?:(?:{_TO}|\s*(?:,\s*and|,|and|&|or)\s*){_NUMBER})*)", re.IGNORECASE)
PICTURE_TIME = re.compile(rf"{_PICTURE}(\d+)\s*\(\s*(?:t\s*[=≈~]\s*|at\s+)?(\d+(?:\.\d+)?){_UNIT}\s*\)", re.IGNORECASE)
FILES = re.compile(r"\b(frame\d{5}|KEY_\d+-\d\d-\d\d_\d{4,})(?:\.\w+)?\b")
RANGE = re.compile(r"(?P<segment>\bsegments?\s*\(?\s*)?(?<![\d.#:])(?P<start>\d+(?:\.\d+)?)\s*s?"
                   rf"{_TO}(?P<end>\d+(?:\.\d+)?){_UNIT}", re.IGNORECASE)
TIME = re.compile(rf"(?<![\d.#:])(\d+(?:\.\d+)?){_UNIT}|\bt\s*[=≈~]\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
CLOCK = re.compile(r"(?<![\d:])(?:(\d{1,2}):)?([0-5]?\d):([0-5]\d)(?![\d:])")
BEFORE_DURATION = re.compile(r"\b(?:for|lasts?|lasting|within|every|takes?|took|another)\s+(?:about |around |roughly |nearly |almost |only )?$",
                             re.IGNORECASE)
AFTER_DURATION = re.compile(r"\s*(?:later|earlier|long|apart|afterwards|before|after|passe[sd]?)\b", re.IGNORECASE)
AT = re.compile(r"\b(?:at|from|until)\s+(?:about |around )?$", re.IGNORECASE)
DECADE = re.compile(r"\b(?:the|early|mid|late)[\s-]+(?:early |mid-?|late )?\d\d\d0s\b", re.IGNORECASE)
QUOTE = re.compile("[\"“”]([^\"“”]+)[\"“”]")


@dataclass(frozen=True)
class Finding:
    """A citation that does not hold; ``reason`` is a slug."""

    reason: str
    cited: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """``cited``: how many citations of each kind were looked up."""

    findings: tuple[Finding, ...]
    cited: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.findings

    def plain(self) -> dict[str, Any]:
        return {"ok": self.ok, "reasons": [asdict(f) for f in self.findings], "cited": self.cited}


def verify(text: str, context: Context, *, told: str = "") -> Verdict:
    """Look up every citation.

    Args:
        told: question, options and answer, whose words may be quoted too.

    Reasons of findings: ``no_picture``, ``no_file``, ``picture_time`` (the picture is there, at another time), ``no_segment``,
    ``outside_window``, ``not_said``, and ``no_citation`` where there is nothing to look up.
    """
    checks = {"pictures": _pictures(text, context), "files": _files(text, context), "times": _times(text, context),
              "quotes": _quotes(text, context, told)}
    results = {kind: list(found) for kind, found in checks.items()}
    findings = [f for found in results.values() for f in found if f is not None]
    cited = {kind: len(found) for kind, found in results.items()}
    if not sum(cited.values()):
        findings.append(Finding("no_citation", "", "neither a picture nor a time nor speech is cited"))
    return Verdict(tuple(findings), cited)


def _pictures(text: str, context: Context) -> Iterator[Finding | None]:
    times = {p.number: p.time_s for p in context.pictures}
    for match in PICTURES.finditer(text):
        numbers: list[int] = []
        for first, last in re.findall(rf"(\d+)(?:{_TO}#?\s*(\d+))?", match[1], re.IGNORECASE):
            numbers += {int(first), int(last or first)}  # both ends: what lies between two that exist exists
        for number in numbers:
            yield None if number in times else Finding("no_picture", match[0].strip(), f"there are pictures 1 to {len(times)}")
    for match in PICTURE_TIME.finditer(text):
        number, time = int(match[1]), float(match[2])
        if number in times and abs(times[number] - time) > ROUNDED_S:
            yield Finding("picture_time", match[0], f"picture {number} is at {times[number]:.1f} s")


def _files(text: str, context: Context) -> Iterator[Finding | None]:
    files = {p.file for p in context.pictures}
    for match in FILES.finditer(text):
        yield None if match[1] in files else Finding("no_file", match[0], "no picture that was shown has this file")


def _times(text: str, context: Context) -> Iterator[Finding | None]:
    segments = [(s.start_s, s.end_s) for s in context.segments]
    taken = [match.span() for match in DECADE.finditer(text)]
    for match in RANGE.finditer(text):
        taken.append(match.span())
        start, end = float(match["start"]), float(match["end"])
        if match["segment"] is None:
            yield _outside(match[0], context, start, end)
        elif not any(abs(a - start) <= ROUNDED_S and abs(b - end) <= ROUNDED_S for a, b in segments):
            yield Finding("no_segment", match[0], f"none of {len(segments)} segments has these times")
        else:
            yield None
    for match in TIME.finditer(text):
        if not any(a <= match.start() < b for a, b in taken) and not _lasts(text, match):
            yield _outside(match[0], context, float(match[1] or match[2]))
    for match in CLOCK.finditer(text):
        yield _outside(match[0], context, int(match[1] or 0) * 3600 + int(match[2]) * 60 + int(match[3]), slack=1.0)


def _lasts(text: str, match: re.Match) -> bool:
    before = text[:match.start()]
    return bool(BEFORE_DURATION.search(before) or (AFTER_DURATION.match(text, match.end()) and not AT.search(before)))


def _outside(cited: str, context: Context, *times: float, slack: float = ROUNDED_S) -> Finding | None:
    """``slack``: times are rounded, those of a clock to a second."""
    if all(context.start_s - slack <= t <= context.end_s + slack for t in times):
        return None
    return Finding("outside_window", cited, f"the scene is {context.start_s:.1f} to {context.end_s:.1f} s")


def _quotes(text: str, context: Context, told: str) -> Iterator[Finding | None]:
    heard = f" {' '.join(word for s in context.segments for word in words(s.text))} / {' '.join(words(told))} "
    for match in QUOTE.finditer(text):
        quoted = words(match[1])
        if len(quoted) > 1:
            yield None if f" {' '.join(quoted)} " in heard else Finding("not_said", match[0], "no segment has these words")
