"""Losses: small cases by hand, what counts and what does not, and the values of the reference."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from sam2_ext import MaskOutput
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums

UNIT = MaskLossSettings(mask_focal=1.0, mask_dice=1.0, mask_iou=1.0, mask_visibility=1.0)


def output(multimasks, ious=None, scores=None) -> MaskOutput:
    """(T, O, M, h, w) logits with given or zero IoUs (T, O, M) and scores (T, O)."""
    t, o, m = multimasks.shape[:3]
    ious = torch.zeros(t, o, m) if ious is None else ious
    return MaskOutput(multimasks, ious, torch.zeros(t, o) if scores is None else scores, ious.argmax(-1))


def test_language_loss_is_a_sum():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    expected = math.log(4) + math.log(math.exp(2) + 3) - 2
    assert cross_entropy_sum(logits, torch.tensor([3, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_mask_losses_by_hand():
    """One object, one frame, one candidate of 2 x 2 pixels with logit 0 (p = 1/2) against one true pixel."""
    target = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    target[..., 0, 0] = True
    sums = mask_loss_sums(output(torch.zeros(1, 1, 1, 2, 2), ious=torch.full((1, 1, 1), 0.3)), target, torch.ones(1, 1, dtype=torch.bool), UNIT)
    focal = (0.25 + 3 * 0.75) / 4 * 0.5**2 * math.log(2)
    assert sums["focal"].item() == pytest.approx(focal, rel=1e-6)
    assert sums["dice"].item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1), rel=1e-6)
    assert sums["iou"].item() == pytest.approx(0.3, rel=1e-6), "no pixel is predicted (logit 0 is not above 0), so the true IoU is 0"
    assert sums["visibility"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_weights_multiply():
    torch.manual_seed(0)
    out, target = output(torch.randn(2, 3, 3, 4, 4), torch.rand(2, 3, 3), torch.randn(2, 3)), torch.rand(2, 3, 4, 4) > 0.5
    valid = torch.ones(2, 3, dtype=torch.bool)
    plain = mask_loss_sums(out, target, valid, MaskLossSettings(mask_focal=1.0, mask_dice=0.05, mask_iou=1.0, mask_visibility=1.0))
    family = mask_loss_sums(out, target, valid, MaskLossSettings(mask_focal=100.0, mask_dice=5.0, mask_iou=7.0, mask_visibility=3.0))
    for name, factor in {"focal": 100, "dice": 100, "iou": 7, "visibility": 3}.items():
        assert family[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-5)


def test_the_best_candidate_counts():
    """By focal and dice, not by predicted IoU; the IoU error is the mean of all candidates."""
    target = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    target[..., :2] = True
    good = torch.where(target[0, 0], 4.0, -4.0)
    masks = torch.stack([-good, good, torch.zeros(4, 4)])[None, None]
    ious = torch.tensor([[[0.9, 0.5, 0.1]]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    sums = mask_loss_sums(output(masks, ious), target, valid, UNIT)
    alone = mask_loss_sums(output(masks[:, :, 1:2], ious[:, :, 1:2]), target, valid, UNIT)
    assert sums["focal"].item() == pytest.approx(alone["focal"].item()) and sums["dice"].item() == pytest.approx(alone["dice"].item())
    assert sums["iou"].item() == pytest.approx((0.9 + 0.5 + 0.1) / 3, rel=1e-6)  # true: 0, 1 and 0


def test_only_the_counted_candidate_gets_a_gradient():
    target = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    target[..., 0, :] = True
    masks = torch.stack([torch.zeros(2, 2), torch.where(target[0, 0], 3.0, -3.0)])[None, None].requires_grad_()
    sums = mask_loss_sums(output(masks), target, torch.ones(1, 1, dtype=torch.bool), UNIT)
    (sums["focal"] + sums["dice"]).backward()
    assert masks.grad[0, 0, 0].abs().sum() == 0 < masks.grad[0, 0, 1].abs().sum()


def test_invisible_objects_count_for_visibility_only():
    torch.manual_seed(1)
    target = torch.rand(2, 2, 4, 4) > 0.5
    target[1, 0] = False
    out, valid = output(torch.randn(2, 2, 3, 4, 4), torch.rand(2, 2, 3), torch.randn(2, 2)), torch.ones(2, 2, dtype=torch.bool)
    sums = mask_loss_sums(out, target, valid, UNIT)
    without = valid.clone()
    without[1, 0] = False
    partial = mask_loss_sums(out, target, without, UNIT)
    for name in ("focal", "dice", "iou"):
        assert sums[name].item() == pytest.approx(partial[name].item(), rel=1e-6)
    missing = torch.nn.functional.softplus(out.scores[1, 0]).item()  # -log(1 - sigmoid)
    assert (sums["visibility"] - partial["visibility"]).item() == pytest.approx(missing, rel=1e-5)


def test_frames_that_are_not_annotated_count_for_nothing():
    torch.manual_seed(2)
    masks, scores = torch.randn(2, 1, 3, 4, 4).requires_grad_(), torch.randn(2, 1).requires_grad_()
    valid = torch.tensor([[True], [False]])
    first = mask_loss_sums(output(masks, scores=scores), torch.ones(2, 1, 4, 4, dtype=torch.bool), valid, UNIT)
    other = mask_loss_sums(output(masks, scores=scores), torch.cat([torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)]).bool(), valid, UNIT)
    assert {name: value.item() for name, value in first.items()} == {name: value.item() for name, value in other.items()}
    sum(first.values()).backward()
    assert masks.grad[1].abs().sum() == scores.grad[1].abs().sum() == 0 < masks.grad[0].abs().sum()
    nothing = mask_loss_sums(output(masks), torch.ones(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.bool), UNIT)
    assert all(value.item() == 0 for value in nothing.values())


def test_sums_do_not_depend_on_the_cut():
    torch.manual_seed(3)
    out = output(torch.randn(4, 6, 3, 8, 8), torch.rand(4, 6, 3), torch.randn(4, 6))
    target, valid = torch.rand(4, 6, 16, 16) > 0.6, torch.rand(4, 6) > 0.3
    whole = mask_loss_sums(out, target, valid, MaskLossSettings())
    halves = [mask_loss_sums(MaskOutput(*(x[:, part] for x in out.fields())), target[:, part], valid[:, part], MaskLossSettings())
              for part in (slice(0, 2), slice(2, 6))]
    for name in whole:
        assert whole[name].item() == pytest.approx(sum(half[name].item() for half in halves), rel=1e-5)


def test_smaller_comparison_keeps_the_share_of_each_cell():
    """Targets of 8 x 8 at size 4: a cell that is a quarter covered has target 1/4, and counts as background for the IoU."""
    target = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    target[..., :4, :4] = True
    target[..., 4, 4] = True
    settings = MaskLossSettings(mask_focal=1.0, mask_dice=1.0, mask_iou=1.0, mask_visibility=1.0, mask_loss_size=4)
    logits = torch.full((1, 1, 1, 4, 4), -20.0)
    logits[..., :2, :2] = 20.0
    sums = mask_loss_sums(output(logits, ious=torch.ones(1, 1, 1)), target, torch.ones(1, 1, dtype=torch.bool), settings)
    assert sums["dice"].item() == pytest.approx(1 - (2 * 4 + 1) / (4 + 4.25 + 1), rel=1e-5)
    assert sums["iou"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("case", "frames"), [("train_prop", 4), ("train_batch", 4)])
def test_values_of_the_reference(shared_data, case, frames):
    """The reference averages over the objects and adds the frames up; in batch mode every frame is an object of its own."""
    recorded = load_file(shared_data / "fixtures" / "unipixel_tiny" / "cases" / f"{case}.safetensors")
    shape = (frames, 2)
    out = MaskOutput(recorded["out.s0.multimasks"].reshape(*shape, 3, 32, 32), recorded["out.s0.ious"].reshape(*shape, 3),
                     recorded["out.s0.scores"].reshape(shape), torch.zeros(shape, dtype=torch.long))
    sums = mask_loss_sums(out, recorded["in.label_mask"].bool(), torch.ones(shape, dtype=torch.bool), MaskLossSettings())
    objects = 2 if case == "train_prop" else 8
    names = {"focal": ("loss_mask", 100), "dice": ("loss_dice", 5), "iou": ("loss_iou", 5), "visibility": ("loss_class", 5)}
    for mine, (theirs, weight) in names.items():
        assert sums[mine].item() / objects == pytest.approx(weight * recorded[f"out.s0.{theirs}"].item(), rel=1e-3), mine
    assert sum(sums.values()).item() / objects == pytest.approx(recorded["out.s0.core_loss"].item(), rel=1e-3)
