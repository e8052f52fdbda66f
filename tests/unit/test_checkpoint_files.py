"""Files of a trained model: names as the UniPixel family writes them, exactly the trained tensors, and the same model when read back."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam2_ext import build_sam2
from tests.tiny_run import tiny_parts
from unipixel.data.collate import collate
from unipixel.errors import CheckpointError, ConfigError
from unipixel.model.adapters import NEVER_USED
from unipixel.model.build import ModelSettings, checkpoint_fields, load_checkpoint, load_tokenizer
from unipixel.model.checkpoint import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    PARTIAL,
    always_written,
    disk_name,
    load_trained_values,
    read_config,
    save_trained,
)
from unipixel.model.keys import FOURIER, POINT_MODULES


def pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", name)


def trained_state(model) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad or always_written(n)}


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """(folder, model, tokenizer, a batch) of a model whose trained tensors all differ from the base model's."""
    model, tokenizer, encoder, groups = tiny_parts(tiny, num_frames=4)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("saved")
    settings = ModelSettings(backbone=str(tiny.base), sam2_config="sam2.yaml", sam2_checkpoint="sam2.pt", sam2_image_size=64)
    save_trained(model, trained_state(model), folder, checkpoint_fields(settings, tokenizer))
    tokenizer.save_pretrained(folder)
    rows = next(groups.rows[i] for i, kind in enumerate(groups.kind_of) if groups.kinds[kind] == "video_masks")
    return folder, model.eval(), tokenizer, collate([encoder(groups.dataset.sample(rows[0], rows))], "video_masks")


def test_adapter_names_follow_the_reference(shared_data, saved):
    theirs = set(map(pattern, load_file(shared_data / "fixtures" / "unipixel_tiny" / "adapter" / ADAPTER)))
    assert set(map(pattern, load_file(saved[0] / ADAPTER))) == theirs


def test_partial_names_follow_the_reference(shared_data, saved):
    """Of the reference's trained tensors, those that this model has, but for what prompting by embeddings never uses."""
    folder = shared_data / "fixtures" / "unipixel_tiny"
    theirs = set(load_file(folder / "adapter" / PARTIAL))
    network = build_sam2(folder / "sam2_tiny_official.yaml", image_size=128)
    ours = {disk_name(f"sam2.{name}", True) for name, _ in network.named_parameters() if not any(p in f"sam2.{name}" for p in NEVER_USED)}
    unused = {name for name in theirs if "sam2." in name and any(p in name.removeprefix("base_model.model.") for p in NEVER_USED)}
    assert ours == {name for name in theirs if ".sam2." in name} - unused and len(ours) > 300
    rest = {name for name in load_file(saved[0] / PARTIAL) if ".sam2." not in name}
    shown = {disk_name(name, True) for name in FOURIER} | {name for name in theirs if name.split(".")[2] in POINT_MODULES}
    assert rest == shown | {name for name in theirs if ".seg_head." in name or ".embed_tokens." in name}, "and the random matrices"


@pytest.mark.parametrize(("name", "lora", "on_disk"), [
    ("backbone.base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight", True,
     "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"),
    ("backbone.base_model.model.model.language_model.embed_tokens.weight", True, "base_model.model.model.language_model.embed_tokens.weight"),
    ("backbone.model.language_model.embed_tokens.weight", False, "model.language_model.embed_tokens.weight"),
    ("seg_head.0.weight", True, "base_model.model.seg_head.0.weight"), ("seg_head.0.weight", False, "seg_head.0.weight"),
    ("sam2.memory_encoder.fuser.layers.0.gamma", True, "base_model.model.sam2.memory_encoder.fuser.layers.0.weight"),
    ("sam2.no_mem_embed", False, "sam2.no_mem_embed"),
])
def test_names_on_disk(name, lora, on_disk):
    assert disk_name(name, lora) == on_disk


def test_exactly_the_trained_tensors_are_written(saved):
    folder, model, _, _ = saved
    written = load_file(folder / ADAPTER) | load_file(folder / PARTIAL)
    assert set(written) == {disk_name(name, True) for name in (*trained_state(model), *FOURIER)}
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    assert config["r"] == 4 and config["peft_type"] == "LORA"


def test_config_has_the_fields_of_the_reference(shared_data, saved, tiny):
    theirs = json.loads((shared_data / "fixtures" / "unipixel_tiny" / "adapter" / CONFIG).read_text())
    mine, tokenizer = read_config(saved[0]), saved[2]
    fields = {"base_model", "base_model_path", "sam2_config", "sam2_checkpoint", "sam2_image_size", "sam2_hidden_tokens", "sam2_batch_mode",
              "sam2_enable_decoder", "ref_token_id", "seg_token_id", "mem_token_id"}
    assert fields <= set(theirs) and fields <= set(mine)
    assert mine["seg_token_id"] == tokenizer.convert_tokens_to_ids("<|seg|>") and mine["base_model_path"] == str(tiny.base)


def test_read_back_is_the_same_model(saved):
    folder, model, _, batch = saved
    again, tokenizer = load_checkpoint(folder)
    with torch.no_grad():
        mine, theirs = model(**batch), again(**batch)
    torch.testing.assert_close(theirs.logits, mine.logits, atol=0, rtol=0)
    torch.testing.assert_close(theirs.masks.multimasks, mine.masks.multimasks, atol=0, rtol=0)
    assert not again.training and tokenizer.convert_tokens_to_ids("<|seg|>") == batch["input_ids"][0][batch["object_rows"][0] + 1]


def test_without_adapters_there_is_one_file_without_prefix(tiny, tmp_path):
    model, tokenizer, *_ = tiny_parts(tiny, lora_layers="none", train=["seg", "projector"])
    model.seg_head[1].weight.data.fill_(0.25)
    settings = ModelSettings(backbone=str(tiny.base), sam2_config="sam2.yaml", sam2_checkpoint="sam2.pt", sam2_image_size=64)
    save_trained(model, trained_state(model), tmp_path, checkpoint_fields(settings, tokenizer))
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / ADAPTER).exists() and not (tmp_path / ADAPTER_CONFIG).exists()
    assert {name.split(".")[0] for name in load_file(tmp_path / PARTIAL)} == {"seg_head", "model", *POINT_MODULES}
    again, _ = load_checkpoint(tmp_path)
    assert (again.seg_head[1].weight == 0.25).all()


def test_tensors_that_fit_nowhere_are_named(tiny, saved, tmp_path):
    model, *_ = tiny_parts(tiny)
    for name in (ADAPTER, PARTIAL):
        save_file(load_file(saved[0] / name), tmp_path / name)
    tensors = load_file(tmp_path / PARTIAL)
    tensors |= {"base_model.model.seg_head.1.bias": torch.zeros(3), "base_model.model.tem_embed.weight": torch.zeros(1, 8)}
    save_file(tensors, tmp_path / PARTIAL)
    with pytest.raises(CheckpointError) as caught:
        load_trained_values(model, tmp_path)
    assert "2 tensors do not fit this model" in str(caught.value)
    assert "base_model.model.seg_head.1.bias (3,) (the model has (64,))" in str(caught.value) and "tem_embed.weight (1, 8)" in str(caught.value)


def test_folders_that_hold_no_model(tmp_path, saved):
    with pytest.raises(CheckpointError, match="holds no config.json: it is not a trained model"):
        load_checkpoint(tmp_path)
    config = read_config(saved[0])
    (tmp_path / CONFIG).write_text(json.dumps(config))
    load_tokenizer(str(saved[0])).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds neither adapter_config.json nor pytorch_model.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config | {"base_model_path": "/nowhere/base"}))
    with pytest.raises(ConfigError, match="was trained on the base model '/nowhere/base', which is not there; set backbone"):
        load_checkpoint(tmp_path)
