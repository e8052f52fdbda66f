"""Files of a trained model, in the layout of the UniPixel family, so that both sides read each other's.

``adapter + partial`` (every LoRA run): ``adapter_config.json`` + ``adapter_model.safetensors`` (LoRA tensors), ``pytorch_model.safetensors``
(all other trained tensors, with PEFT's prefix), ``config.json``, tokenizer. Without LoRA only the partial file, without the prefix.
Frozen weights are never written: they come from the base model again. What no base model has is always written, random buffers too.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from unipixel.errors import CheckpointError
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import FOURIER, HEADS, PEFT_PREFIX, POINT_MODULES, from_full_name, is_adapter, module_name, part_head
from unipixel.model.reference import is_reference
from unipixel.model.weights import read_file, read_full, shortened

log = logging.getLogger(__name__)
ADAPTER, ADAPTER_CONFIG, PARTIAL, CONFIG = "adapter_model.safetensors", "adapter_config.json", "pytorch_model.safetensors", "config.json"


def disk_name(name: str, lora: bool) -> str:
    """Parameter name in memory -> name in a partial or adapter file."""
    return PEFT_PREFIX + module_name(name) if lora else module_name(name)


def always_written(name: str) -> bool:
    """Whether a parameter (name in memory) has no base model to come from: untrained, it would otherwise be another one at each load.

    The projection of regions is left out: untrained, it is the base's merger.
    """
    return part_head(module_name(name)) in ("seg_head", *POINT_MODULES)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything that a full checkpoint holds: parameters, each once, and persistent buffers."""
    yield from model.named_parameters()
    persistent = set(model.state_dict(keep_vars=True))
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


def save_trained(model: GroundedVLM, state: Mapping[str, Tensor], out: Path, extra: Mapping) -> None:
    """Write the trained tensors of ``state`` (names as in ``model``) with their configuration.

    Args:
        state: trained parameters, full size, on the CPU.
        extra: fields added to ``config.json`` (paths, SAM 2 settings, token ids).
    """
    out.mkdir(parents=True, exist_ok=True)
    lora = isinstance(model.backbone, PeftModel)
    buffers = {name: buffer for name, buffer in model.named_buffers() if module_name(name) in FOURIER}
    tensors = {disk_name(name, lora): tensor.detach().cpu().contiguous() for name, tensor in (*state.items(), *buffers.items())}
    adapter = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
    if lora:
        model.backbone.peft_config["default"].save_pretrained(out)
        save_file(adapter, out / ADAPTER, metadata={"format": "pt"})
    save_file({name: tensor for name, tensor in tensors.items() if name not in adapter}, out / PARTIAL, metadata={"format": "pt"})
    config = {**model.config.to_dict(), **extra}
    config.pop("quantization_config", None)  # the field quantize of extra says it
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def copy_trained(source: Path, out: Path) -> None:
    """The files that :func:`save_trained` writes, from one folder to another; the adapter, which marks a finished run, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, PARTIAL, ADAPTER_CONFIG, ADAPTER):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / f".{name}.part")
            (out / f".{name}.part").replace(out / name)


def read_config(path: str | Path) -> dict:
    """``config.json`` of a trained model.

    Raises:
        CheckpointError: the folder holds none.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{path} holds no {CONFIG}: it is not a trained model; name a folder that a run has finished writing")
    return json.loads(file.read_text())


def load_trained(model: GroundedVLM, path: str | Path, *, trainable: bool = False) -> set[str]:
    """Load adapters and partial weights into a freshly built model; returns the module names of what was loaded.

    Raises:
        CheckpointError: a tensor fits nowhere or has another shape; the first ones are listed.
    """
    path = Path(path)
    if not (path / ADAPTER_CONFIG).is_file() and not (path / PARTIAL).is_file():
        raise CheckpointError(f"{path} holds neither {ADAPTER_CONFIG} nor {PARTIAL}: nothing to load")
    if (path / ADAPTER_CONFIG).is_file():
        if not (path / ADAPTER).is_file():
            raise CheckpointError(f"{path} holds {ADAPTER_CONFIG} but no {ADAPTER}")
        model.backbone = PeftModel.from_pretrained(model.backbone, path, is_trainable=trainable)
    return load_trained_values(model, path)


def load_trained_values(model: GroundedVLM, path: str | Path) -> set[str]:
    """Copy the tensors of a trained model into a model that already has the same adapters; returns the module names of what was copied.

    Args:
        path: a folder, or a partial file of one; the prefix of PEFT in the names does not matter.

    Raises:
        CheckpointError: a tensor fits nowhere or has another shape, or an adapter of the model is not in the files.
    """
    path = Path(path)
    files = [path] if path.is_file() else [file for file in (path / ADAPTER, path / PARTIAL) if file.is_file()]
    if not files:
        raise CheckpointError(f"{path} holds neither {ADAPTER} nor {PARTIAL}: nothing to load")
    loaded = copy_tensors(model, {name: tensor for file in files for name, tensor in read_file(file).items()}, path)
    if (path / ADAPTER).is_file():
        adapters = {name for name, _ in module_tensors(model) if is_adapter(name) and not is_reference(name)}
        if missing := sorted(adapters - loaded):
            raise CheckpointError(f"{path}: {len(missing)} adapter tensors of the model are not in {ADAPTER}: {shortened(missing)}")
    return loaded


def module_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(module name, tensor) of :func:`named_tensors`."""
    return ((module_name(name), tensor) for name, tensor in named_tensors(model))


def copy_tensors(model: GroundedVLM, tensors: Mapping[str, Tensor], source: str | Path) -> set[str]:
    """Copy tensors with any names of ``unipixel.model.keys`` into the model; returns their module names.

    Raises:
        CheckpointError: some fit nowhere or have another shape; the first ones are listed.
    """
    own, wrong, loaded = dict(module_tensors(model)), [], set()
    for name, tensor in tensors.items():
        module = from_full_name(name.removeprefix(PEFT_PREFIX))
        target = own.get(module)
        if target is None or target.shape != tensor.shape:
            wrong.append(f"{name} {tuple(tensor.shape)}" + (f" (the model has {tuple(target.shape)})" if target is not None else ""))
            continue
        target.data.copy_(tensor)
        loaded.add(module)
    if wrong:
        raise CheckpointError(f"{source}: {len(wrong)} tensors do not fit this model: {'; '.join(wrong[:8])}")
    return loaded


def check_parts(model: GroundedVLM, loaded: Iterable[str], source: str | Path, *, sam2_ready: bool) -> None:
    """What no base model supplied must have come from the checkpoint: a head comes whole or not at all, and its absence is said.

    Args:
        loaded: module names of what the checkpoint gave.
        sam2_ready: SAM 2 got its weights from a file of its own.

    Raises:
        CheckpointError: a head is there in part, or SAM 2 has no weights at all; the missing tensors are listed.
    """
    loaded = set(loaded)
    names = [name for name, _ in module_tensors(model)]
    missing = {name for name in names if name not in loaded and (part_head(name) in HEADS or (part_head(name) == "sam2" and not sam2_ready))}
    random, missing = missing & set(FOURIER), missing - set(FOURIER)
    present = {part_head(name) for name in loaded}
    broken = sorted(name for name in missing if part_head(name) in present or part_head(name) == "sam2")
    if broken:
        raise CheckpointError(f"{source} lacks {len(broken)} tensors: {shortened(broken)}")
    absent = sorted({part_head(name) for name in missing})
    if absent:
        log.warning("%s holds no %s: as untrained as at the start of a training", source, ", ".join(absent))
    if random or "ref_proj" in absent:
        model.point_prompts.missing = (f"{source} lacks {', '.join(sorted(random) or absent)}, so a point or box would mean something else to "
                                       "this model at each load. Adapter folders written by the reference never hold the random matrices: "
                                       "set fourier_from to a full checkpoint of the same training")
        log.warning("%s; without points and boxes the model is complete", model.point_prompts.missing)


def load_fourier(model: GroundedVLM, folder: str | Path) -> None:
    """Take the random matrices of points and times from a full checkpoint."""
    tensors = read_full(folder)
    absent = [name for name in FOURIER if name not in tensors]
    if absent:
        raise CheckpointError(f"{folder} lacks {', '.join(absent)}")
    copy_tensors(model, {name: tensors[name] for name in FOURIER}, folder)
    model.point_prompts.missing = ""
