"""Preferences between masks: the likelihood by hand, rows and batches of pairs that cite objects, policy and reference in one SAM 2 call."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch

from tests.preference_samples import as_pairs, stir
from tests.tiny_run import clip, tiny_parts
from unipixel.data.collate import collate
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PairSettings
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.data.targets import batch_targets
from unipixel.errors import ConfigError, SampleError
from unipixel.model.reference import add_reference_adapter, as_reference
from unipixel.objectives.preference import mask_margins
from unipixel.sample import Example, PreferencePair
from unipixel.train.preference_settings import PairRunSettings

ONLY, WORDS = "preference_video_only_masks", "preference_video_masks"


def pairs(index: int) -> tuple[PreferencePair, ...]:
    """Another object; another object and other words; another time; other words only."""
    name, seen = f"clip{index}", {"chosen_objects": ("red",), "rejected_objects": ("blue",)}
    return (PreferencePair(f"{name}_object", "Answer: red.", "Answer: red.", "evidence", **seen),
            PreferencePair(f"{name}_both", "Answer: red.", "Answer: blue.", "evidence", **seen),
            PreferencePair(f"{name}_time", "Answer: red.", "Answer: red.", "temporal", ((0.5, 1.0),), ((2.0, 2.5),), ("red",), ("red",)),
            PreferencePair(f"{name}_words", "It is red.", "It is blue.", "correctness"))


def write(folder, count: int = 2):
    with ShardWriter(folder, dataset="evidence", split="train") as writer:
        for index in range(count):
            medium, frames, _ = clip(index)
            writer.write(medium, [Example(f"clip{index}_e", "evidence", "What moves right?", answer="red", pairs=pairs(index))], frames)
    return folder


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("evidence") / "shards")
    model, _, encoder, _ = tiny_parts(tiny, train=["seg"], lora_scope="llm", paraphrase=False, frame_sampling="uniform", shards=[str(folder)])
    model.seg_head.requires_grad_(False)
    stir(model)
    add_reference_adapter(model)
    stir(model, seed=2)  # the policy has moved since
    return model.eval(), as_pairs(encoder, PairSettings()), PairGroups(ShardDataset([folder]), masks=True)


def batch_of(parts, kind: str, count: int = 2) -> dict:
    _, encoder, groups = parts
    numbers = [i for i in range(len(groups)) if groups.kinds[groups.kind_of[i]] == kind][:count]
    return collate([encoder(groups.sample(i), with_masks=kind.endswith("_masks")) for i in numbers], kind)


# --- likelihood -------------------------------------------------------------------------------------------------------------------

def test_margin_by_hand():
    """Two frames of 1 x 3 pixels. The sides differ in pixels 0 and 1 of frame 0; frame 1 is not annotated on one side."""
    chosen, rejected = torch.tensor([[[1, 0, 1]], [[1, 1, 1]]]), torch.tensor([[[0, 1, 1]], [[0, 0, 0]]])
    targets = torch.stack([chosen, rejected], 1).bool()
    logits = torch.tensor([[[[2.0, -1.0, 5.0]], [[0.5, 0.25, -4.0]]], [[[9.0] * 3], [[9.0] * 3]]])
    valid = torch.tensor([[True, True], [True, False]])

    def likely(inside: bool, z: float) -> float:
        return -log(1 + exp(-z if inside else z))

    expected = (likely(True, 2) + likely(False, -1) - likely(False, 0.5) - likely(True, 0.25)) / 2
    assert mask_margins(logits, targets, valid).item() == pytest.approx(expected, abs=1e-6)


def test_one_mask_for_both_sides_is_the_mean_logit_with_its_sign():
    """Where both sides read the same logits z, log p(chosen) - log p(rejected) is z inside the chosen mask and -z inside the rejected one."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(3, 2, 4, 4, generator=generator), torch.rand(3, 4, 4, 4, generator=generator) > 0.5
    valid = torch.ones(3, 4, dtype=torch.bool)
    chosen, rejected = targets[:, 0::2], targets[:, 1::2]
    expected = [(logits[:, i][chosen[:, i] & ~rejected[:, i]].sum() - logits[:, i][rejected[:, i] & ~chosen[:, i]].sum())
                / (chosen[:, i] ^ rejected[:, i]).sum() for i in range(2)]
    assert torch.allclose(mask_margins(logits, targets, valid), torch.stack(expected), atol=1e-6)


def test_size_of_object_and_resolution_do_not_matter():
    """The same certainty gives the same margin for a small object, and for logits at a quarter of the targets' resolution."""
    for side in (2, 8):
        chosen = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        chosen[..., :side, :side] = True
        targets = torch.cat([chosen, chosen.flip(-1)], 1)
        for size in (16, 4):
            logits = torch.where(chosen, 1.5, -1.5).float()[..., ::16 // size, ::16 // size]
            soft = mask_margins(logits, targets, torch.ones(1, 2, dtype=torch.bool))
            assert soft.item() == pytest.approx(1.5, abs=1e-5) or (side, size) == (2, 4)


# --- data -------------------------------------------------------------------------------------------------------------------------

def test_kinds(parts):
    _, _, groups = parts
    assert [groups.kinds[code] for code in groups.kind_of] == [ONLY, WORDS, "preference", "preference"] * 2 and not groups.left_out
    words = PairGroups(groups.dataset)
    assert words.kinds == ["preference"] and len(words) == 6
    assert [skip.reason for skip in words.left_out] == ["same_words"] * 2
    assert groups.grouping != words.grouping, "a run cannot be resumed with other groups"


def test_rows(parts):
    _, encoder, _ = parts
    only, both = batch_of(parts, ONLY), batch_of(parts, WORDS)
    assert [len(branches) for branches in only["branches"]] == [2, 2] and [len(branches) for branches in both["branches"]] == [3, 3]
    assert len(only["label_ids"]) == 0 and len(both["label_ids"]) == sum(map(sum, both["label_counts"]))
    assert len(only["object_rows"]) == 2 and len(both["object_rows"]) == 4
    for batch in (only, both):
        assert (batch["input_ids"][0, batch["object_rows"] + 1] == encoder.seg_id).all()
        assert batch["mask_valid"].shape[1] == 4 and batch_targets(batch).shape[1] == 4
        _, _, masks = clip(0)
        assert batch_targets(batch)[:, 0].any() and not batch_targets(batch)[:, 0].equal(batch_targets(batch)[:, 1])


def test_sides_that_look_the_same_are_refused(parts, tmp_path):
    _, encoder, groups = parts
    sample = groups.sample(0)
    objects = sample.medium.objects
    twin = replace(objects["blue"], track=objects["red"].track)
    alike = replace(sample, medium=replace(sample.medium, objects={**objects, "blue": twin}))
    with pytest.raises(SampleError, match="look the same") as caught:
        encoder(alike, with_masks=True)
    assert caught.value.reason == "same_masks"


# --- model ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [ONLY, WORDS])
def test_masks_are_those_of_each_model_alone(parts, kind):
    """One SAM 2 call for both models and both sides gives what a call per model, pair and reply gives."""
    model, *_ = parts
    batch = batch_of(parts, kind)
    model.pair_reference = "adapter"
    with torch.no_grad():
        together = model(**batch)
        assert not together.masks.masks.allclose(together.reference_masks.masks, atol=1e-3), "the two models have to differ"
        assert (together.policy is None) == (kind == ONLY)
        model.pair_reference = "none"
        for number in range(2):
            _, encoder, groups = parts
            members = [i for i in range(len(groups)) if groups.kinds[groups.kind_of[i]] == kind]
            alone = collate([encoder(groups.sample(members[number]), with_masks=True)], kind)
            replies = len(alone["branches"][0]) - 1
            mine = slice(number * replies, (number + 1) * replies)
            assert together.masks.masks[:, mine].allclose(model(**alone).masks.masks, atol=2e-4)
            with as_reference(model, "adapter"):
                assert together.reference_masks.masks[:, mine].allclose(model(**alone).masks.masks, atol=2e-4)


def test_gradient_reaches_the_adapter_through_masks_only_of_the_policy(parts):
    model, *_ = parts
    batch = batch_of(parts, ONLY)
    model.pair_reference = "adapter"
    scores = model(**batch)
    assert not scores.reference_masks.masks.requires_grad
    mask_margins(scores.masks.masks, batch_targets(batch), batch["mask_valid"]).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads and all(".lora_" in name and ".default." in name for name in grads)
    assert sum(float(g.abs().sum()) for g in grads.values()) > 0
    model.zero_grad(set_to_none=True)


# --- settings ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "message"), [
    ({"mask_preference": -1.0}, "mask_preference=-1.0"), ({"mask_beta": 0.0}, "mask_beta=0.0"), ({"mask_sft": 0.5}, "no effect without"),
    ({"train": ["seg"], "reference": "cached", "reference_cache": "x"}, "take no part in preferences over words")])
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        PairRunSettings(**changes)
