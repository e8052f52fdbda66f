"""Temporal IoU and IoP on merged unions, and the accepted spellings of segments."""

import random

import numpy as np
import pytest

from unipixel.metrics import merge_segments, normalise_segments, temporal_iop, temporal_iou
from unipixel.metrics.temporal import EMPTY_SEGMENTS, MALFORMED_SEGMENTS, NO_SEGMENTS, parse_literal


@pytest.mark.parametrize("pred, gt, iou, iop", [
    ([[0, 5], [8, 12]], [[2, 10]], 0.416667, 0.555556),
    ([[0.5, 2.3], [5.1, 7.8]], [[0.6, 2.5], [5.0, 8.0]], 0.88, 0.977778),
    ([[0, 10], [0, 10]], [[0, 10]], 1.0, 1.0),
    ([[0, 10]], [[0, 6], [4, 10]], 1.0, 1.0),
    ([[8, 12], [0, 5], [1, 2]], [[2, 10]], 0.416667, 0.555556),
    ([[0, 1]], [[1, 2]], 0.0, 0.0),
    ([], [[0, 1]], 0.0, 0.0),
    ([[0, 1]], [], 0.0, 0.0),
    ([[3, 3]], [[0, 10]], 0.0, 0.0),
])
def test_worked_examples(pred, gt, iou, iop):
    assert temporal_iou(pred, gt) == pytest.approx(iou, abs=1e-6)
    assert temporal_iop(pred, gt) == pytest.approx(iop, abs=1e-6)


def test_against_counting_on_a_grid():
    """Times on a grid of 0.1 s, so that counting ticks gives the exact shares."""
    rng = random.Random(20260)
    for _ in range(300):
        sides = []
        for _ in range(2):
            cuts = [sorted(rng.sample(range(100), 2)) for _ in range(rng.randint(1, 4))]
            ticks = np.zeros(100, bool)
            for start, end in cuts:
                ticks[start:end] = True
            sides.append(([[start / 10, end / 10] for start, end in cuts], ticks))
        (pred, p), (gt, g) = sides
        iou, iop = temporal_iou(pred, gt), temporal_iop(pred, gt)
        assert iou == pytest.approx((p & g).sum() / (p | g).sum(), abs=1e-12)
        assert iop == pytest.approx((p & g).sum() / p.sum(), abs=1e-12)
        assert 0 <= iou <= 1 and 0 <= iop <= 1
        assert temporal_iou(gt, pred) == pytest.approx(iou, abs=1e-12)


def test_merge_joins_touching_and_nested():
    assert merge_segments([[4, 6], [0, 2], [2, 3], [1, 1.5], [9, 9]]).tolist() == [[0, 3], [4, 6]]


@pytest.mark.parametrize("bad", [[[2, 1]], [[0, float("nan")]], [[0, float("inf")]]])
def test_merge_refuses_what_has_no_length(bad):
    with pytest.raises(ValueError, match="normalise_segments"):
        merge_segments(bad)


@pytest.mark.parametrize("value", [
    [[1.0, 2.0], [3.0, 4.5]], [1.0, 2.0, 3.0, 4.5], [(1, 2), (3, 4.5)], "[[1.0, 2.0], [3.0, 4.5]]", "[1, 2, 3, 4.5]",
    [{"start": 1, "end": 2}, {"start_time": 3, "end_time": 4.5}], '[{"start": 1, "end": 2}, {"start": 3.0, "end": 4.5}]',
    [[1, 2], {"start": 3, "end": 4.5}], np.array([[1, 2], [3, 4.5]]),
])
def test_spellings(value):
    assert normalise_segments(value) == ([(1.0, 2.0), (3.0, 4.5)], None)


@pytest.mark.parametrize("value, kept, problem", [
    (None, [], NO_SEGMENTS), ("null", [], NO_SEGMENTS), ("None", [], NO_SEGMENTS), ([], [], EMPTY_SEGMENTS), ("[]", [], EMPTY_SEGMENTS),
    ([1, 2, 3], [], MALFORMED_SEGMENTS), ([[1, 2], [5, 4]], [(1.0, 2.0)], MALFORMED_SEGMENTS),
    ([[1, 2], "x"], [(1.0, 2.0)], MALFORMED_SEGMENTS),
    ([[1, float("nan")]], [], MALFORMED_SEGMENTS), ([[0, 1, 2]], [], MALFORMED_SEGMENTS), ([[True, 2]], [], MALFORMED_SEGMENTS),
    ([["1", "2"]], [], MALFORMED_SEGMENTS), ("__import__('os')", [], MALFORMED_SEGMENTS), ("[[1, 2", [], MALFORMED_SEGMENTS),
    (3.0, [], MALFORMED_SEGMENTS),
    ([{"start": 1}], [], MALFORMED_SEGMENTS), ([[0, 10**400]], [], MALFORMED_SEGMENTS), ({"start": 1, "end": 2}, [(1.0, 2.0)], None),
])
def test_problems_are_named(value, kept, problem):
    assert normalise_segments(value) == (kept, problem)


@pytest.mark.parametrize("text", ["f()", "[" * 50 + "]" * 50, "[1, " * 3, "1" * 30000])
def test_literals_only(text):
    with pytest.raises(ValueError):
        parse_literal(text)
