"""The private or missing interfaces of DeepSpeed and transformers that training depends on, in one place (a canary test watches them)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers.integrations.deepspeed as hf_deepspeed
import transformers.trainer as hf_trainer
from torch import Tensor, nn


def full_state(engine, model: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Full-size weights called ``names``. ZeRO-3: gathered, a collective; only rank 0 gets all of them."""
    if engine is None or not engine.zero_optimization_partition_weights():
        return {n: t for n, t in model.state_dict().items() if n in names}
    from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415  (heavy, and an engine has imported it already)

    state = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}
    frozen = {n: p for n, p in model.named_parameters() if n in names and not p.requires_grad}
    with GatheredParameters(list(frozen.values())):
        state |= {n: p.detach().clone() for n, p in frozen.items()}
    return {n: t for n, t in state.items() if n in names}


def keeps_gradients(trainer) -> bool:
    """Whether the engine keeps gradient buffers from step to step (ZeRO-3, and any stage with an offloaded optimizer): a tensor without
    gradient in one step would be updated with the gradient of an earlier one. Known before the engine exists."""
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return plugin is not None and (plugin.zero_stage == 3 or plugin.hf_ds_config.is_offload())


@contextmanager
def partial_resume() -> Iterator[None]:
    """Let transformers load engine checkpoints that hold no frozen weights: it does so only for a bare ``PeftModel``."""
    original = hf_trainer.deepspeed_load_checkpoint

    @functools.wraps(original)
    def load(engine, path, load_module_strict=True):
        original(engine, path, load_module_strict=False)
        repair_universal_load(engine, Path(path))

    hf_trainer.deepspeed_load_checkpoint = load
    try:
        yield
    finally:
        hf_trainer.deepspeed_load_checkpoint = original


def repair_universal_load(engine, checkpoint: Path) -> None:
    """ZeRO-3's universal load gives every parameter group the learning rate and decay of the first one, and all tensors one shared step
    counter, which each of them then advances."""
    if not (engine.load_universal_checkpoint() and engine.zero_optimization_partition_weights()):
        return
    folder = checkpoint / (checkpoint / "latest_universal").read_text().strip()
    stored = torch.load(folder / "zero" / "optimizer_state.pt", weights_only=False)["optimizer_state_dict"]["param_groups"]
    for group, settings in zip(engine.optimizer.optimizer.param_groups, stored, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Build the model with ordinary tensors under ZeRO-3 too; the engine partitions them when it starts.

    Otherwise transformers would partition the backbone alone while it loads, and adapters, new tokens and SAM 2 would meet empty tensors.
    Each process holds one copy of the frozen weights in host memory meanwhile.
    """
    kept, hf_deepspeed._hf_deepspeed_config_weak_ref = hf_deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = kept
