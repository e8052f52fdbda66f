"""Preference losses are TRL's; this is what surrounds them: from packed token scores to its rows, and the weight of each pair in a step.

Legend: ``B`` pairs, ``L`` supervised tokens of all replies (chosen, rejected, next pair), ``W`` of the longest reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
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
