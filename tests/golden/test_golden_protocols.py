"""Numbers of published evaluators on small masks: J and F at 480x854, ReVOS' robustness, frame grids, and the toy cases of ST-Evidence."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.st_evidence import seed_temporal
from benchmarks.tasks.refer_video import robustness, spread_truncated
from unipixel.data.media import sample_frames
from unipixel.metrics import jf, temporal_iop, temporal_iou

SIZE = (480, 854)


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """(480, 854) bool, rows top..bottom-1, columns left..right-1."""
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


SQUARE, EMPTY, FULL = box(100, 200, 100, 200), np.zeros(SIZE, bool), np.ones(SIZE, bool)
CASES = {
    "identical": (SQUARE, SQUARE, 1, 1),
    "5 px to the right": (box(100, 200, 105, 205), SQUARE, 0.904762, 1.0),
    "10 px to the right": (box(100, 200, 110, 210), SQUARE, 0.818182, 0.535),
    "10 px right and down": (box(110, 210, 110, 210), SQUARE, 0.680672, 0.085),
    "empty prediction": (EMPTY, SQUARE, 0, 0),
    "empty truth": (SQUARE, EMPTY, 0, 0),
    "both empty": (EMPTY, EMPTY, 1, 1),
    "full frame": (FULL, FULL, 1, 1),
    "truth full, prediction empty": (EMPTY, FULL, 0, 1),
    "truth left half, prediction full": (FULL, box(0, 480, 0, 427), 0.5, 0),
    "one of two parts": (SQUARE, SQUARE | box(300, 350, 400, 500), 0.666667, 0.727273),
    "single pixels, 8 apart": (box(100, 101, 108, 109), box(100, 101, 100, 101), 0, 1),
    "single pixels, 9 apart": (box(100, 101, 109, 110), box(100, 101, 100, 101), 0, 0.5),
}


@pytest.mark.parametrize("pred, true, j, f", CASES.values(), ids=CASES)
def test_masks(pred, true, j, f):
    assert jf(pred, true) == pytest.approx((j, f), abs=1e-6)


def test_robustness_of_revos():
    """The published script compares masks of 0/255 with a truth of 0/1: every false positive then weighs 255."""
    a, r, legacy = robustness(box(100, 200, 110, 210), SQUARE, box(100, 300, 100, 300))
    assert (a, r, legacy) == pytest.approx((0.995121, 0.975, 0.0), abs=1e-6)


@pytest.mark.parametrize("total, positions", [
    (36, "0 2 5 7 9 12 14 16 19 21 23 26 28 30 33 35"), (79, "0 5 10 16 21 26 31 36 42 47 52 57 62 68 73 78"),
    (100, "0 7 13 20 26 33 40 46 53 59 66 73 79 86 92 99")])
def test_frames_of_the_language_model(total, positions):
    assert sample_frames(total, 16) == list(map(int, positions.split()))


def test_frames_of_groundmore():
    assert spread_truncated(36, 20) == [0, 1, 3, 5, 7, 9, 11, 12, 14, 16, 18, 20, 22, 23, 25, 27, 29, 31, 33, 35]


@pytest.mark.parametrize("pred, true, iou, iop, published", [
    ([[0, 5], [8, 12]], [[2, 10]], 0.416667, 0.555556, 0.416667), ([[0.5, 2.3], [5.1, 7.8]], [[0.6, 2.5], [5.0, 8.0]], 0.88, 0.977778, 0.88),
    ([[0, 10], [0, 10]], [[0, 10]], 1, 1, 2.0), ([[0, 10]], [[0, 6], [4, 10]], 1, 1, 1.2)])
def test_segments(pred, true, iou, iop, published):
    assert (temporal_iou(pred, true), temporal_iop(pred, true)) == pytest.approx((iou, iop), abs=1e-6)
    assert seed_temporal(pred, true)[0] == pytest.approx(published, abs=1e-6)
