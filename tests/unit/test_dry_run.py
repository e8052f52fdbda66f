"""The dry run: sizes of the released models, memory formulas against the ZeRO paper, activations against what autograd really saves."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from launch import start
from launch.activations import Clips, mask_activation_bytes
from launch.dry_run import read_settings
from launch.memory import Engine, ModelBytes, model_bytes, state_bytes
from sam2_ext import MaskOutput, build_sam2, reset_rope_tables
from unipixel.errors import ConfigError
from unipixel.model.adapters import LoraSettings
from unipixel.model.backbones import backbone_config
from unipixel.model.build import ModelSettings
from unipixel.model.meta import meta_model
from unipixel.model.tiny import TinySettings, tiny_sam2_config
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums
from unipixel.train.settings import DEEPSPEED_CONFIGS, deepspeed_config

RECIPES = Path(start.__file__).parent / "recipes"
TRAIN = ["embedding", "seg", "sam2_encoder", "sam2_decoder"]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a dry run asked for the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


def test_3b_recipe(capsys, no_network):
    started = time.perf_counter()
    assert start.sft(["--config", str(RECIPES / "sft_3b.yaml"), "--dry-run", "--gpus", "4"]) == 0
    assert time.perf_counter() - started < 60
    out = capsys.readouterr().out
    assert "Qwen/Qwen2.5-VL-3B-Instruct + sam2.1_hiera_b+ at 768 px" in out
    rows = {cells[0]: cells for line in out.splitlines() if (cells := line.split())}
    assert rows["lora"][1:3] == ["416", "90,439,680"] and rows["lora"][-1] == "2e-05"
    assert rows["embedding"][1:3] == ["1", "311,164,928"]
    assert rows["sam2_encoder"][2] == "69,106,816" and rows["sam2_encoder"][-1] == "5e-06"
    assert "LoRA in 208 modules" in out
    assert re.search(r"^\* zero2 ", out, re.MULTILINE) and re.search(r"^  zero3_offload ", out, re.MULTILINE)
    assert "Batch: 1 x 4 x 4 = 16 media per step" in out
    assert "Steps: not known without --shards" in out


@pytest.mark.parametrize(("size", "llm", "lora_modules", "total"), [
    ("3B", 3_085_938_688, 208, 3_882_000_000), ("7B", 7_615_616_512, 176, 8_439_000_000)])
def test_sizes_of_the_released_models(size, llm, lora_modules, total):
    """Language model with its output head (tied in 3B), vision tower, SAM 2 base+, and what LoRA on all attention matches."""
    model, report = meta_model(ModelSettings(backbone=f"Qwen/Qwen2.5-VL-{size}-Instruct"), LoraSettings(), TRAIN)
    assert all(p.device.type == "meta" for p in model.parameters())
    counts = {"llm": 0, "visual": 0, "sam2": 0}
    for name, parameter in model.named_parameters():
        if "lora_" not in name and not name.startswith(("seg_head", "msk_proj", "point_prompts")):
            counts["sam2" if name.startswith("sam2.") else "visual" if ".visual." in name else "llm"] += parameter.numel()
    visual = 668_684_288 if size == "3B" else 676_550_144
    assert counts == {"llm": llm, "visual": visual, "sam2": 80_850_178}
    assert len(report.lora_modules) == lora_modules
    assert total < report.total < 1.03 * total
    assert {p.dtype for n, p in model.named_parameters() if ".base_layer." in n} == {torch.bfloat16}


def test_a_local_folder_describes_its_own_model(tmp_path):
    shipped = json.loads((Path(start.__file__).parent / "configs" / "qwen2_5_vl_3b.json").read_text())
    shipped["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(shipped))
    assert backbone_config(str(tmp_path)).text_config.num_hidden_layers == 3
    (tmp_path / "config.json").write_text(json.dumps({**shipped, "model_type": "llava"}))
    with pytest.raises(ConfigError, match="model_type 'llava'"):
        backbone_config(str(tmp_path))


def test_an_unknown_backbone_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"knows only Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct.*nearest"):
        backbone_config("Qwen/Qwen2.5-VL-4B-Instruct")


@pytest.mark.parametrize("argv", [["--lora_rank", "8"], ["--deepspeed", "zero9"], ["--train", "head"], ["--lora_targets", "mm_projector"]])
def test_it_refuses_what_the_real_start_refuses(argv):
    with pytest.raises(ConfigError):
        start.sft(["--config", "sft_3b", "--dry-run", *argv])


def test_recipes_hold_the_published_hyper_parameters():
    """EVQA's training: LoRA 128 / 256 / 0.1 on all attention, 2e-5 (SAM 2 5e-6), no decay, cosine, 3 % warm-up, 1 epoch, 8 GPUs x 4."""
    for name, backbone in (("sft_3b", "3B"), ("sft_7b", "7B")):
        run = read_settings(["--config", str(RECIPES / f"{name}.yaml")], gpus=8)
        assert run.model.backbone == f"Qwen/Qwen2.5-VL-{backbone}-Instruct"
        assert (run.model.sam2_image_size, run.model.sam2_hidden_tokens) == (768, 2)
        lora = run.lora
        assert (lora.lora_layers, lora.lora_scope, lora.lora_r, lora.lora_alpha, lora.lora_dropout) == ("qkvo", "all", 128, 256, 0.1)
        args = run.args
        assert (args.learning_rate, run.run.lora_lr, run.run.sam2_encoder_lr, run.run.sam2_decoder_lr) == (2e-5, 0, 5e-6, 5e-6)
        assert (args.weight_decay, args.lr_scheduler_type, args.warmup_steps, args.num_train_epochs) == (0, "cosine", 0.03, 1)
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size == 32
        assert (args.bf16, args.tf32, args.gradient_checkpointing, args.save_steps) == (True, True, True, 2000)
        assert (run.frames.num_frames, run.frames.frame_sampling) == (8, "random")
        assert (run.data.max_objects, run.data.examples_per_medium, run.data.max_tokens) == (5, 3, 40960)
        masks = run.masks
        assert (masks.mask_focal, masks.mask_dice, masks.mask_iou, masks.mask_visibility) == (100, 5, 5, 5)
        assert deepspeed_config(args.deepspeed).stem == "zero2"


@pytest.mark.parametrize(("stage", "gb"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_formulas_give_the_papers_numbers(stage, gb):
    """Rajbhandari et al. 2020, figure 1: 7.5 B parameters in half precision, all trained with Adam, on 64 GPUs."""
    count = 7_500_000_000
    assert round(state_bytes(ModelBytes(2 * count, count, 2 * count), Engine(stage), 64).gpu / 1e9, 1) == gb


def test_frozen_weights_have_no_gradients_and_offload_moves_state():
    layers = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False, dtype=torch.bfloat16), torch.nn.Linear(10, 5, bias=False)).to("meta")
    layers[0].requires_grad_(False)
    sizes = model_bytes(layers.parameters())
    assert sizes == ModelBytes(weights=200 + 200, trained_count=50, trained=200)
    plain = state_bytes(sizes, Engine(0), 2)
    assert (plain.weights, plain.gradients, plain.optimizer, plain.host) == (400, 200, 400, 0)
    offload = state_bytes(sizes, Engine(2, offload_optimizer=True), 2)
    assert (offload.weights, offload.gradients, offload.optimizer, offload.host) == (400, 0, 0, 300 + 100)
    both = state_bytes(sizes, Engine(3, offload_optimizer=True, offload_weights=True), 2)
    assert (both.gpu, both.host) == (0, 300 + 100 + 200)


def test_engines_are_read_from_the_shipped_files():
    engines = {path.stem: Engine.read(path) for path in DEEPSPEED_CONFIGS.glob("*.json")}
    assert engines["zero0"] == Engine(0) and engines["zero2"] == Engine(2)
    assert engines["zero2_offload"] == Engine(2, offload_optimizer=True)
    assert engines["zero3_offload"] == Engine(3, offload_optimizer=True, offload_weights=True)


@pytest.fixture(scope="module")
def tiny_sam2(tmp_path_factory):
    path = tmp_path_factory.mktemp("sam2") / "sam2.yaml"
    OmegaConf.save(tiny_sam2_config(TinySettings()), path)
    return build_sam2(path, image_size=128).train()


def count(sam2, clips: Clips) -> int:
    return mask_activation_bytes(sam2, clips, hidden_tokens=2, prompting="first", losses=MaskLossSettings())


def test_counted_activations_are_what_autograd_saves(tiny_sam2):
    """Against a real pass on the CPU, whose autocast keeps a few operations in another precision than CUDA's."""
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes(), tensor
        return tensor

    reset_rope_tables(tiny_sam2)
    weights = {p.untyped_storage()._cdata for p in tiny_sam2.parameters()}
    tokens = torch.randn(3, 2, tiny_sam2.hidden_dim, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        masks = MaskOutput(*tiny_sam2(torch.randn(4, 3, 128, 128), tokens, torch.zeros(3, dtype=torch.long), 4, prompting="first"))
        mask_loss_sums(masks, torch.rand(4, 3, 128, 128) > 0.5, torch.ones(4, 3, dtype=torch.bool), MaskLossSettings())
    real = sum(size for storage, (size, _) in saved.items() if storage not in weights)
    assert 0.95 < count(tiny_sam2, Clips(1, 4, 3)) / real < 1.15


def test_each_video_adds_the_same_activations_and_none_are_left_behind(tiny_sam2):
    """What does not grow with the batch are the bf16 copies of weights that autocast keeps."""
    one, two, three = (count(tiny_sam2, Clips(videos, 2, 2 * videos)) for videos in (1, 2, 3))
    assert two - one > 4 << 20 and abs((three - two) / (two - one) - 1) < 0.01
    assert next(tiny_sam2.parameters()).device.type == "cpu" and not torch.is_autocast_enabled("cuda")
