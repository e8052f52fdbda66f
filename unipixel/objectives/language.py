"""Language loss on supervised rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over tokens of -log p(label); ``logits`` (L, V) float32, ``labels`` (L,) int64. Divide by the global number of labels."""
    return F.cross_entropy(logits, labels, reduction="sum")
