"""Multimodal rotary positions of Qwen2.5-VL, computed here so that they do not depend on the installed transformers.

Rule (as released with the model, transformers 4.53): text counts up; a visual block that starts at ``p`` has temporal index
``p + round-down(time)``, rows ``p + y`` and columns ``p + x``; the text after it resumes at the largest index of the block + 1.
Newer transformers resume after ``max(height, width)`` only, which changes the positions of every long clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisualBlock:
    """One run of visual tokens inside a sequence.

    Attributes:
        start: index of its first token.
        grid: (t, h, w) in tokens (after the 2 x 2 merge).
        temporal: (t,) temporal index of each cell relative to the start of the block, increasing.
    """

    start: int
    grid: tuple[int, int, int]
    temporal: Sequence[int]

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


def temporal_indices(cell_times: Sequence[float], tokens_per_second: float = 2.0) -> list[int]:
    """True times in seconds of each temporal cell -> integer indices relative to the first cell."""
    return [int((t - cell_times[0]) * tokens_per_second) for t in cell_times]


def reference_temporal_indices(cells: int, second_per_grid: float = 1.0, tokens_per_second: int = 2) -> list[int]:
    """The reference's indices: a fixed spacing whose seconds are cut to an integer before they are multiplied."""
    return [i * int(second_per_grid) * tokens_per_second for i in range(cells)]


def mrope_positions(length: int, blocks: Sequence[VisualBlock]) -> Tensor:
    """(3, length) int64 positions (temporal, row, column) of one sequence of ``length`` tokens."""
    out = torch.empty(3, length, dtype=torch.long)
    at = position = 0
    for block in (*blocks, None):
        end = block.start if block else length
        out[:, at:end] = torch.arange(position, position + end - at)
        position += end - at
        if block is None:
            return out
        t, h, w = block.grid
        cells = torch.cartesian_prod(torch.tensor(list(block.temporal)), torch.arange(h), torch.arange(w)).reshape(-1, 3)
        out[:, end:end + block.length] = cells.T + position
        at, position = end + block.length, position + max(int(cells.max()) + 1, 1)
    raise AssertionError("unreachable")
