"""Full checkpoints of the UniPixel family and bare backbones: settings and weights, strictly.

A full checkpoint holds everything (backbone with merged adapters, heads, SAM 2) in one set of files whose ``config.json`` repeats the
text settings outside and inside ``text_config``. Names are mapped here (``unipixel.model.keys``), not by transformers, and whatever is
missing or left over is an error: transformers would draw the missing weights at random and warn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2_5_VLConfig

from unipixel.errors import CheckpointError
from unipixel.model.adapters import tied_embeddings
from unipixel.model.backbones import Family, family_of
from unipixel.model.checkpoint import CONFIG, read_config
from unipixel.model.keys import from_full_name, part_head
from unipixel.model.weights import is_full, read_full, shortened

SAM2_FIELDS = ("sam2_config", "sam2_image_size", "sam2_hidden_tokens", "sam2_prompting", "mem_order", "quantize")


def is_released(path: str | Path) -> bool:
    """Whether a folder is a full checkpoint with grounding, as the UniPixel family and ``unipixel export`` write it."""
    return is_full(path) and (Path(path) / CONFIG).is_file() and bool(read_config(path).get("sam2_config"))


def stored_settings(config: Mapping, folder: str | Path) -> dict:
    """Fields of ``unipixel.model.build.ModelSettings`` that a checkpoint records.

    Checkpoints of the reference know only ``sam2_batch_mode``, and were trained with regions in window order.
    """
    folder = Path(folder)
    stored = {name: config[name] for name in SAM2_FIELDS if config.get(name) is not None}
    if "sam2_prompting" not in stored:
        stored |= {"sam2_prompting": "independent" if config.get("sam2_batch_mode") else "first"}
        stored.setdefault("mem_order", "window")
    base = config.get("base_model_path") or config.get("model_name_or_path") or ""
    sam2 = config.get("sam2_checkpoint") or ""
    return stored | {"backbone": beside(base, folder), "sam2_checkpoint": beside(sam2, folder)}


def beside(name: str, folder: Path) -> str:
    """A path as recorded, or relative to the checkpoint or to the folder around it; hub names and missing paths stay as they are."""
    if not name or Path(name).is_absolute() or Path(name).exists():
        return name
    return next((str(place) for place in (folder / name, folder.parent / name) if place.exists()), name)


def backbone_config(config: Mapping) -> Qwen2_5_VLConfig:
    """Settings of the backbone inside those of a full checkpoint. Tying is decided by the inner switch, then by the outer one."""
    inner = config.get("text_config") or {}
    tied = bool(inner.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    plain = {name: value for name, value in config.items() if name != "architectures"} | {"model_type": "qwen2_5_vl", "tie_word_embeddings": tied}
    if inner:
        plain["text_config"] = {**inner, "tie_word_embeddings": tied}
    return Qwen2_5_VLConfig.from_dict(plain)


def load_whole(cls: type[PreTrainedModel], folder: str | Path, **options) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """(backbone, tensors of all other parts) of a full checkpoint.

    Raises:
        CheckpointError: the backbone lacks tensors, or there are some that fit nowhere in it.
    """
    tensors = {from_full_name(name): tensor for name, tensor in read_full(folder).items()}
    backbone = {name: tensor for name, tensor in tensors.items() if part_head(name) in ("model", "lm_head")}
    config = backbone_config(read_config(folder))
    if tied_embeddings(config):
        backbone.pop("lm_head.weight", None)  # some writers store the same matrix twice
    model, report = cls.from_pretrained(None, config=config, state_dict=backbone, output_loading_info=True, **options)
    check_report(report, folder)
    return model, {name: tensor for name, tensor in tensors.items() if part_head(name) not in ("model", "lm_head")}


def base_family(source: str) -> Family:
    """Kind of a bare backbone in a folder or on the hub.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: a kind that this package does not know.
    """
    try:
        return family_of(PreTrainedConfig.get_config_dict(source)[0])
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"backbone {source!r} cannot be read: {error}") from error


def load_backbone(source: str, **options) -> PreTrainedModel:
    """A bare backbone, from a folder or the hub; its settings may be flat or nested.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape.
        ConfigError: a kind that this package does not know.
    """
    cls = base_family(source).model_class
    try:
        model, report = cls.from_pretrained(source, output_loading_info=True, **options)
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"backbone {source!r} cannot be read: {error}") from error
    check_report(report, source)
    return model


def check_report(report: Mapping, source: str | Path) -> None:
    """Raise on what transformers only reports."""
    found = [f"{len(report[kind])} {kind.removesuffix('_keys')}: {shortened(sorted(map(str, report[kind])))}"
             for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if report.get(kind)]
    if found or report.get("error_msgs"):
        raise CheckpointError(f"{source}: its tensors do not fit its kind of backbone: {'; '.join([*found, *report.get('error_msgs', [])])}")
