"""POVQA's two recipes: the published hyper-parameters, and one context in both, which evaluation repeats."""

from __future__ import annotations

import dataclasses

import pytest

from launch import start
from unipixel.config import parse, read_recipe
from unipixel.data.media import FrameSettings, llm_size
from unipixel.data.template import TemplateSettings
from unipixel.model.adapters import LoraSettings
from unipixel.train import dpo, sft

HERE = ("--bf16", "false", "--tf32", "false", "--deepspeed", "", "--quantize", "none", "--dataloader_num_workers", "0", "--report_to", "none")
"""What a machine without a GPU cannot do."""
CONTEXT = {"prompt": "film_interleaved", "answer_style": "rationale", "num_frames": 16, "key_frame": True, "key_frame_hint": True,
           "frame_sampling": "uniform", "max_segments": 2048, "use_subtitles": True, "paraphrase": False}


def settings(stage: str) -> dict:
    """Every setting by name."""
    classes = sft.SETTINGS if stage == "sft" else dpo.SETTINGS
    parsed = parse(classes, ["--config", str(start.recipe(f"{stage}_povqa")), "--shards", "x", *HERE])
    return {field.name: getattr(part, field.name) for part in parsed for field in dataclasses.fields(part)}


def test_published_hyper_parameters():
    found = settings("sft")
    wanted = {"backbone": "Qwen/Qwen2.5-VL-7B-Instruct", "lora_r": 32, "lora_alpha": 32, "lora_dropout": 0.05, "num_train_epochs": 2,
              "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 5e-5, "warmup_steps": 0.08, "weight_decay": 0.0,
              "lr_scheduler_type": "linear", "max_tokens": 4096, "seed": 42, "save_total_limit": 2, "keep_best": True, "train": []}
    assert {name: found[name] for name in wanted} == wanted
    assert found["num_train_epochs"] * found["save_steps"] == 1, "a checkpoint at the end of each epoch"
    assert {read_recipe(start.recipe(f"{stage}_povqa"))["quantize"] for stage in ("sft", "dpo")} == {"nf4"}, "one precision in both"


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_context_in_both(stage):
    found = settings(stage)
    assert {name: found[name] for name in CONTEXT} == CONTEXT
    other = settings("dpo" if stage == "sft" else "sft")
    shared = [field.name for cls in (FrameSettings, TemplateSettings, LoraSettings) for field in dataclasses.fields(cls)]
    assert {name: found[name] for name in shared} == {name: other[name] for name in shared}, "the second one goes on with the first one's adapter"


def test_a_picture_keeps_its_size():
    """224 x 224, as films are prepared: 64 tokens, so that 60 pictures are 3840."""
    found = settings("sft")
    frames = FrameSettings(min_pixels=found["min_pixels"], max_pixels=found["max_pixels"])
    assert llm_size(224, 224, frames) == (224, 224)
