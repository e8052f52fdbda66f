"""Which questions become panels: what several runs said to one question, what went wrong, and a draw that anyone can repeat."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.film_report.runs import METRICS, ORDER, Item, RunCell, status
from data_tools.pooling.operators import SHORT
from unipixel.errors import ConfigError, DataError, nearest
from unipixel.metrics import exact_match

PARSE_FAILURE, WRONG_OPTION, ERROR_RECORD, LOW_F1 = FAULTS = ("parse_failure", "wrong_option", "error_record", "low_f1")


@dataclass(frozen=True)
class Group:
    """One question with the item of each run; ``None`` for a run that does not hold it."""

    name: str
    items: tuple[Item | None, ...]

    @property
    def item(self) -> Item:
        """Question and truth, which all runs share."""
        return next(item for item in self.items if item is not None)

    @property
    def source(self) -> str:
        """Film or show."""
        return str(self.item.get("movie") or self.item.get("show_name") or self.item.get("vid_name"))

    def score(self, metric: str) -> float:
        """Mean over the runs that hold the question and have a value."""
        values = [float(item[METRICS[metric]]) for item in self.items if item is not None and item.get(METRICS[metric]) is not None]
        return fmean(values) if values else 0.0


def pick(cells: Sequence[RunCell], wanted: Sequence[str], pooling: str) -> list[RunCell]:
    """Runs by name; without names base, SFT and DPO of ``pooling``, evaluated on what they were trained on.

    Args:
        wanted: ``stage:trained:evaluated``, or ``base:evaluated``, with long or short names of poolings.

    Raises:
        ConfigError: a run does not exist, or there is none of this pooling.
    """
    at = {cell.key: cell for cell in cells}
    found = []
    for name in wanted:
        key = ":".join(SHORT.get(part, part) for part in name.split(":"))
        if key not in at:
            raise ConfigError(f"no run {name!r}{nearest(key, at)}; there are {sorted(at)}")
        found.append(at[key])
    if not wanted:
        found = [at[key] for key in (f"base:{pooling}", f"sft:{pooling}:{pooling}", f"dpo:{pooling}:{pooling}") if key in at]
    if not found:
        raise ConfigError(f"no run was trained and evaluated on {pooling!r}: name runs with --cells; there are {sorted(at)}")
    return found


def first_pooling(cells: Sequence[RunCell]) -> str:
    """The first pooling, in the order of tables, that some run was evaluated on."""
    evaluated = {cell.evaluated for cell in cells}
    return next((name for name in ORDER if name in evaluated), min(evaluated))


def grouped(cells: Sequence[RunCell]) -> list[Group]:
    """Every question of any run, in the order of the first that holds it.

    Raises:
        DataError: two runs hold different questions, truths or options under one id.
    """
    names = dict.fromkeys(name for cell in cells for name in cell.items)
    groups = [Group(name, tuple(cell.items.get(name) for cell in cells)) for name in names]
    for group in groups:
        for cell, item in zip(cells, group.items):
            for field in ("question", "gold_answer", "gold_idx", "options"):
                if item is not None and item.get(field) != group.item.get(field):
                    raise DataError(f"{cell.predictions}: {group.name} has {field} {item.get(field)!r}, another run {group.item.get(field)!r}")
    return groups


def faults(item: Item, low_f1: float) -> set[str]:
    """What went wrong with a reply, of :data:`FAULTS`. An error record is nothing else besides."""
    if status(item) != "ok" or item.get("error"):
        return {ERROR_RECORD}
    found = set()
    options = "options" in item
    unread = item.get("pred_idx") in (None, -1) if options else not item.get("pred_answer")
    if unread or "no_final_answer" in (item.get("problems") or ()):
        found.add(PARSE_FAILURE)
    if options and not unread and not item.get("correct"):
        found.add(WRONG_OPTION)
    if item.get("f1") is not None and item["f1"] < low_f1:
        found.add(LOW_F1)
    return found


def disagree(group: Group) -> bool:
    """The first two runs gave different answers: another option, other words, or only one of them answered."""
    if None in group.items[:2]:
        return True
    a, b = group.items[:2]
    if (status(a) == "ok") != (status(b) == "ok"):
        return True
    if "options" in a:
        return a.get("pred_idx") != b.get("pred_idx")
    return not exact_match(a.get("pred_answer") or "", b.get("pred_answer") or "")


def gap(group: Group, metric: str) -> float:
    """By how much the scores of the first two runs differ; a run without the question scores 0."""
    scores = [float((item or {}).get(METRICS[metric]) or 0.0) for item in group.items[:2]]
    return abs(scores[0] - scores[1])


def draw(groups: Sequence[Group], value: Mapping[str, float], *, n: int, top: int, seed: int, diverse: bool) -> list[Group]:
    """``n`` of the ``top`` groups of highest value (ties by name), in random order.

    Args:
        diverse: of each film or show one, then a second of each, and so on; also when the top is chosen.
    """
    ranked = sorted(groups, key=lambda group: (-value[group.name], group.name))
    pool = (_in_turn(ranked) if diverse else ranked)[:top]
    shuffled = random.Random(seed).sample(pool, len(pool))
    return (_in_turn(shuffled) if diverse else shuffled)[:n]


def _in_turn(groups: Sequence[Group]) -> list[Group]:
    """The first of every source, then the second of every source, each in the given order."""
    seen: Counter[str] = Counter()
    turns = []
    for group in groups:
        turns.append(seen[group.source])
        seen[group.source] += 1
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: (turns[i], i))]
