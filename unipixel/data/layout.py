"""How a family of backbones is shown frames: size of a patch, colours, and whether time is said in text or in positions.

What both families share stays constant here: two frames make a temporal cell, two by two patches make a token.
"""

from __future__ import annotations

from dataclasses import dataclass

MERGE, TEMPORAL = 2, 2
"""Patches per token side, frames per temporal cell."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisualLayout:
    """
    Attributes:
        patch: pixels per patch side.
        mean, std: of the three colours in [0, 1].
        timestamps: each temporal cell is a visual block of its own behind its time in text (``<1.5 seconds>``), and positions count no
            time; otherwise a clip is one block whose rotary positions follow its times.
        system_prompt: whether the chat format begins with a system turn.
    """

    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    timestamps: bool
    system_prompt: bool

    @property
    def token(self) -> int:
        """Pixels per token side; sides of frames are multiples of it."""
        return self.patch * MERGE

    @property
    def patch_values(self) -> int:
        """Numbers per patch: colour, frame of the cell, y, x."""
        return 3 * TEMPORAL * self.patch**2


QWEN2_5_VL = VisualLayout(14, CLIP_MEAN, CLIP_STD, timestamps=False, system_prompt=True)
QWEN3_VL = VisualLayout(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), timestamps=True, system_prompt=False)
