"""Preference losses over words are TRL's; this is what surrounds them: from packed token scores to its rows, the weight of each pair in a
step, and the likelihood of masks, which TRL does not know.

Legend: ``B`` pairs, ``L`` supervised tokens of all replies (chosen, rejected, next pair), ``W`` of the longest reply, ``T`` frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def reply_rows(values: Tensor, counts: Sequence[tuple[int, int]]) -> Tensor:
    """(L,) per token -> (2B, W) padded with 0: the chosen replies of all pairs, then the rejected ones.

    Args:
        counts: supervised tokens of the chosen and the rejected reply of each pair.
    """
    parts = values.split([n for pair in counts for n in pair])
    return pad_sequence([*parts[0::2], *parts[1::2]], batch_first=True)


def reply_mask(counts: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(2B, 1 + W) int64: 1 for each token of :func:`reply_rows`, after one column for the prompt, as TRL's completion masks have it."""
    lengths = torch.tensor([n for side in zip(*counts) for n in side], device=device)
    return (torch.arange(1 + int(max(map(max, counts))), device=device) <= lengths[:, None]).long().index_fill(1, lengths.new_zeros(1), 0)


def pair_weights(modes: Sequence[str], totals: Mapping[str, int], weights: Mapping[str, float]) -> list[float]:
    """Weight of each pair's loss, so that the sum over all pairs of a step is the step's loss.

    Without ``weights`` that is the mean over the step. With them it is the mean over failure modes of each mode's own mean, weighted; a mode
    without a pair in this step contributes 0 (VideoPASTA, arXiv 2504.14096, which adds them up without the division by the weights' sum).

    Args:
        modes: failure mode of each pair here.
        totals: pairs of each mode in the whole step, on all ranks.
    """
    if not weights:
        return [1 / sum(totals.values())] * len(modes)
    return [weights[mode] / sum(weights.values()) / totals[mode] for mode in modes]


def mask_margins(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """(B,) log-likelihood of the chosen side's masks minus that of the rejected side's, in nats per pixel where the two differ.

    The mask decoder is read as independent pixels that are inside with probability ``sigmoid(logit)``. Pixels where both sides agree say nothing
    about which of them is right, and would outnumber the others a hundredfold, so the mean is over the others: a small object counts as
    much as a large one, a short clip as much as a long one. At the resolution of the logits ``w`` in [0, 1] is the covered share of a pixel::

        margin = sum d * (l(w_chosen, z_chosen) - l(w_rejected, z_rejected)) / sum d,   d = |w_chosen - w_rejected|
        l(w, z) = w log sigmoid(z) + (1 - w) log sigmoid(-z)

    Args:
        logits: (T, 2B, h, w) of the masks: chosen, rejected, next pair; or (T, B, h, w) where one mask stands for both sides.
        targets: (T, 2B, S, S) bool, chosen, rejected, next pair.
        valid: (T, 2B) bool; frames count where both sides are annotated.
    """
    wanted = F.interpolate(targets.to(logits.dtype), size=logits.shape[-2:], mode="area")
    (chosen, rejected), sides = (wanted[:, 0::2], wanted[:, 1::2]), logits.shape[1] // (targets.shape[1] // 2)
    differ = (chosen - rejected).abs() * (valid[:, 0::2] & valid[:, 1::2])[..., None, None]
    first, second = logits[:, 0::sides], logits[:, sides - 1::sides]
    gain = (chosen * first - F.softplus(first)) - (rejected * second - F.softplus(second))
    return (differ * gain).sum((0, 2, 3)) / differ.sum((0, 2, 3)).clamp(min=torch.finfo(logits.dtype).tiny)
