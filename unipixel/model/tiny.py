"""A complete model directory of a few million random parameters, in the layout of a downloaded one.

For the quickstart and the tests: the real classes of transformers and ``sam2`` at toy widths, and a byte-level BPE tokenizer trained on
the given texts, so that nothing has to be downloaded and everything after this file is the code that true-size models run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from sam2_ext import build_sam2, load_sam2_config
from unipixel.data.template import SPECIAL_TOKENS
from unipixel.errors import ConfigError, nearest
from unipixel.model.backbones import FAMILIES

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
               "<|video_pad|>")
SAM2_FILE, SAM2_WEIGHTS = "sam2.yaml", "sam2.pt"


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """Widths of the toy model.

    Attributes:
        width, layers, heads, kv_heads: language model; ``width / heads`` must be a multiple of 8 (three rotary sections).
        vision_width, vision_layers: vision tower.
        sam_width: width C of SAM 2, a multiple of 32; its memory has a quarter of it.
        vocab: size of the trained BPE vocabulary, at least 256 bytes + merges.
        family: kind of backbone, a key of ``unipixel.model.backbones.FAMILIES``.
        init_std: standard deviation of random weights, about 1 / sqrt(width); the 0.02 of wide models would leave narrow ones with
            uniform attention for most of a short run.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    sam_width: int = 64
    sam_trunk_width: int = 16
    vocab: int = 768
    init_std: float = 0.08
    seed: int = 0
    family: str = "qwen2_5_vl"

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ConfigError(f"family={self.family!r} must be one of {', '.join(FAMILIES)}{nearest(self.family, FAMILIES)}")


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's pre-tokenisation and special tokens."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                                        show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                        clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens({"additional_special_tokens": [*CHAT_TOKENS, *SPECIAL_TOKENS]})
    return tokenizer


def tiny_backbone_config(settings: TinySettings, tokenizer) -> PreTrainedConfig:
    """The family's configuration at toy widths; every switch that the widths leave open is that of the released models."""
    token, family = tokenizer.convert_tokens_to_ids, FAMILIES[settings.family]
    half = settings.width // settings.heads // 2
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64, "hidden_size": settings.width, "intermediate_size": 2 * settings.width,
        "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads, "num_key_value_heads": settings.kv_heads,
        "max_position_embeddings": 4096, "initializer_range": settings.init_std, "tie_word_embeddings": True,
        "bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}
    vision = {"depth": settings.vision_layers, "hidden_size": settings.vision_width, "intermediate_size": 2 * settings.vision_width,
              "num_heads": settings.vision_heads, "out_hidden_size": settings.width, "initializer_range": settings.init_std}
    if settings.family == "qwen3_vl":
        part = half // 3
        rope = {"rope_theta": 5e6, "mrope_section": [half - 2 * part, part, part], "mrope_interleaved": True}
        text |= {"head_dim": 2 * half}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": list(range(settings.vision_layers))}
    else:
        part = 3 * half // 8
        rope = {"rope_theta": 1e6, "mrope_section": [half - 2 * part, part, part]}
        vision |= {"fullatt_block_indexes": list(range(settings.vision_layers)), "tokens_per_second": 2, "window_size": 112}
    return family.config_class(
        text_config=text | {"rope_parameters": {"rope_type": "default", **rope}}, vision_config=vision, image_token_id=token("<|image_pad|>"),
        tie_word_embeddings=True, initializer_range=settings.init_std, video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"))


def tiny_sam2_config(settings: TinySettings):
    """The released tiny SAM 2.1 with its widths and depths cut down; every other switch stays."""
    config, width, trunk = load_sam2_config("sam2.1_hiera_t"), settings.sam_width, settings.sam_trunk_width
    encoder, memory = config.image_encoder, config.memory_attention.layer
    encoder.trunk.update({"embed_dim": trunk, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3],
                          "window_spec": [8, 4, 14, 7], "drop_path_rate": 0.0})
    encoder.neck.update({"d_model": width, "backbone_channel_list": [8 * trunk, 4 * trunk, 2 * trunk, trunk]})
    encoder.neck.position_encoding.num_pos_feats = width
    config.memory_attention.update({"d_model": width, "num_layers": 1})
    memory.update({"d_model": width, "dim_feedforward": 2 * width, "dropout": 0.0})
    memory.self_attention.update({"embedding_dim": width, "dropout": 0.0})
    memory.cross_attention.update({"embedding_dim": width, "kv_in_dim": width // 4, "dropout": 0.0})
    config.memory_encoder.update({"out_dim": width // 4, "in_dim": width})
    config.memory_encoder.position_encoding.num_pos_feats = width // 4
    config.memory_encoder.mask_downsampler.embed_dim = width
    config.memory_encoder.fuser.layer.dim = width
    config.memory_encoder.fuser.num_layers = 1
    return OmegaConf.create({"model": config})


def write_tiny_base(out: str | Path, texts: Iterable[str], settings: TinySettings = TinySettings()) -> Path:
    """Write config, random weights, tokenizer, ``sam2.yaml`` and ``sam2.pt``; a pure function of the texts and the settings."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, settings.vocab)
    torch.manual_seed(settings.seed)
    FAMILIES[settings.family].model_class(tiny_backbone_config(settings, tokenizer)).save_pretrained(out)
    OmegaConf.save(tiny_sam2_config(settings), out / SAM2_FILE)
    torch.save({"model": build_sam2(out / SAM2_FILE).state_dict()}, out / SAM2_WEIGHTS)
    tokenizer.save_pretrained(out)
    return out
