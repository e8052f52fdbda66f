"""Boards: the comparable results of one benchmark as a table of cells, with marks, baselines and what was published elsewhere.

A board holds data only; how it looks is ``render``. Marks go to the best and the second value as they are displayed, ties share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.leaderboard.compare import MetricDifference, compare, pairable
from benchmarks.leaderboard.entries import Entry
from benchmarks.leaderboard.published import Published
from unipixel.errors import ConfigError, nearest

DASH = "—"
MARKED_UNITS = ("share", "score_0_5", "score_0_10")
"""Units of which more is better; others get no marks."""
BASELINES = {"trivial": "trivial prediction", "chance": "chance"}
"""Field of a result -> name of its row."""


@dataclass(frozen=True)
class Style:
    """How values are displayed: shares in percent with one decimal, or as they are with three; other units with two."""

    percent: bool = True

    def number(self, value: float | None, unit: str, *, sign: bool = False) -> str:
        if value is None:
            return DASH
        plus = "+" if sign else ""
        if unit not in ("share", "difference"):
            return f"{value:{plus}.2f}"
        text = f"{100 * value:{plus}.1f}" if self.percent else f"{value:{plus}.3f}"
        return text.replace("-0.0", "0.0") if float(text) == 0 and not sign else text

    def interval(self, bounds: Sequence[float] | None, unit: str) -> str:
        return "" if bounds is None else " – ".join(self.number(bound, unit) for bound in bounds)


@dataclass(frozen=True)
class Cell:
    """One displayed value; ``mark`` is ``best``, ``second`` or empty."""

    value: float | None
    text: str
    interval: str = ""
    n: int = 0
    mark: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """A system, a baseline or a published system; ``note`` says what a reader must know before comparing it."""

    name: str
    cells: Mapping[str, Cell]
    note: str = ""


@dataclass
class Board:
    """One table of comparable results.

    Attributes:
        protocol: its settings; ``own`` are those in which the other boards of this benchmark differ.
        metrics: columns, with ``units``.
        rows, baselines: measured systems, and what a trivial prediction and chance give.
        published: numbers of others, for reference only.
        differences: system -> its paired differences to ``baseline``.
    """

    benchmark: str
    split: str
    truth_id: str
    protocol: Mapping[str, Any]
    metrics: list[str]
    units: Mapping[str, str]
    rows: list[Row]
    baselines: list[Row]
    entries: list[Entry]
    published: list[tuple[Published, list[Row]]]
    own: dict[str, Any] = field(default_factory=dict)
    baseline: str = ""
    differences: dict[str, list[MetricDifference]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        own = ", ".join(f"{name}={value}" for name, value in self.own.items())
        return f"{self.benchmark}{f' / {self.split}' if self.split else ''}" + (f" ({own})" if own else "")


def build_boards(entries: Sequence[Entry], published: Sequence[Published], style: Style, *, metrics: Sequence[str] = (), baseline: str = "",
                 seed: int = 0) -> list[Board]:
    """Boards in the order in which their benchmarks first appear.

    Args:
        metrics: columns instead of the headline; a benchmark without any of them keeps its headline.
        baseline: name of the entry to which the others of its board are compared, pair by pair.

    Raises:
        ConfigError: no entry has this name, or no benchmark has this metric.
    """
    known = list(dict.fromkeys(name for entry in entries for name in entry.result["metrics"]))
    for name in metrics:
        if name not in known:
            raise ConfigError(f"--metrics {name!r} is in none of these results{nearest(name, known)}")
    if baseline and baseline not in [entry.name for entry in entries]:
        raise ConfigError(f"--baseline {baseline!r} is none of the entries{nearest(baseline, [entry.name for entry in entries])}")
    together: dict[tuple, list[Entry]] = {}
    for entry in entries:
        together.setdefault(entry.key, []).append(entry)
    boards = [_board(group, published, style, metrics) for group in together.values()]
    for board in boards:
        siblings = [other for other in boards if (other.benchmark, other.split) == (board.benchmark, board.split)]
        facts = [dict(other.protocol) | {"truth": other.truth_id[:8]} for other in siblings]
        differing = [name for name in dict.fromkeys(name for fact in facts for name in fact) if len({repr(fact.get(name)) for fact in facts}) > 1]
        board.own = {name: facts[siblings.index(board)].get(name) for name in differing}
        chosen = next((entry for entry in board.entries if entry.name == baseline), None)
        for entry in board.entries if chosen else ():
            columns = [name for name in pairable(chosen, entry) if name in board.metrics]
            if entry is not chosen and columns and chosen.result["per_example"] and entry.result["per_example"]:
                board.baseline, board.differences[entry.name] = baseline, compare(chosen, entry, seed=seed, metrics=columns).metrics
    return boards


def _board(group: Sequence[Entry], published: Sequence[Published], style: Style, metrics: Sequence[str]) -> Board:
    first = group[0].result
    columns = [name for name in metrics if name in first["metrics"]] or list(first["headline"])
    units = {name: first["units"][name] for name in columns}
    rows = [Row(entry.name, {name: _cell(entry.result["metrics"].get(name), units[name], style) for name in columns}, _note(entry.result))
            for entry in group]
    baselines = []
    for source, name in BASELINES.items():
        values = first[source]
        if any(values.get(column) is not None for column in columns):
            baselines.append(Row(name, {column: _cell({"value": values.get(column)}, units[column], style) for column in columns}))
    elsewhere = [(source, found) for source in published if (found := _published_rows(source, first, columns, units, style))]
    return Board(first["benchmark"], first["split"], group[0].truth_id, group[0].protocol, columns, units, _marked(rows, columns, units), baselines,
                 list(group), elsewhere)


def _cell(summary: Mapping[str, Any] | None, unit: str, style: Style) -> Cell:
    summary = summary or {"value": None}
    bounds = summary.get("ci95")
    return Cell(summary["value"], style.number(summary["value"], unit), style.interval(bounds, unit), summary.get("n", 0),
                bounds=None if bounds is None else tuple(bounds))


def _note(result: Mapping[str, Any]) -> str:
    missing = len(result["missing"])
    return f"{missing} of {result['n']} predictions missing, counted as wrong" if missing else ""


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells, best and second marked by displayed value; ties share a mark, a single cell gets none."""
    shown = sorted({float(cell.text) for cell in cells if cell.value is not None}, reverse=True)
    ranks = [shown.index(float(cell.text)) if cell.value is not None and len(cells) > 1 else 2 for cell in cells]
    return [replace(cell, mark=("best", "second", "")[min(rank, 2)]) for cell, rank in zip(cells, ranks)]


def _marked(rows: Sequence[Row], columns: Sequence[str], units: Mapping[str, str]) -> list[Row]:
    """Best and second of each column."""
    marked = [dict(row.cells) for row in rows]
    for name in (column for column in columns if units[column] in MARKED_UNITS):
        for cells, cell in zip(marked, mark_best([row.cells[name] for row in rows])):
            cells[name] = cell
    return [Row(row.name, cells, row.note) for row, cells in zip(rows, marked)]


def _published_rows(source: Published, result: Mapping[str, Any], columns: Sequence[str], units: Mapping[str, str], style: Style) -> list[Row]:
    return [Row(entry.model, {name: _cell({"value": entry.values.get(name)}, units[name], style) for name in columns})
            for entry in source.entries if entry.benchmark == result["benchmark"] and entry.split in ("", result["split"])
            and any(name in entry.values for name in columns)]
