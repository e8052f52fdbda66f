"""Attention over packed rows: every dialogue of a row attends to itself only, without an S x S mask.

Registered with transformers as ``segment_sdpa``. The lengths of the dialogues travel to it as the keyword ``segment_lengths`` (plain
integers, so nothing synchronises with the device). Without them it is exactly transformers' ``sdpa``: vision towers, padded batches,
generation. On CUDA the packed case is one variable-length flash call of torch itself; elsewhere one SDPA call per dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "segment_sdpa"


def segment_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float | None = None, dropout: float = 0.0,
                      segment_lengths: Sequence[int] | None = None, **kwargs):
    """(B, heads, S, d) tensors -> ((B, S, heads, d), None), the signature transformers asks for."""
    if segment_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    if attention_mask is not None or query.shape[0] != 1 or sum(segment_lengths) != query.shape[2] or query.shape[2] != key.shape[2]:
        raise ValueError(f"a packed row needs batch 1, no attention mask and no cache: got batch {query.shape[0]}, {query.shape[2]} queries, "
                         f"{key.shape[2]} keys, segment_lengths summing to {sum(segment_lengths)}")
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn  # only there: torch has no CPU kernel for it
        ends = torch.tensor([0, *segment_lengths]).cumsum(0).to(device=query.device, dtype=torch.int32, non_blocking=True)
        longest = max(segment_lengths)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)
        return out[None], None
    parts = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped)
             for q, k, v in zip(*(x.split(list(segment_lengths), dim=2) for x in (query, key, value)))]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _mask(*args, attention_mask=None, **kwargs):
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, _mask)
