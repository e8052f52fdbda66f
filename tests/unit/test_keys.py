"""Names of weights: every tensor of the released checkpoints has its place in the model, and the other way round."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from sam2_ext import build_sam2
from sam2_ext.build import ARCHITECTURES, load_sam2_config, to_unipixel_name
from unipixel.model.checkpoint import module_tensors, named_tensors
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import FOURIER, from_full_name, full_name, memory_name, module_name

SIZES = {"3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
                "vocab_size": 151936, "tie_word_embeddings": True},
         "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                "vocab_size": 152064, "tie_word_embeddings": False}}


def full_size(name: str) -> GroundedVLM:
    """A released size without storage."""
    text = SIZES[name]
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": text["hidden_size"],
              "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])
    sam2 = build_sam2("sam2.1_hiera_b+", image_size=768).to("meta")
    with torch.device("meta"):
        return GroundedVLM(Qwen2_5_VLForConditionalGeneration(config), sam2)


@pytest.mark.parametrize("size", SIZES)
def test_released_key_lists_fit_exactly(shared_data, size):
    """Names and shapes: nothing missing, nothing unexpected."""
    with (shared_data / "fixtures" / f"unipixel_{size}_keys.tsv").open() as file:
        listed = {row["key"]: row["shape"] for row in csv.DictReader(file, delimiter="\t")}
    model = full_size(size)
    ours = {full_name(name): str(list(tensor.shape)) for name, tensor in module_tensors(model)}
    assert ours == listed
    tensors = dict(named_tensors(model))
    assert {memory_name(name) for name in listed} == set(tensors)
    assert not any(tensor.is_complex() for tensor in tensors.values())


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_network_has_the_tensors_of_the_unmodified_package(name):
    """Names and shapes of the four sizes, against ``SAM2Base`` built from the package's own YAML."""
    from hydra.utils import instantiate

    config = load_sam2_config(name)
    config._target_ = "sam2.modeling.sam2_base.SAM2Base"
    theirs = {key: t.shape for key, t in instantiate(config).state_dict().items()}
    ours = {key: t.shape for key, t in build_sam2(name, image_size=1024).state_dict().items()}
    assert ours == theirs and len(ours) > 400


@pytest.mark.parametrize(("memory", "module", "full"), [
    ("backbone.model.visual.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight", "visual.patch_embed.proj.weight"),
    ("backbone.model.language_model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
    ("backbone.model.language_model.layers.3.norm.weight", "model.language_model.layers.3.norm.weight", "model.layers.3.norm.weight"),
    ("backbone.lm_head.weight", "lm_head.weight", "lm_head.weight"),
    ("seg_head.0.weight", "seg_head.0.weight", "seg_head.0.weight"),
    ("msk_proj.2.bias", "msk_proj.2.bias", "msk_proj.2.bias"),
    ("point_prompts.ref_proj.1.weight", "ref_proj.1.weight", "ref_proj.1.weight"),
    ("point_prompts.tem_pe.positional_encoding_gaussian_matrix", FOURIER[1], FOURIER[1]),
    ("sam2.memory_encoder.fuser.layers.1.gamma", "sam2.memory_encoder.fuser.layers.1.weight", "sam2.memory_encoder.fuser.layers.1.weight"),
])
def test_names_go_both_ways(memory, module, full):
    assert module_name(memory) == module and full_name(module) == full
    assert from_full_name(full) == module == from_full_name(module)
    assert memory_name(full) == memory_name(module) == memory_name(f"base_model.model.{module}") == memory


def test_names_behind_adapters():
    name = "backbone.base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight"
    assert module_name(name) == "model.visual.blocks.0.attn.qkv.lora_A.weight"


def test_official_file_names_are_the_packages(tmp_path: Path):
    """What UniPixel renames is the layer scale only."""
    names = build_sam2("sam2.1_hiera_t", image_size=64).state_dict()
    changed = {name: to_unipixel_name(name) for name in names if to_unipixel_name(name) != name}
    assert changed == {f"memory_encoder.fuser.layers.{i}.gamma": f"memory_encoder.fuser.layers.{i}.weight" for i in (0, 1)}
