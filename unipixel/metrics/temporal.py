"""Time segments: reading every spelling of them, and IoU / IoP of their unions.

Segments are ``(start, end)`` in seconds. Overlapping segments are merged before anything is measured, so repeating one cannot raise a
score and every value lies in 0-1. Times are float64: single precision flips threshold decisions.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

NO_SEGMENTS = "no_segments"
EMPTY_SEGMENTS = "empty_segments"
MALFORMED_SEGMENTS = "malformed_segments"
SEGMENT_PROBLEMS = (NO_SEGMENTS, EMPTY_SEGMENTS, MALFORMED_SEGMENTS)
_BOUND_NAMES = (("start", "end"), ("start_time", "end_time"))
_MAX_LITERAL, _MAX_DEPTH = 20_000, 8


def merge_segments(segments: Iterable[Sequence[float]]) -> np.ndarray:
    """Segments in any order -> (N, 2) float64: disjoint, sorted, without those of length 0. Raises ``ValueError`` on a reversed one."""
    merged: list[list[float]] = []
    for start, end in sorted((float(start), float(end)) for start, end in segments):
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise ValueError(f"segment [{start}, {end}] is not finite or ends before it starts; normalise_segments() drops such ones")
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, np.float64).reshape(-1, 2)


def temporal_iou(pred_segments: Iterable[Sequence[float]], gt_segments: Iterable[Sequence[float]]) -> float:
    """|P ∩ G| / |P ∪ G| of the two unions, in seconds over seconds; 0 when either side has no length."""
    pred, gt = merge_segments(pred_segments), merge_segments(gt_segments)
    if len(pred) == 0 or len(gt) == 0:
        return 0.0
    return min(_overlap(pred, gt) / _length(merge_segments([*pred, *gt])), 1.0)


def temporal_iop(pred_segments: Iterable[Sequence[float]], gt_segments: Iterable[Sequence[float]]) -> float:
    """|P ∩ G| / |P|: the share of the predicted time that is evidence; 0 when either side has no length."""
    pred, gt = merge_segments(pred_segments), merge_segments(gt_segments)
    if len(pred) == 0 or len(gt) == 0:
        return 0.0
    return min(_overlap(pred, gt) / _length(pred), 1.0)


def normalise_segments(value: Any) -> tuple[list[tuple[float, float]], str | None]:
    """Any accepted spelling -> (segments, problem).

    Accepted: ``[[s, e], ...]``, ``[s1, e1, s2, e2, ...]``, dicts with ``start``/``end`` or ``start_time``/``end_time`` (one or a list),
    and the Python or JSON literal of any of these as a string. ``problem`` is ``None`` or one of :data:`SEGMENT_PROBLEMS`; a malformed
    item (wrong type or length, not finite, reversed) is left out and the others are kept.
    """
    if isinstance(value, str):
        try:
            value = parse_literal(value)
        except ValueError:
            return [], MALFORMED_SEGMENTS
    if value is None:
        return [], NO_SEGMENTS
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [], MALFORMED_SEGMENTS
    if len(value) == 0:
        return [], EMPTY_SEGMENTS
    if all(_is_number(item) for item in value):
        if len(value) % 2:
            return [], MALFORMED_SEGMENTS
        value = list(zip(value[0::2], value[1::2]))
    segments = [segment for segment in map(_segment, value) if segment is not None]
    return segments, None if len(segments) == len(value) else MALFORMED_SEGMENTS


def parse_literal(text: str) -> Any:
    """Value of a Python or JSON literal, never evaluated as code. Raises ``ValueError`` when it is none, too long or too deep."""
    depth = deepest = 0
    for char in text:
        depth += (char in "[({") - (char in "])}")
        deepest = max(deepest, depth)
    if len(text) > _MAX_LITERAL or deepest > _MAX_DEPTH:
        raise ValueError(f"literal of {len(text)} characters and depth {deepest}: at most {_MAX_LITERAL} and {_MAX_DEPTH} are read")
    try:
        return None if text.strip() == "null" else ast.literal_eval(text.strip())
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"not a literal: {text[:60]!r}") from error


def _segment(item: Any) -> tuple[float, float] | None:
    if isinstance(item, Mapping):
        item = next(((item[start], item[end]) for start, end in _BOUND_NAMES if start in item and end in item), ())
    if not isinstance(item, (list, tuple, np.ndarray)) or len(item) != 2 or not all(_is_number(bound) for bound in item):
        return None
    try:
        start, end = float(item[0]), float(item[1])
    except OverflowError:
        return None
    return (start, end) if math.isfinite(start) and math.isfinite(end) and start <= end else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _overlap(pred: np.ndarray, gt: np.ndarray) -> float:
    """Seconds in both; each side is disjoint, so the overlaps of all pairs add up."""
    return float(np.clip(np.minimum.outer(pred[:, 1], gt[:, 1]) - np.maximum.outer(pred[:, 0], gt[:, 0]), 0, None).sum())


def _length(merged: np.ndarray) -> float:
    return float((merged[:, 1] - merged[:, 0]).sum())
