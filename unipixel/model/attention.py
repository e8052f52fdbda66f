"""Attention over packed rows: every segment of a row attends to itself only, without an S x S mask.

Segments are the dialogues of a packed row in the language model, and frames or windows in the vision tower. Registered with transformers
as ``segment_sdpa`` (torch's own kernels) and ``segment_flash_attention_2`` (the ``flash-attn`` package). Lengths travel along as plain
integers, so nothing waits for the device. Without them it is exactly transformers' own attention: padded batches, generation. On CUDA the
packed case is one variable-length call; elsewhere one SDPA call per segment.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask, sdpa_mask

from unipixel.errors import ConfigError, nearest

NAME, FLASH = "segment_sdpa", "segment_flash_attention_2"
CHOICES = (NAME, FLASH)
VISION = "segment_flash"
"""Of the vision tower. transformers hands its segments over only to implementations with "flash" in their name; to others it gives
each segment alone, thousands of calls per batch."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Lengths of the segments of a row, on both sides.

    Attributes:
        lengths: on the host.
        ends: (segments + 1,) int32 on the device, 0 first.
    """

    lengths: tuple[int, ...]
    ends: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        ends = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32, non_blocking=True)
        return cls(tuple(lengths), ends)

    @classmethod
    def between(cls, ends: Tensor, device: torch.device) -> Segments:
        """``ends``: (segments + 1,) on the CPU."""
        return cls(tuple(ends.diff().tolist()), ends.to(device=device, dtype=torch.int32, non_blocking=True))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def keys_of(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Segments]:
        """(1, heads, S, d) keys and values as the queries of each segment see them, and their lengths: here their own rows."""
        return key, value, self


def check_implementation(name: str) -> None:
    """
    Raises:
        ConfigError: an unknown implementation, or one whose package is not installed.
    """
    if name not in CHOICES:
        raise ConfigError(f"attn_implementation={name!r}: samples are packed into one row, which only {', '.join(CHOICES)} keep apart"
                          f"{nearest(name, CHOICES)}")
    if name == FLASH and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(f"attn_implementation={name!r} needs the flash-attn package, which is not installed: `pip install flash-attn "
                          f"--no-build-isolation` on a machine with a GPU, or set attn_implementation: {NAME}, which uses torch's own kernels")


def kernel(name: str) -> str:
    """An implementation and the kernel that it takes on this machine, in words."""
    if name == FLASH:
        return f"{name} (flash-attn)"
    return f"{name} ({'torch varlen flash' if torch.cuda.is_available() else 'torch SDPA per dialogue'})"


def within_segments(query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float | None, causal: bool, dropout: float = 0.0,
                    flash: bool = False) -> Tensor:
    """(1, heads, S, d) tensors -> (1, S, heads, d); keys and values may have fewer heads. ``flash``: with the flash-attn package.

    Causal segments with more keys than queries are aligned at their last rows, as all variable-length kernels do it.
    """
    grouped = query.shape[1] != key.shape[1]
    key, value, keys = segments.keys_of(key, value)
    if not query.is_cuda and not flash:
        parts = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, enable_gqa=grouped, **_causal(q, k, causal))
                 for q, k, v in zip(query.split(list(segments.lengths), dim=2), *(x.split(list(keys.lengths), dim=2) for x in (key, value)))]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()
    # trained embeddings are float32, and rotary tables take their dtype: autocast would have cast for torch's own attention
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else value.dtype
    rows = [x[0].transpose(0, 1).to(dtype) for x in (query, key, value)]
    bounds = segments.ends, keys.ends, segments.longest, keys.longest
    if flash:
        from flash_attn import flash_attn_varlen_func  # an extra
        return flash_attn_varlen_func(*rows, *bounds, dropout_p=dropout, softmax_scale=scale, causal=causal)[None]
    from torch.nn.attention.varlen import varlen_attn  # only there: torch has no CPU kernel for it
    return varlen_attn(*rows, *bounds, scale=scale, window_size=(-1, 0) if causal else (-1, -1), enable_gqa=grouped)[None]


def _causal(query: Tensor, key: Tensor, causal: bool) -> dict:
    """Keywords of SDPA, whose own ``is_causal`` aligns the first rows."""
    queries, keys = query.shape[2], key.shape[2]
    if not causal or queries == keys:
        return {"is_causal": causal}
    return {"attn_mask": torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)}


def _packed_row(query: Tensor, key: Tensor, value: Tensor, attention_mask, segments: Segments, scaling, dropout, flash: bool) -> Tensor:
    if attention_mask is not None or query.shape[0] != 1 or sum(segments.lengths) != query.shape[2] or query.shape[2] != key.shape[2]:
        raise ValueError(f"a packed row needs batch 1, no attention mask and no cache: got batch {query.shape[0]}, {query.shape[2]} queries, "
                         f"{key.shape[2]} keys, segment lengths summing to {sum(segments.lengths)}")
    return within_segments(query, key, value, segments, scale=scaling, causal=True, dropout=dropout, flash=flash)


def segment_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float | None = None, dropout: float = 0.0,
                      segments: Segments | None = None, **kwargs):
    """(B, heads, S, d) tensors -> ((B, S, heads, d), None), the signature transformers asks for."""
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    return _packed_row(query, key, value, attention_mask, segments, scaling, dropout, flash=False), None


def segment_flash_attention_2(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float | None = None,
                              dropout: float = 0.0, segments: Segments | None = None, **kwargs):
    """:func:`segment_attention` with the kernels of the flash-attn package."""
    if segments is None:
        return flash_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout,
                                       implementation="flash_attention_2", **kwargs)
    return _packed_row(query, key, value, attention_mask, segments, scaling, dropout, flash=True), None


def vision_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float | None = None,
                     cu_seq_lens_q: Tensor | None = None, segments: Sequence[Segments] = (), **kwargs):
    """Attention of a vision tower, within frames or windows. ``segments``: the kinds that its layers choose from, by their ends."""
    chosen = next((s for s in segments if s.ends is cu_seq_lens_q), None) or Segments.between(cu_seq_lens_q.cpu(), query.device)
    return within_segments(query, key, value, chosen, scale=scaling, causal=False), None


def use_segments(visual: nn.Module) -> None:
    """Let a vision tower attend with :func:`vision_attention`. Set here and not while loading, where transformers would look for flash-attn."""
    for module in visual.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = VISION


def _mask(*args, attention_mask=None, **kwargs):
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


for _name, _attention, _masking in ((NAME, segment_attention, _mask), (FLASH, segment_flash_attention_2, flash_attention_mask),
                                    (VISION, vision_attention, flash_attention_mask)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _masking)
