"""Whether two systems differ on the same examples: McNemar's test, the paired permutation test, and the correction for several tests.

Examples are taken as independent; questions about one video are not quite. Every p value is two-sided. Intervals of means and of paired
differences are made where results are averaged, in ``benchmarks``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

_BLOCK = 4_000_000
"""Random signs drawn at once, so that memory does not grow with resamples times examples."""


def permutation_test(first: np.ndarray, second: np.ndarray, resamples: int, seed: int) -> float:
    """p value of the paired permutation test: how often the two systems differ at least as much when a coin decides, for each example,
    which of them gave which value.

    Exact where all patterns are at most ``resamples``; otherwise sampled, the observed pattern counted as one of them.

    Args:
        first, second: (n,) values, compared by their means, or (n, 2) numerators and denominators, compared by the ratio of their sums.
    """
    first, second = _columns(first), _columns(second)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} values: the two systems must be measured on the same examples")
    total = (first + second).sum(axis=0)
    by = first - second
    by = by[(by != 0).any(axis=1)]  # equal values may swap without effect
    if not len(by):
        return 1.0

    def statistic(signs: np.ndarray) -> np.ndarray:
        """(B, n) signs -> (B,) absolute difference of the two ratios."""
        change = signs @ by
        sides = [np.divide(total[0] + s * change[:, 0], total[1] + s * change[:, 1], out=np.zeros(len(change)),
                           where=total[1] + s * change[:, 1] > 0) for s in (1, -1)]
        return np.abs(sides[0] - sides[1])

    observed = statistic(np.ones((1, len(by))))[0] * (1 - 1e-9)  # the same sum in another order may differ in its last bits
    if 2 ** min(len(by), 60) <= resamples:
        return float((statistic(np.array(list(itertools.product((-1, 1), repeat=len(by))))) >= observed).mean())
    rng, hits, step = np.random.default_rng(seed), 0, max(1, _BLOCK // len(by))
    for start in range(0, resamples, step):
        signs = rng.integers(2, size=(min(step, resamples - start), len(by)), dtype=np.int8) * np.int8(2) - np.int8(1)
        hits += int((statistic(signs) >= observed).sum())
    return (hits + 1) / (resamples + 1)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """p value of McNemar's exact test: examples that only one of the two got right fall to either side like a fair coin."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the number of tests (Holm, 1979), in the order given."""
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = floor
    return corrected


def _columns(values: np.ndarray) -> np.ndarray:
    """(n,) or (n, 2) -> (n, 2) float64; a plain value has the denominator 1."""
    values = np.asarray(values, np.float64)
    if values.ndim == 1:
        values = np.stack([values, np.ones(len(values))], axis=1)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: finite numbers, or pairs of them, one per example are needed")
    return values
