"""Several media in one packed row give the losses and all gradients that they give alone, to rounding in double precision.

Everything that the model deliberately computes in float32 (norms, rotary tables, mask logits) is raised to float64 for the comparison:
at 1e-9 no leak from one dialogue into another can hide behind rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.tiny_run import tiny_parts
from unipixel.data.collate import collate
from unipixel.data.targets import batch_targets
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums

TOLERANCE = 1e-9


@contextmanager
def float32_is_float64() -> Iterator[None]:
    """Casts to float32 become casts to float64. Patched and not a function mode: the recomputation inside ``backward`` would escape that."""
    cast = Tensor.to

    def to(self, *args, **kwargs):
        return cast(self, *map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    def raised(value):
        return torch.float64 if value is torch.float32 else value

    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(Tensor, "to", to), mock.patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def losses(model, media) -> Tensor:
    """Sum of the language and mask losses; with several media, of one packed row."""
    batch = collate(media, "video_masks")
    out = model(**batch)
    masks = mask_loss_sums(out.masks, batch_targets(batch), batch["mask_valid"], MaskLossSettings())
    return cross_entropy_sum(out.logits, batch["label_ids"]) + sum(masks.values())


def gradients(model, rows) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients summed over packed rows; each row is a list of media."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    with float32_is_float64():
        for media in rows:
            loss = losses(model, media)
            loss.backward()
            total += loss.detach()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("assets", ["tiny", "tiny_qwen3"])
def test_packed_row_equals_separate_runs(request, assets, checkpointing):
    model, _, encoder, groups = tiny_parts(request.getfixturevalue(assets), max_turns=1, lora_dropout=0.0, num_frames=3,
                                           train=["llm", "visual", "embedding", "projector", "seg", "sam2_encoder", "sam2_decoder"])
    chosen = [i for i, kind in enumerate(groups.kind_of) if groups.kinds[kind] == "video_masks"][:3]
    media = [encoder(groups.sample(i)) for i in chosen]
    assert sum(len(m.dialogues) for m in media) == 6
    torch.manual_seed(0)
    model = model.double().train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)  # zero at first, which would hide the gradients of the other half
    if checkpointing:
        model.gradient_checkpointing_enable()
    one, together = gradients(model, [media])
    three, apart = gradients(model, [[m] for m in media])
    assert one.dtype == torch.float64 and abs(float(one - three)) <= TOLERANCE * float(three)
    assert set(together) == set(apart) and len(together) > 100 and any("visual" in name for name in together)
    for name, gradient in together.items():
        assert gradient.dtype == torch.float64
        difference, scale = float((gradient - apart[name]).abs().max()), max(1.0, float(apart[name].abs().max()))
        assert difference <= TOLERANCE * scale, f"{name}: {difference:.1e}"
