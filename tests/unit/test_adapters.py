"""Which parameters train: LoRA rules and endings, parts by name, and that a rule without effect is an error."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_run import Ranks, recipe, steps, tiny_parts
from unipixel.data.collate import collate
from unipixel.errors import ConfigError
from unipixel.model.adapters import NEVER_USED, PARTS, LoraSettings, lora_targets, part_of, set_trainable
from unipixel.model.build import ModelSettings, build_model, checkpoint_fields, load_model
from unipixel.model.checkpoint import always_written, save_trained

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


def test_endings_stay_within_the_scope(model):
    """gate, up and down projections are names of the vision tower too: with ``llm`` it stays as it is."""
    endings = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    assert sum("visual" in name for name in lora_targets(model.backbone, LoraSettings(lora_targets=endings))) == 6
    inside = lora_targets(model.backbone, LoraSettings(lora_targets=endings, lora_scope="llm"))
    assert len(inside) == 14 and not any("visual" in name for name in inside)
    with pytest.raises(ConfigError, match=r"lora_targets='attn.qkv' matched 0 of \d+ linear layers of lora_scope='llm'"):
        lora_targets(model.backbone, LoraSettings(lora_targets="attn.qkv", lora_scope="llm"))


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


# --- the projector ---------------------------------------------------------------------------------------------------------------------

MERGER = ["model.visual.merger.mlp.0", "model.visual.merger.mlp.2"]


@pytest.mark.parametrize("rule", [{"lora_layers": "linear"}, {"lora_targets": "q_proj,up_proj"}, {"lora_scope": "all", "lora_layers": "linear"}])
def test_adapters_in_the_projector_beside_any_rule(model, rule):
    rule = {"lora_scope": "llm", **rule}
    without, with_it = (lora_targets(model.backbone, LoraSettings(**rule, lora_projector=on)) for on in (False, True))
    assert [name for name in with_it if "merger" in name] == MERGER and len(set(with_it)) == len(with_it)
    assert set(with_it) - set(without) == ({*MERGER} if rule["lora_scope"] == "llm" else set())


def test_the_projector_of_the_other_family_is_found(tiny_qwen3):
    settings = {k: v for k, v in recipe(tiny_qwen3).items() if k in ModelSettings.__dataclass_fields__}
    backbone = build_model(ModelSettings(**settings))[0].backbone
    found = [name for name in lora_targets(backbone, LoraSettings(lora_scope="llm", lora_projector=True)) if "visual" in name]
    assert found and all("merger" in name for name in found)


def test_adapters_in_the_projector_train_and_the_tower_stays(tiny):
    """One step: every adapter of the projector moves, and nothing else of the vision tower has one."""
    rule = {"lora_scope": "llm", "lora_targets": "q_proj,gate_proj,up_proj,down_proj", "lora_projector": True}
    model, _, encoder, groups = tiny_parts(tiny, **rule, train=["seg"])
    adapted = {name: p for name, p in model.named_parameters() if "lora_" in name and "visual" in name}
    assert len(adapted) == 4 and all("visual.merger.mlp." in name for name in adapted)
    for name, parameter in adapted.items():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)  # from zero, half of the adapter would have no gradient in the first step
    batch = collate([encoder(groups.sample(0), with_masks=False)], "video")
    before = {name: p.detach().clone() for name, p in adapted.items()}
    out = model(**batch)
    torch.nn.functional.cross_entropy(out.logits, batch["label_ids"]).backward()
    torch.optim.SGD(adapted.values(), lr=1.0).step()
    assert all(not p.equal(before[name]) for name, p in adapted.items())


@pytest.mark.parametrize(("settings", "train", "words"), [
    ({"lora_layers": "none"}, [], "lora_projector=true adds adapters, which lora_layers='none' leaves out"),
    ({}, ["projector"], "lora_projector=true adapts the projector, train lists all of it")])
def test_projectors_that_cannot_be_adapted(model, settings, train, words):
    with pytest.raises(ConfigError, match=words):
        lora_targets(model.backbone, LoraSettings(lora_projector=True, **settings), train)


def test_a_backbone_without_a_projector_is_an_error():
    backbone = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="lora_projector=true matched 0 of 1 linear layers"):
        lora_targets(backbone, LoraSettings(lora_projector=True))


# --- variants: rsLoRA, DoRA, new tokens alone, four-bit weights -------------------------------------------------------------------------

VARIANTS = {"rslora": {"lora_variant": "rslora"}, "dora": {"lora_variant": "dora"}, "tokens": {"train_new_tokens": True, "train": ["seg"]},
            "everything": {"lora_variant": "dora", "lora_layers": "linear", "train_new_tokens": True, "train": ["seg"]}}


def logits(model, parts) -> torch.Tensor:
    _, _, encoder, groups = parts
    model.eval()
    with torch.no_grad():
        return model(**collate([encoder(groups.sample(0))], "video")).logits


@pytest.fixture(scope="module")
def untied(tiny, tmp_path_factory):
    """The toy base with an output head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "base"
    shutil.copytree(tiny.base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("embed_tokens.weight"))
    save_file(weights | {"lm_head.weight": weights[name].flip(1).contiguous()}, folder / "model.safetensors", metadata={"format": "pt"})
    return dataclasses.replace(tiny, base=folder)


@pytest.mark.parametrize("head", ["tied", "untied"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_of_each_variant_loads_and_merges(tiny, untied, tmp_path, variant, head):
    assets = tiny if head == "tied" else untied
    parts = tiny_parts(assets, **VARIANTS[variant])
    model, tokenizer = parts[:2]
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    settings = ModelSettings(**{k: v for k, v in recipe(assets).items() if k in ModelSettings.__dataclass_fields__})
    state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad or always_written(name)}
    save_trained(model, state, tmp_path, checkpoint_fields(settings, tokenizer))
    mine, loaded = logits(model, parts), load_model(tmp_path)
    assert (mine - logits(tiny_parts(assets, **VARIANTS[variant])[0], parts)).abs().max() > 0.1  # the variant says something at all
    torch.testing.assert_close(logits(loaded, parts), mine, atol=1e-6, rtol=0)
    loaded.backbone = loaded.backbone.merge_and_unload()
    torch.testing.assert_close(logits(loaded, parts), mine, atol=2e-5, rtol=1e-5)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["use_dora"] == (VARIANTS[variant].get("lora_variant") == "dora")
    assert bool(stored["trainable_token_indices"]) == ("train_new_tokens" in VARIANTS[variant])


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_only_the_new_rows_of_the_embedding_train(tiny, untied, head):
    """Three rows of each matrix; both sides of a tie move together."""
    assets = tiny if head == "tied" else untied
    model, tokenizer, *_ = tiny_parts(assets, train_new_tokens=True, train=["seg"])
    rows = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and part_of(name) == "embedding"}
    assert list(rows.values()) == [(3, 64)] * (1 if head == "tied" else 2)
    assert model.new_tokens == tuple(tokenizer.convert_tokens_to_ids(["<|ref|>", "<|seg|>", "<|mem|>"]))


def test_scale_of_rslora(tiny):
    """alpha 8 over the root of rank 4, not over the rank."""
    scales = {variant: next(m.scaling["default"] for m in tiny_parts(tiny, lora_variant=variant)[0].modules() if hasattr(m, "scaling")
                            and hasattr(m, "lora_A")) for variant in ("plain", "rslora")}
    assert scales == {"plain": 2.0, "rslora": 4.0}


def test_settings_that_contradict_each_other(tiny, model):
    with pytest.raises(ConfigError, match="lora_layers='none' leaves out"):
        LoraSettings(train_new_tokens=True, lora_layers="none")
    with pytest.raises(ConfigError, match="leave one of them out"):
        set_trainable(model, LoraSettings(train_new_tokens=True), ["embedding"])
    with pytest.raises(ConfigError, match="adapts lm_head"):
        set_trainable(model, LoraSettings(train_new_tokens=True, lora_targets="q_proj,lm_head"), ["seg"])
    with pytest.raises(ConfigError, match="nearest: 'rslora'"):
        LoraSettings(lora_variant="rs_lora")


def test_four_bits_need_their_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        ModelSettings(quantize="nf4")
    with pytest.raises(ConfigError, match="quantize='fp4' must be one of"):
        ModelSettings(quantize="fp4")
    with pytest.raises(ConfigError, match="pip install flash-attn"):
        ModelSettings(attn_implementation="segment_flash_attention_2")


def test_four_bit_language_model(tiny, tmp_path):
    """Its linear layers only; a checkpoint records the setting, and loads with it and without."""
    bnb = pytest.importorskip("bitsandbytes", reason="the optional bitsandbytes package is not installed")
    parts = tiny_parts(tiny, quantize="nf4", train=["seg"])
    model, tokenizer = parts[:2]
    assert {part_of(n + ".weight") for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)} == {"llm"}
    model.train()(**collate([parts[2](parts[3].sample(0))], "video")).logits.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)
    settings = ModelSettings(**{k: v for k, v in recipe(tiny, quantize="nf4").items() if k in ModelSettings.__dataclass_fields__})
    state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad or always_written(name)}
    save_trained(model, state, tmp_path, checkpoint_fields(settings, tokenizer))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantize"] == "nf4" and "quantization_config" not in config
    torch.testing.assert_close(logits(load_model(tmp_path), parts), logits(model, parts), atol=1e-6, rtol=0)
    assert not any(isinstance(m, bnb.nn.Linear4bit) for m in load_model(tmp_path, quantize="none").modules())
    with pytest.raises(ConfigError, match="train=llm: a quantized language model"):
        tiny_parts(tiny, quantize="nf4", train=["llm"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rslora", "everything"])
def test_training_with_zero2(tiny, tmp_path, variant):
    """Two ranks, gradient checkpointing; the check of gradients passes, and the adapters have moved."""
    out = Ranks(recipe(tiny, gradient_checkpointing=True, max_steps=2, **VARIANTS[variant]), tmp_path / "run").finish(timeout=200)
    assert len(steps(out)) == 2
    moved = {name: tensor for name, tensor in load_file(out / "adapter_model.safetensors").items() if "lora_B" in name}
    assert moved and all(tensor.any() for tensor in moved.values())
