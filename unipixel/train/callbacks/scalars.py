"""Scalars of each logging step: every loss, learning rate per group, throughput, time spent waiting for data, skipped samples."""

from __future__ import annotations

import time

from transformers import TrainerCallback


class Scalars(TrainerCallback):
    """``collect`` gives what the trainer adds to each record for TensorBoard and the console."""

    def __init__(self):
        self.trainer = None
        self.since = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.since = time.perf_counter()

    def collect(self, steps: int) -> dict[str, float]:
        """Means since the last call; losses are this process's share of the global ones, so they are summed over its micro-batches."""
        trainer, now = self.trainer, time.perf_counter()
        elapsed, self.since = now - self.since, now
        meters, trainer.meters = trainer.meters, {}
        logs = {name: float(value) / max(steps, 1) for name, value in meters.items() if name.startswith("loss_")}
        logs["tokens_per_s"] = meters.get("tokens", 0) / elapsed
        logs["samples_per_s"] = meters.get("samples", 0) / elapsed
        logs["data_wait_share"] = meters.get("data_wait_s", 0.0) / elapsed
        logs["blank_passes"] = meters.get("blank_passes", 0)
        logs["skipped_samples"] = trainer.skips
        rates = {group["name"].removesuffix("_no_decay"): group["lr"] for group in trainer.optimizer.param_groups}
        return logs | {f"lr_{name}": rate for name, rate in rates.items()}
