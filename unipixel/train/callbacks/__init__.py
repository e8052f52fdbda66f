"""One callback per file; each watches the trainer and changes nothing it does."""

from unipixel.train.callbacks.gradients import GradientCheck
from unipixel.train.callbacks.panels import MaskPanels
from unipixel.train.callbacks.preemption import Preemption
from unipixel.train.callbacks.scalars import Scalars

__all__ = ["GradientCheck", "MaskPanels", "Preemption", "Scalars"]
