"""The result file: metrics of one benchmark with their uncertainty, and every example behind them.

Owns averaging and resampling, the file's form (schema ``unipixel-score/2``) and its strict reader. It knows no task: what an example
scores stands in its row under ``values``, so that tables, comparisons and reports need nothing but this file.

A value is a number, ``null`` (the example has no truth for this metric), or ``[numerator, denominator]`` for metrics that are a ratio of
sums, such as cIoU. Shares lie in 0-1; ``units`` names what is none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipixel.errors import DataError

SCHEMA = "unipixel-score/2"
FIELDS = ("schema", "benchmark", "split", "n", "headline", "metrics", "units", "averaging", "trivial", "chance", "groups", "missing", "unknown",
          "status", "format_errors", "resized", "per_example", "card")
LISTED = 20
"""Ids that a message names before it says "and more"."""
_DRAWS = 1 << 22
"""Resampled examples held at once."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark.

    Attributes:
        value: what one example's row gives: a number, ``None``, or (numerator, denominator).
        unit: ``share`` (0-1), ``score_0_5``, ...
        by: row field whose groups are averaged first and then count equally; empty: every example counts equally.
        conditional: over examples that the model itself selects; two models cannot be paired on it.
    """

    name: str
    value: Callable[[Row], Any]
    unit: str = "share"
    by: str = ""
    conditional: bool = False


def summarise(rows: Sequence[Row], averaging: Mapping[str, str], bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Per metric: value, number of examples with a truth, and the 2.5 % and 97.5 % percentiles of resampled examples.

    Args:
        averaging: metric -> ``examples``, ``sums`` (ratio of sums) or ``groups:<row field>`` (mean of the groups' means).
    """
    return {name: _average([(row["values"][name], row) for row in rows if row["values"].get(name) is not None], how, bootstrap, seed)
            for name, how in averaging.items()}


def differences(result: Mapping[str, Any], baseline: Mapping[str, Any], bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Paired differences ``result - baseline`` per metric, resampled together; ``None`` for conditional metrics.

    Raises:
        DataError: the two score different examples.
    """
    mine, other = result["per_example"], baseline["per_example"]
    if set(mine) != set(other):
        raise DataError(f"the two results score different examples: {sorted(set(mine) ^ set(other))[:LISTED]}")
    out = {}
    for name, how in result["averaging"].items():
        both = [(mine[i]["values"][name], other[i]["values"].get(name), mine[i]) for i in mine]
        both = [] if how == "conditional" else [pair for pair in both if pair[0] is not None and pair[1] is not None]
        out[name] = _average([(a, row) for a, _, row in both], how, bootstrap, seed, [b for _, b, _ in both])
    return out


def _average(values: Sequence[tuple[Any, Row]], how: str, bootstrap: int, seed: int, minus: Sequence[Any] = ()) -> dict[str, Any]:
    if not values:
        return {"value": None, "n": 0, "ci95": None}
    sides = [_columns([value for value, _ in values])] + ([_columns(minus)] if minus else [])
    groups = None
    if how.startswith("groups:"):
        groups = np.unique([str(row[how.removeprefix("groups:")]) for _, row in values], return_inverse=True)[1]

    def measure(draw: np.ndarray) -> np.ndarray:
        """(B, n) resampled positions -> (B,) values."""
        found = [_ratio(side, draw, groups) for side in sides]
        return found[0] if len(found) == 1 else found[0] - found[1]

    n = len(values)
    interval = None
    if bootstrap:
        rng, step = np.random.default_rng(seed), max(1, _DRAWS // n)
        parts = [measure(rng.integers(n, size=(min(step, bootstrap - start), n))) for start in range(0, bootstrap, step)]
        draws = np.concatenate(parts)
        interval = None if np.isnan(draws).all() else [float(bound) for bound in np.nanpercentile(draws, [2.5, 97.5])]
    value = float(measure(np.arange(n)[None])[0])
    return {"value": None if np.isnan(value) else value, "n": n, "ci95": interval}


def _columns(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(numerators, denominators) float64."""
    pairs = [value if isinstance(value, (list, tuple)) else (value, 1.0) for value in values]
    return tuple(np.array(column, np.float64) for column in zip(*pairs))


def _ratio(side: tuple[np.ndarray, np.ndarray], draw: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    over, under = (column[draw] for column in side)
    if groups is None:
        return _divide(over.sum(axis=1), under.sum(axis=1))
    which = groups[draw]
    means = [_divide(np.where(which == g, over, 0).sum(axis=1), np.where(which == g, under, 0).sum(axis=1)) for g in range(groups.max() + 1)]
    return np.nanmean(np.stack(means), axis=0)  # a resample without any example of a group averages the others


def _divide(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)


# --- the file --------------------------------------------------------------------------------------------------------------------

def averaging(metrics: Sequence[Metric], rows: Sequence[Row]) -> dict[str, str]:
    """How each metric was averaged, as :func:`summarise` takes it and the file stores it."""
    out = {}
    for metric in metrics:
        pairs = any(isinstance(row["values"][metric.name], (list, tuple)) for row in rows)
        out[metric.name] = "conditional" if metric.conditional else f"groups:{metric.by}" if metric.by else "sums" if pairs else "examples"
    return out


def build(*, benchmark: str, split: str, metrics: Sequence[Metric], headline: Sequence[str], rows: Mapping[str, dict[str, Any]],
          trivial_rows: Sequence[Row], chance: Mapping[str, float | None], groups: Mapping[str, str], missing: Sequence[str],
          unknown: Sequence[str], bootstrap: int, seed: int) -> dict[str, Any]:
    """The result as plain JSON data, without its card.

    Args:
        rows: example id -> row with ``status``, ``problems``, ``resized`` and the fields that the metrics and groups need.
        trivial_rows: the same of a trivial prediction for every example.
        groups: name of a division (``question type``) -> row field.
    """
    scored = list(rows.values())
    for row in (*scored, *trivial_rows):
        row["values"] = {metric.name: _plain(metric.value(row)) for metric in metrics}
    how = averaging(metrics, scored)
    trivial = {name: found["value"] for name, found in summarise(trivial_rows, how, 0, 0).items()}
    return {
        "schema": SCHEMA, "benchmark": benchmark, "split": split, "n": len(rows), "headline": list(headline),
        "metrics": summarise(scored, how, bootstrap, seed),
        "units": {metric.name: metric.unit for metric in metrics},
        "averaging": how,
        "trivial": trivial | dict(chance),
        "chance": {name: value for name, value in chance.items() if value is not None},
        "groups": {name: _groups(scored, field, how, bootstrap, seed) for name, field in groups.items()},
        "missing": list(missing),
        "unknown": list(unknown),
        "status": dict(sorted(Counter(row["status"] for row in scored).items())),
        "format_errors": dict(sorted(Counter(problem for row in scored for problem in row["problems"]).items())),
        "resized": sum(row["resized"] for row in scored),
        "per_example": dict(rows),
    }


def _groups(rows: Sequence[Row], field: str, how: Mapping[str, str], bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    out = {}
    for value in sorted({str(row[field]) for row in rows}):
        group = [row for row in rows if str(row[field]) == value]
        out[value] = {"n": len(group), "metrics": summarise(group, how, bootstrap, seed)}
    return out


def _plain(value: Any) -> Any:
    """JSON form of a value: no NumPy scalars, a pair as a list."""
    if isinstance(value, (list, tuple)):
        return [float(part) for part in value]
    return value if value is None or isinstance(value, bool) else float(value)


def write_json(path: str | Path, value: Any) -> None:
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_result(path: str | Path) -> dict[str, Any]:
    """A result file of this schema. Raises :class:`DataError` when it is none, or lacks a field."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable result file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} has schema {found!r}; `unipixel score` of this version writes {SCHEMA!r}: run it again")
    absent = [name for name in FIELDS if name not in content]
    if absent or set(content["metrics"]) != set(content["averaging"]):
        raise DataError(f"{path} lacks {absent or 'metrics that it says it has'}: it was cut or edited; run it again")
    return content
