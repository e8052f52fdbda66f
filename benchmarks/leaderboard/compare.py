"""``unipixel compare A.json B.json``: how B differs from A on the same examples, how sure that is, and which examples changed.

Every difference is B - A, paired by example: bootstrap interval of the difference, McNemar's exact test where examples are right or wrong,
the permutation test otherwise, and p values corrected for the number of metrics (Holm). Results of other examples, another truth, protocol
or judge are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.leaderboard.entries import Entry, load_entries
from benchmarks.result import LISTED, differences, write_json
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError, nearest
from unipixel.metrics import holm, mcnemar_exact, permutation_test

SCHEMA = "unipixel-comparison/1"


@dataclass
class CompareArguments:
    """Settings of ``unipixel compare A.json B.json``."""

    results: list[str] = setting([], "the two result files; also without the flag: unipixel compare A.json B.json")
    names: list[str] = setting([], "what to call them")
    metrics: list[str] = setting([], "metrics to compare; default: all that can be paired")
    by: str = setting("", "metric whose changed examples are listed; default: the first of the headline")
    permutations: int = setting(10_000, "coin patterns of the permutation test")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals of the differences; 0 leaves them out")
    seed: int = setting(0, "seed of both")
    listed: int = setting(LISTED, "print at most so many changed examples each way; the file has all")
    out: str = setting("", "write the comparison to this JSON file")

    def __post_init__(self):
        if len(self.results) != 2:
            raise ConfigError(f"{len(self.results)} result files given: exactly two are compared")
        if self.permutations < 100 or min(self.bootstrap, self.listed) < 0:
            raise ConfigError(f"permutations={self.permutations} must be at least 100, bootstrap={self.bootstrap} and listed={self.listed} "
                              "not negative")


@dataclass(frozen=True)
class MetricDifference:
    """One metric of two systems on the examples for which both have a value.

    Attributes:
        difference, ci95: B - A, and its bootstrap interval.
        p, p_holm: two-sided; the second corrected for all metrics of this comparison. ``None``: cannot be tested.
        test: ``McNemar``, ``permutation`` or empty.
        better, worse, same: examples on which B is above, below or equal to A.
    """

    metric: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    ci95: tuple[float, float] | None
    n: int
    p: float | None
    p_holm: float | None
    test: str
    better: int
    worse: int
    same: int


@dataclass(frozen=True)
class Change:
    """An example whose value of the listed metric differs."""

    example_id: str
    a: float
    b: float
    status_a: str
    status_b: str


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    metrics: list[MetricDifference]
    by: str
    changes: list[Change]


def check_comparable(a: Entry, b: Entry) -> None:
    """Raises :class:`DataError` that names the first thing in which the two results differ."""
    for what, mine, other in (("benchmark", a.result["benchmark"], b.result["benchmark"]), ("split", a.result["split"], b.result["split"])):
        if mine != other:
            raise DataError(f"{a.name} and {b.name} cannot be compared: {what} {mine!r} and {other!r}")
    differing = [name for name in {**a.protocol, **b.protocol} if a.protocol.get(name) != b.protocol.get(name)]
    if differing:
        shown = ", ".join(f"{name}={a.protocol.get(name)!r} and {b.protocol.get(name)!r}" for name in differing)
        raise DataError(f"{a.name} and {b.name} were scored by different protocols: {shown}; score both by one")
    for entry in (a, b):
        if not entry.result["per_example"]:
            raise DataError(f"{entry.name} holds no examples, only averages (it was read from another tool's file): nothing can be paired")
    stray = sorted(set(a.result["per_example"]) ^ set(b.result["per_example"]))
    if stray:
        raise DataError(f"{a.name} and {b.name} score different examples, {len(stray)} are only in one of them: {stray[:LISTED]}")
    if a.truth_id != b.truth_id:
        raise DataError(f"{a.name} and {b.name} were scored against different truths, {a.truth_id} and {b.truth_id}: score both against one")


def pairable(a: Entry, b: Entry) -> list[str]:
    """Metrics of both that are not taken over examples which a model itself selects."""
    return [name for name in a.result["metrics"] if name in b.result["metrics"] and a.result["averaging"][name] != "conditional"]


def compare(a: Entry, b: Entry, *, metrics: Sequence[str] = (), by: str = "", permutations: int = 10_000, bootstrap: int = 1000,
            seed: int = 0) -> Comparison:
    """How ``b`` differs from ``a``.

    Raises:
        DataError: they cannot be compared.
        ConfigError: a metric does not exist in both, or is taken over examples that a model itself selects.
    """
    check_comparable(a, b)
    paired = pairable(a, b)
    for name in (*metrics, *([by] if by else [])):
        if name not in paired:
            raise ConfigError(f"metric {name!r} cannot be paired between these results{nearest(name, paired)}")
    chosen = list(metrics) or paired
    by = by or next((name for name in a.result["headline"] if name in paired), paired[0])
    intervals = differences(b.result, a.result, bootstrap, seed)
    found = [_difference(a, b, name, intervals[name], permutations, seed) for name in chosen]
    tested = [at for at, one in enumerate(found) if one.p is not None]
    for at, p in zip(tested, holm([found[at].p for at in tested])):
        found[at] = replace(found[at], p_holm=p)
    return Comparison(a.name, b.name, found, by, _changes(a, b, by))


def _pairs(a: Entry, b: Entry, metric: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids of examples with a value on both sides, and their (n, 2) numerators and denominators."""
    sides = [entry.result["per_example"] for entry in (a, b)]
    ids = [i for i in sides[0] if all(side[i]["values"].get(metric) is not None for side in sides)]
    columns = [np.array([value if isinstance(value, list) else [value, 1.0] for value in (side[i]["values"][metric] for i in ids)], np.float64)
               for side in sides]
    return ids, *columns


def _ratios(columns: np.ndarray) -> np.ndarray:
    """(n, 2) numerators and denominators -> (n,) values; an empty denominator counts as 0."""
    return np.divide(columns[:, 0], columns[:, 1], out=np.zeros(len(columns)), where=columns[:, 1] > 0)


def _difference(a: Entry, b: Entry, metric: str, summary: Mapping[str, Any], permutations: int, seed: int) -> MetricDifference:
    ids, first, second = _pairs(a, b, metric)
    p, test, change = None, "", np.zeros(0)
    if ids:
        change = _ratios(second) - _ratios(first)
        p, test = _test(a, metric, ids, first, second, permutations, seed)
    values = [entry.result["metrics"][metric]["value"] for entry in (a, b)]
    bounds = None if summary["ci95"] is None else tuple(summary["ci95"])
    return MetricDifference(metric, a.result["units"][metric], *values, summary["value"], bounds, len(ids), p, None, test,
                            int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum()))


def _test(a: Entry, metric: str, ids: Sequence[str], first: np.ndarray, second: np.ndarray, permutations: int,
          seed: int) -> tuple[float | None, str]:
    """(p, name of the test). Means of group means are linear in the examples; a group-wise ratio of sums is not, and is not tested."""
    how = a.result["averaging"][metric]
    plain = bool((first[:, 1] == 1).all() and (second[:, 1] == 1).all())
    if how == "examples" and plain and set(np.unique([first[:, 0], second[:, 0]])) <= {0.0, 1.0}:
        return mcnemar_exact(int((first[:, 0] > second[:, 0]).sum()), int((first[:, 0] < second[:, 0]).sum())), "McNemar"
    if how.startswith("groups:"):
        if not plain:
            return None, ""
        groups = [str(a.result["per_example"][i][how.removeprefix("groups:")]) for i in ids]
        _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = len(ids) / (len(sizes) * sizes[which])
        first, second = first[:, 0] * weights, second[:, 0] * weights
    return permutation_test(first, second, permutations, seed), "permutation"


def _changes(a: Entry, b: Entry, metric: str) -> list[Change]:
    """Examples with another value, the largest loss first, the largest gain last."""
    ids, first, second = _pairs(a, b, metric)
    rows = [entry.result["per_example"] for entry in (a, b)]
    found = [Change(i, float(x), float(y), rows[0][i]["status"], rows[1][i]["status"])
             for i, x, y in zip(ids, *(map(_ratios, (first, second)) if ids else ((), ()))) if x != y]
    return sorted(found, key=lambda change: (change.b - change.a, change.example_id))


# --- text and file ---------------------------------------------------------------------------------------------------------------

def table(comparison: Comparison, listed: int) -> str:
    """The differences and the changed examples as text; shares in percent."""
    def number(value: float | None, unit: str, sign: str = "") -> str:
        return "–" if value is None else f"{100 * value:{sign}.1f}" if unit in ("share", "difference") else f"{value:{sign}.2f}"

    rows = [[m.metric, number(m.a, m.unit), number(m.b, m.unit), number(m.difference, m.unit, "+"),
             "–" if m.ci95 is None else " – ".join(number(bound, m.unit, "+") for bound in m.ci95), "–" if m.p is None else f"{m.p:.3g}",
             "–" if m.p_holm is None else f"{m.p_holm:.3g}", m.test, f"{m.better} / {m.worse} / {m.same}"] for m in comparison.metrics]
    a, b = comparison.a, comparison.b
    parts = [tabulate(rows, ["metric", a, b, f"{b} - {a}", "95 % interval", "p", "p (Holm)", "test", "better / worse / same"], disable_numparse=True,
                      colalign=("left", *["right"] * 6, "left", "right"))]
    for word, some in (("worse", [c for c in comparison.changes if c.b < c.a]), ("better", [c for c in comparison.changes if c.b > c.a][::-1])):
        if some:
            names = ", ".join(f"{c.example_id} ({c.a:.3g} -> {c.b:.3g})" for c in some[:listed])
            more = f" and {len(some) - listed} more" if len(some) > listed else ""
            parts.append(f"{b} is {word} in {comparison.by} on {len(some)} examples{': ' if names else ''}{names}{more}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel compare``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (args,) = parse([CompareArguments], positional(sys.argv[1:] if argv is None else argv, "--results"), prog="unipixel compare")
        a, b = load_entries(args.results, args.names)
        comparison = compare(a, b, permutations=args.permutations, bootstrap=args.bootstrap, seed=args.seed, metrics=args.metrics, by=args.by)
    except UniPixelError as error:
        print(f"unipixel compare: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(table(comparison, args.listed))
    if args.out:
        files = [{"name": entry.name, "path": entry.path, "predictions": entry.result["card"]["predictions"]} for entry in (a, b)]
        settings = {name: getattr(args, name) for name in ("permutations", "bootstrap", "seed")}
        write_json(args.out, {"schema": SCHEMA, "files": files, "settings": settings, **asdict(comparison)})
        print(f"comparison written to {args.out}")
    return 0


def positional(argv: Sequence[str], flag: str) -> list[str]:
    """Arguments with the file names before the first flag put behind ``flag``."""
    first = next((at for at, word in enumerate(argv) if word.startswith("-")), len(argv))
    return [*([flag, *argv[:first]] if first else []), *argv[first:]]


if __name__ == "__main__":
    raise SystemExit(main())
