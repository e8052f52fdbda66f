"""Four-bit language models under LoRA (QLoRA, Dettmers et al. 2023): one setting, ``quantize``, that every loader reads.

Only the linear layers of the language model are stored in NF4. The vision tower, the output head and everything that grounding adds keep
their precision: they are small, and regions, masks and embeddings of new tokens train on them.
"""

from __future__ import annotations

import importlib.util

import torch
from transformers import BitsAndBytesConfig

from unipixel.errors import ConfigError, nearest

CHOICES = ("none", "nf4")
KEPT = ["model.visual", "lm_head"]


def check_quantize(name: str) -> None:
    """
    Raises:
        ConfigError: an unknown choice, or one whose package is not installed.
    """
    if name not in CHOICES:
        raise ConfigError(f"quantize={name!r} must be one of {CHOICES}{nearest(name, CHOICES)}")
    if name != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"quantize={name!r} needs the bitsandbytes package, which is not installed: `pip install "
                          "bitsandbytes`, or set quantize: none")


def loading_options(name: str, dtype: torch.dtype) -> dict:
    """Keywords of ``from_pretrained``. ``dtype``: what the four-bit weights are computed in."""
    if name == "none":
        return {}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=name, bnb_4bit_use_double_quant=True,
                                                      bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=KEPT)}
