"""Image panels in TensorBoard: input, true and predicted masks of one training batch, with J and boundary F."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from sam2_ext import MaskOutput
from unipixel.data.targets import batch_targets
from unipixel.metrics import jf_sequence


class MaskPanels(TrainerCallback):
    """Every ``every`` steps, on the main process: rows are input, truth, prediction; columns are frames; one panel per object (at most 4)."""

    def __init__(self, every: int):
        self.every, self.trainer = every, None

    def writer(self) -> SummaryWriter:
        """The one that transformers' own callback has opened, so that a run has one event file."""
        return next(c.tb_writer for c in self.trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback))

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.keep_last = state.is_world_process_zero and (state.global_step + 1) % self.every == 0

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.keep_last or self.trainer.last_batch is None:
            return
        batch, out = self.trainer.last_batch
        self.trainer.keep_last, self.trainer.last_batch = False, None
        if out.masks is None:
            return
        writer = self.writer()
        scores = []
        targets = batch_targets(batch)
        for o in range(min(4, targets.shape[1])):
            panel, j, f = object_panel(batch, out.masks, targets[:, o].cpu(), o)
            scores.append((j, f))
            writer.add_image(f"masks/object_{o}", panel, state.global_step)
        writer.add_scalar("masks/J", float(np.mean([j for j, _ in scores])), state.global_step)
        writer.add_scalar("masks/F", float(np.mean([f for _, f in scores])), state.global_step)


def object_panel(batch: dict, masks: MaskOutput, truth: torch.Tensor, o: int) -> tuple[torch.Tensor, float, float]:
    """((3, 3 * S, T * S) uint8 panel, J, F) of one object with (T, S, S) bool ``truth``; means over its annotated frames."""
    frames, size = truth.shape[0], truth.shape[-1]
    logits = F.interpolate(masks.masks[:, o, None].detach().float(), size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    predicted = ((logits > 0) & (masks.scores[:, o, None, None] > 0)).cpu()
    first = int(batch["object_video"][o]) * frames
    images = batch["sam_frames"][first:first + frames].cpu()
    valid = batch["mask_valid"][:, o].cpu()
    j, f = jf_sequence(predicted[valid].numpy(), truth[valid].numpy()) if valid.any() else (np.array([]), np.array([]))
    tint = torch.tensor([255, 64, 64], dtype=torch.uint8)[:, None, None]
    rows = [images] + [torch.where(m[:, None], images // 2 + tint // 2, images) for m in (truth, predicted)]
    panel = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    return panel, float(np.mean(j)) if len(j) else float("nan"), float(np.mean(f)) if len(f) else float("nan")
