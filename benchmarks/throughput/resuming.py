"""The order plan: cost per sample, the first lookup in a large dataset, and the first batch of a run that goes on near the end of an epoch."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.throughput import clips
from benchmarks.throughput.timing import Check, Costs, run
from unipixel.data.loader import Groups, build_loader
from unipixel.data.plan import EpochOrder, OrderPlan, Source

EPOCH = 1_000_000
LARGE = 100_000_000


def cpu_seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(folder: Path, quick: bool = False) -> list[Check]:
    groups = Groups(clips.write(folder / "shards", 4 if quick else 16), per_medium=1)
    encoder = clips.encoder()
    # an epoch of a million draws over a few clips
    sources = [Source("clips", "video_masks", np.resize(np.arange(len(groups)), EPOCH), EPOCH)]
    at = OrderPlan(sources, seed=0).state() | {"step": EPOCH * 95 // 100, "cursors": [[EPOCH * 95 // 100, 0, EPOCH * 95 // 100, 0]]}

    def first_batch(state: dict | None = None) -> None:
        plan = OrderPlan(sources, seed=0)
        if state:
            plan.load_state(state)
        next(iter(build_loader(groups, encoder, plan, rank=0, world=1, micro=4, accumulation=1)))

    costs = Costs({"start": first_batch, "resume": lambda: first_batch(at)}, 9 if quick else 41)
    ratio = costs.best_ratio if quick else costs.ratio

    plan = OrderPlan([Source(f"d{i}", "video", np.arange(EPOCH), EPOCH) for i in range(3)], seed=0)
    steps = 2000 if quick else 20_000
    batches = plan.batches(rank=0, world=8, micro=4, accumulation=1)
    next(batches)
    per_sample = cpu_seconds(lambda: [None for _ in islice(batches, steps)]) / (steps * 32)
    lookup = min(cpu_seconds(lambda: EpochOrder(LARGE, 0).take(LARGE * 73 // 100, 64)) for _ in range(3))
    return [
        Check("first batch when resuming at 95 % of an epoch / at step 0", ratio("resume", "start"), 1.05, at_least=False),
        Check("first batch when resuming, with plan and loader", float(np.median(costs.seconds["resume"])), 1, at_least=False, unit="s CPU"),
        Check("order plan, per sample", per_sample * 1e6, 5, at_least=False, unit="us CPU"),
        Check("first lookup among 1e8 samples", lookup, 0.25, at_least=False, unit="s CPU"),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
