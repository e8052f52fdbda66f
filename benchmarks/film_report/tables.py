"""``unipixel film tables --runs runs --out tables``: leaderboard, DPO - SFT and ablation as Markdown, CSV, LaTeX and HTML.

Beside them ``win_loss.csv``, the items on which DPO scores more or less than SFT, and ``sources.json``, the files behind every value.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.film_report.ablation import ablations
from benchmarks.film_report.delta import WIN_LOSS, deltas, win_loss
from benchmarks.film_report.files import write_text
from benchmarks.film_report.leaderboard import leaderboards
from benchmarks.film_report.render import CSV_FIELDS, csv_rows, csv_text, html, latex, markdown, sources
from benchmarks.film_report.runs import read_runs
from benchmarks.result import write_json
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError

HEADINGS = {"leaderboard": "Leaderboard over poolings", "delta": "DPO - SFT", "ablation": "What each part of the context is worth"}


@dataclass
class FilmTablesArguments:
    """Settings of ``unipixel film tables``."""

    runs: str = setting("runs", "folder of the runs: <run>[/<adapter>]/<method>/predictions.summary.json")
    run_names: list[str] = setting([], "folders of --runs to read; default: all")
    out: str = setting("", "folder for the tables")
    metrics: list[str] = setting([], "metrics to show, as the summaries call them; default: all but EM")
    em: bool = setting(False, "show exact match too")
    ci: bool = setting(False, "95 % intervals beside the values")
    by: str = setting("", "metric of win_loss.csv; default Accuracy, or F1 where there is none")
    mixed: bool = setting(False, "allow evaluations of other splits, frame limits or item counts in one table, and mark them")
    permutations: int = setting(10_000, "coin patterns of the permutation test")
    bootstrap: int = setting(1000, "resamples for the intervals of differences")
    seed: int = setting(0, "seed of both")

    def __post_init__(self):
        if not self.out:
            raise ConfigError("--out DIR is needed: unipixel film tables --runs runs --out tables")
        if self.permutations < 100 or self.bootstrap < 1:
            raise ConfigError(f"permutations={self.permutations} must be at least 100 and bootstrap={self.bootstrap} at least 1")


def run(args: FilmTablesArguments) -> None:
    """Write the files of every kind of table for which there are runs.

    Raises:
        UniPixelError: runs are malformed, ambiguous or not comparable, or a metric does not exist.
    """
    cells = read_runs(args.runs, args.run_names)
    shown = {"metrics": args.metrics, "em": args.em, "ci": args.ci, "mixed": args.mixed}
    how = {"permutations": args.permutations, "bootstrap": args.bootstrap, "seed": args.seed}
    tables = {"leaderboard": leaderboards(cells, **shown), "delta": deltas(cells, **shown, how=how), "ablation": ablations(cells, **shown, how=how)}
    changed = list(win_loss(cells, args.by)) if tables["delta"] else []
    folder = Path(args.out)
    for kind, grids in tables.items():
        if not grids:
            print(f"{kind}: no runs for it")
            continue
        texts = {"md": markdown(grids, HEADINGS[kind]), "csv": csv_text(CSV_FIELDS, csv_rows(grids)), "tex": latex(grids),
                 "html": html(grids, HEADINGS[kind])}
        for suffix, text in texts.items():
            write_text(folder / f"{kind}.{suffix}", text)
        print(f"{kind}: {len(grids)} tables, {folder}/{kind}.{{{','.join(texts)}}}")
    if tables["delta"]:
        write_text(folder / "win_loss.csv", csv_text(WIN_LOSS, iter(changed)))
    write_json(folder / "sources.json", sources([grid for grids in tables.values() for grid in grids]))
    for cell in cells:
        if cell.older:
            print(f"{cell.name}: newest of {len(cell.older) + 1} summaries is {cell.path}")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film tables``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        run(parse([FilmTablesArguments], argv, prog="unipixel film tables")[0])
    except UniPixelError as error:
        print(f"unipixel film tables: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0
