"""Counted costs: the budgets at true size, and the counter against sums done by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.counts.__main__ import CASES, PACK, exceeded, run
from benchmarks.counts.operations import Operations, fused_attention
from benchmarks.counts.step import StepCounts
from tests.tiny_run import tiny_parts
from unipixel.data.collate import collate
from unipixel.model import backbones


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[1], CASES[-1]], ids=lambda c: c.name)
def test_budgets_at_true_size(case):
    """Every trained tensor has a gradient, with gradient checkpointing too."""
    counts = run(case)
    assert exceeded(case, counts) == []
    assert counts.flops / case.samples > 45e12  # a step that left something out would be cheap
    assert counts.label_rows == 30 * PACK


def test_what_breaks_a_budget_is_said():
    case = CASES[1]
    good = StepCounts(flops=int(4 * 48.5e12), kernels=4 * 16_000, vision_calls=1, mask_encoder_calls=1, logit_rows=30, label_rows=30, waits=2,
                      without_gradient=())
    assert exceeded(case, good) == []
    bad = dataclasses.replace(good, kernels=good.kernels + 4, flops=good.flops + int(4e11), vision_calls=2, logit_rows=31, waits=3,
                              without_gradient=("x",))
    assert len(exceeded(case, bad)) == 6


def test_operations_of_a_layer():
    """A linear layer of 3 x 5 on 7 rows: one product of 2 * 7 * 3 * 5 forward, two backward; the view is no kernel."""
    layer, x = nn.Linear(3, 5, bias=False), torch.randn(7, 3, requires_grad=True)
    with Operations() as counts:
        y = layer(x)
    assert (counts.flops, counts.kernels.total()) == (210, 1)
    with Operations() as counts:
        y.view(35).sum().backward()
    assert counts.flops == 420 and counts.kernels["aten.mm"] == 2


def test_attention_is_one_kernel_each_way():
    """2 heads, 4 queries and 6 keys of width 8 and 3: 2 * 2 * 24 * 11 operations, and two and a half times that backward."""
    with FakeTensorMode(), fused_attention(), Operations() as counts:
        q, k, v = (torch.empty(1, 2, n, d, requires_grad=True) for n, d in ((4, 8), (6, 8), (6, 3)))
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counts.flops == 2 * 2 * 24 * 11 * 7 // 2
    assert counts.kernels["unipixel_counts.attention"] == counts.kernels["unipixel_counts.attention_backward"] == 1


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.any())])
def test_waits_are_seen(wait):
    with Operations() as counts:
        wait(torch.ones(3))
    assert counts.waits.total() >= 1


@pytest.mark.parametrize("kind", ["video_masks", "video"])
def test_waits_of_a_forward_pass(tiny, kind, monkeypatch):
    """With values, on the toy model; what the host derives from the grids is left out, as it never leaves the host."""
    model, _, encoder, groups = tiny_parts(tiny)
    chosen = [i for i, k in enumerate(groups.kind_of) if groups.kinds[k] == kind][:2]
    media = [encoder(groups.sample(i), with_masks=kind.endswith("masks")) for i in chosen]
    batch = collate(media, kind)
    visual, family = model.core.model.visual, type(model.family)
    inputs = model.family.vision_inputs(visual.config, backbones.vision_grids(batch["grids"]), model.device)
    monkeypatch.setattr(family, "vision_inputs", lambda *args: dict(inputs))
    with torch.no_grad(), Operations() as counts:
        model(**batch)
    assert counts.waits.total() <= 2, counts.waits
