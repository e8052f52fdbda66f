"""The frozen model that preference training compares with: which weights it is, and how the policy's own module becomes it for a while.

There is one copy of the base. ``adapter`` is a second, frozen adapter beside the trained one, a copy of how it was at the start; ``base`` is
the model without adapters. Both need every trained weight to be in the adapter, or the reference would move along. Switching touches
neither ``requires_grad`` nor the hooks of an engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from unipixel.errors import ConfigError

Reference = Literal["none", "adapter", "base"]
NAME = "reference"
"""Of the frozen adapter."""


def is_reference(name: str) -> bool:
    """Whether a parameter belongs to the frozen adapter."""
    return f".{NAME}." in name and ".lora_" in name


def check_reference(model: nn.Module) -> None:
    """
    Raises:
        ConfigError: weights outside the adapter train, or there is no adapter.
    """
    outside = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
    if outside:
        raise ConfigError(f"{len(outside)} trained tensors are not in the adapter ({', '.join(outside[:2])}, …): a reference that shares them "
                          "would move along. Set train: [] and train_new_tokens: false, or reference: cached")
    if not isinstance(model.backbone, PeftModel):
        raise ConfigError("lora_layers=none: the reference is the model without its adapter, or with a copy of it; set reference: cached")


def add_reference_adapter(model: nn.Module) -> None:
    """Copy the trained adapter as it is now into a frozen one."""
    backbone = model.backbone
    backbone.add_adapter(NAME, backbone.peft_config["default"])
    for name, parameter in backbone.named_parameters():
        if is_reference(name):
            source = backbone.get_parameter(name.replace(f".{NAME}.", ".default."))
            parameter.data = source.detach().clone()
            parameter.requires_grad_(False)


@contextmanager
def as_reference(model: nn.Module, reference: Reference) -> Iterator[None]:
    """The model acts as its reference: other adapter, no dropout, no graph.

    PEFT's own switches also turn ``requires_grad`` on and off, of the reference's tensors too.
    """
    layers = [module for module in model.backbone.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ValueError(f"reference {reference!r} needs a model with adapters")
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    training = model.backbone.training
    model.backbone.eval()
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [NAME], reference == "base"
        with torch.no_grad():
            yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
        model.backbone.train(training)


def inputs_are_shared(model: nn.Module) -> bool:
    """Whether policy and reference see the same embeddings: nothing before the language model's layers trains."""
    return not any(p.requires_grad for name, p in model.named_parameters() if ".language_model.layers." not in name)


def weights_digest(model: nn.Module, *, adapters: bool) -> str:
    """SHA-256 of all weights with their names, with or without those of the trained adapter; of whole tensors, so before an engine starts."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if is_reference(name) or (".lora_" in name and not adapters):
            continue
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
