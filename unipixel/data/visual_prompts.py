"""Objects that the question points at, as the model is shown them: a point or a box at a time, or the tokens that a mask covers.

Turns ``Example.regions`` into numbers; the wording is ``unipixel.data.template``'s. A dialogue holds the prompts in the order of its
``<|ref|>`` and ``<|mem|>`` tokens. Legend: ``R`` points and boxes, ``M`` region tokens, ``T`` frames that the language model sees,
``S`` side in pixels of the square SAM 2 frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from unipixel.data.media import MERGE, PATCH, TEMPORAL
from unipixel.data.template import pointed
from unipixel.errors import SampleError
from unipixel.sample import Example, MaskTrack, Medium

POINT_LABELS, BOX_LABELS = (1, -1), (2, 3)
"""Codes of SAM's prompt encoder: a positive point and nothing; the two corners of a box."""
BOX_JITTER, BOX_JITTER_PIXELS = 0.1, 20
"""Noise on a box's corners in training: at most this share of its side, and at most this many pixels of the SAM 2 frame."""


@dataclass
class Pointer:
    """A point or a box.

    Attributes:
        frame: position of its frame among the frames that the language model sees.
        corners: ((x, y), (x, y)) in pixels of the square SAM 2 frame; a point stands in the first place.
        box: whether both corners count.
    """

    frame: int
    corners: tuple[tuple[float, float], tuple[float, float]]
    box: bool


@dataclass
class VisualPrompts:
    """What stands behind the ``<|ref|>`` and ``<|mem|>`` tokens of one dialogue.

    Attributes:
        pointers, times: one per ``<|ref|>``; times in [0, 1] over the clip.
        cells: one (n,) int64 tensor per ``<|mem|>``: visual tokens of the medium, in raster order, that the region covers.
        ref_rows, mem_rows: (R,), (M,) int64 positions of the tokens in the dialogue.
    """

    pointers: list[Pointer] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cells: list[Tensor] = field(default_factory=list)
    ref_rows: Tensor | None = None
    mem_rows: Tensor | None = None


def refer_cells(masks: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(T, O, H, W) bool masks on the frames of a clip -> (t, O, h, w) bool: merged tokens that each object touches.

    ``grid`` (t, h, w) counts merged tokens. An odd last frame is repeated; the two frames of a cell are joined, resized to the vision
    tower's pixels (bilinear, antialiased) and a token is set when any of its 28 x 28 pixels is.
    """
    _, h, w = grid
    if len(masks) % TEMPORAL:
        masks = torch.cat([masks, masks[-1:]])
    joined = masks.unflatten(0, (-1, TEMPORAL)).any(1).float()
    side = PATCH * MERGE
    pixels = TF.resize(joined, [h * side, w * side], TF.InterpolationMode.BILINEAR, antialias=True)
    return F.max_pool2d(pixels, side) > 0


def region_cells(track: MaskTrack, frames: Sequence[int], grid: tuple[int, int, int], key: str) -> list[Tensor]:
    """Visual tokens of a region, one tensor per temporal cell in which it is visible, in order.

    Raises:
        SampleError: it is visible in none of the frames (``region_unseen``).
    """
    visible = track.visible
    masks = np.stack([track.decode([t])[0] if visible[t] else np.zeros(track.size, dtype=bool) for t in frames])
    cells = refer_cells(torch.from_numpy(masks)[:, None], grid)[:, 0].flatten(1)
    step = grid[1] * grid[2]
    found = [cell.nonzero().flatten() + i * step for i, cell in enumerate(cells) if cell.any()]
    if not found:
        raise SampleError(f"region is visible in none of the frames {list(frames)}", reason="region_unseen", key=key)
    return found


def draw_pointer(track: MaskTrack, frames: Sequence[int], kind: str, size: int, rng: np.random.Generator | None, key: str) -> Pointer:
    """A prompt for one object on one of the frames where it is visible.

    Args:
        kind: ``point``, ``box``, or ``point_or_box`` (drawn; a point without ``rng``).
        size: side S of the SAM 2 frame.
        rng: training: a random frame, a random pixel of the mask, a box with jittered corners. Without it: the first such frame, the
            pixel of the mask nearest to its centre, the tight box.

    Raises:
        SampleError: it is visible in none of the frames (``region_unseen``).
    """
    seen = [i for i, t in enumerate(frames) if track.visible[t]]
    if not seen:
        raise SampleError(f"region is visible in none of the frames {list(frames)}", reason="region_unseen", key=key)
    if kind == "point_or_box":
        kind = "box" if rng is not None and rng.random() < 0.5 else "point"
    frame = seen[0] if rng is None else int(rng.choice(seen))
    rows, columns = track.decode([frames[frame]])[0].nonzero()
    scale = np.array([size / track.size[1], size / track.size[0]])

    def scaled(x: float, y: float) -> np.ndarray:
        return (np.array([x, y]) + 0.5) * scale - 0.5  # the encoder adds half a pixel again

    if kind == "point":
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        i = int(middle) if rng is None else int(rng.integers(len(rows)))
        corners = np.stack([scaled(columns[i], rows[i])] * 2)
    else:
        corners = np.stack([scaled(columns.min(), rows.min()), scaled(columns.max(), rows.max())])
        if rng is not None:
            most = np.minimum((corners[1] - corners[0]) * BOX_JITTER, BOX_JITTER_PIXELS)
            corners = corners + rng.uniform(-1, 1, (2, 2)) * most
    corners = corners.clip(0, size - 1)
    return Pointer(frame, tuple(map(tuple, corners.tolist())), kind == "box")


def clip_time(frame: int, cells: int) -> float:
    """Frame position -> [0, 1], counting the copy that pads an odd clip (the reference's rule)."""
    return frame / (TEMPORAL * cells - 1)


def visual_prompts(examples: Iterable[tuple[Example, np.random.Generator | None]], medium: Medium, frames: Sequence[int],
                   grid: tuple[int, int, int], size: int) -> VisualPrompts:
    """Prompts of the examples of one dialogue, in order. ``grid`` (t, h, w) counts merged tokens; see :func:`draw_pointer`."""
    out = VisualPrompts()
    for example, rng in examples:
        for region in pointed(example) if example.visual_prompt != "mask" else example.regions:
            track = medium.objects[region.oid].track
            if example.visual_prompt == "mask":
                out.cells += region_cells(track, frames, grid, example.example_id)
                continue
            pointer = draw_pointer(track, frames, example.visual_prompt, size, rng, example.example_id)
            out.pointers.append(pointer)
            out.times.append(clip_time(pointer.frame, grid[0]))
    return out


def pack_prompts(dialogues: Iterable[tuple[VisualPrompts, int, int]]) -> dict[str, Tensor]:
    """Prompts of (dialogue, its first row, first visual token of its medium) -> keys of a batch, absent when there are none.

    Returns:
        ref_rows (R,) int64, ref_coords (R, 2, 2) float32, ref_labels (R, 2) int64, ref_times (R,) float32; mem_rows (M,) int64, and for
        every visual token that a region covers mem_cells (n,) int64 and mem_owner (n,) int64, the region token it belongs to.
    """
    pointers, times, ref_rows, mem_rows, cells = [], [], [], [], []
    for prompts, row, first in dialogues:
        pointers += prompts.pointers
        times += prompts.times
        cells += [c + first for c in prompts.cells]
        if prompts.pointers:
            ref_rows.append(prompts.ref_rows + row)
        if prompts.cells:
            mem_rows.append(prompts.mem_rows + row)
    out = {}
    if pointers:
        out |= {"ref_rows": torch.cat(ref_rows), "ref_coords": torch.tensor([p.corners for p in pointers], dtype=torch.float32),
                "ref_labels": torch.tensor([BOX_LABELS if p.box else POINT_LABELS for p in pointers]),
                "ref_times": torch.tensor(times, dtype=torch.float32)}
    if cells:
        out |= {"mem_rows": torch.cat(mem_rows), "mem_cells": torch.cat(cells),
                "mem_owner": torch.repeat_interleave(torch.arange(len(cells)), torch.tensor([len(c) for c in cells]))}
    return out
