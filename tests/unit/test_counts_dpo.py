"""What a pair costs is a promise: gated on the true 3B model without values, so that no change makes it dearer unnoticed."""

from __future__ import annotations

import pytest

from benchmarks.counts.dpo import REPLY, count_pair, separate_rows, true_size


@pytest.fixture(scope="module")
def model():
    return true_size()


def test_pair_of_32_frames_stays_below_112_tflop(model):
    counts = count_pair(model)
    assert counts.flops <= 112e12
    assert (counts.vision_calls, counts.logit_rows) == (1, 4 * REPLY)


def test_prefix_sharing_saves_more_than_half(model):
    shared, separate = (count_pair(model, frames=8, **how) for how in ({}, {"loss": separate_rows}))
    assert separate.vision_calls == 4 and separate.logit_rows == shared.logit_rows
    assert separate.flops > 2 * shared.flops
