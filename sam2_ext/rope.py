"""Rotary embeddings of SAM 2's memory attention: their tables, and the reference's missing gradient through them.

The tables are complex numbers and plain attributes of the layers: never buffers, so that no state dict, cast or engine meets them.
"""

from __future__ import annotations

import torch
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn


def reset_rope_tables(model: nn.Module) -> None:
    """Recompute the rotary tables for this image size. A model built on the meta device has none.

    SAM 2 recomputes them lazily on every size mismatch; filling them once avoids that work at each attention call.
    """
    side = model.sam_image_embedding_size
    for module in model.modules():
        if isinstance(module, RoPEAttention):
            module.freqs_cis = module.compute_cis(end_x=side, end_y=side)


def cut_rope_gradients(model: nn.Module) -> None:
    """Train as the UniPixel code base does: it applies the rotary embedding without gradient (permanent for this model).

    Queries and all rotated keys become constants for autograd, so ``q_proj``, the norm before it, self-attention's ``k_proj`` and
    ``maskmem_tpos_enc`` never learn in propagation. Only comparisons with that code base want this.
    """
    for module in model.modules():
        if isinstance(module, RoPEAttention):
            _cut(module)


def _cut(attention: RoPEAttention) -> None:
    unrotated = {"keys": 0}

    def remember(_module, _args, kwargs):
        unrotated["keys"] = kwargs.get("num_k_exclude_rope", 0)

    def cut_queries(_module, _args, out: Tensor) -> Tensor:
        return out.detach()

    def cut_keys(_module, _args, out: Tensor) -> Tensor:
        rotated = out.shape[1] - unrotated["keys"]
        return torch.cat([out[:, :rotated].detach(), out[:, rotated:]], dim=1)

    attention.register_forward_pre_hook(remember, with_kwargs=True)
    attention.q_proj.register_forward_hook(cut_queries)
    attention.k_proj.register_forward_hook(cut_keys)
