"""Grids: tables of evaluations whose columns are what a model was trained on and whose lines are what it was evaluated on, per metric.

A grid holds data only; ``render`` shows it. Every value knows the evaluations it was made from, for the list of sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.film_report.runs import METRICS, RunCell, in_order
from benchmarks.leaderboard.board import DASH, Cell, Style
from benchmarks.leaderboard.compare import MetricDifference
from unipixel.errors import ConfigError, nearest

STYLE = Style(percent=False)
MIXED = "†"
SAME = ("split_hash", "max_frames", "runs", "compat")
"""Fields of a summary in which the evaluations of one table must agree."""


@dataclass(frozen=True)
class Value:
    """One place of a grid.

    Attributes:
        sources: evaluations it was made from; none where there is nothing to show.
        test: of a difference, the paired test.
        mixed: made under other settings than most of the table.
    """

    cell: Cell
    sources: tuple[RunCell, ...] = ()
    test: MetricDifference | None = None
    mixed: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a grid: a metric, a label, and a value per column.

    Attributes:
        evaluated: pooling it was evaluated on; empty for a reference, which stands for all.
        shaded: columns to be shaded, those of which training and evaluation pooling are the same.
    """

    metric: str
    label: str
    values: Mapping[str, Value]
    evaluated: str = ""
    shaded: tuple[str, ...] = ()

    @property
    def reference(self) -> bool:
        return not self.evaluated


@dataclass
class Grid:
    """One table.

    Attributes:
        kind: what its values are, for files: ``score``, ``difference`` ...
        heads: names of metric and label; columns: id -> name in the head.
        blocks: lines of one metric each.
        caption: how to read it; notes: what is particular to these runs.
    """

    kind: str
    dataset: str
    stage: str
    title: str
    caption: str
    heads: tuple[str, str]
    columns: Mapping[str, str]
    blocks: list[list[Line]]
    notes: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[Line]:
        return [line for block in self.blocks for line in block]

    @property
    def empty(self) -> bool:
        return all(value.cell.value is None for line in self.lines for value in line.values.values())


def nothing() -> Value:
    return Value(Cell(None, DASH))


def score(cell: RunCell | None, metric: str, odd: Mapping[RunCell, str], ci: bool) -> Value:
    """The metric of one evaluation, with its interval where ``ci`` asks for it."""
    if cell is None or (value := cell.value(metric)) is None:
        return Value(Cell(None, DASH), () if cell is None else (cell,))
    bounds = cell.interval(metric)
    shown = STYLE.interval(bounds, "share") if ci else ""
    return Value(Cell(value, STYLE.number(value, "share"), shown, cell.summary["runs"], bounds=bounds), (cell,), mixed=cell in odd)


def metrics_of(cells: Iterable[RunCell], wanted: Sequence[str], em: bool) -> list[str]:
    """Metrics that any of the evaluations has a value for, in the order of tables; EM only where it is asked for.

    Raises:
        ConfigError: a wanted metric is in no summary.
    """
    known = in_order({name for cell in cells for name, value in cell.summary["metrics"].items() if value is not None}, tuple(METRICS))
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--metrics {name!r} is in none of these summaries{nearest(name, known)}")
    return list(wanted) or [name for name in known if em or name != "EM"]


def odd_ones(cells: Sequence[RunCell], title: str, mixed: bool, fields: Sequence[str] = SAME) -> dict[RunCell, str]:
    """Evaluations that were not made like most of a table, with what differs; every one of them is named in the error.

    Raises:
        ConfigError: there are such and ``mixed`` is not set.
    """
    odd: dict[str, list[str]] = {}
    for name in fields:
        usual, _ = Counter(_plain(cell.summary.get(name)) for cell in cells).most_common(1)[0]
        for cell in cells:
            if (value := _plain(cell.summary.get(name))) != usual:
                odd.setdefault(str(cell.path), []).append(f"{name}={value} instead of {usual}")
    if odd and not mixed:
        listed = "; ".join(f"{path}: {', '.join(facts)}" for path, facts in odd.items())
        raise ConfigError(f"{title}: not all evaluations were made alike: {listed}. Evaluate these again, or set --mixed true, which marks them")
    return {cell: ", ".join(odd[str(cell.path)]) for cell in cells if str(cell.path) in odd}


def mixed_notes(odd: Mapping[RunCell, str]) -> list[str]:
    return [f"{MIXED} {cell.name}: {facts}" for cell, facts in odd.items()]


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)
