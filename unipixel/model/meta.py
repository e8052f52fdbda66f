"""A model of true size without values: built from configuration on the meta device, for dry runs and for counting costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import init_empty_weights

from sam2_ext import build_sam2
from unipixel.data.template import SPECIAL_TOKENS
from unipixel.model.adapters import LoraSettings, TrainableReport, set_trainable
from unipixel.model.backbones import backbone_config, family_of
from unipixel.model.build import ModelSettings, attention_of
from unipixel.model.grounded import GroundedVLM


def meta_model(settings: ModelSettings, lora: LoraSettings, train: Sequence[str]) -> tuple[GroundedVLM, TrainableReport]:
    """The model of a run on GPUs, without values, and what trains in it.

    Raises:
        ConfigError: a backbone that is neither a local folder nor known by name, or what ``set_trainable`` refuses.
    """
    config = backbone_config(settings.backbone)
    dtype = torch.bfloat16 if settings.model_dtype == "auto" else settings.dtype
    with init_empty_weights():  # the meta device alone does not work: SAM 2 reads values while it is built
        sam2 = build_sam2(settings.sam2_file(settings.sam2_config), image_size=settings.sam2_image_size)
    with torch.device("meta"):
        backbone = family_of(config).model_class._from_config(config, dtype=dtype, attn_implementation=attention_of(settings))
        model = GroundedVLM(backbone, sam2, hidden_tokens=settings.sam2_hidden_tokens, prompting=settings.sam2_prompting)
        model.new_tokens = tuple(range(len(SPECIAL_TOKENS)))  # which rows does not matter, how many does
        return model, set_trainable(model, lora, train)
