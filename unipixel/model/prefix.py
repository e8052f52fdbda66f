"""Several replies behind one prompt: the prompt, with its video, is encoded once and every reply attends to it.

A row is ``[P, C1, C2, …]``: queries in the segments ``P+C1 | C2 | …``, keys and values in ``P+C1 | P+C2 | …``, causal and aligned at the last
rows. That is exactly what separate rows ``P+C1``, ``P+C2``, … compute, because a causal prompt does not see its replies (the idea of "Accelerating
Direct Preference Optimization with Prefix Sharing", Wang & Hegde, 2024, without a mask). Legend: ``S`` tokens of the row, ``L``
supervised tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sam2_ext import MaskOutput
from unipixel.model.attention import Segments
from unipixel.model.reference import Reference, as_reference, inputs_are_shared


@dataclass(frozen=True, eq=False)
class SharedPrefix(Segments):
    """Segments of the queries, with what each of them attends to.

    Attributes:
        keys: lengths of the key segments.
        key_rows: (K,) int64 row that each key is; rows of a prompt stand once per reply.
    """

    keys: Segments
    key_rows: Tensor

    @classmethod
    def of_branches(cls, branches: Sequence[Sequence[int]], device: torch.device) -> SharedPrefix:
        """``branches``: per prompt its length, then those of its replies."""
        queries, keys, rows, at = [], [], [], 0
        for prompt, *replies in branches:
            start = at + prompt
            for number, length in enumerate(replies):
                queries.append(length if number else prompt + length)
                keys.append(prompt + length)
                rows += [torch.arange(at, at + prompt), torch.arange(start, start + length)]
                start += length
            at = start
        own = Segments.of(queries, device)
        return cls(own.lengths, own.ends, Segments.of(keys, device), torch.cat(rows).to(device, non_blocking=True))

    def keys_of(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Segments]:
        return key.index_select(2, self.key_rows), value.index_select(2, self.key_rows), self.keys


@dataclass(frozen=True)
class TokenScores:
    """What a model says about given tokens; all (L,), only ``log_probs`` with a graph.

    Attributes:
        log_probs: log-probability of each.
        entropy, mean_logits: of the distribution that it was taken from, in nats; ``is_top1``: whether it was the most likely one.
        log_sum_sq_probs: logarithm of the sum of all squared probabilities there.
    """

    log_probs: Tensor
    entropy: Tensor
    mean_logits: Tensor
    is_top1: Tensor
    log_sum_sq_probs: Tensor


@dataclass(frozen=True)
class PairScores:
    """What policy and, where the model has one, reference say about a batch of B pairs.

    Attributes:
        policy, reference: scores of the supervised tokens; ``None`` where there are none.
        masks, reference_masks: SAM 2's output for every ``<|seg|>``: 2B objects, or B where one stands for both sides; ``None`` for pairs that
            are compared by their words. Only ``masks`` has a graph.
        anchor: scalar 0 that ties trained mask parts which this batch does not use into the graph (``GroundedVLM.touch_all``), or ``None``.
    """

    policy: TokenScores | None
    reference: TokenScores | None
    masks: MaskOutput | None = None
    reference_masks: MaskOutput | None = None
    anchor: Tensor | None = None


def token_scores(logits: Tensor, ids: Tensor) -> TokenScores:
    """(L, V) logits, (L,) int64 -> scores, in the precision of the logits."""
    all_log_probs = logits.log_softmax(-1)
    log_probs = all_log_probs.gather(-1, ids[:, None])[:, 0]
    with torch.no_grad():
        return TokenScores(log_probs, -(all_log_probs.exp() * all_log_probs).sum(-1), logits.mean(-1), logits.argmax(-1) == ids,
                           (2 * all_log_probs).logsumexp(-1))


def score_pairs(model, batch: dict, reference: Reference) -> PairScores:
    """Scores of a packed batch of pairs (``unipixel.data.pairs``) by a :class:`~unipixel.model.grounded.GroundedVLM`.

    The vision tower runs once for both sides, and once for policy and reference together when nothing before the language model trains.
    SAM 2 runs once where masks are compared: its image encoder serves both models.
    """
    segments = SharedPrefix.of_branches(batch["branches"], batch["input_ids"].device)
    with torch.no_grad() if inputs_are_shared(model) else nullcontext():
        embeds = model.embed(batch)
    frozen = frozen_prompts = None
    if reference != "none":
        with as_reference(model, reference):
            frozen, frozen_prompts, _ = _scores(model, embeds if inputs_are_shared(model) else model.embed(batch), batch, segments)
    scores, prompts, before = _scores(model, embeds, batch, segments)
    anchor = 0 * model.blank_masks(before) if model.touch_all and prompts is None else None
    return PairScores(scores, frozen, *_masks(model, batch, prompts, frozen_prompts), anchor)


def _scores(model, embeds, batch: dict, segments: SharedPrefix) -> tuple[TokenScores | None, Tensor | None, Tensor]:
    """Scores, the prompts for SAM 2 where the batch has masks, and the states before the final norm. Logits are made of the rows that predict a
    supervised token only, at least in float32."""
    after, before = model.hidden_states(embeds, batch["position_ids"], segments)
    prompts = model.seg_tokens(before.index_select(0, batch["object_rows"])) if "object_rows" in batch else None
    if not len(batch["label_rows"]):
        return None, prompts, before
    logits = model.core.lm_head(after.index_select(0, batch["label_rows"]))
    return token_scores(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, batch["label_ids"]), prompts, before


def _masks(model, batch: dict, prompts: Tensor | None, frozen_prompts: Tensor | None) -> tuple[MaskOutput | None, MaskOutput | None]:
    """SAM 2's output for the prompts of the policy and of the reference."""
    if prompts is None:
        return None, None
    out = MaskOutput(*model.sam2(model.normalizer.frames(batch["sam_frames"]), prompts, batch["object_video"], batch["mask_valid"].shape[0],
                                 prompting=model.prompting, frozen_tokens=frozen_prompts))
    if frozen_prompts is None:
        return out, None
    frozen = out.select(slice(len(prompts), None))
    return out.select(slice(0, len(prompts))), MaskOutput(*(x.detach() for x in frozen.fields()))
