"""The private or missing interfaces of DeepSpeed and transformers that training depends on, in one place (a canary test watches them)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import transformers.trainer as hf_trainer
from torch import Tensor, nn


def full_state(engine, model: nn.Module) -> dict[str, Tensor]:
    """Full-size weights that are not frozen. ZeRO-3: gathered, a collective; only rank 0 gets them."""
    if engine is not None and engine.zero_optimization_partition_weights():
        return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}
    return model.state_dict()


@contextmanager
def partial_resume() -> Iterator[None]:
    """Let transformers load engine checkpoints that hold no frozen weights: it does so only for a bare ``PeftModel``."""
    original = hf_trainer.deepspeed_load_checkpoint

    @functools.wraps(original)
    def load(engine, path, load_module_strict=True):
        return original(engine, path, load_module_strict=False)

    hf_trainer.deepspeed_load_checkpoint = load
    try:
        yield
    finally:
        hf_trainer.deepspeed_load_checkpoint = original
