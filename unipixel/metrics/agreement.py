"""How far two judges of the same replies agree: Cohen's kappa, correlations of grades, and whether they put replies in the same order.

Intervals come from the bootstrap over groups (the replies to one question are judged alike more often than two replies at random), 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with its bootstrap interval; ``None`` where it is not defined: too little was judged, or always the same way."""

    value: float | None
    low: float | None
    high: float | None


def kappa(first: np.ndarray, second: np.ndarray, *, quadratic: bool = False) -> float | None:
    """Cohen's kappa: agreement beyond what two judges with these marginals would reach by chance; 1 is perfect, 0 chance.

    Sources: Cohen 1960; ``quadratic``: Cohen 1968 with weights (i - j)^2, for grades, where 4 against 5 is less than 1 against 5.

    Args:
        first, second: (n,) grades or booleans of the same n items.

    Returns:
        ``None`` when both judges gave one and the same grade to everything, or nothing was judged.
    """
    first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
    if not len(first):
        return None
    levels = np.union1d(first, second)
    seen = np.zeros((len(levels), len(levels)))
    np.add.at(seen, (np.searchsorted(levels, first), np.searchsorted(levels, second)), 1)
    by_chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    distance = (levels[:, None] - levels[None]).astype(float)
    weights = distance**2 if quadratic else (distance != 0).astype(float)
    expected = (weights * by_chance).sum()
    return float(1 - (weights * seen).sum() / expected) if expected else None


def agreement(first: np.ndarray, second: np.ndarray) -> float | None:
    """Share of equal values; ``None`` of nothing."""
    return float(np.mean(np.asarray(first) == np.asarray(second))) if len(first) else None


def pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's correlation; ``None`` when one judge gave the same grade to everything."""
    return None if _constant(first, second) else float(np.corrcoef(first, second)[0, 1])


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation, ties with their mean rank; ``None`` as for :func:`pearson`."""
    return pearson(stats.rankdata(first), stats.rankdata(second))


def _constant(first: np.ndarray, second: np.ndarray) -> bool:
    return len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0


def orders(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(same order, opposite order, tied for at least one judge): how many of the pairs of these items, (3,) int64.

    Args:
        first, second: (n,) grades of the replies to one question.
    """
    rows, columns = np.triu_indices(len(first), 1)
    product = np.sign(first[rows] - first[columns]) * np.sign(second[rows] - second[columns])
    return np.array([(product > 0).sum(), (product < 0).sum(), (product == 0).sum()], np.int64)


def with_intervals(statistics: Mapping[str, Callable[[np.ndarray], float | None]], groups: Sequence[Hashable], *, resamples: int = RESAMPLES,
                   seed: int = 0) -> dict[str, Interval]:
    """Each statistic of all items, with the percentile interval of its values when whole groups are drawn again.

    Draws in which a statistic is not defined are left out of its interval.

    Args:
        statistics: by name, (m,) positions of items -> value.
        groups: (n,) group of each item.
    """
    everything = {name: statistic(np.arange(len(groups))) for name, statistic in statistics.items()}
    blocks, rng = members(groups), np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in statistics}
    for _ in range(resamples if len(blocks) > 1 else 0):
        rows = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
        for name, statistic in statistics.items():
            if everything[name] is not None and (value := statistic(rows)) is not None:
                drawn[name].append(value)
    bounds = {name: np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() if values else (None, None) for name, values in drawn.items()}
    return {name: Interval(value, *bounds[name]) for name, value in everything.items()}


def members(groups: Sequence[Hashable]) -> list[np.ndarray]:
    """Positions of the items of each group, in the order of the groups' first items."""
    found: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        found.setdefault(group, []).append(position)
    return [np.array(positions) for positions in found.values()]
