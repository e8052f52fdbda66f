"""Files of a trained model, in the layout of the UniPixel family, so that both sides read each other's.

``adapter + partial`` (every LoRA run): ``adapter_config.json`` + ``adapter_model.safetensors`` (LoRA tensors), ``pytorch_model.safetensors``
(all other trained tensors, with PEFT's prefix), ``config.json``, tokenizer. Without LoRA only the partial file, without the prefix.
Frozen weights are never written: they come from the base model again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sam2_ext.build import to_unipixel_name
from unipixel.errors import CheckpointError
from unipixel.model.grounded import GroundedVLM

ADAPTER, ADAPTER_CONFIG, PARTIAL, CONFIG = "adapter_model.safetensors", "adapter_config.json", "pytorch_model.safetensors", "config.json"
PEFT_PREFIX = "base_model.model."


def disk_name(name: str, lora: bool) -> str:
    """Parameter name in memory -> name on disk."""
    name = name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
    if name.startswith("sam2."):
        name = to_unipixel_name(name)
    name = name.removeprefix("backbone.").removeprefix(PEFT_PREFIX)
    return PEFT_PREFIX + name if lora else name


def save_trained(model: GroundedVLM, state: Mapping[str, Tensor], out: Path, extra: Mapping) -> None:
    """Write the trained tensors of ``state`` (names as in ``model``) with their configuration.

    Args:
        state: trained parameters, full size, on the CPU.
        extra: fields added to ``config.json`` (paths, SAM 2 settings, token ids).
    """
    out.mkdir(parents=True, exist_ok=True)
    lora = isinstance(model.backbone, PeftModel)
    tensors = {disk_name(name, lora): tensor.contiguous() for name, tensor in state.items()}
    adapter = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    if lora:
        model.backbone.peft_config["default"].save_pretrained(out)
        save_file(adapter, out / ADAPTER, metadata={"format": "pt"})
    save_file({name: tensor for name, tensor in tensors.items() if name not in adapter}, out / PARTIAL, metadata={"format": "pt"})
    config = {**model.config.to_dict(), **extra}
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def read_config(path: str | Path) -> dict:
    """``config.json`` of a trained model.

    Raises:
        CheckpointError: the folder holds none.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{path} holds no {CONFIG}: it is not a trained model; name a folder that a run has finished writing")
    return json.loads(file.read_text())


def load_trained(model: GroundedVLM, path: str | Path, *, trainable: bool = False) -> None:
    """Load adapters and partial weights into a freshly built model.

    Raises:
        CheckpointError: a tensor fits nowhere or has another shape; the first ones are listed.
    """
    path = Path(path)
    if (path / ADAPTER_CONFIG).is_file():
        model.backbone = PeftModel.from_pretrained(model.backbone, path, is_trainable=trainable)
    if not (path / ADAPTER_CONFIG).is_file() and not (path / PARTIAL).is_file():
        raise CheckpointError(f"{path} holds neither {ADAPTER_CONFIG} nor {PARTIAL}: nothing to load")
    load_trained_values(model, path)


def load_trained_values(model: GroundedVLM, path: str | Path) -> None:
    """Copy the tensors of a trained model into a model that already has the same adapters.

    Raises:
        CheckpointError: a tensor fits nowhere or has another shape; the first ones are listed.
    """
    lora = isinstance(model.backbone, PeftModel)
    own = {disk_name(name, lora): tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    wrong = []
    for file in (Path(path) / ADAPTER, Path(path) / PARTIAL):
        for name, tensor in (load_file(file) if file.is_file() else {}).items():
            target = own.get(name)
            if target is None or target.shape != tensor.shape:
                wrong.append(f"{name} {tuple(tensor.shape)}" + (f" (the model has {tuple(target.shape)})" if target is not None else ""))
            else:
                target.data.copy_(tensor)
    if wrong:
        raise CheckpointError(f"{path}: {len(wrong)} tensors do not fit this model: {'; '.join(wrong[:8])}")
