"""Settings of a run: engines by name, one learning rate per part, the number of steps, the processes' agreement."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from tests.tiny_run import tiny_parts
from unipixel import distributed
from unipixel.errors import ConfigError, DistributedError
from unipixel.model.adapters import part_of
from unipixel.train.settings import DEEPSPEED_CONFIGS, DataSettings, RunSettings, deepspeed_config, engine_config
from unipixel.train.sft import total_steps
from unipixel.train.trainer import parameter_groups, zero_missing_gradients

ENGINES = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")


@pytest.mark.parametrize("name", ENGINES)
def test_engines_by_name(name):
    config = engine_config(deepspeed_config(name), bf16=False)
    assert config["zero_optimization"]["stage"] == int(name[4])
    assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("offload")
    assert config["zero_force_ds_cpu_optimizer"] is False, "offload must work with torch's AdamW: DeepSpeed's own would be compiled"
    assert "optimizer" not in config and "scheduler" not in config, "both come from the trainer"
    assert sorted(p.stem for p in DEEPSPEED_CONFIGS.glob("*.json")) == sorted(ENGINES)


def test_engine_from_a_file(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, "bf16": {"enabled": False}}))
    assert engine_config(deepspeed_config(str(file)), bf16=True)["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


@pytest.mark.parametrize(("name", "words"), [("zero4", "nearest: 'zero"), ("ZeRO-2", "is neither a file nor one of"),
                                            ("zero2.jsn", "nearest: 'zero2'")])
def test_unknown_engine(name, words):
    with pytest.raises(ConfigError, match=words):
        deepspeed_config(name)


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is not JSON"), ("[]", "is not a mapping"), ('{"optimizer": {"type": "AdamW"}}', "remove the optimizer section"),
    ('{"scheduler": {}}', "remove the scheduler section"),
])
def test_engine_file_of_no_use(tmp_path, text, words):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        engine_config(file, bf16=False)


def test_each_part_has_its_learning_rate(tiny):
    model, *_ = tiny_parts(tiny)
    args = SimpleNamespace(learning_rate=1e-3, weight_decay=0.1)
    groups = parameter_groups(model, args, RunSettings(lora_lr=2e-3, sam2_encoder_lr=3e-3, sam2_decoder_lr=4e-3))
    rates = {"lora": 2e-3, "sam2_encoder": 3e-3, "sam2_decoder": 4e-3, "embedding": 1e-3, "seg": 1e-3}
    names = {id(p): n for n, p in model.named_parameters()}
    listed = [(names[id(p)], group) for group in groups for p in group["params"]]
    assert sorted(name for name, _ in listed) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for name, group in listed:
        assert group["lr"] == rates[part_of(name)]
        assert group["weight_decay"] == (0.0 if name.endswith("bias") or "norm" in name or name == "seg_head.0.weight" else 0.1), name
        assert group["name"].removesuffix("_no_decay") in ("lora", "sam2_encoder", "sam2_decoder", "base")


def test_lora_rate_defaults_to_the_general_one(tiny):
    model, *_ = tiny_parts(tiny)
    groups = parameter_groups(model, SimpleNamespace(learning_rate=1e-3, weight_decay=0.0), RunSettings())
    assert {g["lr"] for g in groups if g["name"].startswith("lora")} == {1e-3}


@pytest.mark.parametrize(("max_steps", "epochs", "groups", "steps"), [(7, 3.0, 100, 7), (-1, 1.0, 100, 13), (-1, 2.0, 96, 24), (-1, 0.01, 10, 1)])
def test_total_steps(max_steps, epochs, groups, steps):
    args = SimpleNamespace(max_steps=max_steps, num_train_epochs=epochs, per_device_train_batch_size=2, gradient_accumulation_steps=2, world_size=2)
    assert total_steps(args, groups) == steps


def test_missing_gradients_become_zero():
    """So that momentum goes on as in DeepSpeed's engines."""
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([used, unused], lr=0.1, weight_decay=0.0)
    optimizer.register_step_pre_hook(zero_missing_gradients)
    for _ in range(2):
        (used.sum() + unused.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    before = unused.detach().clone()
    used.sum().backward()
    optimizer.step()
    assert (unused < before).all()


@pytest.mark.parametrize(("changes", "words"), [
    ({"shards": []}, "shards is empty"), ({"examples_per_medium": 0}, "must be at least 1"), ({"max_turns": 0}, "must be at least 1"),
    ({"mask_share": 1.5}, "mask_share=1.5"),
])
def test_data_settings_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        DataSettings(**{"shards": ["a"]} | changes)


def test_agreement_of_one_process():
    distributed.agree([1, 2], ("a", "b"), "anything", torch.device("cpu"))
    assert distributed.gather_ints([3, 4], torch.device("cpu")) == [[3, 4]]


def test_world_is_checked(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    distributed.check_world(4)
    with pytest.raises(DistributedError, match="the launcher started 4 processes but the trainer sees 1"):
        distributed.check_world(1)
