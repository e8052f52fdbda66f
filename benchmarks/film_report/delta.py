"""DPO - SFT: for every pair of training and evaluation pooling the difference of the two summaries, with the paired test over items.

A second grid subtracts the best of SFT from the best of DPO over the training poolings, as POVQA reports it. The winners are chosen on the
very items they are scored on and may have been trained on different poolings, so that number has no paired test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from benchmarks.film_report.grid import STYLE, Grid, Line, Value, metrics_of, mixed_notes, nothing, odd_ones
from benchmarks.film_report.runs import FULL, RunCell, label, methods_of, short
from benchmarks.leaderboard.board import Cell
from benchmarks.leaderboard.compare import MetricDifference, compare
from unipixel.errors import ConfigError, nearest
from unipixel.metrics import holm

CAPTION = ("Difference DPO - SFT, shares in 0-1. Rows: pooling both were evaluated on; columns: pooling both were trained on; p: paired over items, "
           "McNemar's exact test for right or wrong, otherwise the permutation test, not corrected for the number of cells.")
BEST_CAPTION = ("Best DPO minus best SFT over the training poolings, each chosen on these same items: the winners may differ in training pooling, "
                "and choosing them is not tested. Rows: metric; columns: pooling evaluated on.")
ALPHA = 0.05


def tested(before: RunCell, after: RunCell, metrics: Sequence[str], how: Mapping[str, int], odd: Mapping[RunCell, str],
           ci: bool) -> dict[str, Value]:
    """``after - before`` per metric from the summaries, with the paired test where both have scores per item.

    Raises:
        DataError: the two hold different items, or items that do not belong to their summary.
    """
    paired = [name for name in metrics if name in before.entry.result["metrics"] and name in after.entry.result["metrics"]]
    tests = {test.metric: test for test in compare(before.entry, after.entry, metrics=paired, **how).metrics} if paired else {}
    return {name: _difference(before, after, name, tests.get(name), before in odd or after in odd, ci) for name in metrics}


def _difference(before: RunCell, after: RunCell, metric: str, test: MetricDifference | None, mixed: bool, ci: bool) -> Value:
    a, b = before.value(metric), after.value(metric)
    if a is None or b is None:
        return replace(nothing(), sources=(after, before))
    bounds = test.ci95 if test else None
    shown = " – ".join(STYLE.number(bound, "difference", sign=True) for bound in bounds) if ci and bounds else ""
    return Value(Cell(b - a, STYLE.number(b - a, "difference", sign=True), shown, test.n if test else 0, bounds=bounds), (after, before), test, mixed)


def corrected(block: Sequence[Line]) -> list[Line]:
    """The same lines, p values also corrected (Holm) for all tests of the block, which are those of one metric."""
    at = [(i, column) for i, line in enumerate(block) for column, value in line.values.items() if value.test and value.test.p is not None]
    fixed = [dict(line.values) for line in block]
    for (i, column), p in zip(at, holm([fixed[i][column].test.p for i, column in at])):
        fixed[i][column] = replace(fixed[i][column], test=replace(fixed[i][column].test, p_holm=p))
    return [replace(line, values=values) for line, values in zip(block, fixed)]


def significance_note(block: Sequence[Line]) -> list[str]:
    tests = [value.test for line in block for value in line.values.values() if value.test and value.test.p_holm is not None]
    below = sum(test.p_holm < ALPHA for test in tests)
    return [f"{label(block[0].metric)}: {below} of {len(tests)} differences have p < {ALPHA} after Holm's correction"] if tests else []


def deltas(cells: Sequence[RunCell], *, metrics: Sequence[str] = (), em: bool = False, ci: bool = False, mixed: bool = False,
           how: Mapping[str, int] | None = None) -> list[Grid]:
    """Two grids per dataset that has evaluations of both stages: cell by cell, and best over training poolings.

    Args:
        how: ``permutations``, ``bootstrap`` and ``seed`` of :func:`benchmarks.leaderboard.compare.compare`.
    """
    grids = []
    for dataset, pairs in _pairs(cells).items():
        title = f"{dataset}, DPO - SFT"
        used = [cell for pair in pairs.values() for cell in pair]
        odd = odd_ones(used, title, mixed)
        names, methods = metrics_of(used, metrics, em), methods_of(used)
        found = {key: tested(*pair, names, how or {}, odd, ci) for key, pair in tqdm(pairs.items(), desc=title, unit="cell", disable=None)}
        blocks = [corrected([Line(metric, short(method), {t: found[t, method][metric] if (t, method) in found else nothing() for t in methods},
                                  method, (method,)) for method in methods if any(key[1] == method for key in found)]) for metric in names]
        notes = mixed_notes(odd) + [note for block in blocks for note in significance_note(block)]
        notes += [] if any(value.test for block in blocks for line in block for value in line.values.values()) else [
            "no p values: these prediction files hold no scores per item"]
        grids.append(Grid("difference", dataset, "dpo-sft", title, CAPTION + (" In brackets: 95 % interval of the difference." if ci else ""),
                          ("metric", "evaluated on"), {name: short(name) for name in methods}, blocks, notes))
        grids.append(_best(dataset, [cell for cell in cells if cell.dataset == dataset and cell.variant == FULL], names))
    return grids


def _pairs(cells: Sequence[RunCell]) -> dict[str, dict[tuple[str, str], tuple[RunCell, RunCell]]]:
    """Dataset -> (trained, evaluated) -> (SFT, DPO)."""
    at = {(cell.dataset, cell.stage, cell.trained, cell.evaluated): cell for cell in cells if cell.variant == FULL}
    out: dict[str, dict[tuple[str, str], tuple[RunCell, RunCell]]] = {}
    for (dataset, stage, trained, evaluated), cell in at.items():
        if stage == "sft" and (dataset, "dpo", trained, evaluated) in at:
            out.setdefault(dataset, {})[trained, evaluated] = cell, at[dataset, "dpo", trained, evaluated]
    return out


def _best(dataset: str, cells: Sequence[RunCell], metrics: Sequence[str]) -> Grid:
    methods = [name for name in methods_of(cells) if all(any((c.stage, c.evaluated) == (stage, name) for c in cells) for stage in ("sft", "dpo"))]

    def value(metric: str, method: str) -> Value:
        winners = [max((c for c in cells if (c.stage, c.evaluated) == (stage, method) and c.value(metric) is not None),
                       key=lambda c: c.value(metric), default=None) for stage in ("dpo", "sft")]
        if None in winners:
            return nothing()
        change = winners[0].value(metric) - winners[1].value(metric)
        return Value(Cell(change, STYLE.number(change, "difference", sign=True)), tuple(winners))

    blocks = [[Line(metric, "best DPO - best SFT", {method: value(metric, method) for method in methods}, "best of training poolings")]
              for metric in metrics]
    return Grid("difference of best", dataset, "dpo-sft", f"{dataset}, best DPO - best SFT over training poolings", BEST_CAPTION,
                ("metric", "what"), {name: short(name) for name in methods}, blocks)


WIN_LOSS = ("dataset", "trained_on", "evaluated_on", "metric", "example_id", "sft", "dpo", "change", "outcome", "sft_status", "dpo_status")


def win_loss(cells: Sequence[RunCell], by: str = "") -> Iterator[tuple[Any, ...]]:
    """Every item of every pair with its two scores: a win is an item on which DPO scores more.

    Args:
        by: metric that decides; default Accuracy where there is one, else F1. Pairs without scores per item give no rows.

    Raises:
        ConfigError: no run has scores of this metric.
    """
    known = {name for pairs in _pairs(cells).values() for pair in pairs.values() for cell in pair for name in cell.entry.result["metrics"]}
    if by and by not in known:
        raise ConfigError(f"--by {by!r}: no prediction file has scores of it{nearest(by, known)}")
    for dataset, pairs in _pairs(cells).items():
        for (trained, evaluated), (before, after) in pairs.items():
            metric = by or next((name for name in ("Accuracy", "F1") if name in before.entry.result["metrics"]), "")
            rows = [cell.entry.result["per_example"] for cell in (before, after)]
            for name in rows[0] if metric else ():
                a, b = (side[name]["values"].get(metric) for side in rows)
                if a is not None and b is not None:  # null: this item has no truth for the metric
                    outcome = "win" if b > a else "loss" if b < a else "tie"
                    yield (dataset, short(trained), short(evaluated), metric, name, a, b, b - a, outcome, *(side[name]["status"] for side in rows))
