"""Memory of weights, gradients and optimizer per GPU, for each DeepSpeed stage: arithmetic only, no model.

Formulas: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", sections 3.1 and 5, with two
differences of these runs. Only trained parameters have gradients and optimizer state. And weights keep their own precision (a frozen
bf16 backbone, float32 adapters and SAM 2) because half precision comes from autocast. Activations are ``launch.activations``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

ADAM_FP32 = 12
"""Bytes per trained parameter of the partitioned optimizer (stages 1 to 3): float32 master weight and two moments."""
ADAM_MOMENTS = 2
"""Stage 0 is plain AdamW: two moments in the parameter's own precision, no master weight."""


@dataclass(frozen=True)
class ModelBytes:
    """What the formulas need: bytes of all weights, and count and bytes of those that train."""

    weights: int
    trained_count: int
    trained: int


def model_bytes(parameters: Iterable[nn.Parameter]) -> ModelBytes:
    """Sizes of parameters on any device, the meta device included; shared ones must be given once (as ``model.parameters()`` does)."""
    parameters = list(parameters)
    trained = [p for p in parameters if p.requires_grad]
    return ModelBytes(sum(p.numel() * p.element_size() for p in parameters), sum(p.numel() for p in trained),
                      sum(p.numel() * p.element_size() for p in trained))


@dataclass(frozen=True)
class Engine:
    """The part of a DeepSpeed file that decides where state lives."""

    stage: int
    offload_optimizer: bool = False
    offload_weights: bool = False

    @classmethod
    def read(cls, path: Path) -> Engine:
        zero = json.loads(path.read_text(encoding="utf-8")).get("zero_optimization", {})
        return cls(zero.get("stage", 0), *(zero.get(name, {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")))


@dataclass(frozen=True)
class StateBytes:
    """Bytes per process: on its GPU, and in the memory of its machine."""

    weights: float
    gradients: float
    optimizer: float
    host: float

    @property
    def gpu(self) -> float:
        return self.weights + self.gradients + self.optimizer


def state_bytes(sizes: ModelBytes, engine: Engine, gpus: int) -> StateBytes:
    """Model states of one of ``gpus`` data-parallel processes.

    Stage 1 divides the optimizer, stage 2 the gradients too, stage 3 the weights too. An optimizer in host memory takes its share of
    the gradients along, in float32; weights in host memory leave only the layer at work on the GPU, which is not counted.
    """
    weights = sizes.weights / (gpus if engine.stage >= 3 else 1)
    gradients = sizes.trained / (gpus if engine.stage >= 2 else 1)
    optimizer = ADAM_FP32 * sizes.trained_count / gpus if engine.stage else ADAM_MOMENTS * sizes.trained
    host = 0.0
    if engine.offload_optimizer:
        host += optimizer + 4 * sizes.trained_count / gpus
        gradients = optimizer = 0.0
    if engine.offload_weights:
        host += weights
        weights = 0.0
    return StateBytes(weights, gradients, optimizer, host)
