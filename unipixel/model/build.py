"""From settings to a model and its tokenizer: base backbone, SAM 2, special tokens, and optionally a trained checkpoint on top.

A base is a folder of Qwen2.5-VL, or a full checkpoint of the UniPixel family, which also brings the heads and SAM 2. A trained checkpoint
is a full one again, or adapters and partial weights over a base (``unipixel.model.checkpoint``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sam2_ext import SegSAM2, build_sam2, cut_rope_gradients, load_sam2_checkpoint, reset_rope_tables
from unipixel.config import setting
from unipixel.data.template import MEM, REF, SEG, SPECIAL_TOKENS
from unipixel.errors import ConfigError, nearest
from unipixel.model import attention, quantize
from unipixel.model.backbones import RELEASED
from unipixel.model.checkpoint import check_parts, copy_tensors, load_fourier, load_trained, read_config
from unipixel.model.grounded import GroundedVLM
from unipixel.model.released import base_family, is_released, load_backbone, load_whole, stored_settings

log = logging.getLogger(__name__)
PROMPTING = ("first", "every", "independent")
MEM_ORDERS = ("raster", "window")


@dataclass(kw_only=True)
class ModelSettings:
    """What the model is made of."""

    backbone: str = setting("Qwen/Qwen2.5-VL-3B-Instruct", "folder or hub name of a Qwen2.5-VL or Qwen3-VL model, or the folder of a full "
                                                   "UniPixel checkpoint, which also brings the heads and SAM 2")
    sam2_config: str = setting("sam2.1_hiera_b+", "SAM 2.1 size (sam2.1_hiera_t, _s, _b+, _l) or a YAML file; relative to the backbone folder "
                                                  "when it exists there")
    sam2_checkpoint: str = setting("", "SAM 2.1 .pt file of Meta, not needed over a full UniPixel checkpoint; empty otherwise: random weights, "
                                      "which only tests want")
    sam2_image_size: int = setting(768, "side in pixels of the square SAM 2 input")
    sam2_hidden_tokens: int = setting(2, "prompt embeddings per <|seg|>")
    sam2_prompting: str = setting("first", "frames that see them: first (memory does the rest), every, or independent (no memory)")
    mem_order: str = setting("raster", "patches that a region picks: raster (those that it covers), or window (as released UniPixel weights were "
                                       "trained, which pair the region with patches in another order)")
    reference_rope_grad: bool = setting(False, "train SAM 2's memory attention without the gradient through its rotary embedding, as the UniPixel "
                                               "code does; for comparisons")
    attn_implementation: str = setting(attention.NAME, "attention of the language model in packed rows: segment_sdpa (torch's own kernels), or "
                                                          "segment_flash_attention_2 (the flash-attn package)")
    quantize: str = setting("none", "nf4: the frozen language model in four bits under LoRA (needs bitsandbytes); none: as it is")
    model_dtype: str = setting("auto", "dtype of the frozen backbone: float32, bfloat16, or auto (bfloat16 on a GPU)")

    def __post_init__(self):
        if self.sam2_prompting not in PROMPTING:
            raise ConfigError(f"sam2_prompting={self.sam2_prompting!r} must be one of {PROMPTING}{nearest(self.sam2_prompting, PROMPTING)}")
        if self.mem_order not in MEM_ORDERS:
            raise ConfigError(f"mem_order={self.mem_order!r} must be one of {MEM_ORDERS}{nearest(self.mem_order, MEM_ORDERS)}")
        if self.model_dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"model_dtype={self.model_dtype!r} must be auto, float32 or bfloat16")
        attention.check_implementation(self.attn_implementation)
        quantize.check_quantize(self.quantize)

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


def attention_of(settings: ModelSettings) -> dict[str, str]:
    return {"": "sdpa", "text_config": settings.attn_implementation, "vision_config": "sdpa"}


def loading_options(settings: ModelSettings) -> dict:
    """Keywords of ``from_pretrained`` that say how the backbone is held and computed."""
    return {"dtype": settings.dtype, "attn_implementation": attention_of(settings), **quantize.loading_options(settings.quantize, settings.dtype)}


def build_network(settings: ModelSettings) -> SegSAM2:
    """SAM 2 with random weights."""
    try:
        sam2 = build_sam2(settings.sam2_file(settings.sam2_config), image_size=settings.sam2_image_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.reference_rope_grad:
        cut_rope_gradients(sam2)
    return sam2


def join(backbone, sam2: SegSAM2, settings: ModelSettings) -> GroundedVLM:
    """Backbone and SAM 2 with untrained heads between them."""
    reset_rope_tables(sam2)
    return GroundedVLM(backbone, sam2, hidden_tokens=settings.sam2_hidden_tokens, prompting=settings.sam2_prompting, mem_order=settings.mem_order)


def build_model(settings: ModelSettings) -> tuple[GroundedVLM, PreTrainedTokenizerBase]:
    """Base model without adapters, in evaluation mode, on the CPU."""
    tokenizer = load_tokenizer(settings.backbone)
    if is_released(settings.backbone):
        model = build_released(settings.backbone, settings)
        grow_vocabulary(model.backbone, len(tokenizer))
    else:
        if not settings.sam2_checkpoint:
            log.warning("sam2_checkpoint is not set: SAM 2 starts from random weights")
        model = build_base(settings, len(tokenizer))
    model.new_tokens = tuple(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    return model, tokenizer


def build_base(settings: ModelSettings, tokens: int) -> GroundedVLM:
    """Backbone and SAM 2 with untrained heads, for a vocabulary of ``tokens``."""
    backbone = load_backbone(settings.backbone, **loading_options(settings))
    grow_vocabulary(backbone, tokens)
    sam2 = build_network(settings)
    if settings.sam2_checkpoint:
        file = Path(settings.sam2_file(settings.sam2_checkpoint))
        if not file.is_file():
            raise ConfigError(f"sam2_checkpoint={settings.sam2_checkpoint!r} is not a file, neither here nor in the folder of the backbone")
        load_sam2_checkpoint(sam2, file)
    return join(backbone, sam2, settings).eval()


def build_released(folder: str | Path, settings: ModelSettings) -> GroundedVLM:
    """A full checkpoint of the UniPixel family; what it stores is complete, so nothing else is read."""
    backbone, rest = load_whole(RELEASED.model_class, folder, **loading_options(settings))
    model = join(backbone, build_network(settings), settings)
    check_parts(model, copy_tensors(model, rest, folder), folder, sam2_ready=False)
    return model.eval()


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
        "base_model": RELEASED.name if is_released(settings.backbone) else base_family(settings.backbone).name,
        "base_model_path": str(base.resolve()) if base.is_dir() else settings.backbone,
        "sam2_config": settings.sam2_config, "sam2_checkpoint": settings.sam2_checkpoint or None, "sam2_image_size": settings.sam2_image_size,
        "sam2_hidden_tokens": settings.sam2_hidden_tokens, "sam2_prompting": settings.sam2_prompting, "mem_order": settings.mem_order,
        "quantize": settings.quantize,
        "sam2_batch_mode": settings.sam2_prompting == "independent", "sam2_enable_decoder": True,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in (("ref", REF), ("seg", SEG), ("mem", MEM))},
    }


def load_checkpoint(path: str | Path, *, backbone: str = "", sam2_config: str = "", fourier_from: str = "", dtype: str = "auto",
                    device: str | torch.device = "cpu", **changes) -> tuple[GroundedVLM, PreTrainedTokenizerBase]:
    """A trained model for inference, with its tokenizer; see :func:`load_model`."""
    model = load_model(path, backbone=backbone, sam2_config=sam2_config, fourier_from=fourier_from, dtype=dtype, device=device, **changes)
    return model, load_tokenizer(str(path))


def load_model(path: str | Path, *, backbone: str = "", sam2_config: str = "", fourier_from: str = "", dtype: str = "auto",
               device: str | torch.device = "cpu", **changes) -> GroundedVLM:
    """A trained model, in evaluation mode: a full checkpoint, or the base that it names with its adapters and weights.

    Args:
        backbone: use this base model instead of the one recorded (for example after moving folders).
        sam2_config: SAM 2 size or YAML instead of the one recorded.
        fourier_from: full checkpoint that supplies the random matrices which the reference's adapter folders lack.
        changes: further fields of :class:`ModelSettings` that differ from what the checkpoint records.

    Raises:
        CheckpointError: tensors are missing or fit nowhere; they are listed.
        ConfigError: the base model is not where the checkpoint says.
    """
    config = read_config(path)
    stored = stored_settings(config, path) | {"model_dtype": dtype} | changes
    stored |= {name: value for name, value in (("backbone", backbone), ("sam2_config", sam2_config)) if value}
    if is_released(path):
        model = build_released(path, ModelSettings(**stored | {"backbone": str(path)}))
    else:
        settings = ModelSettings(**stored)
        if not Path(settings.backbone).is_dir() and Path(settings.backbone).is_absolute():
            raise ConfigError(f"{path} was trained on the base model {settings.backbone!r}, which is not there; set backbone to its new place")
        model = build_over(path, config, settings)
    if fourier_from:
        load_fourier(model, fourier_from)
    return model.to(device).eval()


def build_over(path: str | Path, config: dict, settings: ModelSettings) -> GroundedVLM:
    """Adapters and partial weights of ``path`` over their base."""
    whole = is_released(settings.backbone)
    if whole:
        model = build_released(settings.backbone, settings)
        grow_vocabulary(model.backbone, config_vocabulary(config))
    else:
        model = build_base(settings, config_vocabulary(config))
    kept = model.point_prompts.missing
    loaded = load_trained(model, path)
    if not whole:
        check_parts(model, loaded, path, sam2_ready=bool(settings.sam2_checkpoint))
    else:
        model.point_prompts.missing = kept
    return model


def config_vocabulary(config: dict) -> int:
    """Rows of the embedding of a checkpoint, which may have grown beyond its base's."""
    return (config.get("text_config") or config)["vocab_size"]
