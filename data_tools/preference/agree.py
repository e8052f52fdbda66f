"""``unipixel pairs agree``: how far two judges of the same replies agree, be they two models, caption against frames, or a model and a person."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from data_tools.preference.command import command
from data_tools.preference.parsing import FLAGS, HIGHEST, LOWEST, RIGHT
from data_tools.preference.questions import ROLES, read_questions
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.errors import ConfigError, DataError, nearest
from unipixel.metrics.agreement import agreement, kappa, members, orders, pearson, spearman, with_intervals

PLACE = ("question_id", "role", "number")
"""Columns of a sheet that name a reply."""
REPLY = "reply"
"""The column with its fingerprint."""
GRADE = "score"
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
Place = tuple[str, str, int]
Opinions = dict[Place, dict[str, int | bool]]
"""By reply: its grade and the flags of its verdict, as far as there are any."""


class Judge(NamedTuple):
    """What one judge says, and :func:`fingerprint` of each reply that it is about."""

    opinions: Opinions
    replies: dict[Place, str]


@dataclass(kw_only=True)
class AgreeSettings:
    """Whose opinions."""

    first: str = setting("", "table that `unipixel pairs score` wrote, or a sheet of `unipixel pairs sheet` that was filled in (.csv)")
    second: str = setting("", "the other one")
    out: str = setting("", "also write everything as JSON to this file")
    seed: int = setting(0, "of the bootstrap")

    def __post_init__(self):
        for name in ("first", "second"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is empty: name a judged table or a filled-in sheet")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs agree``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs agree", (AgreeSettings,), agree, argv)


def agree(settings: AgreeSettings) -> None:
    """
    Raises:
        DataError: the two judged nothing in common, or replies that only have the same number.
    """
    (first, replies), (second, others) = read_opinions(settings.first), read_opinions(settings.second)
    if other := [place for place in replies if others.get(place, replies[place]) != replies[place]]:
        raise DataError(f"{len(other)} replies have other words in {settings.second} than in {settings.first}, the first of them {other[0]}: the two "
                        "are not about the same replies")
    report = compare(first, second, settings.seed)
    if not report["judged"]:
        raise DataError(f"no reply has the same kind of opinion in {settings.first} ({len(first)} replies judged) and in {settings.second} "
                        f"({len(second)}): are they about the same questions?")
    print(text_of(report))
    if settings.out:
        replace_file(Path(settings.out), (json.dumps(report, indent=1) + "\n").encode())


def fingerprint(reply: str) -> str:
    """Short hash of a reply's words."""
    return hashlib.sha256(reply.encode()).hexdigest()[:12]


def read_opinions(path: str) -> Judge:
    """
    Raises:
        DataError: what :func:`~data_tools.preference.questions.read_questions` raises, or a cell of a sheet that is no opinion.
    """
    if Path(path).suffix == ".csv":
        return _sheet(path)
    opinions, replies = {}, {}
    for question in read_questions(path):
        for c in question.candidates:
            replies[question.question_id, c.role, c.number] = fingerprint(c.text)
            found = {} if c.score is None else {GRADE: c.score}
            found |= {flag: c.verdict[flag] for flag in FLAGS} if c.verdict else {}
            if found:
                opinions[question.question_id, c.role, c.number] = found
    return Judge(opinions, replies)


def _sheet(path: str) -> Judge:
    if not Path(path).is_file():
        raise DataError(f"no sheet at {path!r}: `unipixel pairs sheet` writes one to fill in")
    opinions, replies = {}, {}
    with open(path, encoding="utf-8-sig", newline="") as lines:  # a spreadsheet program may add a byte-order mark
        rows = csv.DictReader(lines)
        missing = [name for name in (*PLACE, REPLY) if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column {missing}: its columns are {rows.fieldnames}")
        for row in rows:
            place = _place(row, f"{path}, line {rows.line_num}")
            if place in replies:
                raise DataError(f"{path}, line {rows.line_num}: {place} stands here twice")
            replies[place] = row[REPLY]
            found = {name: _opinion(name, (row.get(name) or "").strip(), f"{path}, line {rows.line_num}") for name in (GRADE, *FLAGS)}
            if found := {name: value for name, value in found.items() if value is not None}:
                opinions[place] = found
    return Judge(opinions, replies)


def _place(row: Mapping[str, str], where: str) -> Place:
    if row["role"] not in ROLES:
        raise DataError(f"{where}: role={row['role']!r} is not one of {ROLES}{nearest(row['role'], ROLES)}")
    if not row["number"].isdecimal():
        raise DataError(f"{where}: number={row['number']!r} is no whole number")
    return row["question_id"], row["role"], int(row["number"])


def _opinion(name: str, cell: str, where: str) -> int | bool | None:
    """An empty cell is no opinion."""
    if not cell:
        return None
    if name == GRADE:
        if not cell.isdecimal() or not LOWEST <= int(cell) <= HIGHEST:
            raise DataError(f"{where}: {name}={cell!r} must be a whole number from {LOWEST} to {HIGHEST}, or empty")
        return int(cell)
    if cell.lower() not in _TRUTH:
        raise DataError(f"{where}: {name}={cell!r} must be one of {', '.join(_TRUTH)}, or empty")
    return _TRUTH[cell.lower()]


def compare(first: Opinions, second: Opinions, seed: int = 0) -> dict[str, Any]:
    """Per kind of opinion: replies that both, or only one of them, judged, and how far they agree.

    ``score``: Pearson, Spearman, quadratically weighted kappa; kappa and agreement of right (3 and more) against wrong; ``order``: of the pairs
    of replies to one question that both judges put in an order, the share in the same order. Flags of verdicts, and ``keep`` (all three
    true): agreement and kappa.
    """
    report: dict[str, Any] = {"judged": {}, "statistics": {}}
    kept = [_with_keep(opinions) for opinions in (first, second)]
    for name in (GRADE, *FLAGS, "keep"):
        sides = [{place: found[name] for place, found in opinions.items() if name in found} for opinions in kept]
        both = [place for place in sides[0] if place in sides[1]]
        if not both:
            continue
        report["judged"][name] = {"both": len(both), "only_first": len(sides[0]) - len(both), "only_second": len(sides[1]) - len(both),
                                  "questions": len({place[0] for place in both})}
        a, b = (np.array([int(side[place]) for place in both]) for side in sides)
        groups = [place[0] for place in both]
        statistics = {"agreement": _of(agreement, a, b), "kappa": _of(kappa, a, b)}
        if name == GRADE:
            counts = np.stack([orders(a[rows], b[rows]) for rows in members(groups)])
            same, opposite, tied = counts.sum(0).tolist()
            report["judged"][name] |= {"ordered_pairs": same + opposite, "tied_pairs": tied}
            statistics = _of_grades(a, b, groups, counts)
        report["statistics"][name] = {key: found._asdict() for key, found in with_intervals(statistics, groups, seed=seed).items()}
    return report


def _with_keep(opinions: Opinions) -> Opinions:
    return {place: found | ({"keep": all(found[f] for f in FLAGS)} if found.keys() >= set(FLAGS) else {}) for place, found in opinions.items()}


Statistic = Callable[[np.ndarray], float | None]


def _of(measure: Callable[[np.ndarray, np.ndarray], float | None], a: np.ndarray, b: np.ndarray) -> Statistic:
    return lambda rows: measure(a[rows], b[rows])


def _of_grades(a: np.ndarray, b: np.ndarray, groups: list[str], counts: np.ndarray) -> dict[str, Statistic]:
    """``counts``: (questions, 3), :func:`orders` of the replies to each."""
    of_row = np.empty(len(groups), np.int64)
    for number, rows in enumerate(members(groups)):
        of_row[rows] = number
    sizes = np.bincount(of_row)

    def order(rows: np.ndarray) -> float | None:
        """Whole questions are drawn, so each brings all of its pairs as often as it was drawn."""
        same, opposite, _ = (np.bincount(of_row[rows], minlength=len(sizes)) / sizes) @ counts
        return float(same / (same + opposite)) if same + opposite else None

    right = a >= RIGHT, b >= RIGHT
    return {"pearson": _of(pearson, a, b), "spearman": _of(spearman, a, b), "kappa_quadratic": _of(partial(kappa, quadratic=True), a, b),
            "kappa_right": _of(kappa, *right), "agreement_right": _of(agreement, *right), "order": order}


def text_of(report: Mapping[str, Any]) -> str:
    """For a terminal."""
    def cell(found: Mapping[str, float | None]) -> list[str]:
        if found["value"] is None:
            return ["undefined", ""]
        return [f"{found['value']:.3f}", "" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"]

    rows = [[name, counts["both"], measure, *cell(found)] for name, counts in report["judged"].items()
            for measure, found in report["statistics"][name].items()]
    lines = [tabulate(rows, headers=("opinion", "replies", "measure", "value", "95 % interval"), disable_numparse=True)]
    lines += [f"{name}: {counts['only_first']} replies judged by the first only, {counts['only_second']} by the second only"
              for name, counts in report["judged"].items() if counts["only_first"] or counts["only_second"]]
    if GRADE in report["judged"]:
        counts = report["judged"][GRADE]
        lines.append(f"order: of {counts['ordered_pairs']} pairs of replies that both put in an order; {counts['tied_pairs']} more are tied for one")
    return "\n".join(lines)
