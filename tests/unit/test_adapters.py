"""Which parameters train: LoRA rules and endings, parts by name, and that a rule without effect is an error."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_run import recipe
from unipixel.errors import ConfigError
from unipixel.model.adapters import NEVER_USED, PARTS, LoraSettings, lora_targets, part_of, set_trainable
from unipixel.model.build import ModelSettings, build_model

NO_LORA = LoraSettings(lora_layers="none")


@pytest.fixture
def model(tiny):
    settings = {k: v for k, v in recipe(tiny).items() if k in ModelSettings.__dataclass_fields__}
    return build_model(ModelSettings(**settings))[0]


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("layers", "scope", "count"), [
    ("qkvo", "llm", 8), ("qkvo", "visual", 4), ("qkvo", "all", 12), ("linear", "llm", 14), ("linear", "visual", 12), ("linear", "all", 26),
])
def test_rules_on_two_layers_each(model, layers, scope, count):
    """Per layer: q, k, v, o and three of the MLP in the language model; qkv, proj and three in the vision tower, whose merger has two.
    The tied output head is left out."""
    targets = lora_targets(model.backbone, LoraSettings(lora_layers=layers, lora_scope=scope))
    assert len(targets) == count and "lm_head" not in targets
    assert all(("visual" in name) == (scope == "visual") for name in targets) or scope == "all"


def test_parts_that_train_in_full_get_adapters_on_attention_only(model):
    rule = LoraSettings(lora_layers="linear")
    assert len(lora_targets(model.backbone, rule, ["projector"])) == 24
    inside = [name for name in lora_targets(model.backbone, rule, ["llm"]) if "language_model" in name]
    assert len(inside) == 8 and all(name.endswith("_proj") and "self_attn" in name for name in inside)


def test_untied_head_gets_an_adapter(model):
    model.config.text_config.tie_word_embeddings = False
    try:
        assert "lm_head" in lora_targets(model.backbone, LoraSettings(lora_layers="linear"))
        assert "lm_head" not in lora_targets(model.backbone, LoraSettings(lora_layers="linear"), ["embedding"])
    finally:
        model.config.text_config.tie_word_embeddings = True


@pytest.mark.parametrize(("endings", "count"), [
    ("q_proj", 2), ("q_proj, v_proj", 4), ("visual.merger.mlp.0", 1), ("layers.1.mlp.down_proj", 1), ("attn.proj", 2), ("lm_head", 1),
])
def test_explicit_endings(model, endings, count):
    assert len(lora_targets(model.backbone, LoraSettings(lora_targets=endings))) == count


def test_an_ending_is_whole_names(model):
    """``proj`` does not mean ``o_proj``."""
    assert lora_targets(model.backbone, LoraSettings(lora_targets="proj")) == [f"model.visual.blocks.{i}.attn.proj" for i in range(2)]


@pytest.mark.parametrize(("endings", "words"), [
    ("q_porj", r"lora_targets='q_porj' matched 0 of \d+ linear layers; nearest: 'q_proj'"),
    ("q_proj,visual.merger.mlp.1", r"lora_targets='visual.merger.mlp.1' matched 0 of \d+ linear layers; nearest: '(visual\.)?merger.mlp"),
])
def test_endings_without_a_match(model, endings, words):
    with pytest.raises(ConfigError, match=words):
        lora_targets(model.backbone, LoraSettings(lora_targets=endings))


@pytest.mark.parametrize(("name", "part"), [
    ("backbone.model.language_model.layers.0.mlp.up_proj.weight", "llm"), ("backbone.model.language_model.norm.weight", "llm"),
    ("backbone.model.language_model.embed_tokens.weight", "embedding"), ("backbone.lm_head.weight", "embedding"),
    ("backbone.model.visual.blocks.1.norm1.weight", "visual"), ("backbone.model.visual.merger.mlp.2.bias", "projector"),
    ("seg_head.3.weight", "seg"), ("sam2.image_encoder.neck.convs.0.conv.weight", "sam2_encoder"),
    ("sam2.memory_attention.norm.weight", "sam2_decoder"), ("sam2.no_mem_embed", "sam2_decoder"),
    ("backbone.base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight", "lora"), ("other.weight", "other"),
])
def test_part_of_a_name(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_trains(model, part):
    report = set_trainable(model, NO_LORA, [part])
    names = trained(model)
    assert names == {n for n, _ in model.named_parameters() if part_of(n) == part and not any(p in n for p in NEVER_USED)}
    assert set(report.counts) == {part} and report.counts[part][1] == len(names)
    assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad) < report.total


def test_adapters_and_parts_together(model):
    report = set_trainable(model, LoraSettings(lora_scope="llm", lora_r=4), ["embedding", "seg"])
    names = trained(model)
    assert {part_of(name) for name in names} == {"lora", "embedding", "seg"} and len(report.lora_modules) == 8
    assert sum("lora_" in name for name in names) == 16 and not any(".base_layer." in name for name in names)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_trained_weights_are_float32_over_a_half_precision_backbone(tiny):
    settings = {k: v for k, v in recipe(tiny).items() if k in ModelSettings.__dataclass_fields__}
    model, _ = build_model(ModelSettings(**settings, model_dtype="bfloat16"))
    set_trainable(model, LoraSettings(lora_r=4), ["embedding", "projector", "seg", "sam2_decoder"])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if part_of(n) in ("llm", "visual")} == {torch.bfloat16}


@pytest.mark.parametrize(("lora", "train", "words"), [
    (NO_LORA, ["seq"], r"train='seq' is not a part of the model; known: .*nearest: 'seg'"),
    (NO_LORA, [], "nothing trains"),
])
def test_parts_that_do_not_exist(model, lora, train, words):
    with pytest.raises(ConfigError, match=words):
        set_trainable(model, lora, train)


@pytest.mark.parametrize(("changes", "words"), [
    ({"lora_layers": "qkv"}, "nearest: 'qkvo'"), ({"lora_scope": "vision"}, r"must be one of \('llm', 'visual', 'all'\)"),
    ({"lora_r": 0}, "lora_r=0"), ({"lora_dropout": 1.0}, "lora_dropout=1.0"), ({"lora_alpha": 0}, "lora_alpha=0"),
])
def test_settings_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        LoraSettings(**changes)
