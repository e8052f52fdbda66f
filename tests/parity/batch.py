"""Inputs of a recording -> the packed batch that this package's model takes; padding is dropped, every sample becomes a dialogue.

The recorded pixels are normalised already. Positions follow the reference's rule, through ``unipixel.data.positions``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.parity.cases import Case
from unipixel.data.positions import VisualBlock, mrope_positions, reference_temporal_indices
from unipixel.data.visual_prompts import Pointer, VisualPrompts, clip_time, pack_prompts


@dataclass(frozen=True)
class Ids:
    """Special tokens, from a checkpoint's ``config.json``."""

    image: int
    video: int
    ref: int
    seg: int
    mem: int

    @classmethod
    def of(cls, config: dict) -> Ids:
        return cls(*(config[f"{name}_token_id"] for name in ("image", "video", "ref", "seg", "mem")))


@dataclass
class Packed:
    """A recording as a batch.

    Attributes:
        batch: inputs of ``GroundedVLM.embed`` and ``hidden_states``.
        kept: (B, L) bool, tokens that are no padding; the row of the batch is these, in order.
        position_ids: (3, B, L) int64 as the reference records them, padding at 1.
        seg: per sample, rows of its ``<|seg|>`` tokens in the batch.
        grids: (t, h, w) of the video of each sample in merged tokens.
        missing: why the batch cannot run; empty when it can.
    """

    batch: dict
    kept: Tensor
    position_ids: Tensor
    seg: list[Tensor]
    grids: list[tuple[int, int, int]]
    missing: str = ""


def pack(case: Case, ids: Ids) -> Packed:
    tokens = case.tensors["in.input_ids"]
    mask = case.tensors.get("in.attention_mask")
    kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    samples = len(tokens)
    images, videos, seconds, missing = media(case, (tokens == ids.video).any(1).sum().item())
    queues = {ids.image: list(images[1]), ids.video: list(videos[1])}
    offsets = {ids.image: 0, ids.video: sum(map(volume, images[1]))}
    positions = torch.ones(3, *tokens.shape, dtype=torch.long)
    rows, visual_rows, visual_index, seg, grids, prompts = [], [], [], [], [], []
    at = 0
    for b in range(samples):
        row = tokens[b][kept[b]]
        blocks, place, first = [], 0, 0
        grid = (0, 0, 0)
        while place < len(row):
            token = int(row[place])
            if token not in queues:
                place += 1
                continue
            grid = queues[token].pop(0)
            t = grid[0]
            temporal = reference_temporal_indices(t, seconds.pop(0)) if token == ids.video else [0] * t
            blocks.append(VisualBlock(place, grid, temporal))
            first = offsets[token]
            visual_rows.append(torch.arange(volume(grid)) + at + place)
            visual_index.append(torch.arange(volume(grid)) + first)
            offsets[token] += volume(grid)
            place += volume(grid)
        positions[:, b, kept[b]] = mrope_positions(len(row), blocks)
        rows.append(row)
        seg.append((row == ids.seg).nonzero().flatten() + at)
        grids.append(grid)
        prompts.append((shown(case, b, samples, grid, row, ids), at, first))
        at += len(row)
    position_ids = torch.cat([positions[:, b, kept[b]] for b in range(samples)], 1)
    text = torch.cat([torch.arange(len(row)) for row in rows])
    batch = {"input_ids": torch.cat(rows)[None], "position_ids": torch.cat([text[None], position_ids])[:, None],
             "segment_lengths": tuple(map(len, rows)), **pack_prompts(prompts)}
    if visual_rows and not missing:
        scale = torch.tensor([1, 2, 2])
        batch |= {"visual_rows": torch.cat(visual_rows), "visual_index": torch.cat(visual_index), "patches": torch.cat([images[0], videos[0]]),
                  "grids": torch.tensor([*images[1], *videos[1]]) * scale}
    return Packed(batch, kept, positions, seg, grids, missing)


def volume(grid: tuple[int, int, int]) -> int:
    return grid[0] * grid[1] * grid[2]


def media(case: Case, with_video: int):
    """((patches, grids) of images, (patches, grids) of videos, seconds per temporal cell of each video, what is missing); grids (t, h, w)
    in merged tokens. A case without pixels of its own uses the shared clip, once per sample that shows a video."""
    empty = torch.zeros(0, 1176)
    images, image_grids = case.tensors.get("in.pixel_values", empty), merged(case.tensors.get("in.image_grid_thw"))
    patches, grids = case.shared("pixel_values_videos"), merged(case.shared("video_grid_thw"))
    seconds = case.shared("second_per_grid_ts")
    if not with_video:
        return (images, image_grids), (empty, []), [], ""
    if len(grids) == 1 and with_video > 1 and "in.video_grid_thw" not in case.tensors:
        patches, grids = patches.repeat(with_video, 1), grids * with_video
    seconds = (seconds.tolist() if seconds is not None else [1.0]) * (len(grids) if seconds is None or len(seconds) == 1 else 1)
    missing = "" if len(patches) == 4 * sum(map(volume, grids)) else "the recording holds no pixels for its grid"
    return (images, image_grids), (patches, grids), seconds, missing


def merged(grids: Tensor | None) -> list[tuple[int, int, int]]:
    return [] if grids is None else [(t, h // 2, w // 2) for t, h, w in grids.tolist()]


def shown(case: Case, b: int, samples: int, grid: tuple[int, int, int], row: Tensor, ids: Ids) -> VisualPrompts:
    """Points, boxes and regions of one sample."""
    out = VisualPrompts(ref_rows=(row == ids.ref).nonzero().flatten(), mem_rows=(row == ids.mem).nonzero().flatten())
    frames = case.get("point_frames", b, samples)
    for o, frame in enumerate([] if frames is None else frames.flatten().tolist()):
        keys = (f"in.s{b}.point_coords.{o}", f"in.point_coords.{b}.{o}", f"in.point_coords.{o}")
        corners = next(case.tensors[key] for key in keys if key in case.tensors).reshape(-1, 2)
        out.pointers.append(Pointer(frame, tuple(map(tuple, corners[[0, -1]].tolist())), len(corners) == 2))
        out.times.append(clip_time(frame, grid[0]))
    masks = case.get("refer_mask", b, samples)
    if masks is not None:
        step = grid[1] * grid[2]
        for o in range(masks.shape[1]):
            out.cells += [masks[t, o].flatten().nonzero().flatten() + t * step for t in range(len(masks)) if masks[t, o].any()]
    return out
