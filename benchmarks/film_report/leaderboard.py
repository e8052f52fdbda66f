"""The leaderboard over poolings: per metric a block with a line per evaluation pooling, columns are training poolings and the base model.

Best and second are marked within a line, over the base model too. Below the measured lines of a metric stand what trivial replies score
and the most that can be scored under the answer cut, as the summaries give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.film_report.grid import STYLE, Grid, Line, Value, metrics_of, mixed_notes, odd_ones, score
from benchmarks.film_report.runs import FULL, ORDER, TOLERANCE, RunCell, methods_of, short
from benchmarks.leaderboard.board import Cell, mark_best
from unipixel.errors import ConfigError

BASE = "base"
CAPTION = ("Rows: pooling it was evaluated on; columns: pooling it was trained on. Shares in 0-1. Best of a row bold, second underlined, ties share "
           "a mark; shaded: trained and evaluated on the same pooling.")


def leaderboards(cells: Sequence[RunCell], *, metrics: Sequence[str] = (), em: bool = False, ci: bool = False, mixed: bool = False) -> list[Grid]:
    """One grid per dataset and stage of training; the base model stands beside each, and alone where nothing was trained.

    Raises:
        ConfigError: a metric does not exist, or evaluations of one grid were made differently.
    """
    grids = []
    full = [cell for cell in cells if cell.variant == FULL]
    for dataset in dict.fromkeys(cell.dataset for cell in full):
        here = [cell for cell in full if cell.dataset == dataset]
        stages = [stage for stage in ("sft", "dpo") if any(cell.stage == stage for cell in here)] or [BASE]
        grids += [_grid(dataset, stage, [cell for cell in here if cell.stage in (BASE, stage)], methods_of(here), metrics, em, ci, mixed)
                  for stage in stages]
    return grids


def _grid(dataset: str, stage: str, cells: Sequence[RunCell], methods: Sequence[str], wanted: Sequence[str], em: bool, ci: bool,
          mixed: bool) -> Grid:
    title = f"{dataset}, base model" if stage == BASE else f"{dataset}, base model and {stage.upper()}"
    odd = odd_ones(cells, title, mixed)
    at = {(cell.trained, cell.evaluated): cell for cell in cells}
    columns = {BASE: BASE} if any(cell.stage == BASE for cell in cells) else {}
    columns |= {name: short(name) for name in methods if stage != BASE and (name in ORDER or any(cell.trained == name for cell in cells))}
    extra = references(cells, title, mixed)
    blocks = []
    for metric in metrics_of(cells, wanted, em):
        lines = [_line(metric, method, columns, at, odd, ci) for method in methods if any(key[1] == method for key in at)]
        lines += [Line(metric, name, {column: Value(Cell(values[metric], STYLE.number(values[metric], "share"))) for column in columns})
                  for name, values in extra.items() if values.get(metric) is not None]
        blocks.append(lines)
    older = [f"{cell.name}: newest of {len(cell.older) + 1} summaries, {cell.path.name}" for cell in cells if cell.older]
    return Grid("score", dataset, stage, title, CAPTION + (" In brackets: 95 % interval over items." if ci else ""), ("metric", "evaluated on"),
                columns, blocks, mixed_notes(odd) + older)


def _line(metric: str, method: str, columns: Mapping[str, str], at: Mapping[tuple[str, str], RunCell], odd: Mapping[RunCell, str],
          ci: bool) -> Line:
    values = {column: score(at.get(("" if column == BASE else column, method)), metric, odd, ci) for column in columns}
    present = [column for column in columns if values[column].cell.value is not None]
    for column, cell in zip(present, mark_best([values[column].cell for column in present])):
        values[column] = replace(values[column], cell=cell)
    return Line(metric, short(method), values, method, tuple(column for column in columns if column == method))


def references(cells: Sequence[RunCell], title: str, mixed: bool) -> dict[str, dict[str, float | None]]:
    """Name -> metric -> value of trivial replies and of the ceiling, from the summaries.

    Raises:
        ConfigError: two summaries give different values, so they were not scored on the same items, and ``mixed`` is not set.
    """
    found: dict[str, dict[str, float | None]] = {}
    for cell in cells:
        given = {f"trivial: {name.replace('_', ' ')}": values for name, values in (cell.summary.get("trivial") or {}).items()}
        given |= {"ceiling": cell.summary["ceiling"]} if cell.summary.get("ceiling") else {}
        for name, values in given.items():
            for metric, value in values.items():
                known = found.setdefault(name, {}).get(metric)
                if known is None:  # null: that run had no encoder, or the metric does not apply
                    found[name][metric] = value
                elif value is not None and abs(known - value) > TOLERANCE and not mixed:
                    raise ConfigError(f"{title}: {name} scores {known} and, in {cell.path}, {value} in {metric}: these runs hold different items; "
                                      "evaluate them alike, or set --mixed true")
    return found
