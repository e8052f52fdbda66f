"""Memory of a loader worker: what it owns alone must not grow with the samples it has made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.throughput import clips
from benchmarks.throughput.timing import Check, run
from unipixel.data.loader import Groups, build_loader
from unipixel.data.plan import OrderPlan

SAMPLES, MICRO = 10_000, 10
READINGS = 50


def growth(seen: Sequence[int], owned: Sequence[int]) -> float:
    """Bytes per sample. A leak shows in the fitted line and in most single steps; a heap that takes one more piece shows in the line only, one that
    saws up and down in the steps only."""
    line, steps = np.polyfit(seen, owned, 1)[0], np.median(np.diff(owned) / np.diff(seen))
    return max(0.0, float(min(line, steps)))


def measure(folder: Path, quick: bool = False) -> list[Check]:
    """Small clips (48 x 27 pixels) through a loader with one worker; the first half only warms up."""
    groups = Groups(clips.write(folder / "shards", 64, scale=0.075), per_medium=1)
    samples = SAMPLES // 5 if quick else SAMPLES
    loader = build_loader(groups, clips.encoder(tokens=2, sam_size=32), OrderPlan(groups.sources(), seed=0), rank=0, world=1, micro=MICRO,
                          accumulation=1, workers=1)
    before = set(psutil.Process().children())
    batches = iter(loader)
    (worker,) = set(psutil.Process().children()) - before
    seen, owned = [], []
    for step in range(samples // MICRO):
        next(batches)
        if step % max(1, samples // MICRO // READINGS) == 0:
            seen.append((step + 1) * MICRO)
            owned.append(worker.memory_full_info().uss)
    half = len(seen) // 2
    grown = growth(seen[half:], owned[half:]) * SAMPLES / 2**20
    return [Check(f"growth of a loader worker over {SAMPLES:,} samples", grown, 4, at_least=False, unit="MiB")]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
