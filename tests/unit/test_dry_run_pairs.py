"""The dry run of preference training: the reference's memory, both sides of a pair, what the real start would refuse."""

from __future__ import annotations

import re

import pytest

from launch import start
from tests.preference_samples import pair_recipe, write_pairs
from tests.tiny_run import flags
from tests.unit.test_mask_preference import write
from unipixel.errors import ConfigError


@pytest.fixture(scope="module")
def plan(tiny, tmp_path_factory):
    """Function: settings -> what the dry run of a tiny model prints."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = write_pairs(folder / "pairs", 4)

    def planned(capsys, *argv: str, gpus: int = 2, **changes) -> str:
        settings = pair_recipe(tiny, pairs, **{"gradient_checkpointing": True, "sam2_config": str(tiny.base / "sam2.yaml"), **changes})
        assert start.dpo([*flags(settings, folder), "--dry-run", "--gpus", str(gpus), *argv]) == 0
        return capsys.readouterr().out

    return planned


def engine(out: str, name: str) -> list[float]:
    """GiB of weights, gradients, optimizer, activations, together, host."""
    return [float(cell) for cell in re.search(rf"^[* ] {name} +(.+)$", out, re.MULTILINE)[1].split()]


def test_published_recipe_at_true_size(capsys):
    assert start.dpo(["--config", "dpo_videopasta", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Reference: a frozen copy of the adapter, 0.3 GiB" in out, "80.7 M parameters in float32"
    assert re.search(r"^lora +224 +80,740,352 +float32 +5e-07$", out, re.MULTILINE) and "LoRA in 112 modules" in out
    weights, _, _, activations, *_ = engine(out, "zero2")
    base, everything, adapter = 7_615.6e6 + 676.6e6, 8_519.7e6, 80.7e6
    assert weights == pytest.approx((2 * base + 4 * (everything - base + adapter)) / 2**30, abs=0.06), "bf16 base; all else, and the copy, float32"
    assert activations == pytest.approx(2 * 28 * 4496 * 3584 / 2**30, abs=0.06), "a frozen vision tower keeps nothing"
    assert "one micro-batch of 1 x 32 frames and 4,496 tokens" in out, "16 x 256 of the video, and 200 of each side"
    assert "SAM 2 does not run" in out and "Batch: 1 x 4 x 8 = 32 pairs per step" in out and "Steps: not known without --shards" in out


def test_pairs_are_counted_and_references_described(plan, capsys):
    out = plan(capsys, max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=2)
    assert "Failure modes: spatial 4, temporal 4, cross_frame 4" in out
    assert "Steps: 9 for 12 pairs per epoch (0 left out), 3 epochs." in out and "= 4 pairs per step" in out
    assert "Reference: the model without its adapter" in plan(capsys, reference="base")
    assert "Reference: log-probabilities in cache.npz" in plan(capsys, reference="cached", reference_cache="cache.npz", train=["llm"])


def test_masks_count_only_where_they_are_compared(plan, capsys):
    words = plan(capsys)
    masks = plan(capsys, mask_preference=1.0, train=["seg"], train_new_tokens=False, reference="cached", reference_cache="cache.npz")
    assert "SAM 2 does not run" in words and " objects and " not in words
    assert "with 2 objects" in masks and "and one object per side" in masks and "of SAM 2 and the mask losses" in masks


def test_pairs_of_the_same_words_train_only_where_masks_are_compared(plan, capsys, tmp_path):
    pairs = [str(write(tmp_path / "evidence", 2))]
    assert re.search(r"for \d+ pairs per epoch \(2 left out\)", plan(capsys, shards=pairs))
    assert "(0 left out)" in plan(capsys, shards=pairs, mask_preference=1.0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"global_batch": 32}, "global_batch=32, but .* x 2 processes = 2"),
    ({"train": ["llm"]}, "are not in the adapter"),
    ({"loss_type": ["sigmoyd"]}, "must be one of"),
    ({"max_length": 512}, "has no effect here"),
    ({"mode_weights": ["spatial=1"]}, "give a weight to each of them"),
    ({"shards": ["/no/such/folder"]}, "not packed datasets"),
])
def test_it_refuses_what_the_real_start_refuses(plan, capsys, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(capsys, **changes)
