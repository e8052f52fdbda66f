"""Visual prompts of the language model: ``<|ref|>`` from a point or a box at a time, ``<|mem|>`` from the pixels of a region.

Layers and their order are those of the UniPixel family, so its weights fit. Legend: ``R`` points and boxes, ``M`` region tokens, ``D``
width of the language model, ``C`` width of SAM 2, ``N`` visual tokens, ``E`` width of the vision tower's merged patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2_ext import FourierTimes, build_point_encoder
from unipixel.errors import CheckpointError


class PointPrompts(nn.Module):
    """Points and boxes -> (R, D) embeddings of ``<|ref|>`` tokens.

    Everything runs inside one call and both projections run on all prompts, whatever they are: ZeRO-3 needs the same module calls on
    every rank, and a rank may happen to hold points only.
    """

    def __init__(self, width: int, sam_width: int, image_size: int):
        super().__init__()
        wide = 3 * sam_width
        self.ref_encoder = build_point_encoder(sam_width, image_size)
        self.ref_proj_single = nn.Linear(2 * sam_width, wide)
        self.ref_proj_double = nn.Linear(3 * sam_width, wide)
        self.ref_proj = nn.Sequential(nn.GELU(), nn.Linear(2 * wide, width))
        self.tem_pe = FourierTimes(sam_width // 2)
        self.tem_emb = nn.Embedding(1, sam_width)
        self.tem_proj = nn.Linear(sam_width, wide)
        self.missing = ""
        """Why the random matrices are not those that the weights were trained with; empty when they are."""
        for layer in (self.ref_proj_single, self.ref_proj_double, self.ref_proj[1], self.tem_proj):
            xavier_(layer)

    def forward(self, coords: Tensor, labels: Tensor, times: Tensor) -> Tensor:
        """
        Args:
            coords: (R, 2, 2) float32 (x, y) in pixels of the square SAM 2 frame: two corners, or a point and anything.
            labels: (R, 2) int64 of SAM's prompt encoder: (2, 3) for a box, (1, -1) for a point.
            times: (R,) float32 in [0, 1]: frame index over the last one, counting the copy that pads an odd clip.

        Raises:
            CheckpointError: the checkpoint lacks the random matrices that its projections were trained with.
        """
        if self.missing:
            raise CheckpointError(self.missing)
        corners, _ = self.ref_encoder(points=(coords, labels), boxes=None, masks=None)  # (R, 3, C): two points and the padding
        space = torch.where(labels[:, 1:] >= 0, self.ref_proj_double(corners.flatten(1)), self.ref_proj_single(corners[:, [0, 2]].flatten(1)))
        time = self.tem_proj(self.tem_pe(times) + self.tem_emb.weight)
        return self.ref_proj(torch.cat([space, time.to(space.dtype)], dim=-1))


def build_region_projection(state_width: int, width: int) -> nn.Sequential:
    """(M, E) mean of a region's patches -> (M, D) embeddings of ``<|mem|>``: a layer-by-layer copy of the vision tower's merger."""
    return nn.Sequential(nn.Linear(state_width, state_width), nn.GELU(), nn.Linear(state_width, width))


def region_means(state: Tensor, cells: Tensor, owner: Tensor, count: int) -> Tensor:
    """(N, E) rows -> (count, E): mean of ``state[cells]`` by ``owner``, both (n,) int64; every owner has at least one cell."""
    rows = state.index_select(0, cells).float()
    sums = torch.zeros(count, state.shape[1], device=state.device).index_add(0, owner, rows)
    counts = torch.zeros(count, device=state.device).index_add(0, owner, torch.ones(len(owner), device=state.device))  # bincount would wait
    return sums / counts[:, None]


def window_side(config) -> int:
    """Merged tokens per side of an attention window of the vision tower."""
    vision = config.vision_config
    return vision.window_size // vision.patch_size // vision.spatial_merge_size


def window_order(grids: Tensor, side: int) -> Tensor:
    """(N,) int64: position in the vision tower's window order -> visual token in raster order, over all media of a batch.

    Args:
        grids: (V, 3) frames, rows and columns of merged tokens, on the CPU or the device of the result.
        side: tokens per side of an attention window; windows are counted from each frame's top left corner.
    """
    parts, start = [], 0
    for t, h, w in grids.tolist():
        time, row, column = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
        window = (time * -(-h // side) + row // side) * -(-w // side) + column // side
        parts.append(start + window.flatten().argsort(stable=True))
        start += t * h * w
    return torch.cat(parts).to(grids.device)


def xavier_(layer: nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
