"""The three published stages as recipes: what trains, from what, on which mixture; and that the first two feed the third."""

from __future__ import annotations

import pytest

from data_tools.convert import CONVERTERS
from launch import start
from launch.dry_run import read_settings
from tests import tiny_run
from tests.tiny_run import tiny_parts
from unipixel.data.mixture import read_part
from unipixel.errors import ConfigError
from unipixel.model.adapters import LoraSettings, part_of, set_trainable
from unipixel.model.backbones import released_names
from unipixel.model.build import ModelSettings, build_model
from unipixel.model.checkpoint import load_trained_values, save_trained
from unipixel.train.settings import deepspeed_config

STAGES = [(stage, size) for stage in (1, 2, 3) for size in ("3b", "7b")]
TRAIN = {1: ["ref"], 2: ["seg"], 3: ["embedding", "ref", "ref_encoder", "mem", "seg", "sam2_encoder", "sam2_decoder"]}
MIXTURES = {
    1: {"videorefer_short_caption_ref": 1, "inst_it_image_short_caption_raw_ref": 1},
    2: {"refcoco": 5, "refcoco+": 5, "refcocog": 5, "refclef": 5, "ref_youtube_vos": 3},
    3: {"revos": 5, "mevis": 5, "lvvis": 3, "ref_youtube_vos": 5, "ref_davis17": 10, "ref_sav": 3, "groundmore": 3, "vicas": 3, "reason_seg": 10,
        "ade20k": 3, "cocostuff": 3, "mapillary": 3, "paco_lvis": 3, "pascal_part": 3, "refcoco": 10, "refcoco+": 10, "refcocog": 10, "refclef": 10,
        "videorefer_detailed_caption": 5, "videorefer_qa": 5, "inst_it_video_qa_raw": 5, "osprey_conversation": 5,
        "osprey_detail_description": 5, "osprey_pos_neg": 5, "videorefer_qa_mem": 3, "inst_it_video_qa_raw_mem": 3, "llava_videogpt_plus": 1},
}
"""The published repeat factors."""


def name_of(stage: int, size: str) -> str:
    return f"unipixel_stage{stage}" + ("" if size == "3b" else "_7b")


def settings_of(stage: int, size: str):
    return read_settings(["--config", str(start.recipe(name_of(stage, size))), "--data_root", "/data"], gpus=8)


@pytest.mark.parametrize(("stage", "size"), STAGES)
def test_published_hyper_parameters(stage, size):
    run = settings_of(stage, size)
    args = run.args
    assert run.model.backbone == f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct" and run.model.backbone in released_names()
    assert run.run.train == TRAIN[stage]
    assert run.lora.lora_layers == ("qkvo" if stage == 3 else "none")
    assert args.learning_rate == (2e-5 if stage == 3 else 1e-3) and run.run.sam2_encoder_lr == run.run.sam2_decoder_lr == 5e-6
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size == (32 if stage == 3 else 256)
    assert (args.warmup_steps, args.lr_scheduler_type, args.weight_decay, args.num_train_epochs) == (0.03, "cosine", 0.0, 1)
    assert (run.frames.num_frames, run.frames.frame_sampling, run.data.max_turns) == (8, "random", 3)
    assert deepspeed_config(args.deepspeed).stem == ("zero2_offload" if (stage, size) == (3, "7b") else "zero2")
    if stage == 3:
        assert (run.lora.lora_r, run.lora.lora_alpha, run.lora.lora_dropout, run.lora.lora_scope) == (128, 256, 0.1, "all")
        assert (run.data.max_objects, run.data.max_tokens) == (5, 40_960)
    assert (run.data.mask_share == 0) == (stage == 1)


@pytest.mark.parametrize(("stage", "size"), STAGES)
def test_published_mixture(stage, size):
    """Every set is one that this package packs, under the name of its converter."""
    parts = [read_part(entry, "/data") for entry in settings_of(stage, size).data.shards]
    assert {part.folder.removeprefix("/data/"): part.repeat for part in parts} == MIXTURES[stage]
    assert set(MIXTURES[stage]) <= set(CONVERTERS)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_third_stage_begins_with_the_first_two(size):
    assert settings_of(3, size).run.init_from.split(",") == [settings_of(stage, size).args.output_dir for stage in (1, 2)]


def test_partial_checkpoints_of_both_stages_meet_in_the_third(tiny, tmp_path):
    """A toy model: each stage's files hold its part, and the third stage's model has both."""
    settings = ModelSettings(**{k: v for k, v in tiny_run.recipe(tiny).items() if k in ModelSettings.__dataclass_fields__})
    wanted = {}
    for stage in (1, 2):
        model, _ = build_model(settings)
        set_trainable(model, LoraSettings(lora_layers="none"), TRAIN[stage])
        state = {name: p.detach() + stage for name, p in model.named_parameters() if p.requires_grad}
        wanted |= state
        save_trained(model, state, tmp_path / f"stage{stage}", {})
    model, *_ = tiny_parts(tiny, train=TRAIN[3])
    for stage in (1, 2):
        load_trained_values(model, tmp_path / f"stage{stage}")
    own = dict(model.named_parameters())
    assert {part_of(name) for name in wanted} == {"ref", "seg"}
    assert all(own[name].equal(value) for name, value in wanted.items())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_dry_run(stage, capsys):
    """Without data it prints the plan, then stops at the missing folders as the real start would."""
    with pytest.raises(ConfigError, match=f"{len(MIXTURES[stage])} of {len(MIXTURES[stage])} folders in shards are not packed datasets"):
        start.sft(["--config", name_of(stage, "3b"), "--dry-run", "--gpus", "8", "--data_root", "/no/such/folder"])
    out = capsys.readouterr().out
    assert all(f"\n{part} " in out for part in TRAIN[stage])
    assert all(f"{name} x {factor}" in out for name, factor in MIXTURES[stage].items())
