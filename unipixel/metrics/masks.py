"""Region similarity J, boundary accuracy F and their sequence statistics, equal to davis2017-evaluation.

Owns the formulas and the way from masks (bool arrays or COCO RLE) to byte planes; ``bitplane.py`` counts pixels, ``rle.py`` reads
strings. Which frames and objects are scored, and how they are averaged, is a protocol: see ``benchmarks``.

J = |P ∧ G| / |P ∨ G|, 1 when both are empty. F = harmonic mean of boundary precision and recall, where a boundary pixel counts when the
other boundary passes within ``ceil(bound_th * diagonal)`` pixels; 1 when neither mask has a boundary, which also holds for a mask that
fills the frame. Void pixels are background in both masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unipixel.metrics.bitplane import HIT_GT, HIT_PRED, INTER, N_GT, N_PRED, PAIRS, UNION, pair_counts
from unipixel.metrics.rle import Counts, decode, parse_runs

Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""
_STEP = 64
"""Rows that are looked at together when the last row of a mask is searched."""


def tolerance_radius(size: tuple[int, int], bound_th: float = 0.008) -> int:
    """Boundary tolerance in pixels for frames of ``size`` (height, width): ``bound_th`` of the diagonal, or itself from 1 on."""
    if bound_th >= 1:
        if bound_th != int(bound_th):
            raise ValueError(f"bound_th={bound_th}: from 1 on it is a radius in pixels and must be whole")
        return int(bound_th)
    if not bound_th >= 0:
        raise ValueError(f"bound_th={bound_th} must not be negative")
    return int(np.ceil(bound_th * np.linalg.norm(size)))


def jf(pred: np.ndarray, gt: np.ndarray, bound_th: float = 0.008, void: np.ndarray | None = None) -> tuple[float, float]:
    """J and F of one frame. ``pred``, ``gt``, ``void``: (H, W) bool. Raises ``ValueError`` on other types or unequal shapes."""
    js, fs = jf_sequence(pred[None], gt[None], bound_th, None if void is None else void[None])
    return float(js[0]), float(fs[0])


def jf_rle(pred_counts: Counts, gt_counts: Counts, size: tuple[int, int], bound_th: float = 0.008,
           void_counts: Counts | None = None) -> tuple[float, float]:
    """J and F of one frame from compressed COCO counts (``""``: empty) of masks of ``size`` (height, width)."""
    js, fs = jf_sequence_rle([pred_counts], [gt_counts], size, bound_th, None if void_counts is None else [void_counts])
    return float(js[0]), float(fs[0])


def jf_sequence(pred: np.ndarray, gt: np.ndarray, bound_th: float = 0.008,
                void: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every frame. ``pred``, ``gt``, ``void``: (T, H, W) bool. Returns two (T,) float64 arrays."""
    for name, masks in (("pred", pred), ("gt", gt)) + ((("void", void),) if void is not None else ()):
        if masks.dtype != bool or masks.ndim != 3 or masks.shape != pred.shape:
            raise ValueError(f"{name} is {masks.dtype} of shape {masks.shape}; pred, gt and void must be bool arrays of one shape, (H, W) "
                             f"or (T, H, W), and pred is {pred.shape}")
    pred, gt, void = _row_major(pred, gt, void)
    size = pred.shape[1:]
    radius = tolerance_radius(size, bound_th)
    counts = np.zeros((len(pred), 6), np.int64)
    for chunk in _chunks(len(pred)):
        masks = [side[t] if void is None else side[t] & ~void[t] for t in chunk for side in (pred, gt)]
        box = _padded_union([_mask_box(mask) for mask in masks], size)
        if box is not None:
            counts[chunk] = pair_counts(_plane_of_masks(masks, box, size), radius)[: len(chunk)]
    return _scores(counts)


def jf_sequence_rle(pred_counts: Sequence[Counts], gt_counts: Sequence[Counts], size: tuple[int, int], bound_th: float = 0.008,
                    void_counts: Sequence[Counts] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """J and F of every frame from compressed COCO counts (``""``: empty), one per frame and side. Returns two (T,) float64 arrays.

    Masks are not expanded: runs go straight into the planes. With void pixels they are decoded.
    """
    if len(pred_counts) != len(gt_counts) or (void_counts is not None and len(void_counts) != len(gt_counts)):
        raise ValueError(f"{len(pred_counts)} predicted and {len(gt_counts)} true masks"
                         + ("" if void_counts is None else f", {len(void_counts)} void masks") + ": one of each per frame is needed")
    if void_counts is not None:
        frames = [np.stack([decode(c, size) for c in side]) for side in (pred_counts, gt_counts, void_counts)]
        return jf_sequence(frames[0], frames[1], bound_th, frames[2])
    radius = tolerance_radius(size, bound_th)
    counts = np.zeros((len(gt_counts), 6), np.int64)
    for chunk in _chunks(len(gt_counts)):
        masks = [side[t] for t in chunk for side in (pred_counts, gt_counts)]
        runs = [_column_runs(starts, ends, size[0]) for starts, ends in parse_runs(masks, size)]
        box = _padded_union([_runs_box(*run) for run in runs], size)
        if box is not None:
            counts[chunk] = pair_counts(_plane_of_runs(runs, box, size), radius)[: len(chunk)]
    return _scores(counts)


def sequence_statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, recall, decay) of one object's frame values, as in davis2017-evaluation ``db_statistics``.

    Recall is the share of frames above 0.5; decay is the mean of the first quarter minus that of the last. The official code keeps its
    bin edges in uint8 and yields NaN from 256 frames on; here they are integers and the formula holds for any length.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values of shape {values.shape}: a non-empty list of frame values is needed")
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())


def _row_major(*sides: np.ndarray | None) -> list[np.ndarray | None]:
    """Frames whose bytes lie row after row. J and F are symmetric, so that column-major masks (pycocotools) may stay transposed."""
    if all(side is None or side.transpose(0, 2, 1).flags.c_contiguous for side in sides):
        return [None if side is None else side.transpose(0, 2, 1) for side in sides]
    return [None if side is None else np.ascontiguousarray(side) for side in sides]


def _chunks(n_frames: int) -> list[range]:
    return [range(start, min(start + PAIRS, n_frames)) for start in range(0, n_frames, PAIRS)]


def _scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 6) counts -> J, F. A side without boundary scores 1 only when the other one has none either."""
    c = counts.T.astype(np.float64)
    j = np.divide(c[INTER], c[UNION], out=np.ones(len(counts)), where=c[UNION] > 0)
    both = (c[N_PRED] > 0) & (c[N_GT] > 0)
    precision = np.divide(c[HIT_PRED], c[N_PRED], out=np.zeros(len(counts)), where=both)
    recall = np.divide(c[HIT_GT], c[N_GT], out=np.zeros(len(counts)), where=both)
    f = np.divide(2 * precision * recall, precision + recall, out=np.zeros(len(counts)), where=precision + recall > 0)
    f[(c[N_PRED] == 0) & (c[N_GT] == 0)] = 1.0
    return j, f


def _padded_union(boxes: list[Box | None], size: tuple[int, int]) -> Box | None:
    """Smallest box around all masks, one pixel wider inside the frame so that every boundary pixel lies in it."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    top, bottom, left, right = zip(*found)
    return max(min(top) - 1, 0), min(max(bottom) + 1, size[0]), max(min(left) - 1, 0), min(max(right) + 1, size[1])


def _mask_box(mask: np.ndarray) -> Box | None:
    """(H, W) bool, row after row -> its bounding box. Rows are searched from both ends, columns only between the rows found."""
    height, width = mask.shape
    first = int(mask.argmax())
    top = first // width
    if not mask[top, first % width]:
        return None
    bottom = height
    while not mask[max(bottom - _STEP, top) : bottom].any():
        bottom -= _STEP
    bottom = max(bottom - _STEP, top) + int(np.flatnonzero(mask[max(bottom - _STEP, top) : bottom].any(axis=1))[-1]) + 1
    columns = np.flatnonzero(np.bitwise_or.reduce(mask[top:bottom].view(np.uint8), axis=0))
    return top, bottom, int(columns[0]), int(columns[-1]) + 1


def _empty_plane(box: Box) -> np.ndarray:
    return np.zeros((box[1] - box[0] + 1, box[3] - box[2] + 1), np.uint8)


def _replicate_border(plane: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Repeats the last row and column where the box ends at the frame's border: the border itself is never a boundary."""
    if box[1] == size[0]:
        plane[-1] = plane[-2]
    if box[3] == size[1]:
        plane[:, -1] = plane[:, -2]
    return plane


def _plane_of_masks(masks: list[np.ndarray], box: Box, size: tuple[int, int]) -> np.ndarray:
    """Up to eight (H, W) bool masks, prediction and truth in turn -> plane; the first mask ends in bit 0."""
    packed = np.zeros((box[1] - box[0], box[3] - box[2]), np.uint8)
    for mask in reversed(masks):
        packed += packed
        packed |= mask[box[0] : box[1], box[2] : box[3]].view(np.uint8)
    plane = _empty_plane(box)
    plane[:-1, :-1] = packed
    return _replicate_border(plane, box, size)


def _column_runs(starts: np.ndarray, ends: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column-major runs -> (column, first row, row after the last) with runs cut where they pass from one column to the next."""
    column, last = starts // height, (ends - 1) // height
    span = last - column + 1
    if (span == 1).all():
        return column, starts - column * height, ends - column * height
    which = np.repeat(np.arange(len(span)), span)
    columns = column[which] + np.arange(len(which)) - np.repeat(np.cumsum(span) - span, span)
    base = columns * height
    return columns, np.maximum(starts[which] - base, 0), np.minimum(ends[which] - base, height)


def _runs_box(column: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Box | None:
    if len(column) == 0:
        return None
    return int(top.min()), int(bottom.max()), int(column[0]), int(column[-1]) + 1


def _plane_of_runs(runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], box: Box, size: tuple[int, int]) -> np.ndarray:
    """Runs of up to eight masks -> plane: a toggle where a run starts and where it ends, then one running XOR down the columns."""
    plane = _empty_plane(box)
    stride = plane.shape[1]
    flat = plane.ravel()
    for bit, (column, top, bottom) in enumerate(runs):
        at = column - (box[2] + box[0] * stride)
        flat[at + top * stride] ^= np.uint8(1 << bit)
        flat[at + bottom * stride] ^= np.uint8(1 << bit)
    for doubling in range(math.ceil(math.log2(len(plane)))):
        plane[1 << doubling :] ^= plane[: -(1 << doubling)]
    return _replicate_border(plane, box, size)
