"""Mask targets on their way from a loader worker to the training device: run lengths, painted where the loss is taken.

Dense masks would be most of what crosses the process border (26 MB for five objects on eight frames at 768 pixels), so workers parse
COCO counts into runs and the consumer paints, resizes and thresholds all of them at once. ``T`` frames, ``O`` objects, ``S`` side of
the SAM 2 input in pixels, ``R`` runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.errors import DataError, SampleError
from unipixel.metrics.rle import parse_runs

CHUNK = 16
"""Masks painted at a time: bounds the memory at their original size."""


@dataclass
class MaskRuns:
    """Non-empty target masks of one size.

    Attributes:
        size: (H, W) in pixels that the runs refer to.
        runs: (R, 2) int32 first and one past the last pixel of each run, in COCO's column-major order.
        owner: (R,) int64 mask of each run, increasing.
        ends: one past the last run of each mask; plain numbers, so that painting needs no synchronisation with the device.
        cells: (M,) int64 where each mask belongs in the flattened (T, O) grid of its batch.
    """

    size: tuple[int, int]
    runs: Tensor
    owner: Tensor
    ends: tuple[int, ...]
    cells: Tensor


def mask_runs(masks: Mapping[int, Sequence[str]], size: tuple[int, int], key: str = "") -> MaskRuns:
    """Cell -> compressed COCO counts of the objects whose union is the target.

    Raises:
        SampleError: the counts do not decode (``bad_masks``).
    """
    counts = [entry for entries in masks.values() for entry in entries]
    try:
        parsed = [np.stack(pair, 1) for pair in parse_runs(counts, size)]
    except DataError as error:
        raise SampleError(str(error), reason="bad_masks", key=key) from error
    owner = np.repeat(np.arange(len(masks)), [len(entries) for entries in masks.values()])
    owner = np.repeat(owner, [len(runs) for runs in parsed])
    runs = np.concatenate(parsed) if parsed else np.zeros((0, 2))
    ends = tuple(np.searchsorted(owner, np.arange(len(masks)), side="right").tolist())
    return MaskRuns(tuple(size), torch.from_numpy(runs.astype(np.int32)), torch.from_numpy(owner), ends,
                    torch.tensor(list(masks), dtype=torch.int64))


def paint(masks: MaskRuns) -> Tensor:
    """(M, H, W) bool; runs of one mask may overlap (their union is meant)."""
    height, width = masks.size
    # +1 where a run starts, -1 behind its end: a pixel is set where the running sum is positive
    edges = torch.zeros(len(masks.ends), height * width + 1, dtype=torch.int16, device=masks.runs.device)
    for column, step in ((0, 1), (1, -1)):
        edges.index_put_((masks.owner, masks.runs[:, column].long()), torch.full_like(masks.runs[:, 0], step, dtype=torch.int16), accumulate=True)
    return (edges.cumsum(1, dtype=torch.int16)[:, :-1] > 0).unflatten(1, (width, height)).transpose(1, 2)


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """(M, H, W) bool -> (M, size, size) bool: bilinear with antialiasing, a pixel belongs to a mask when at least half of it does.

    A mask that would vanish keeps its best pixel, so that a visible object never becomes an empty target.
    """
    soft = F.interpolate(masks[:, None].float(), size=(size, size), mode="bilinear", antialias=True)[:, 0]
    return soft >= soft.amax((1, 2), keepdim=True).clamp(max=0.5)


def dense_targets(groups: Sequence[MaskRuns], shape: tuple[int, int], size: int) -> Tensor:
    """(T, O, size, size) bool targets on the device of the runs; cells without a mask are empty. ``shape`` is (T, O)."""
    out = torch.zeros(shape[0] * shape[1], size, size, dtype=torch.bool, device=groups[0].runs.device)
    for group in groups:
        for first in range(0, len(group.ends), CHUNK):
            last = min(first + CHUNK, len(group.ends))
            part = slice(group.ends[first - 1] if first else 0, group.ends[last - 1])
            chunk = MaskRuns(group.size, group.runs[part], group.owner[part] - first, group.ends[first:last], group.cells[first:last])
            out.index_copy_(0, chunk.cells, resize_masks(paint(chunk), size))
    return out.unflatten(0, shape)


def batch_targets(batch: Mapping) -> Tensor:
    """(T, O, S, S) bool targets of a collated batch with masks, on the device the batch is on."""
    return dense_targets([MaskRuns(**runs) for runs in batch["mask_runs"]], tuple(batch["mask_valid"].shape), batch["sam_frames"].shape[-1])
