"""Paired tests: against exact values, by their error rate, and on ratios of sums."""

import itertools
import math

import numpy as np
import pytest

from unipixel.metrics import holm, mcnemar_exact, permutation_test, significance


def against_zero(values, resamples, seed):
    return permutation_test(np.array(values), np.zeros(len(values)), resamples, seed)


def test_exact_for_few_examples():
    values = [0.5, -0.1, 0.4, 0.3, 0.0]
    signs = itertools.product((-1, 1), repeat=4)
    want = np.mean([abs(sum(s * abs(v) for s, v in zip(row, values))) >= 1.1 - 1e-9 for row in signs])
    assert against_zero(values, 1000, 0) == want == 0.25
    assert against_zero([0.0, 0.0], 1000, 0) == 1.0


def test_sampled_patterns_agree_with_all_of_them(monkeypatch):
    values = np.random.default_rng(2).normal(0.4, 1, 14)
    exact = against_zero(values, 2**14, 0)
    sampled = against_zero(values, 2**14 - 1, 3)
    assert sampled == pytest.approx(exact, abs=0.01) and 0.001 < exact < 0.9
    monkeypatch.setattr(significance, "_BLOCK", 14 * 1000)
    assert against_zero(values, 2**14 - 1, 3) == pytest.approx(exact, abs=0.01), "drawn in blocks"
    assert against_zero(np.ones(100), 999, 0) == 1 / 1000


def test_error_rate_without_a_difference():
    rng = np.random.default_rng(4)
    rejected = sum(permutation_test(*rng.normal(size=(2, 30)), 199, seed) <= 0.05 for seed in range(300))
    assert 4 <= rejected <= 28


def test_ratios_of_sums_swap_both_parts():
    """Brute force over all swaps of four (intersection, union) pairs."""
    rng = np.random.default_rng(5)
    first, second = (np.sort(rng.integers(1, 50, (4, 2)), axis=1) for _ in range(2))

    def difference(swap):
        a, b = np.where(np.array(swap)[:, None], second, first).sum(0), np.where(np.array(swap)[:, None], first, second).sum(0)
        return abs(a[0] / a[1] - b[0] / b[1])

    want = np.mean([difference(swap) >= difference([0] * 4) - 1e-9 for swap in itertools.product((0, 1), repeat=4)])
    assert permutation_test(first, second, 100, 0) == want


@pytest.mark.parametrize("first, second, p", [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 2**6), (1, 8, 2 * (1 + 9) / 2**9), (8, 1, 2 * (1 + 9) / 2**9)])
def test_mcnemar(first, second, p):
    assert mcnemar_exact(first, second) == pytest.approx(p, rel=1e-9)


def test_mcnemar_of_large_counts():
    n = 40_000
    assert mcnemar_exact(n // 2 + 200, n // 2 - 200) == pytest.approx(math.erfc((400 - 1) / math.sqrt(2 * n)), rel=1e-3)


def test_mcnemar_is_the_permutation_test_of_right_and_wrong():
    first, second = np.repeat([1.0, 0.0, 1.0], [7, 2, 5]), np.repeat([0.0, 1.0, 1.0], [7, 2, 5])
    assert permutation_test(first, second, 2**9, 0) == pytest.approx(mcnemar_exact(7, 2))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("first, second, message", [
    ([], [], "finite"), ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], "finite"), ([math.nan], [0.0], "finite"), ([1.0], [1.0, 2.0], "same examples")])
def test_what_cannot_be_tested_is_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        permutation_test(np.array(first), np.array(second), 10, 0)
