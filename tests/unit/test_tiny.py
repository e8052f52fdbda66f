"""The toy model folder: complete, the same bytes every time, and built from the classes that true sizes use."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from transformers import AutoTokenizer

from unipixel.data.template import SPECIAL_TOKENS
from unipixel.model.build import ModelSettings, build_model, grow_vocabulary
from unipixel.model.tiny import CHAT_TOKENS, TinySettings, train_tokenizer, write_tiny_base

SMALL = TinySettings(width=32, layers=1, heads=2, kv_heads=1, vision_width=16, vision_layers=1, vision_heads=2, sam_width=32, vocab=300)
TEXTS = ["Who falls first?", "Answer: A. Temporal Evidence: [[0.5, 1.0]]."] * 3


def digests(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.suffix != ".pt"}


def test_same_texts_same_files(tmp_path):
    first, second = (write_tiny_base(tmp_path / name, iter(TEXTS), SMALL) for name in "ab")
    assert digests(first) == digests(second)
    one, two = (torch.load(folder / "sam2.pt", weights_only=True)["model"] for folder in (first, second))
    assert all(one[name].equal(two[name]) for name in one)
    other = write_tiny_base(tmp_path / "c", TEXTS, TinySettings(**{**vars(SMALL), "seed": 1}))
    assert digests(other)["model.safetensors"] != digests(first)["model.safetensors"]


def test_tokenizer_is_lossless_and_keeps_special_tokens_whole():
    tokenizer = train_tokenizer(TEXTS, 300)
    for text in ("Who falls?", "Größe — 你好 🙂\n\n  x", "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|><|seg|><|im_end|>"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    for token in (*CHAT_TOKENS, *SPECIAL_TOKENS):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1


def test_folder_is_a_model(tmp_path):
    folder = write_tiny_base(tmp_path / "base", TEXTS, SMALL)
    model, tokenizer = build_model(ModelSettings(backbone=str(folder), sam2_config="sam2.yaml", sam2_checkpoint="sam2.pt", sam2_image_size=64))
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    assert model.core.get_input_embeddings().weight is model.core.get_output_embeddings().weight
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(folder)) <= model.core.get_input_embeddings().weight.shape[0]
    assert not model.training and model.sam2.image_size == 64
    weights = torch.load(folder / "sam2.pt", weights_only=True)["model"]
    assert model.sam2.no_mem_embed.equal(weights["no_mem_embed"])


@pytest.mark.parametrize("extra", [0, 5])
def test_vocabulary_grows_only_when_it_must(tmp_path, extra):
    """New rows start at the mean of the old ones."""
    folder = write_tiny_base(tmp_path / "base", TEXTS, SMALL)
    model, _ = build_model(ModelSettings(backbone=str(folder), sam2_config="sam2.yaml", sam2_image_size=64))
    old = model.core.get_input_embeddings().weight.detach().clone()
    grow_vocabulary(model.core, len(old) + extra)
    new = model.core.get_input_embeddings().weight
    assert len(new) == len(old) + extra and new[:len(old)].equal(old)
    if extra:
        torch.testing.assert_close(new[len(old):], old.mean(0, keepdim=True).expand(extra, -1))
        assert model.core.get_output_embeddings().weight.equal(new)
