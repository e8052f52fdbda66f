"""One training micro-batch of the real model on tensors without values: the reference sample of 8 frames with some objects, packed.

A sample is what the published recipe trains on: 8 frames of 448 x 448 pixels (1,024 visual tokens), 176 tokens of text of which 30 are
supervised, SAM 2 at 768 pixels. Precision is bfloat16 by autocast over a bfloat16 backbone and float32 trained weights; the casts are
those of CPU autocast, because the backward pass of tensors that only claim to be on a GPU does not run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.counts.operations import Operations, fused_attention
from sam2_ext import reset_rope_tables
from unipixel.data.collate import Batch, collate
from unipixel.data.encode import EncodedDialogue, EncodedMedium
from unipixel.data.layout import TEMPORAL
from unipixel.model.attention import Segments
from unipixel.model.grounded import GroundedVLM
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums

TEXT, SUPERVISED, FRAMES, SIDE = 176, 30, 8, 448


@dataclass(frozen=True)
class StepCounts:
    """Costs of one micro-batch, forward and backward.

    Attributes:
        flops, kernels: both directions, what gradient checkpointing computes again included.
        vision_calls, mask_encoder_calls: forward passes of the vision tower and of SAM 2's image encoder.
        logit_rows, label_rows: rows that the output head computes, and supervised tokens.
        waits: operations whose result the host has to wait for.
        without_gradient: trained tensors that got none.
    """

    flops: int
    kernels: int
    vision_calls: int
    mask_encoder_calls: int
    logit_rows: int
    label_rows: int
    waits: int
    without_gradient: tuple[str, ...]


def reference_batch(model: GroundedVLM, samples: int, objects: int) -> Batch:
    """``samples`` media with one dialogue and ``objects`` masks each, packed into one row."""
    layout, side = model.family.layout, model.sam2.image_size
    grid = (FRAMES // TEMPORAL, SIDE // layout.patch, SIDE // layout.patch)
    media = []
    for index in range(samples):
        medium = EncodedMedium(f"sample{index}", patches=torch.zeros(grid[0] * grid[1] * grid[2], layout.patch_values, dtype=torch.uint8), grid=grid,
                               frames=torch.zeros(FRAMES, 3, side, side, dtype=torch.uint8), size=(SIDE, SIDE))
        length = medium.visual_tokens + TEXT
        supervised = torch.arange(length) >= length - SUPERVISED
        medium.dialogues.append(EncodedDialogue(torch.zeros(length, dtype=torch.long), supervised, torch.arange(length).expand(4, -1),
                                                length - SUPERVISED + torch.arange(objects), torch.ones(objects, FRAMES, dtype=torch.bool),
                                                visual=torch.arange(medium.visual_tokens)))
        media.append(medium)
    return collate(media, "video_masks")


@contextmanager
def without_values(model: GroundedVLM, batch: Batch) -> Iterator[tuple[GroundedVLM, Batch]]:
    """A copy of a model on any device, and the batch, as tensors that have shapes only; what the host derives from the grids is ready."""
    inputs = model.family.vision_inputs(model.core.model.visual.config, torch.tensor(batch["grids"]), torch.device("cpu"))
    model = copy.deepcopy(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model.to_empty(device="cpu")
        reset_rope_tables(model.sam2)
        memo: dict[int, Tensor] = {}

        def shape_only(value):
            if isinstance(value, Segments):
                return Segments(value.lengths, shape_only(value.ends))
            if isinstance(value, tuple):
                return tuple(map(shape_only, value))
            return memo.setdefault(id(value), mode.from_tensor(value)) if isinstance(value, Tensor) else value

        inputs = {name: shape_only(value) for name, value in inputs.items()}
        with mock.patch.object(type(model.family), "vision_inputs", lambda *args: dict(inputs)), fused_attention():
            yield model, {name: shape_only(value) for name, value in batch.items()}


def count_step(model: GroundedVLM, *, samples: int, objects: int, checkpointing: bool) -> StepCounts:
    """Forward and backward pass of one micro-batch of :func:`reference_batch`."""
    with without_values(model, reference_batch(model, samples, objects)) as (model, batch):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls = {"vision": 0, "masks": 0}
        for name, module in (("vision", model.core.model.visual), ("masks", model.sam2.image_encoder)):
            module.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
        side = model.sam2.image_size
        targets = torch.empty(*batch["mask_valid"].shape, side, side, dtype=torch.bool)
        rows: list[int] = []
        model.core.lm_head.register_forward_hook(lambda _module, _args, logits: rows.append(logits.numel() // logits.shape[-1]))
        with Operations() as counts:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(**batch)
                loss = cross_entropy_sum(out.logits, batch["label_ids"])
                loss = loss + torch.stack(list(mask_loss_sums(out.masks, targets, batch["mask_valid"], MaskLossSettings()).values())).sum()
            loss.backward()
        idle = tuple(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)
    return StepCounts(counts.flops, counts.kernels.total(), calls["vision"], calls["masks"], sum(rows), len(batch["label_rows"]),
                      counts.waits.total(), idle)
