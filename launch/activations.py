"""Memory that a training step keeps for its backward pass, counted on fake CUDA tensors: needs neither a GPU nor weights.

The count covers SAM 2 and the mask losses, which hold by far the most: every distinct storage that autograd saves while the real code
runs under bf16 autocast, with attention as the flash kernels do it (inputs, output and one number per row). The checkpointed backbone
is added by formula. Kernel workspace, the caching allocator's slack and the recomputed layer are not in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from sam2_ext import MaskOutput, SegSAM2, reset_rope_tables
from sam2_ext.model import Prompting
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums


@dataclass(frozen=True)
class Clips:
    """Shape of a micro-batch with masks: ``videos`` of ``frames``, ``objects`` in all videos together."""

    videos: int
    frames: int
    objects: int


class _Flash(torch.autograd.Function):
    """Saves what a flash attention kernel saves. Only the shapes are right: it runs on tensors without values."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


class _FlashAttention(TorchFunctionMode):
    """Without a device torch would pick the kernel that stores all attention weights."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            return _Flash.apply(*(t.to(torch.bfloat16) for t in args[:3]))
        return function(*args, **(kwargs or {}))


@contextmanager
def _autocast() -> Iterator[None]:
    """bf16 autocast of CUDA tensors; ``torch.autocast`` itself turns it off on a machine without a GPU."""
    before, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)
        torch.set_autocast_dtype("cuda", dtype)
        torch.clear_autocast_cache()


def mask_activation_bytes(sam2: SegSAM2, clips: Clips, *, hidden_tokens: int, prompting: Prompting, losses: MaskLossSettings) -> int:
    """Bytes saved by SAM 2's forward pass and the mask losses of one micro-batch.

    Args:
        sam2: on any device, the meta device included; what requires gradients in it counts. It stays as it is.
    """
    sam2 = copy.deepcopy(sam2).to("meta")
    saved: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes(), tensor  # held, so that no other tensor gets the same address
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        sam2 = sam2.to_empty(device="cuda").train()
        reset_rope_tables(sam2)
        weights = {p.untyped_storage()._cdata for p in sam2.parameters()}
        side, device = sam2.image_size, torch.device("cuda")
        frames = torch.empty(clips.videos * clips.frames, 3, side, side, device=device)
        tokens = torch.empty(clips.objects, hidden_tokens, sam2.hidden_dim, device=device, requires_grad=True)
        video = torch.arange(clips.objects, device=device) % clips.videos
        targets = torch.empty(clips.frames, clips.objects, side, side, dtype=torch.bool, device=device)
        valid = torch.empty(clips.frames, clips.objects, dtype=torch.bool, device=device)
        with _autocast(), _FlashAttention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mask_loss_sums(MaskOutput(*sam2(frames, tokens, video, clips.frames, prompting=prompting)), targets, valid, losses)
        return sum(size for storage, (size, _) in saved.items() if storage not in weights)


def checkpoint_bytes(layers: int, rows: int, width: int) -> int:
    """Gradient checkpointing keeps the bf16 input of each layer: (rows, width) per layer."""
    return 2 * layers * rows * width
