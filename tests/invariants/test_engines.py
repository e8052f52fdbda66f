"""Every engine computes the same training: ZeRO 0 to 3, no DeepSpeed, autocast, offload; and neither ranks nor accumulation change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_run
from tests.tiny_run import Ranks, global_losses, recipe, steps
from unipixel.train import deepspeed_private

STEPS = 5
KINDS = ["video", "video_masks", "video", "video_masks", "video"]
"""Steps without masks between steps with masks: parts that a step does not use must be updated alike by all engines."""


@pytest.fixture(scope="module")
def losses(tiny, tmp_path_factory) -> Callable[..., list[float]]:
    """Losses of a run by name, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("engines"), {}

    def run(name: str, *, world: int = 2, **changes) -> list[float]:
        if name not in made:
            engine = changes.pop("deepspeed", "zero2")
            settings = recipe(tiny, max_steps=STEPS, deepspeed=engine and tiny_run.engine(engine, folder), **changes)
            out = Ranks(settings, folder / name, world=world).finish()
            made[name] = global_losses(out, world)
            if not changes:
                assert [line["kind"] for line in steps(out)] == KINDS
        return made[name]

    run.folder = folder
    return run


def assert_close(mine: list[float], reference: list[float], tolerance: float = 1e-4) -> None:
    assert len(mine) == len(reference) == STEPS and reference[0] != reference[2]
    assert mine == pytest.approx(reference, rel=tolerance), f"{mine}\n{reference}"


@pytest.mark.parametrize("engine", ["zero0", "zero1", "zero3", "none"])
def test_engines_agree(losses, engine):
    assert_close(losses(engine, deepspeed="" if engine == "none" else engine), losses("zero2"))


def train_without_touching_all(argv: Sequence[str]) -> int:
    deepspeed_private.keeps_gradients = lambda trainer: False
    return tiny_run.train(argv)


@pytest.mark.parametrize("engine", ["zero3", "zero2_offload"])
def test_canary_engines_that_need_every_part_touched(losses, tiny, tmp_path, engine):
    """Without ``GroundedVLM.touch_all`` a part that a step does not use is updated with the gradient of an earlier step."""
    settings = recipe(tiny, max_steps=STEPS, deepspeed=tiny_run.engine(engine, tmp_path))
    out = Ranks(settings, tmp_path / "run", target=train_without_touching_all).finish()
    stale = global_losses(out)
    assert stale[:3] == pytest.approx(losses("zero2")[:3], rel=1e-4)
    assert abs(stale[3] / losses("zero2")[3] - 1) > 1e-3, "canary: DeepSpeed now clears the gradients of parts that a step does not use"


# --- one global batch, however it is cut --------------------------------------------------------------------------------------------

def test_accumulation_equals_larger_micro_batches(losses):
    whole = losses("micro2", per_device_train_batch_size=2, examples_per_medium=2)
    parts = losses("accumulated", gradient_accumulation_steps=2, examples_per_medium=2)
    assert_close(parts, whole)


@pytest.mark.parametrize("engine", ["zero2", ""])
def test_one_process_equals_two(losses, engine):
    """Losses are divided by the label tokens and mask frames of all ranks and micro-batches, which differ between the two halves."""
    assert_close(losses(f"alone{engine}", world=1, deepspeed=engine, gradient_accumulation_steps=2), losses("zero2"))


# --- half precision and offload -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model_dtype", ["float32", "bfloat16"])
def test_bf16_is_autocast_over_float32_weights(losses, model_dtype):
    """``model_dtype`` is that of the frozen backbone."""
    mine = losses(model_dtype, bf16=True, model_dtype=model_dtype, save_steps=STEPS)
    assert all(map(math.isfinite, mine)) and mine != losses("zero2")
    assert mine == pytest.approx(losses("zero2"), rel=5e-2)
    for folder in (losses.folder / model_dtype, losses.folder / model_dtype / f"checkpoint-{STEPS}"):
        for name in ("adapter_model.safetensors", "pytorch_model.safetensors"):
            assert {tensor.dtype for tensor in load_file(folder / name).values()} == {torch.float32}


@pytest.mark.parametrize("engine", ["zero2_offload", "zero3_offload"])
def test_offload_agrees(losses, engine):
    assert_close(losses(engine, deepspeed=engine), losses("zero2"))


@pytest.mark.parametrize("kinds", [tiny_run.KINDS, ("image_masks", "video_masks"), ("text", "video")], ids="-".join)
def test_mixed_kinds_agree_where_gradients_are_kept(tiny, tmp_path, kinds):
    """A text does not use the vision tower, an image not SAM 2's memory: every part must still have a gradient in every step."""
    shards = tiny_run.write_kinds(tmp_path / "shards", 4, kinds)
    settings = recipe(tiny, shards=[str(shards)], max_steps=2 * len(kinds) + 1, lora_layers="linear", sam2_decoder_lr=1e-3,
                      lr_scheduler_type="constant", max_grad_norm=1e9)
    out = {engine: Ranks(settings | {"deepspeed": engine}, tmp_path / engine).finish() for engine in ("zero2", "zero2_offload")}
    assert [line["kind"] for line in steps(out["zero2"])] == [*kinds, *kinds, kinds[0]]
    assert global_losses(out["zero2_offload"]) == pytest.approx(global_losses(out["zero2"]), rel=1e-4)
    for file in ("adapter_model.safetensors", "pytorch_model.safetensors"):
        mine, reference = load_file(out["zero2_offload"] / file), load_file(out["zero2"] / file)
        apart = {name: float((mine[name] - reference[name]).abs().mean()) for name in reference}
        assert [name for name, distance in apart.items() if distance > 1e-3 * settings["learning_rate"]] == []
