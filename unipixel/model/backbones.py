"""The vision-language models that can carry the grounding, behind one interface: everything that differs between them stands here.

``Family`` says how a model's frames become tokens (``unipixel.data.layout``), where the parts lie that the grounding reads, what the vision
tower needs per batch, and how features enter deeper layers. The private interfaces of transformers that this takes are in this module and
``unipixel.model.attention`` only. Legend: ``N`` patches, ``Nv`` visual tokens, ``D`` width of the language model, ``S`` tokens of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from unipixel.data.layout import QWEN2_5_VL, QWEN3_VL, VisualLayout
from unipixel.errors import ConfigError, nearest
from unipixel.model.attention import Segments, use_segments
from unipixel.model.prompts import window_side

CONFIGS = Path(__file__).parents[2] / "launch" / "configs"
"""``config.json`` of released models, so that a dry run or a count needs no download."""


@dataclass(frozen=True)
class DeepFeatures:
    """Input embeddings with what the first layers add to their visual rows.

    Attributes:
        embeds: (B, S, D).
        layers: one (Nv, D) tensor per layer, first layer first.
        rows: (Nv,) int64 flat positions in the (B, S) grid.
    """

    embeds: Tensor
    layers: tuple[Tensor, ...]
    rows: Tensor

    def arguments(self) -> dict:
        """Keywords of the language model's forward pass; see :func:`add_rows`."""
        return {"visual_pos_masks": self.rows, "deepstack_visual_embeds": list(self.layers)}


class Family:
    """One kind of backbone. Methods take the parts of a ``transformers`` model of that kind, possibly adapted by PEFT."""

    name: ClassVar[str]
    """``model_type`` in its ``config.json``."""
    title: ClassVar[str]
    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    layout: ClassVar[VisualLayout]
    released: ClassVar[Mapping[str, str]]
    """Hub name -> file in :data:`CONFIGS`."""

    def merger(self, visual: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The two linear layers that turn merged patches into visual tokens; the input of the first is what regions average."""
        raise NotImplementedError

    def window_side(self, config: PreTrainedConfig) -> int:
        """Merged tokens per side of an attention window in whose order the merger sees its rows; 0: raster order."""
        raise NotImplementedError

    def vision_inputs(self, config: PreTrainedConfig, grids: Tensor, device: torch.device) -> dict:
        """Everything the vision tower would otherwise derive from the grids on the device, where each value read back stalls it.

        Args:
            config: of the vision tower.
            grids: (media, 3) int64 on the CPU.
        """
        raise NotImplementedError

    def prepare(self, backbone: PreTrainedModel) -> None:
        """Adapt a new model: variable-length attention in the vision tower."""
        use_segments(backbone.model.visual)


class Qwen25(Family):
    """Qwen2.5-VL: windowed vision tower, time in the rotary positions."""

    name, title = "qwen2_5_vl", "Qwen2.5-VL"
    config_class, model_class, layout = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, QWEN2_5_VL
    released = {f"Qwen/Qwen2.5-VL-{size}-Instruct": f"qwen2_5_vl_{size.lower()}.json" for size in ("3B", "7B")}

    def merger(self, visual):
        return visual.merger.mlp[0], visual.merger.mlp[2]

    def window_side(self, config):
        return window_side(config)

    def vision_inputs(self, config, grids, device):
        index, ends = get_vision_window_index(grids, config.spatial_merge_size, config.window_size, config.patch_size)
        frames, windows = (Segments.between(e, device) for e in (get_vision_cu_seqlens(grids), ends))
        return {"position_ids": get_vision_position_ids(grids, config.spatial_merge_size).to(device), "window_index": index.to(device),
                "cu_seqlens": frames.ends, "max_seqlen": frames.longest, "cu_window_seqlens": windows.ends, "max_window_seqlen": windows.longest,
                "segments": (frames, windows)}


class Qwen3(Family):
    """Qwen3-VL: global vision tower with learned positions, time as text between frames, features into the first layers (DeepStack)."""

    name, title = "qwen3_vl", "Qwen3-VL"
    config_class, model_class, layout = Qwen3VLConfig, Qwen3VLForConditionalGeneration, QWEN3_VL
    released = {f"Qwen/Qwen3-VL-{size}-Instruct": f"qwen3_vl_{size.lower()}.json" for size in ("4B", "8B")}

    def merger(self, visual):
        return visual.merger.linear_fc1, visual.merger.linear_fc2

    def window_side(self, config):
        return 0

    def vision_inputs(self, config, grids, device):
        side = int(config.num_position_embeddings**0.5)
        taps, weights = get_vision_interpolation_indices_and_weights(grids, side, align_corners=True, spatial_merge_size=config.spatial_merge_size)
        frames = Segments.between(get_vision_cu_seqlens(grids), device)
        return {"position_ids": get_vision_position_ids(grids, config.spatial_merge_size).to(device), "interp_indices": taps.to(device),
                "interp_weights": weights.to(device), "cu_seqlens": frames.ends, "max_seqlen": frames.longest, "segments": (frames,)}

    def prepare(self, backbone):
        super().prepare(backbone)
        # transformers selects the rows with a boolean mask, which waits for the device three times per layer
        backbone.model.language_model._deepstack_process = add_rows


def add_rows(hidden: Tensor, rows: Tensor, features: Tensor) -> Tensor:
    """(B, S, D) + (Nv, D) at the flat positions ``rows``; out of place, and without waiting for the device."""
    return hidden.flatten(0, 1).index_add(0, rows, features.to(hidden.dtype)).view_as(hidden)


FAMILIES: dict[str, Family] = {family.name: family for family in (Qwen25(), Qwen3())}

RELEASED = FAMILIES[Qwen25.name]
"""What released UniPixel checkpoints are built on."""


def family_of(config: PreTrainedConfig | Mapping) -> Family:
    """
    Raises:
        ConfigError: no known family; the known ones are named.
    """
    name = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    if name not in FAMILIES:
        raise ConfigError(f"model_type {name!r} is no backbone of this package; known: {', '.join(FAMILIES)}{nearest(str(name), FAMILIES)}")
    return FAMILIES[name]


def released_names() -> dict[str, Path]:
    """Hub names whose configuration comes with this package."""
    return {name: CONFIGS / file for family in FAMILIES.values() for name, file in family.released.items()}


def backbone_config(name: str) -> PreTrainedConfig:
    """Configuration of a local model folder, or of a released model by its hub name; needs no network.

    Raises:
        ConfigError: neither, or a model of another family.
    """
    local, known = Path(name) / "config.json", released_names()
    if not local.is_file() and name not in known:
        raise ConfigError(f"backbone={name!r} is no folder with a config.json, and without a download this package knows only "
                          f"{', '.join(known)}{nearest(name, known)}")
    values = json.loads((local if local.is_file() else known[name]).read_text(encoding="utf-8"))
    return family_of(values).config_class.from_dict(values)


def vision_grids(grids: Tensor | Sequence[Sequence[int]]) -> Tensor:
    """(media, 3) int64 on the CPU. Plain tuples, as the collator gives them, never wait for a device; a tensor on one does."""
    return grids.cpu() if isinstance(grids, Tensor) else torch.tensor(grids, dtype=torch.long)
