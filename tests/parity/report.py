"""Tolerances of the comparison, and what one replayed case gave.

Tolerances are for float32 on the CPU; they leave room for another attention implementation and another version of torch, not for
another computation. A difference is compared with its tolerance as a share, so that the worst quantity of a case is comparable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LOGITS, EMBEDDINGS, MASK_LOGITS, SCORES, LOSSES, GRADIENTS = 3e-3, 2e-4, 5e-3, 2e-3, 1e-3, 2e-2
MASK_PIXELS = 5
"""Most pixels in which a boolean mask may differ."""
ABSENT = -1000.0
"""Mask logits below this stand for "not visible", not for a number."""
BF16_IOU = 0.9
"""Least mean IoU of masks computed under bfloat16 autocast with the recorded ones."""


@dataclass(frozen=True)
class Quantity:
    """One compared output: how far it is off and how far it may be."""

    name: str
    difference: float
    tolerance: float

    @property
    def share(self) -> float:
        if self.tolerance:
            return self.difference / self.tolerance
        return 0.0 if self.difference == 0 else float("inf")

    @property
    def ok(self) -> bool:
        return self.share <= 1  # False for nan


@dataclass
class Result:
    """A replayed case: its quantities and what of the recording was not compared, with the reason where there is one."""

    case: str
    kind: str
    quantities: list[Quantity] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.quantities) and all(q.ok for q in self.quantities)

    @property
    def worst(self) -> Quantity | None:
        return max(self.quantities, key=lambda q: float("inf") if q.share != q.share else q.share, default=None)

    def line(self) -> str:
        if self.worst is None:
            return f"MISS  {self.case:28} {self.kind:10} nothing could be compared"
        worst = self.worst
        return (f"{'ok' if self.ok else 'MISS':4}  {self.case:28} {self.kind:10} {worst.difference:10.2e} of {worst.tolerance:8.1e}  {worst.name:28} "
                f"{len(self.quantities):4} compared" + (f", {len(self.left)} not" if self.left else ""))

    # --- comparisons ---------------------------------------------------------------------------------------------------------------

    def close(self, name: str, mine: Tensor, recorded: Tensor, tolerance: float, *, where: Tensor | None = None) -> None:
        """Largest absolute difference, over the entries ``where``; another shape is infinitely far off."""
        if mine.shape != recorded.shape:
            self.quantities.append(Quantity(f"{name} {tuple(mine.shape)}!={tuple(recorded.shape)}", float("inf"), tolerance))
            return
        difference = (mine.double() - recorded.double()).abs()
        if where is not None:
            difference = difference[where]
        self.quantities.append(Quantity(name, difference.max().item() if difference.numel() else 0.0, tolerance))

    def relative(self, name: str, mine: Tensor, recorded: Tensor, tolerance: float, floor: float = 1e-6) -> None:
        """Norm of the difference over the norm of the recorded tensor."""
        if mine.shape != recorded.shape:
            self.quantities.append(Quantity(f"{name} {tuple(mine.shape)}!={tuple(recorded.shape)}", float("inf"), tolerance))
            return
        difference = (mine.double() - recorded.double()).norm() / recorded.double().norm().clamp(min=floor)
        self.quantities.append(Quantity(name, difference.item(), tolerance))

    def masks(self, name: str, mine: Tensor, recorded: Tensor) -> None:
        """(..., H, W) bool: most differing pixels of any mask."""
        if mine.shape != recorded.shape:
            self.quantities.append(Quantity(f"{name} {tuple(mine.shape)}!={tuple(recorded.shape)}", float("inf"), MASK_PIXELS))
            return
        self.quantities.append(Quantity(name, (mine != recorded.bool()).sum((-1, -2)).max().item(), MASK_PIXELS))

    def iou(self, name: str, mine: Tensor, recorded: Tensor) -> None:
        """1 - mean IoU of (..., H, W) bool masks; two empty ones agree."""
        recorded = recorded.bool()
        union = (mine | recorded).sum((-1, -2))
        iou = torch.where(union > 0, (mine & recorded).sum((-1, -2)) / union.clamp(min=1), 1.0)
        self.quantities.append(Quantity(name, 1 - iou.mean().item(), 1 - BF16_IOU))
