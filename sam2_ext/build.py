"""Building a :class:`SegSAM2` from a YAML of the ``sam2`` package (or one like it) and loading Meta's checkpoints into it."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sam2_ext.model import SegSAM2

ARCHITECTURES = {f"sam2.1_hiera_{size}": f"sam2.1_hiera_{size}.yaml" for size in ("t", "s", "b+", "l")}
"""Names of the four released SAM 2.1 sizes and the YAML each is described by inside the ``sam2`` package."""


def load_sam2_config(name_or_path: str | Path) -> DictConfig:
    """The ``model`` node of a SAM 2 YAML: a released name (with or without a ``configs/…/`` prefix) or a path to a file.

    Raises:
        ValueError: neither a known name nor a file.
    """
    path = Path(name_or_path)
    stem = path.name.removesuffix(".yaml")
    if path.suffix == ".yaml" and path.is_file():
        text = path.read_text()
    elif stem in ARCHITECTURES:
        text = (importlib.resources.files("sam2") / "configs" / "sam2.1" / ARCHITECTURES[stem]).read_text()
    else:
        raise ValueError(f"sam2 config {str(name_or_path)!r} is neither one of {sorted(ARCHITECTURES)} nor an existing YAML file")
    return OmegaConf.create(text).model


def build_sam2(name_or_path: str | Path, *, image_size: int = 1024, drop_path_rate: float | None = None,
               memory_dropout: float | None = None) -> SegSAM2:
    """Build a randomly initialised network in float32 on the default device.

    Args:
        image_size: side S in pixels of the square input; a multiple of 32, because the image encoder halves its 1/4 grid three times.
        drop_path_rate: stochastic depth of the image encoder (training only); ``None`` keeps the YAML's value.
        memory_dropout: dropout of the memory attention (training only); ``None`` keeps the YAML's value.
    """
    if image_size < 32 or image_size % 32:
        raise ValueError(f"image_size={image_size} must be a positive multiple of 32")
    config = load_sam2_config(name_or_path)
    config._target_ = f"{SegSAM2.__module__}.{SegSAM2.__qualname__}"
    config.image_size = image_size
    if drop_path_rate is not None:
        config.image_encoder.trunk.drop_path_rate = drop_path_rate
    if memory_dropout is not None:
        layer = config.memory_attention.layer
        layer.dropout = layer.self_attention.dropout = layer.cross_attention.dropout = memory_dropout
    return instantiate(config, _recursive_=True)


def load_sam2_checkpoint(model: SegSAM2, path: str | Path) -> None:
    """Load Meta's ``{"model": state_dict}`` file strictly; both spellings of the fuser's layer scale are accepted.

    Raises:
        RuntimeError: a tensor is missing, unexpected or of another shape (torch lists them).
    """
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict({to_sam2_name(k): v for k, v in state.items()}, strict=True)


def to_sam2_name(name: str) -> str:
    """UniPixel's key -> the ``sam2`` package's: only the fuser's layer scale is called ``weight`` there instead of ``gamma``."""
    head, _, last = name.rpartition(".")
    return f"{head}.gamma" if last == "weight" and _is_fuser_layer(head) else name


def to_unipixel_name(name: str) -> str:
    """Inverse of :func:`to_sam2_name`."""
    head, _, last = name.rpartition(".")
    return f"{head}.weight" if last == "gamma" and _is_fuser_layer(head) else name


def _is_fuser_layer(head: str) -> bool:
    parent, _, index = head.rpartition(".")
    return index.isdigit() and parent.endswith("memory_encoder.fuser.layers")
