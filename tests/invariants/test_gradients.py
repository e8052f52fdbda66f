"""A part that trains but gets no gradient stops the run; single tensors without gradient are listed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests import tiny_run
from tests.tiny_run import Ranks, recipe, steps
from unipixel.errors import EXIT_USER_ERROR
from unipixel.model.grounded import GroundedVLM
from unipixel.train.callbacks.gradients import unused_parts, watched_part


def train_without_vision_gradients(argv: Sequence[str]) -> int:
    """The vision tower runs, but nothing flows back into it; what reentrant checkpointing does to adapters there."""
    encode = GroundedVLM.encode_vision

    def detached(self, patches, grids):
        with torch.no_grad():
            return encode(self, patches, grids)

    GroundedVLM.encode_vision = detached
    return tiny_run.train(argv)


def train_without_prompt_gradients(argv: Sequence[str]) -> int:
    tokens = GroundedVLM.seg_tokens
    GroundedVLM.seg_tokens = lambda self, hidden: tokens(self, hidden).detach()
    return tiny_run.train(argv)


def one_process(tiny, **changes) -> dict:
    return recipe(tiny, deepspeed="", max_steps=2, **changes)


def test_adapters_without_gradient_stop_the_run(tiny, tmp_path):
    """Those in the vision tower, although those in the language model have one."""
    run = Ranks(recipe(tiny, max_steps=2), tmp_path / "run", target=train_without_vision_gradients)
    assert run.wait() == [EXIT_USER_ERROR] * 2, run.logs()
    for rank in (0, 1):
        assert "no tensor of LoRA in visual had a gradient in the first step of kind 'video'" in run.log(rank)
    assert len(steps(run.out)) == 1


def test_parts_of_a_later_kind_are_checked_at_its_first_step(tiny, tmp_path):
    """The first step is a video without masks, which does not use the head."""
    run = Ranks(one_process(tiny), tmp_path / "run", world=1, target=train_without_prompt_gradients)
    assert run.wait() == [EXIT_USER_ERROR], run.logs()
    assert [line["kind"] for line in steps(run.out)] == ["video", "video_masks"]
    assert "no tensor of seg had a gradient in the first step of kind 'video_masks'" in run.log(0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_single_tensors_without_gradient_are_listed(tiny, tmp_path, checkpointing):
    """One frame: SAM 2 remembers nothing, so its memory has no gradient, while the rest of it trains. Checkpointing must not lose any."""
    settings = one_process(tiny, num_frames=1, train=["embedding", "projector", "seg", "sam2_encoder", "sam2_decoder"], lora_layers="linear",
                           gradient_checkpointing=checkpointing)
    run = Ranks(settings, tmp_path / "run", world=1)
    run.finish()
    listed = run.log(0).split("trainable tensors had no gradient in the first step of any kind:")[1]
    names = [line.strip() for line in listed.splitlines()[1:] if line.startswith("  ") and "more" not in line]
    assert names and all(name.startswith("sam2.") for name in names), names
    assert any("memory_attention" in name for name in names)


@pytest.mark.parametrize(("engine", "world"), [("", 1), ("", 2), ("zero2", 2)])
def test_a_step_may_use_no_trained_part(tiny, tmp_path, engine, world):
    """A text, where only the vision tower trains: its step changes nothing and stops nothing."""
    shards = tiny_run.write_kinds(tmp_path / "shards", 4, ("text", "video"))
    settings = recipe(tiny, deepspeed=engine, max_steps=2, shards=[str(shards)], train=["projector"], lora_scope="visual", examples_per_medium=1)
    out = Ranks(settings, tmp_path / "run", world=world).finish()
    assert [line["kind"] for line in steps(out)] == ["text", "video"]


@pytest.mark.parametrize(("name", "part"), [
    ("backbone.base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight", "LoRA in visual"),
    ("backbone.base_model.model.model.visual.merger.mlp.0.lora_B.default.weight", "LoRA in projector"),
    ("backbone.base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.default.weight", "LoRA in llm"),
    ("seg_head.1.weight", "seg"),
])
def test_adapters_count_where_they_are(name, part):
    assert watched_part(name) == part


def test_what_a_kind_does_not_run():
    shown = {"ref", "ref_encoder", "mem"}
    assert unused_parts("video_masks") == unused_parts("image_masks") == shown
    assert unused_parts("video_prompts_masks") == {"mem"} and unused_parts("image_regions_masks") == {"ref", "ref_encoder"}
    assert unused_parts("image") == {"seg", "sam2_encoder", "sam2_decoder"} | shown < unused_parts("text")
