"""A recorded training step: language and mask losses, decoder outputs, and the gradient of every parameter."""

from __future__ import annotations

import torch

from sam2_ext import MaskOutput
from tests.parity.batch import Packed
from tests.parity.cases import Case
from tests.parity.report import EMBEDDINGS, GRADIENTS, LOGITS, LOSSES, MASK_LOGITS, SCORES, Result
from tests.parity.segmentation import of_sample
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import module_name
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums

WEIGHTS = {"focal": ("loss_mask", "mask_focal"), "dice": ("loss_dice", "mask_dice"), "iou": ("loss_iou", "mask_iou"),
           "visibility": ("loss_class", "mask_visibility")}
"""Our terms -> the reference's unweighted ones, and the setting that holds our weight."""


def replay_training(model: GroundedVLM, case: Case, packed: Packed, result: Result) -> None:
    """One forward and backward pass. The reference adds up the frames' losses, each averaged over its objects, and divides by the frames
    (in batch mode everything is one frame); a batch's loss is the language loss plus the mean over its samples."""
    outputs, batch = case.outputs, packed.batch
    model.zero_grad(set_to_none=True)
    after, before = model.hidden_states(model.embed(batch), batch["position_ids"], batch["segment_lengths"])
    logits = model.core.lm_head(after)
    if "logits" in outputs:
        result.close("logits", logits.detach(), outputs["logits"][packed.kept], LOGITS)
    labels = case.tensors["in.labels"].clone()
    labels[:, 0] = -100  # nothing predicts a sample's first token
    labels = labels[packed.kept]
    labelled = (labels != -100).nonzero().flatten()
    loss = language = cross_entropy_sum(logits[labelled - 1], labels[labelled]) / len(labelled)
    samples = len(packed.seg)
    segmentation = torch.zeros(())
    for b, rows in enumerate(packed.seg):
        targets = case.get("label_mask", b, samples)
        if targets is not None:
            segmentation = segmentation + mask_loss(model, case, b, samples, before[rows - 1], targets.bool(), result) / samples
    loss = language + segmentation
    for name, mine in (("loss", loss), ("loss_lm", language), ("loss_seg_total", segmentation)):
        if name in outputs:
            result.relative(name, mine.detach(), outputs[name], LOSSES)
    loss.backward()
    compare_gradients(model, case, result)


def mask_loss(model: GroundedVLM, case: Case, b: int, samples: int, states, targets, result: Result) -> torch.Tensor:
    recorded = of_sample(case.outputs, b, samples)
    frames = case.get("frames", b, samples)
    count = len(targets)
    frames = case.common["out.frames"][:count] if frames is None else frames
    tokens = model.seg_tokens(states)
    independent = bool(case.batch_mode)
    out = MaskOutput(*model.sam2(frames, tokens, torch.zeros(len(tokens), dtype=torch.long), count,
                                 prompting="independent" if independent else "first"))
    if "seg_tokens" in recorded:
        result.close("s0.seg_tokens" if samples == 1 else f"s{b}.seg_tokens", tokens.detach(), recorded["seg_tokens"], EMBEDDINGS)
    for name, mine, tolerance in (("multimasks", out.multimasks, MASK_LOGITS), ("ious", out.ious, SCORES), ("scores", out.scores, SCORES)):
        if name in recorded:
            result.close(f"s{b}.{name}", mine.detach(), recorded[name].reshape(mine.shape), tolerance)
    settings = MaskLossSettings()
    sums = mask_loss_sums(out, targets, torch.ones(targets.shape[:2], dtype=torch.bool), settings)
    objects = targets.shape[1] * (count if independent else 1)
    for ours, (theirs, weight) in WEIGHTS.items():
        if theirs in recorded:
            result.relative(f"s{b}.{theirs}", sums[ours].detach() / getattr(settings, weight) / objects, recorded[theirs], LOSSES)
    core = sum(sums.values()) / objects
    if "core_loss" in recorded:
        result.relative(f"s{b}.core_loss", core.detach(), recorded["core_loss"], LOSSES)
    return core / (1 if independent else count)


def compare_gradients(model: GroundedVLM, case: Case, result: Result) -> None:
    """Whole gradients where they were recorded, else norms. ``None`` and zero both mean that nothing is learned."""
    own = {module_name(name): parameter.grad for name, parameter in model.named_parameters()}
    for name, wanted in case.outputs.items():
        if name.startswith("grad."):
            gradient = own[name.removeprefix("grad.")]
            result.relative(name, torch.zeros_like(wanted) if gradient is None else gradient, wanted, GRADIENTS, floor=1e-5)
    differences = {}
    for name, wanted in case.norms.items():
        gradient = own.get(name)
        norm = 0.0 if gradient is None else float(gradient.norm())
        differences[name] = abs(norm - (wanted or 0.0)) / max(wanted or 0.0, 1e-3)
    if differences:
        worst = max(differences, key=differences.get)
        result.relative(f"norm {worst}"[:60], torch.tensor(1 + differences[worst]), torch.tensor(1.0), GRADIENTS)
        missing = sorted(set(case.norms) - set(own))
        if missing:
            result.close(f"parameters {missing[0]}", torch.tensor(1.0), torch.tensor(0.0), 0)
