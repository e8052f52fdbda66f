"""``unipixel film sample``: a stratified part of a table of questions, of exactly the asked-for size, the same for the same seed.

Every stratum, for TVQA a show, gives its share of the table, rounded by largest remainder, so each take is within one of the exact share.
The inverse of an item's probability of being drawn, its Horvitz-Thompson weight, stands in a file beside the sample.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from data_tools.convert.tables import read_rows
from data_tools.film.release import sha256_of
from data_tools.preference.command import command
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.errors import ConfigError, DataError

COMPAT = ("none", "seed")
Stratum = tuple[Hashable, ...]
NAMED = 5
"""Lines that an error lists."""


@dataclass(kw_only=True)
class SampleSettings:
    """Settings of ``unipixel film sample``."""

    input: str = setting("", "table of questions, JSON lines, e.g. input_data/tvqa_qa_release/tvqa_val.jsonl")
    out: str = setting("", "file for the sample, e.g. processed_tvqa/val_5000_seed42.jsonl; statistics, ids and weights stand beside it")
    n: int = setting(5000, "questions to draw; all of them where there are fewer")
    by: list[str] = setting(["show_name"], "fields that make the strata")
    id: str = setting("qid", "field that names a question")
    seed: int = setting(42, "of the draw")
    set_compat: str = setting("none", "seed: allocate as POVQA's script does, which may take more than was asked for; none: exactly n")
    force: bool = setting(False, "write over an earlier sample")

    def __post_init__(self):
        if missing := [f"--{name}" for name in ("input", "out", "by", "id") if not getattr(self, name)]:
            raise ConfigError(f"{missing} must be set")
        if Path(self.out).suffix != ".jsonl":
            raise ConfigError(f"--out {self.out!r} must end in .jsonl")
        if self.n < 1:
            raise ConfigError(f"--n={self.n} must be at least 1")
        if self.set_compat not in COMPAT:
            raise ConfigError(f"--set_compat={self.set_compat!r} must be one of {COMPAT}")
        if Path(self.out).exists() and not self.force:
            raise ConfigError(f"--out {self.out!r} exists: remove it, name another file, or set --force true")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film sample``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("film sample", (SampleSettings,), draw, argv)


def allocate(pools: Mapping[Any, int], n: int) -> dict[Any, int]:
    """Stratum -> how many to take: min(n, all) in sum, each at most its pool and within 1 of the exact share.

    Largest remainder (Hamilton): the whole parts of the shares, then one more for the largest fractions, the earlier stratum first among
    equal ones. In whole numbers throughout.
    """
    total = sum(pools.values())
    n = min(n, total)
    takes = {name: n * size // total for name, size in pools.items()}
    by_fraction = sorted(pools, key=lambda name: -(n * pools[name] % total))  # stable: earlier ones stay in front
    for name in by_fraction[:n - sum(takes.values())]:
        takes[name] += 1
    return takes


def allocate_as_seed(pools: Mapping[Any, int], n: int) -> dict[Any, int]:
    """POVQA's rule: rounded shares (halves to even); what is missing is handed out in turn; what is too much is never taken back."""
    total = sum(pools.values())
    takes = {name: min(round(n * size / total), size) for name, size in pools.items()}
    left = n - sum(takes.values())
    while left > 0 and any(takes[name] < size for name, size in pools.items()):
        for name, size in pools.items():
            if left > 0 and takes[name] < size:
                takes[name], left = takes[name] + 1, left - 1
    return takes


def choose(strata: Mapping[Any, Sequence[Any]], takes: Mapping[Any, int], seed: int) -> list[Any]:
    """That many of every stratum, without replacement, in random order, so that the beginning of the sample is a sample too."""
    generator = random.Random(seed)
    chosen = [item for name, items in strata.items() for item in generator.sample(items, takes[name])]
    generator.shuffle(chosen)
    return chosen


def draw(settings: SampleSettings) -> None:
    """
    Raises:
        DataError: the table is empty, a question lacks a field, or two have one id.
    """
    source, out = Path(settings.input), Path(settings.out)
    if not source.is_file():
        raise DataError(f"no table at {source}: check --input")
    strata = _strata(source, settings)
    pools = {name: len(rows) for name, rows in strata.items()}
    takes = (allocate if settings.set_compat == "none" else allocate_as_seed)(pools, settings.n)
    chosen = choose(strata, takes, settings.seed)
    weights = {name: pools[name] / takes[name] if takes[name] else None for name in pools}
    stats = {"total_pool": sum(pools.values()), "target_n": settings.n,
             "by_show" if settings.by == ["show_name"] else "by_stratum": {
                 _label(name): {"pool": pools[name], "take": takes[name], "weight": weights[name]} for name in pools},
             "taken": len(chosen), "by": settings.by, "seed": settings.seed, "compat": settings.set_compat, "input": source.name,
             "input_sha256": sha256_of(source)}
    out.parent.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow([settings.id, "stratum", "weight"])
    rows.writerows([row[settings.id], _label(_stratum(row, settings)), weights[_stratum(row, settings)]] for row in chosen)
    replace_file(out.with_suffix(".stats.json"), (json.dumps(stats, indent=1, ensure_ascii=False) + "\n").encode())
    replace_file(out.with_suffix(".qids.txt"), "".join(f"{row[settings.id]}\n" for row in chosen).encode())
    replace_file(out.with_suffix(".weights.csv"), table.getvalue().encode())
    replace_file(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen).encode())  # last: with it the sample is there
    print(tabulate([(_label(name), pools[name], takes[name]) for name in pools], headers=(" + ".join(settings.by), "pool", "take")))
    print(f"{len(chosen)} of {stats['total_pool']} questions in {out}")
    if empty := [_label(name) for name in pools if not takes[name]]:
        print(f"note: nothing was drawn from {empty}: weighted sums do not speak for them")


def _stratum(row: Mapping[str, Any], settings: SampleSettings) -> Stratum:
    return tuple(row[name] for name in settings.by)


def _label(stratum: Stratum) -> str:
    return " / ".join(map(str, stratum))


def _strata(source: Path, settings: SampleSettings) -> dict[Stratum, list[dict[str, Any]]]:
    """Rows by stratum, in the order in which strata first occur."""
    strata: dict[Stratum, list[dict[str, Any]]] = {}
    wrong, seen = [], set()
    for number, row in read_rows(source):
        fields = [*settings.by, settings.id]
        if bad := [name for name in fields if not isinstance(row.get(name), (str, int)) or row[name] == ""]:
            wrong.append(f"line {number} has no {bad}")
        elif row[settings.id] in seen:
            wrong.append(f"line {number}: {settings.id} {row[settings.id]!r} occurred before")
        else:
            seen.add(row[settings.id])
            strata.setdefault(_stratum(row, settings), []).append(row)
    if wrong:
        raise DataError(f"{source}: {len(wrong)} questions cannot be drawn from: {'; '.join(wrong[:NAMED])}; mend the table, or set --by and --id")
    if not strata:
        raise DataError(f"{source} holds no question")
    return strata
