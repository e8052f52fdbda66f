"""Boundary agreement of up to four mask pairs at once: the arithmetic below J and F.

One byte plane holds four pairs: bit ``2i`` is the prediction of pair ``i``, bit ``2i + 1`` its ground truth. An XOR of shifted planes
gives all eight boundaries, ORs of shifted planes dilate them by the tolerance disk, and a few histograms give the counts. The result is
exact: the same integers as a pixel-by-pixel evaluation of davis2017-evaluation. Formulas on those counts are in ``masks.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

PAIRS = 4
"""Mask pairs in one plane: eight bits, two per pair."""
INTER, UNION, N_PRED, N_GT, HIT_PRED, HIT_GT = range(6)
"""Columns of the counts: pixels of P and G, of P or G, boundary pixels of each, and those within the tolerance of the other one."""

_BYTES = np.arange(256)
_BITS = ((_BYTES[:, None] >> np.arange(8)) & 1).astype(np.int64)
_PAIR_BITS = (1 << 2 * np.arange(PAIRS)).astype(np.uint8)
_SWAPPED = (((_BYTES & 0x55) << 1) | ((_BYTES & 0xAA) >> 1)).astype(np.uint8)


@lru_cache(maxsize=64)
def disk_boxes(radius: int) -> tuple[tuple[int, int], ...]:
    """Boxes ``(half_width, half_height)`` whose union is the disk ``dx² + dy² <= radius²``: wider and lower from one to the next."""
    half_widths = [math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1)]
    tallest = {width: height for height, width in enumerate(half_widths)}
    return tuple(sorted(tallest.items()))


def boundaries(plane: np.ndarray) -> np.ndarray:
    """(h+1, w+1) uint8, last row and column replicated or empty -> (h, w) uint8: pixels whose 2x2 block down-right is not constant."""
    stride = plane.shape[1]
    flat = plane.ravel()
    here = flat[: -stride - 1]
    edge = here ^ flat[1:-stride]
    edge |= here ^ flat[stride:-1]
    edge |= here ^ flat[stride + 1 :]
    padded = np.empty(plane.size - stride, np.uint8)
    padded[:-1] = edge
    return padded.reshape(-1, stride)[:, :-1]


def dilate(edge: np.ndarray, radius: int) -> np.ndarray:
    """(h, w) uint8 -> (h, w) uint8: each bit dilated by the disk ``dx² + dy² <= radius²``, zero outside.

    The nested boxes are merged Horner-style: what is there so far grows in height, then the next wider row runs join it. Rows lie end
    to end with ``radius`` zeros between and around them, so that every shift is one OR of the flat array with itself and nothing is
    clipped. Growth is one-sided (towards lower positions); the offsets are settled when runs join.
    """
    height, width = edge.shape
    stride = width + radius
    flat = np.zeros((height + 2 * radius) * stride + 2 * radius, np.uint8)
    flat[radius * (stride + 1) :][: height * stride].reshape(height, stride)[:, :width] = edge
    boxes = disk_boxes(radius)
    runs = union = flat
    lowered = 0
    for (width_now, height_now), (width_next, height_next) in pairwise(boxes):
        widen, lower = width_next - width_now, height_now - height_next
        lowered += lower
        union = _grow(union, 2 * lower, step=stride, reach=1)
        runs = _grow(runs, 2 * widen, step=1, reach=2 * width_now + 1)
        shifted, joining = union[widen:], runs[lowered * stride :]
        length = min(len(shifted), len(joining))
        union = shifted[:length] | joining[:length]
    union = _grow(union, 2 * boxes[-1][1], step=stride, reach=1)
    return union[: height * stride].reshape(height, stride)[:, :width]


def _grow(flat: np.ndarray, by: int, *, step: int, reach: int) -> np.ndarray:
    """OR of ``flat`` at offsets ``0, step, ..., by * step``, where runs of ``reach`` such steps are already filled in ``flat``."""
    while by:
        more = min(reach, by)
        flat = flat[: -more * step] | flat[more * step :]
        reach += more
        by -= more
    return flat


def areas(plane: np.ndarray) -> tuple[list[int], list[int]]:
    """(h, w) uint8 -> pixels of P and G, and of P or G, per pair. Counting bit by bit is twice as quick as one histogram of all bytes."""
    truth = plane >> 1
    return tuple([np.count_nonzero(side & bit) for bit in _PAIR_BITS] for side in (plane & truth, plane | truth))


def pair_counts(plane: np.ndarray, radius: int) -> np.ndarray:
    """(h+1, w+1) uint8 plane, tolerance in pixels -> (4, 6) int64 counts, one row per pair, columns as named above.

    The last row and column must repeat their neighbours where the box ends at the frame's own border, and be zero elsewhere.
    """
    edge = boundaries(plane)
    at = np.flatnonzero(edge != 0)
    edge_bits = edge.ravel()[at]
    hit_bits = edge_bits & _SWAPPED[dilate(edge, radius).ravel()[at]]
    n_edge = np.bincount(edge_bits, minlength=256) @ _BITS
    n_hit = np.bincount(hit_bits, minlength=256) @ _BITS
    inter, union = areas(plane[:-1, :-1])
    return np.stack([inter, union, n_edge[0::2], n_edge[1::2], n_hit[0::2], n_hit[1::2]], axis=1)
