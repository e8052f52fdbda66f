"""``unipixel film grid``: one metric over training and evaluation pooling, from a folder of runs; a dash where there is no run.

A quick look; tables for papers, differences and their tests are ``unipixel film tables``.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tabulate import tabulate

from benchmarks.film_report.runs import FULL, METRICS, STAGES, RunCell, in_order, read_runs, short
from benchmarks.film_runs.files import write
from benchmarks.leaderboard.board import DASH
from data_tools.pooling.operators import METHODS
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError, nearest

HEADLINE = {"ReasonVQA": "F1", "TVQA": "Accuracy"}
BASE = "base"
Row = tuple[str, list[float | None]]


@dataclass(kw_only=True)
class FilmGridArguments:
    """Settings of ``unipixel film grid``."""

    runs: str = setting("runs", "folder of run folders")
    run_names: list[str] = setting([], "only these run folders")
    metric: str = setting("", "a metric of the summaries; default: Accuracy of TVQA, F1 of ReasonVQA")
    variant: str = setting(FULL, "evaluations to show")
    format: Literal["text", "markdown", "csv"] = setting("text", "form of the output")
    out: str = setting("", "write to this file instead of printing")

    def __post_init__(self):
        if self.metric and self.metric not in METRICS:
            raise ConfigError(f"metric={self.metric!r} is none of {list(METRICS)}{nearest(self.metric, METRICS)}")


def grids(cells: Sequence[RunCell], metric: str = "") -> dict[tuple[str, str, str], tuple[list[str], list[Row]]]:
    """(dataset, stage, metric) -> (evaluation methods, a row per training method). The base is a row of every grid of its dataset.

    POVQA's four methods always have their row and column, so that what is missing shows.
    """
    found = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        here = [cell for cell in cells if cell.dataset == dataset]
        stages = [stage for stage in STAGES if any(cell.stage == stage for cell in here)]
        for stage in [stage for stage in stages if stage != BASE] or [BASE]:
            name = metric or HEADLINE[dataset]
            shown = [cell for cell in here if cell.stage in (stage, BASE)]
            values = {(cell.trained, cell.evaluated): cell.value(name) for cell in shown}
            methods = in_order({*METHODS, *(cell.evaluated for cell in shown)}, METHODS)
            trained = [] if stage == BASE else in_order({*METHODS, *(cell.trained for cell in shown if cell.trained)}, METHODS)
            trained = [""] * (BASE in stages) + trained
            found[dataset, stage, name] = methods, [(short(row) if row else BASE, [values.get((row, column)) for column in methods])
                                                    for row in trained]
    return found


def render(dataset: str, stage: str, metric: str, methods: Sequence[str], rows: Sequence[Row], form: str) -> str:
    head = ["trained on", *map(short, methods)]
    lines = [[name, *(DASH if value is None else f"{value:.3f}" for value in values)] for name, values in rows]
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["dataset", "stage", "metric", *head])
        writer.writerows([dataset, stage, metric, name, *("" if value is None else value for value in values)] for name, values in rows)
        return text.getvalue()
    table = tabulate(lines, head, "pipe" if form == "markdown" else "simple", disable_numparse=True, colalign=("left", *["right"] * len(methods)))
    return f"{dataset}, {stage}, {metric}; columns: evaluated on\n\n{table}\n"


def run(args: FilmGridArguments) -> str:
    """All grids of a folder as text, printed or written.

    Raises:
        ConfigError: no evaluation of this variant.
    """
    found = read_runs(args.runs, args.run_names)
    cells = [cell for cell in found if cell.variant == args.variant]
    if not cells:
        raise ConfigError(f"no evaluation of variant={args.variant!r} in {args.runs}, which has {sorted({cell.variant for cell in found})}")
    text = "\n".join(render(*name, *grid, args.format) for name, grid in grids(cells, args.metric).items())
    if args.out:
        write(Path(args.out), text)
        print(args.out)
    else:
        print(text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film grid``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (args,) = parse([FilmGridArguments], argv, prog="unipixel film grid")
        run(args)
    except UniPixelError as error:
        print(f"unipixel film grid: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
