"""Counting what a piece of code asks the device to do: kernels, floating-point operations, and waits for values.

A kernel is every dispatched operation that is neither a view nor a bare allocation. Attention is one kernel forward and one backward, as the
fused kernels are (the loops that stand in for them on a CPU would count once per segment). The causal half is not discounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from unipixel.model import attention

aten = torch.ops.aten
NO_KERNEL = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach, aten.sym_size, aten.sym_stride,
             aten.sym_numel, aten.sym_storage_offset, aten.is_same_size}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2, aten.unique_consecutive, aten.unique_dim,
         aten.repeat_interleave, aten.equal, aten.is_nonzero}
"""Their result, or its size, depends on values, so the host waits for the device."""


@torch.library.custom_op("unipixel_counts::attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, H, S, d) tensors; ``lengths`` of the segments, or empty: all queries attend to all keys."""
    raise NotImplementedError("only for tensors without values")


@_attention.register_fake
def _(query, key, value, lengths):
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@torch.library.custom_op("unipixel_counts::attention_backward", mutates_args=())
def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError("only for tensors without values")


@_attention_backward.register_fake
def _(grad, query, key, value, lengths):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx, inputs, output) -> None:
    ctx.lengths = inputs[3]
    ctx.save_for_backward(*inputs[:3])


_attention.register_autograd(lambda ctx, grad: (*_attention_backward(grad, *ctx.saved_tensors, ctx.lengths), None), setup_context=_keep)


def _products(query: Sequence[int], key: Sequence[int], value: Sequence[int], lengths: Sequence[int]) -> int:
    """Operations of the two matrix products of attention."""
    pairs = sum(n * n for n in lengths) if lengths else query[-2] * key[-2]
    batch = 1
    for size in query[:-2]:
        batch *= size
    return 2 * batch * pairs * (query[-1] + value[-1])


@register_flop_formula(torch.ops.unipixel_counts.attention)
def _(query, key, value, lengths, *args, out_shape=None, **kwargs) -> int:
    return _products(query, key, value, lengths)


@register_flop_formula(torch.ops.unipixel_counts.attention_backward)
def _(grad, query, key, value, lengths, *args, out_shape=None, **kwargs) -> int:
    return _products(query, key, value, lengths) * 5 // 2  # the scores once more, and two products for each of the forward's


def _half(*tensors: Tensor) -> list[Tensor]:
    """Autocast makes the inputs of attention bfloat16, but knows nothing of the operation that stands for it here."""
    return [t.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else t for t in tensors]


def _within_segments(query, key, value, segments, **kwargs) -> Tensor:
    return _attention(*_half(query, key, value), segments.lengths).transpose(1, 2)


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            return _attention(*_half(*args[:3]), ())
        return function(*args, **(kwargs or {}))


@contextmanager
def fused_attention() -> Iterator[None]:
    """All attention as one operation per call, for tensors without values."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(attention, "within_segments", _within_segments))
        stack.enter_context(_FusedAttention())
        yield


class Operations(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        kernels: operations by name.
        flops: floating-point operations, a multiplication and an addition being two (formulas of torch's ``flop_counter``).
        waits: operations that make the host wait, by name.
    """

    def __init__(self):
        super().__init__()
        self.kernels, self.waits, self.flops = Counter(), Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        packet = function._overloadpacket
        if packet in WAITS or (packet in (aten.index, aten.index_put) and _by_mask(args[1])):
            self.waits[str(packet)] += 1
        if function.namespace in ("aten", "unipixel_counts") and not function.is_view and packet not in NO_KERNEL:
            self.kernels[str(packet)] += 1
        if packet in flop_registry:
            self.flops += int(flop_registry[packet](*args, **kwargs, out_val=out))
        return out


def _by_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
