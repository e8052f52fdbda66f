"""From settings to a model and its tokenizer: base backbone, SAM 2, special tokens, and optionally a trained checkpoint on top."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from sam2_ext import build_sam2, load_sam2_checkpoint, reset_rope_tables
from unipixel.config import setting
from unipixel.data.template import MEM, REF, SEG, SPECIAL_TOKENS
from unipixel.errors import ConfigError, nearest
from unipixel.model import attention
from unipixel.model.checkpoint import load_trained, read_config
from unipixel.model.grounded import GroundedVLM

log = logging.getLogger(__name__)
PROMPTING = ("first", "every", "independent")
FROM_CHECKPOINT = ("sam2_config", "sam2_image_size", "sam2_hidden_tokens", "sam2_prompting")


@dataclass(kw_only=True)
class ModelSettings:
    """What the model is made of."""

    backbone: str = setting("Qwen/Qwen2.5-VL-3B-Instruct", "folder or hub name of a Qwen2.5-VL model")
    sam2_config: str = setting("sam2.1_hiera_b+", "SAM 2.1 size (sam2.1_hiera_t, _s, _b+, _l) or a YAML file; relative to the backbone folder "
                                                  "when it exists there")
    sam2_checkpoint: str = setting("", "SAM 2.1 .pt file of Meta; empty: random weights, which only tests want")
    sam2_image_size: int = setting(768, "side in pixels of the square SAM 2 input")
    sam2_hidden_tokens: int = setting(2, "prompt embeddings per <|seg|>")
    sam2_prompting: str = setting("first", "frames that see them: first (memory does the rest), every, or independent (no memory)")
    attn_implementation: str = setting(attention.NAME, "attention of the language model; packed rows need segment_sdpa")
    model_dtype: str = setting("auto", "dtype of the frozen backbone: float32, bfloat16, or auto (bfloat16 on a GPU)")

    def __post_init__(self):
        if self.sam2_prompting not in PROMPTING:
            raise ConfigError(f"sam2_prompting={self.sam2_prompting!r} must be one of {PROMPTING}{nearest(self.sam2_prompting, PROMPTING)}")
        if self.model_dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"model_dtype={self.model_dtype!r} must be auto, float32 or bfloat16")
        if self.attn_implementation != attention.NAME:
            raise ConfigError(f"attn_implementation={self.attn_implementation!r}: samples are packed into one row, which only "
                              f"{attention.NAME!r} keeps apart (it uses torch's own flash kernels on a GPU)")

    @property
    def dtype(self) -> torch.dtype:
        if self.model_dtype == "auto":
            return torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return getattr(torch, self.model_dtype)

    def sam2_file(self, name: str) -> str:
        """A SAM 2 file given relative to the backbone folder, or the name itself."""
        beside = Path(self.backbone) / name
        return str(beside) if name and beside.is_file() else name


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Tokenizer with ``<|ref|>``, ``<|seg|>``, ``<|mem|>`` added in this order (nothing happens when it has them)."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.is_fast:
        raise ConfigError(f"{path}: a fast tokenizer is needed (label spans come from character offsets)")
    tokenizer.add_tokens([t for t in SPECIAL_TOKENS if t not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


def build_model(settings: ModelSettings) -> tuple[GroundedVLM, PreTrainedTokenizerBase]:
    """Base model without adapters, in evaluation mode, on the CPU."""
    tokenizer = load_tokenizer(settings.backbone)
    attn = {"": "sdpa", "text_config": settings.attn_implementation, "vision_config": "sdpa"}
    backbone = Qwen2_5_VLForConditionalGeneration.from_pretrained(settings.backbone, dtype=settings.dtype, attn_implementation=attn)
    grow_vocabulary(backbone, len(tokenizer))
    try:
        sam2 = build_sam2(settings.sam2_file(settings.sam2_config), image_size=settings.sam2_image_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.sam2_checkpoint:
        load_sam2_checkpoint(sam2, settings.sam2_file(settings.sam2_checkpoint))
    else:
        log.warning("sam2_checkpoint is not set: SAM 2 starts from random weights")
    reset_rope_tables(sam2)
    model = GroundedVLM(backbone, sam2, hidden_tokens=settings.sam2_hidden_tokens, prompting=settings.sam2_prompting)
    return model.eval(), tokenizer


def grow_vocabulary(backbone, tokens: int) -> None:
    """Only when the tokenizer outgrew the embedding: resize, new rows start at the mean of the old ones (as the UniPixel family does).

    The released Qwen2.5-VL sizes have spare rows, so for them nothing changes.
    """
    old = backbone.get_input_embeddings().weight.shape[0]
    if tokens <= old:
        return
    backbone.resize_token_embeddings(tokens, mean_resizing=False)
    for layer in {backbone.get_input_embeddings(), backbone.get_output_embeddings()}:
        layer.weight.data[old:] = layer.weight.data[:old].mean(0, keepdim=True)


def checkpoint_fields(settings: ModelSettings, tokenizer) -> dict:
    """Fields of ``config.json`` beside the backbone's own; names as in the UniPixel family, plus ``sam2_prompting``."""
    base = Path(settings.backbone)
    return {
        "base_model": "qwen2_5_vl", "base_model_path": str(base.resolve()) if base.is_dir() else settings.backbone,
        "sam2_config": settings.sam2_config, "sam2_checkpoint": settings.sam2_checkpoint or None, "sam2_image_size": settings.sam2_image_size,
        "sam2_hidden_tokens": settings.sam2_hidden_tokens, "sam2_prompting": settings.sam2_prompting,
        "sam2_batch_mode": settings.sam2_prompting == "independent", "sam2_enable_decoder": True,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in (("ref", REF), ("seg", SEG), ("mem", MEM))},
    }


def load_checkpoint(path: str | Path, *, backbone: str = "", device: str | torch.device = "cpu", dtype: str = "auto"
                    ) -> tuple[GroundedVLM, PreTrainedTokenizerBase]:
    """A trained model for inference: base model named in the checkpoint, its adapters and weights, in evaluation mode.

    Args:
        backbone: use this base model instead of the one recorded (for example after moving folders).
    """
    config = read_config(path)
    stored = {name: config[name] for name in FROM_CHECKPOINT if config.get(name) is not None}
    settings = ModelSettings(backbone=backbone or config["base_model_path"], sam2_checkpoint=config.get("sam2_checkpoint") or "",
                             model_dtype=dtype, **stored)
    if not Path(settings.backbone).is_dir() and Path(settings.backbone).is_absolute():
        raise ConfigError(f"{path} was trained on the base model {settings.backbone!r}, which is not there; set backbone to its new place")
    model, _ = build_model(settings)
    tokenizer = load_tokenizer(str(path))
    load_trained(model, path)
    return model.to(device).eval(), tokenizer
