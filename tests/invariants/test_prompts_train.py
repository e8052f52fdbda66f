"""Points, boxes and regions train alike under every engine, and their parts are saved and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_run
from tests.tiny_run import Ranks, clip, global_losses, recipe, steps
from unipixel.data.shards import ShardWriter
from unipixel.model.build import load_model
from unipixel.model.checkpoint import module_tensors
from unipixel.model.keys import FOURIER
from unipixel.sample import Example, Region, Turn

STEPS = 6


def write_pointing(folder: Path) -> Path:
    """Clips with a question whose objects are pointed at and located, a dialogue about regions, and one without either."""
    with ShardWriter(folder, dataset="pointing", split="train") as writer:
        for index in range(4):
            medium, frames, _ = clip(index)
            name, shown = medium.medium_id, (Region("1", "red"), Region("2", "blue"))
            kind = "point" if index % 2 else "box"  # so that a rank may hold only points while another holds only boxes
            examples = [
                Example(f"{name}_l", "locate", "Is [1] left of [2]?", targets=(("red",), ("blue",)), regions=shown, visual_prompt=kind),
                Example(f"{name}_r", "chat", turns=(Turn("user", "What is [1], what [2]?"), Turn("assistant", "Red and blue.")), regions=shown,
                        visual_prompt="mask"),
                Example(f"{name}_c", "chat", turns=(Turn("user", "What is there?"), Turn("assistant", "Boxes.")))]
            writer.write(medium, examples, frames)
    return folder


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pointing")
    shards = write_pointing(folder / "shards")

    def start(engine: str) -> Path:
        settings = recipe(tiny, shards=[str(shards)], max_steps=STEPS, deepspeed=engine and tiny_run.engine(engine, folder),
                          train=["embedding", "ref", "ref_encoder", "mem", "seg", "sam2_decoder"])
        return Ranks(settings, folder / (engine or "ddp"), world=2).finish()

    return {engine: start(engine) for engine in ("", "zero3")}


def test_engines_agree(run):
    kinds = [line["kind"] for line in steps(run[""])]
    assert set(kinds) == {"video", "video_regions", "video_prompts_masks"} and kinds == [line["kind"] for line in steps(run["zero3"])]
    assert global_losses(run["zero3"]) == pytest.approx(global_losses(run[""]), rel=1e-4)


def test_trained_parts_come_back(run, tiny):
    for out in run.values():
        stored = load_file(out / "pytorch_model.safetensors")
        own = dict(module_tensors(load_model(out)))
        for name in (*FOURIER, "ref_proj.1.weight", "ref_proj_double.weight", "tem_emb.weight", "ref_encoder.point_embeddings.3.weight",
                     "msk_proj.0.weight"):
            assert own[name].equal(stored[f"base_model.model.{name}"]), name
    both = [load_file(out / "pytorch_model.safetensors") for out in run.values()]
    for name in ("ref_proj.1.weight", "ref_proj_single.weight", "ref_proj_double.weight", "tem_proj.weight", "msk_proj.2.weight"):
        mine, theirs = (t[f"base_model.model.{name}"] for t in both)
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-2)
