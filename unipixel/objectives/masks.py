"""Mask losses of the UniPixel family on all frames and objects at once (after Meta's SAM 2 ``loss_fns``).

Per object and frame, for each of the M candidate masks: focal loss (alpha 0.25, gamma 2, mean over pixels), dice loss and the error of
the predicted IoU (averaged over the candidates); then the candidate with the least ``focal * w_focal + dice * w_dice`` counts. These
three count only where the object is visible; the loss on the visibility score counts everywhere. All are *sums* over annotated
object-frames: the caller divides by their global number, so that the result does not depend on ranks or micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ext import MaskOutput
from unipixel.config import setting


@dataclass(frozen=True, kw_only=True)
class MaskLossSettings:
    """Weights of the mask losses and the resolution they are taken at. Defaults are those of the UniPixel family."""

    mask_focal: float = setting(100.0, "weight of the focal loss")
    mask_dice: float = setting(5.0, "weight of the dice loss")
    mask_iou: float = setting(5.0, "weight of the error of the predicted IoU")
    mask_visibility: float = setting(5.0, "weight of the loss on the visibility score")
    mask_loss_size: int = setting(0, "side in pixels at which masks are compared; 0: the SAM 2 input size. Smaller is cheaper: logits are "
                                     "then compared with the share of each cell that the target covers")


def mask_loss_sums(output: MaskOutput, targets: Tensor, valid: Tensor, settings: MaskLossSettings) -> dict[str, Tensor]:
    """Weighted loss sums over annotated object-frames.

    Args:
        output: multimasks (T, O, M, h, w), ious (T, O, M), scores (T, O).
        targets: (T, O, S, S) bool.
        valid: (T, O) bool, object-frames that are annotated.

    Returns:
        ``focal``, ``dice``, ``iou``, ``visibility``: scalars, already multiplied by their weights.
    """
    frames, objects, candidates = output.ious.shape
    size = settings.mask_loss_size or targets.shape[-1]
    wanted = targets.float()
    visible = targets.flatten(2).any(-1)
    if size != targets.shape[-1]:
        wanted = F.interpolate(wanted, size=(size, size), mode="area")
    logits = output.multimasks.flatten(0, 1)
    if size != logits.shape[-1]:
        logits = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
    logits = logits.reshape(frames, objects, candidates, size * size)
    wanted = wanted.reshape(frames, objects, 1, size * size)

    focal, dice = _focal(logits, wanted), _dice(logits, wanted)
    with torch.no_grad():
        predicted, true = logits > 0, wanted >= 0.5
        union = (predicted | true).sum(-1)
        real_iou = (predicted & true).sum(-1) / union.clamp(min=1)
        chosen = (settings.mask_focal * focal + settings.mask_dice * dice).argmin(-1, keepdim=True)
    iou = (output.ious - real_iou).abs().mean(-1)
    counted = (valid & visible).to(logits.dtype)
    score = F.binary_cross_entropy_with_logits(output.scores, visible.float(), reduction="none")
    return {"focal": settings.mask_focal * (focal.gather(-1, chosen).squeeze(-1) * counted).sum(),
            "dice": settings.mask_dice * (dice.gather(-1, chosen).squeeze(-1) * counted).sum(),
            "iou": settings.mask_iou * (iou * counted).sum(),
            "visibility": settings.mask_visibility * (score * valid.to(score.dtype)).sum()}


def _focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(…, P) -> (…), mean over pixels (Lin et al. 2017)."""
    targets = targets.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    a_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (a_t * (1 - p_t) ** gamma * cross_entropy).mean(-1)


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """(…, P) -> (…): 1 - (2 |p g| + 1) / (|p| + |g| + 1)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * targets).sum(-1) + 1) / (p.sum(-1) + targets.sum(-1) + 1)
