"""What each part of the context is worth: variant - full, which is negative where leaving the part out costs something.

Key frame alone, text alone, pictures alone, and the classic message instead of the interleaved one; every difference is between two
evaluations of the same model on the same pooling and the same items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.film_report.delta import corrected, significance_note, tested
from benchmarks.film_report.grid import SAME, Grid, Line, Value, metrics_of, mixed_notes, nothing, odd_ones, score
from benchmarks.film_report.runs import FULL, STAGES, VARIANTS, RunCell, in_order, methods_of, short

CAPTION = ("Column full: share in 0-1 with the whole context. Other columns: variant - full, of the same model on the same pooling. "
           "Rows: trained on → evaluated on. p: paired over items, not corrected.")
FEWER_FRAMES = ("keyframe_only", "text_only")
"""Variants that leave frames out, so that their number may differ from the full context's."""


def ablations(cells: Sequence[RunCell], *, metrics: Sequence[str] = (), em: bool = False, ci: bool = False, mixed: bool = False,
              how: Mapping[str, int] | None = None) -> list[Grid]:
    """One grid per dataset and stage of which there are variants; see :func:`benchmarks.film_report.delta.deltas`."""
    grids = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        for stage in STAGES:
            here = [cell for cell in cells if (cell.dataset, cell.stage) == (dataset, stage)]
            if any(cell.variant != FULL for cell in here):
                grids.append(_grid(dataset, stage, here, metrics, em, ci, mixed, how or {}))
    return grids


def _grid(dataset: str, stage: str, cells: Sequence[RunCell], wanted: Sequence[str], em: bool, ci: bool, mixed: bool,
          how: Mapping[str, int]) -> Grid:
    title = f"{dataset}, ablation of {stage.upper() if stage != 'base' else 'the base model'}"
    at = {(cell.trained, cell.evaluated, cell.variant): cell for cell in cells}
    variants = in_order({cell.variant for cell in cells} - {FULL}, VARIANTS)
    order = methods_of(cells)
    rows = sorted({key[:2] for key in at if key[2] != FULL}, key=lambda row: (order.index(row[0]) if row[0] else -1, order.index(row[1])))
    used = [cell for key, cell in at.items() if key[:2] in rows]
    odd = odd_ones([cell for cell in used if cell.variant not in FEWER_FRAMES], title, mixed)
    odd |= odd_ones(used, title, mixed, [name for name in SAME if name != "max_frames"])
    names = metrics_of(used, wanted, em)
    found = {(row, variant): tested(at[*row, FULL], at[*row, variant], names, how, odd, ci)
             for row in rows for variant in variants if (*row, FULL) in at and (*row, variant) in at}
    blocks = [corrected([_line(metric, row, at.get((*row, FULL)), variants, found, odd, ci) for row in rows]) for metric in names]
    missing = [f"{at[*row, variant].name}: its full evaluation is missing" for row in rows for variant in variants
               if (*row, FULL) not in at and (*row, variant) in at]
    return Grid("ablation", dataset, stage, title, CAPTION, ("metric", "trained → evaluated"), {FULL: FULL} | {v: f"Δ {v}" for v in variants},
                blocks, mixed_notes(odd) + missing + [note for block in blocks for note in significance_note(block)])


def _line(metric: str, row: tuple[str, str], full: RunCell | None, variants: Sequence[str],
          found: Mapping[tuple[tuple[str, str], str], Mapping[str, Value]], odd: Mapping[RunCell, str], ci: bool) -> Line:
    others = {variant: found[row, variant][metric] if (row, variant) in found else nothing() for variant in variants}
    return Line(metric, " → ".join(short(name) for name in row), {FULL: score(full, metric, odd, ci)} | others, row[1])
