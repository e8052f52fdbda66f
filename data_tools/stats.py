"""``unipixel data-stats``: what packed folders hold, and what a recipe's mixture makes of them. Reads indexes only."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from tabulate import tabulate

from unipixel.config import parse, read_recipe, setting
from unipixel.data.loader import Groups
from unipixel.data.mixture import read_mixture
from unipixel.data.plan import OrderPlan
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError

COLUMNS = ("n_frames", "duration_s", "n_objects", "n_words", "n_text_tokens")
MIXTURE_KEYS = ("shards", "data_root", "skip_missing", "examples_per_medium", "mask_share")


@dataclass(kw_only=True)
class StatsSettings:
    """Settings of ``unipixel data-stats``."""

    recipe: str = setting("", "training recipe whose mixture is meant; the flags below override it")
    shards: list[str] = setting([], "packed folders, with repeat factors or shares as in a recipe (FOLDER=3, FOLDER=10%)")
    data_root: str = setting("", "folder that relative entries of shards are taken from")
    skip_missing: bool = setting(False, "count without the folders that do not exist")
    examples_per_medium: int = setting(0, "examples of one medium trained together; 0: as the recipe says, else 3")
    mask_share: float = setting(-1.0, "share of groups with masks whose masks are supervised; negative: as the recipe says, else 1")
    out: str = setting("", "also write everything as JSON to this file")

    def __post_init__(self):
        recipe = {k: v for k, v in read_recipe(self.recipe).items() if k in MIXTURE_KEYS} if self.recipe else {}
        self.shards = self.shards or recipe.get("shards", [])
        self.data_root = self.data_root or recipe.get("data_root", "")
        self.skip_missing = self.skip_missing or recipe.get("skip_missing", False)
        self.examples_per_medium = self.examples_per_medium or recipe.get("examples_per_medium", 3)
        self.mask_share = recipe.get("mask_share", 1.0) if self.mask_share < 0 else self.mask_share
        if not self.shards:
            raise ConfigError("shards is empty: name packed folders, or a --recipe that does")


def statistics(settings: StatsSettings) -> dict[str, Any]:
    """Per source: samples, weight in the mixture, and the spread of the index columns."""
    parts, missing = read_mixture(settings.shards, settings.data_root, skip_missing=settings.skip_missing)
    data = ShardDataset([part.folder for part in parts])
    groups = Groups(data, settings.examples_per_medium, settings.mask_share)
    sources = groups.sources(parts)
    plan = OrderPlan(sources, seed=0)
    columns = {name: data.rows[name].to_numpy() for name in COLUMNS}
    pairs = data.rows["has_pairs"].to_numpy()
    rows = []
    for source in sources:
        members = np.concatenate([groups.rows[g] for g in source.members])
        rows.append({
            "dataset": source.name, "kind": source.kind, "media": len(pc.unique(data.rows["key"].take(members))), "examples": len(members),
            "groups": len(source.members), "excluded_groups": len(source.excluded), "repeat": source.weight / len(source.members),
            "share": source.weight / plan.epoch_size, "with_pairs": int(pairs[members].sum()),
            **{name: dict(zip(("min", "median", "mean", "p95", "max"), map(float, (
                v.min(), np.median(v), v.mean(), np.percentile(v, 95), v.max())))) for name in COLUMNS if len(v := columns[name][members])}})
    return {"sources": rows, "groups_per_epoch": plan.epoch_size, "missing": missing,
            "examples_per_medium": settings.examples_per_medium, "mask_share": settings.mask_share}


def table(result: dict[str, Any]) -> str:
    """The statistics for a terminal; medians, with the 95th percentile behind them."""
    def spread(row: dict[str, Any], name: str) -> str:
        return f"{row[name]['median']:g} / {row[name]['p95']:g}"

    rows = [(r["dataset"], r["kind"], r["media"], r["examples"], r["groups"], f"{r['repeat']:g}", f"{100 * r['share']:.1f} %",
             *(spread(r, name) for name in COLUMNS)) for r in result["sources"]]
    return tabulate(rows, headers=("dataset", "kind", "media", "examples", "groups", "repeat", "share", "frames", "seconds", "objects", "words",
                                   "text tokens"), colalign=("left", "left", *["right"] * 10))


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel data-stats``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (settings,) = parse([StatsSettings], argv, prog="unipixel data-stats")
        result = statistics(settings)
    except UniPixelError as error:
        print(f"unipixel data-stats: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(table(result))
    print(f"one epoch of the mixture: {result['groups_per_epoch']:,.0f} groups of up to {result['examples_per_medium']} examples "
          "(columns on the right: median / 95th percentile)")
    if result["missing"]:
        print(f"missing and left out: {', '.join(result['missing'])}")
    if settings.out:
        Path(settings.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
