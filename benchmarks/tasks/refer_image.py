"""Referring segmentation of pictures: RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and ReasonSeg.

cIoU is the ratio of the summed intersections to the summed unions, gIoU the mean IoU per example (both empty: 1). Both are reported,
because papers name either "the" number. A missing or failed prediction has no intersection and the whole truth as its union.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.masks import first_track, predicted_evidence, true_entry
from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.tasks.refer_video import ReferringVideo, protocols
from benchmarks.truth import GroundTruth, truth_of
from unipixel.infer.predictions import Prediction
from unipixel.sample import EMPTY, Entry, Example, Sample, decode_entry

IOUS = (Metric("cIoU", lambda row: (row["inter"], row["union"])), Metric("gIoU", lambda row: row["iou"]))
SMALLEST = 10
"""Parts of a mask with fewer pixels do not widen its box."""
REFERENCE = {"max_pixels": 4096 * 28 * 28}
"""A single picture gets the budget of 16 frames."""


def overlap(pred: np.ndarray, true: np.ndarray, void: np.ndarray | None = None) -> dict[str, float]:
    """``inter``, ``union`` (pixels) and ``iou`` of (H, W) bool masks outside of ``void``."""
    if void is not None:
        pred, true = pred & ~void, true & ~void
    inter, union = int((pred & true).sum()), int((pred | true).sum())
    return {"inter": inter, "union": union, "iou": inter / union if union else 1.0}


class ReferringImage(ReferringVideo):
    """One expression, one mask on a picture."""

    metrics = IOUS
    headline = ("cIoU", "gIoU")
    protocols = protocols("ratio of sums, and mean over expressions", **REFERENCE)

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        true = decode_entry(true_entry(truth, 0), truth.size)
        mask, resized = self._mask(truth, prediction, protocol)
        if mask is None:
            return {"inter": 0, "union": int((true & ~self._void(truth, protocol)).sum()), "iou": 0.0, "resized": False}
        return overlap(mask, true, self._void(truth, protocol)) | {"resized": resized}

    def _mask(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> tuple[np.ndarray | None, bool]:
        """((H, W) bool, resized); ``None`` when there is no prediction to judge."""
        if prediction is None:
            return None, False
        prediction = first_track(prediction) if protocol.compat == "unipixel" else prediction
        masks, resized = predicted_evidence(prediction, truth, protocol.on_size_mismatch) if any(prediction.masks) else ({}, False)
        return decode_entry(masks.get(0, EMPTY), truth.size), resized

    def _void(self, truth: GroundTruth, protocol: Protocol) -> np.ndarray:
        return np.zeros(truth.size, bool)


class RefCOCO(ReferringImage):
    """cIoU and gIoU of the mask, and whether its box has an IoU of at least 0.5 with the annotated one."""

    metrics = (*IOUS, Metric("box@0.5", lambda row: row["box_hit"]))
    name, source = "refcoco", "refcoco"
    summary = "RefCOCO: cIoU, gIoU and box accuracy, one item per sentence"
    expected = {"val": (1500, 10834), "testA": (750, 5657), "testB": (750, 5095)}

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return [truth_of(example, sample.medium, facts={"bbox": example.source.get("bbox_xywh")}) for example in sample.examples]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        mask, _ = self._mask(truth, prediction, protocol)
        hit = None
        if truth.facts["bbox"] is not None:
            box = None if mask is None else mask_box(mask)
            x, y, w, h = truth.facts["bbox"]
            hit = box is not None and box_iou(box, (x, y, x + w, y + h)) >= 0.5
        return super().measure(truth, prediction, protocol) | {"box_hit": hit}


class RefCOCOPlus(RefCOCO):
    name, source = "refcoco+", "refcoco+"
    summary = "RefCOCO+: the same, expressions without places"
    expected = {"val": (1500, 10758), "testA": (750, 5726), "testB": (750, 4889)}


class RefCOCOg(RefCOCO):
    name, source = "refcocog", "refcocog"
    summary = "RefCOCOg: the same, long expressions"
    expected = {"val": (1300, 4896), "test": (2600, 9602)}


class RefCLEF(RefCOCO):
    name, source = "refclef", "refclef"
    summary = "RefCLEF: the same on ImageCLEF pictures"
    expected = {}


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) of a (H, W) bool mask with inclusive corners, from its 8-connected parts of at least ``SMALLEST`` pixels."""
    parts, _ = ndimage.label(mask, np.ones((3, 3), int))
    large = np.flatnonzero(np.bincount(parts.ravel())[1:] >= SMALLEST) + 1
    if not len(large):
        return None
    rows, columns = np.nonzero(np.isin(parts, large))
    return float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


class ReasonSeg(ReferringImage):
    """LISA's protocol: the first text of each picture, pixels to ignore are excluded. Compat ``unipixel``: every text, and those pixels
    are background, as its released script has them."""

    name, source = "reason-seg", "reason_seg"
    summary = "ReasonSeg: reasoning queries about pictures, gIoU and cIoU without ignored pixels"
    headline = ("gIoU", "cIoU")
    groups = {"query": "query"}
    protocols = protocols("mean over pictures, and ratio of sums", **REFERENCE)
    expected = {"val": (200, 200), "test": (779, 779)}

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        found = [example for example in super().examples(sample, protocol) if example.form != "explanatory"]
        return found if protocol.compat == "unipixel" else found[:1]

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        ignored = sample.medium.source.get("ignore")
        entry: Entry = sample.medium.objects[ignored].track.entries[0] if ignored else EMPTY
        return [truth_of(example, sample.medium, facts={"ignore": entry, "query": "long" if example.source.get("is_sentence") else "short"})
                for example in sample.examples]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        return super().measure(truth, prediction, protocol) | {"query": truth.facts["query"]}

    def _void(self, truth: GroundTruth, protocol: Protocol) -> np.ndarray:
        return super()._void(truth, protocol) if protocol.compat == "unipixel" else decode_entry(truth.facts["ignore"], truth.size)
