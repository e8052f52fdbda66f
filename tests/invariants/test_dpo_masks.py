"""Preferences between masks as a whole: they learn from ln 2 on, with trained mask parts under ZeRO-3, and a model keeps what it started from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_run
from tests.preference_samples import pair_recipe, records, train_pairs
from tests.tiny_run import Ranks, recipe, steps
from tests.unit.test_mask_preference import ONLY, WORDS, write
from unipixel.model.build import load_checkpoint
from unipixel.model.checkpoint import PARTIAL

LN_2 = math.log(2)
MASKS = {"mask_preference": 2.0, "learning_rate": 1e-2, "sam2_decoder_lr": 3e-3, "sam2_encoder_lr": 1e-3}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("evidence") / "pairs", 4)


def run(tiny, pairs, out: Path, engine: str = "", *, world: int = 1, **changes) -> Path:
    settings = pair_recipe(tiny, pairs, **{"deepspeed": tiny_run.engine(engine, out.parent) if engine else "", **MASKS, **changes})
    return Ranks(settings, out, world=world, target=train_pairs).finish()


def test_learns_masks_and_words(tiny, pairs, tmp_path):
    """Kinds alternate: words only, masks only, both. The head and SAM 2 train against a cached reference; ranks agree on each step's kind."""
    out = run(tiny, pairs, tmp_path / "run", "zero3", world=2, max_steps=16, reference="cached", reference_cache=str(tmp_path / "cache"),
              train=["seg", "sam2_decoder"])
    log = records(out)
    kinds = [[line["kind"] for line in steps(out, rank)] for rank in (0, 1)]
    assert kinds[0] == kinds[1] and set(kinds[0]) == {ONLY, WORDS, "preference"}
    start = {"preference": LN_2, ONLY: 2 * LN_2, WORDS: 3 * LN_2}[kinds[0][0]]
    assert abs(log[0]["loss"] - start) < 1e-4
    shown = [line for line in log if "masks/accuracy" in line]
    assert sum(line["masks/accuracy"] for line in shown[-3:]) / 3 >= 0.75
    assert shown[-1]["masks/margin"] > 0.005 > abs(shown[0]["masks/margin"])
    assert {"loss_mask_preference", "evidence/accuracy"} <= set().union(*log)


def test_frozen_adapter_is_the_reference_of_masks_too(tiny, pairs, tmp_path):
    """With a copy of the adapter and with a cache the first steps are the same: nothing but the adapter trains."""
    losses = [[line["loss"] for line in records(run(tiny, pairs, tmp_path / name, max_steps=4, mask_sft=0.5, **reference))] for name, reference in
              (("copy", {"reference": "adapter"}), ("cache", {"reference": "cached", "reference_cache": str(tmp_path / "file")}))]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-3
    assert max(losses[0]) > 0.7, "the supervised losses of the chosen masks are part of it"


def test_a_model_keeps_what_it_started_from(tiny, pairs, tmp_path):
    """Parts that were trained in full before, and do not train any more, are in the new model, also under ZeRO-3."""
    first = Ranks(recipe(tiny, max_steps=2, deepspeed="", lora_scope="llm", train=["seg", "sam2_decoder", "embedding", "projector"],
                         learning_rate=1e-2, sam2_decoder_lr=1e-2), tmp_path / "sft", world=1).finish()
    second = run(tiny, pairs, tmp_path / "dpo", "zero3", max_steps=1, init_from=str(first))
    before, after = load_file(first / PARTIAL), load_file(second / PARTIAL)
    assert before.keys() == after.keys() and all(tensor.equal(after[name]) for name, tensor in before.items())
    models = [dict(load_checkpoint(str(path), backbone="", device="cpu")[0].named_parameters()) for path in (first, second)]
    moved = {name for name, p in models[0].items() if not torch.equal(p, models[1][name])}
    assert moved and all(".lora_" in name for name in moved)
