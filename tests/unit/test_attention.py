"""Attention within segments: against a mask over the whole row, in both directions of causality, and through the flash-attn package."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from unipixel.errors import ConfigError
from unipixel.model import attention
from unipixel.model.attention import Segments, within_segments

LENGTHS = (3, 1, 5)


@pytest.fixture
def rows():
    """Queries of 4 heads, keys and values of 2."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, sum(LENGTHS), 8, generator=generator) for heads in (4, 2, 2)]


def masked(query, key, value, causal: bool) -> torch.Tensor:
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = owner[:, None] == owner
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask.tril() if causal else mask, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
def test_against_one_mask_over_the_row(rows, causal):
    out = within_segments(*rows, Segments.of(LENGTHS, torch.device("cpu")), scale=None, causal=causal)
    torch.testing.assert_close(out, masked(*rows, causal), atol=1e-6, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attn_gets_rows_and_bounds(rows, causal, monkeypatch):
    """A stand-in with the package's signature that computes the same by hand."""
    calls = []

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False):
        calls.append((cu_seqlens_q.dtype, cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), max_seqlen_q, max_seqlen_k))
        return masked(*(x.transpose(0, 1)[None] for x in (q, k, v)), causal)[0]

    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    segments = Segments.of(LENGTHS, torch.device("cpu"))
    out = within_segments(*rows, segments, scale=None, causal=causal, flash=True)
    torch.testing.assert_close(out, within_segments(*rows, segments, scale=None, causal=causal), atol=1e-6, rtol=0)
    assert calls == [(torch.int32, [0, 3, 4, 9], [0, 3, 4, 9], 5, 5)]


def test_an_implementation_that_cannot_run_is_refused(monkeypatch):
    attention.check_implementation(attention.NAME)
    with pytest.raises(ConfigError, match="attn_implementation='sdpa'.*which only segment_sdpa, segment_flash_attention_2 keep apart"):
        attention.check_implementation("sdpa")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the flash-attn package"):
        attention.check_implementation(attention.FLASH)


def test_lengths_of_a_vision_tower_without_a_known_kind(rows):
    """Bounds that come from elsewhere are read back instead of guessed."""
    bounds = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    out, _ = attention.vision_attention(None, *rows, None, cu_seq_lens_q=bounds, segments=(Segments.of((9,), torch.device("cpu")),))
    torch.testing.assert_close(out, masked(*rows, False), atol=1e-6, rtol=0)
