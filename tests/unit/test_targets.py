"""Painting run lengths gives the masks that COCO's own decoder gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unipixel.data.targets import CHUNK, MaskRuns, dense_targets, mask_runs, paint, resize_masks
from unipixel.errors import SampleError
from unipixel.sample import decode_entry, encode_mask


def random_entries(rng, count: int, size: tuple[int, int]) -> list[str]:
    masks = [rng.random(size) < density for density in rng.random(count)]
    masks[0][:] = True
    masks[1][-1, -1], masks[1][0, 0] = True, True
    return [encode_mask(m) for m in masks]


@pytest.mark.parametrize("size", [(7, 5), (36, 64), (1, 9)])
def test_painted_masks_are_coco_masks(size):
    rng = np.random.default_rng(3)
    entries = random_entries(rng, 6, size)
    painted = paint(mask_runs({cell: [entry] for cell, entry in enumerate(entries)}, size))
    assert painted.numpy().tolist() == [decode_entry(entry, size).tolist() for entry in entries]


def test_several_objects_are_united():
    size = (20, 30)
    entries = random_entries(np.random.default_rng(4), 5, size)
    painted = paint(mask_runs({0: entries[1:4], 1: [entries[4]]}, size))
    union = np.logical_or.reduce([decode_entry(e, size) for e in entries[1:4]])
    assert np.array_equal(painted[0].numpy(), union) and np.array_equal(painted[1].numpy(), decode_entry(entries[4], size))


def test_cells_and_sizes_of_a_batch():
    """Two frame sizes, more masks than one chunk; cells without a mask are empty."""
    rng, frames, objects = np.random.default_rng(5), 9, 4
    cells = rng.permutation(frames * objects)[: CHUNK + 7].tolist()
    groups = {(24, 40): cells[: CHUNK + 3], (30, 18): cells[CHUNK + 3:]}
    wanted = torch.zeros(frames * objects, 16, 16, dtype=torch.bool)
    runs = []
    for size, some in groups.items():
        entries = random_entries(rng, len(some), size)
        runs.append(mask_runs({cell: [entry] for cell, entry in zip(some, entries)}, size))
        wanted[some] = resize_masks(torch.from_numpy(np.stack([decode_entry(e, size) for e in entries])), 16)
    assert dense_targets(runs, (frames, objects), 16).equal(wanted.unflatten(0, (frames, objects)))


def test_nothing_to_paint():
    assert not dense_targets([mask_runs({}, (4, 4))], (2, 3), 8).any()


def test_damaged_counts_are_a_bad_sample():
    with pytest.raises(SampleError, match="another size") as error:
        mask_runs({0: [encode_mask(np.ones((5, 5), bool))]}, (4, 4), "clip 7")
    assert error.value.reason == "bad_masks" and error.value.key == "clip 7"


def test_runs_are_small():
    """What crosses the process border: bytes per mask, against one byte per pixel."""
    disc = np.hypot(*np.mgrid[-180:180, -320:320]) < 100
    runs = mask_runs({cell: [encode_mask(disc)] for cell in range(40)}, disc.shape)
    size = sum(t.numel() * t.element_size() for t in (runs.runs, runs.owner, runs.cells))
    assert isinstance(runs, MaskRuns) and size < 40 * 200 * 16 + 1000 < disc.size * 40 / 50
