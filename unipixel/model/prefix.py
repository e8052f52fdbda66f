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
    """Scores of the supervised tokens of a batch of pairs by the policy and, where the model has one, by the reference."""

    policy: TokenScores
    reference: TokenScores | None


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
    SAM 2 does not run.
    """
    segments = SharedPrefix.of_branches(batch["branches"], batch["input_ids"].device)
    with torch.no_grad() if inputs_are_shared(model) else nullcontext():
        embeds = model.embed(batch)
    frozen = None
    if reference != "none":
        with as_reference(model, reference):
            frozen = _scores(model, embeds if inputs_are_shared(model) else model.embed(batch), batch, segments)
    return PairScores(_scores(model, embeds, batch, segments), frozen)


def _scores(model, embeds, batch: dict, segments: SharedPrefix) -> TokenScores:
    """Logits are made of the rows that predict a supervised token only, at least in float32."""
    after, _ = model.hidden_states(embeds, batch["position_ids"], segments)
    logits = model.core.lm_head(after.index_select(0, batch["label_rows"]))
    return token_scores(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, batch["label_ids"])
