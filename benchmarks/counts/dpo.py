"""What one preference pair costs, counted on tensors without values: one row per pair against a row per side and model.

The pair is 32 frames of 448 x 448 pixels (4,096 visual tokens), a question of 60 tokens and two replies of 120; LoRA in the language model,
frozen vision tower, reference in the same model. ``python -m benchmarks.counts.dpo`` prints the table of ``docs/dpo.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from unittest import mock

import torch
from torch import Tensor

from benchmarks.counts import operations
from benchmarks.counts.operations import Operations
from benchmarks.counts.step import without_values
from unipixel.data.collate import Batch, collate
from unipixel.data.encode import EncodedMedium
from unipixel.data.layout import TEMPORAL
from unipixel.data.pairs import PREFERENCE, EncodedPair
from unipixel.model import attention, prefix
from unipixel.model.adapters import LoraSettings
from unipixel.model.build import ModelSettings
from unipixel.model.grounded import GroundedVLM
from unipixel.model.meta import meta_model
from unipixel.model.reference import as_reference

FRAMES, SIDE, QUESTION, REPLY = 32, 448, 60, 120


@dataclass(frozen=True)
class PairCounts:
    """Costs of one pair, forward and backward.

    Attributes:
        flops: of both passes, without what a causal mask hides in the language model.
        kernels: operations that are neither views nor allocations.
        vision_calls: passes of the vision tower.
        logit_rows: rows that the output head computes, of policy and reference together.
    """

    flops: int
    kernels: int
    vision_calls: int
    logit_rows: int


def pair_batch(model: GroundedVLM, frames: int = FRAMES) -> Batch:
    """The pair described above."""
    layout = model.family.layout
    grid = (frames // TEMPORAL, SIDE // layout.patch, SIDE // layout.patch)
    patches = torch.zeros(grid[0] * grid[1] * grid[2], layout.patch_values, dtype=torch.uint8)
    medium = EncodedMedium("pair", patches=patches, grid=grid, size=(SIDE, SIDE))
    prompt = medium.visual_tokens + QUESTION
    length = prompt + 2 * REPLY
    medium.dialogues.append(EncodedPair(
        torch.zeros(length, dtype=torch.long), torch.arange(length) >= prompt, torch.arange(length).expand(4, -1), torch.zeros(0, dtype=torch.long),
        torch.zeros(0, 0, dtype=torch.bool), visual=torch.arange(medium.visual_tokens), branches=(prompt, REPLY, REPLY)))
    return collate([medium], PREFERENCE)


@contextmanager
def _counted_prefix(backward_share: float) -> Iterator[list[float]]:
    """Causal attention as one operation per segment, each with its own number of keys. Yields a list of the operations per call that the causal
    mask makes superfluous, forward and backward, which flash kernels leave out."""
    counted, masked = attention.within_segments, []

    def within_segments(query: Tensor, key: Tensor, value: Tensor, segments, *, causal: bool, **kwargs) -> Tensor:
        if not causal:
            return counted(query, key, value, segments, causal=causal, **kwargs)
        products = 2 * query.shape[1] * (query.shape[-1] + value.shape[-1]) * sum(n * (n - 1) // 2 for n in segments.lengths)
        masked.append(products * (1 + backward_share * query.requires_grad))
        key, value, keys = segments.keys_of(key, value)
        query, key, value = operations._half(query, key, value)
        parts = zip(query.split(segments.lengths, 2), key.split(keys.lengths, 2), value.split(keys.lengths, 2), strict=True)
        return torch.cat([operations._attention(*part, ()) for part in parts], 2).transpose(1, 2)

    with mock.patch.object(attention, "within_segments", within_segments):
        yield masked


def shared_pair(model: GroundedVLM, batch: Batch) -> Tensor:
    """What training does: both replies in one row, the vision tower once."""
    scores = model(**batch)
    return (scores.policy.log_probs - scores.reference.log_probs).sum()


def separate_rows(model: GroundedVLM, batch: Batch) -> Tensor:
    """A row per side and a pass per model, each with its own video, as trainers that know only batches of sequences do it."""
    (prompt, *replies), = batch["branches"]
    sums = []
    for reference in (False, True):
        with as_reference(model, "base") if reference else nullcontext():
            for number, length in enumerate(replies):
                end = prompt + length
                side = batch | {"input_ids": batch["input_ids"][:, :end]}
                after, _ = model.hidden_states(model.embed(side), batch["position_ids"][:, :, :end], (end,))
                rows = after[prompt - 1:end - 1]
                log_probs = prefix.token_scores(model.core.lm_head(rows).float(), batch["label_ids"][number * length:][:length]).log_probs
                sums.append(log_probs.sum())
    return torch.stack(sums).sum()


def count_pair(model: GroundedVLM, loss=shared_pair, *, checkpointing: bool = False, frames: int = FRAMES) -> PairCounts:
    """Forward and backward pass of one pair; ``model`` has adapters and is not changed."""
    # the backward pass of attention costs 2.5 forward passes; with checkpointing each layer's forward runs twice for one backward
    with without_values(model, pair_batch(model, frames)) as (model, batch), _counted_prefix(1.25 if checkpointing else 2.5) as masked:
        model.pair_reference = "base"
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls, rows = [], []
        model.core.model.visual.register_forward_pre_hook(lambda *_: calls.append(1))
        model.core.lm_head.register_forward_hook(lambda _module, _args, logits: rows.append(logits.numel() // logits.shape[-1]))
        with Operations() as counts:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(model, batch)
            value.backward()
    return PairCounts(counts.flops - int(sum(masked)), counts.kernels.total(), len(calls), sum(rows))


def true_size(name: str = "Qwen/Qwen2.5-VL-3B-Instruct") -> GroundedVLM:
    """A released backbone without values, with LoRA in the attention of its language model."""
    settings = ModelSettings(backbone=name, model_dtype="bfloat16", sam2_config="sam2.1_hiera_t")
    model, _ = meta_model(settings, LoraSettings(lora_scope="llm", lora_dropout=0.0), ())
    return model


def main() -> int:
    model = true_size()
    for title, arguments in (("one row", {}), ("one row, checkpointing", {"checkpointing": True}),
                             ("separate rows", {"loss": separate_rows}),
                             ("separate rows, checkpointing", {"loss": separate_rows, "checkpointing": True})):
        counts = count_pair(model, **arguments)
        print(json.dumps({"pair": title, "tflop": round(counts.flops / 1e12, 1), **asdict(counts)}))
    return 0


if __name__ == "__main__":
    main()
