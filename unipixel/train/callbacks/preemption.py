"""SIGTERM (preemption, SLURM's warning signal): all ranks save at the end of the same step and stop; the command exits with its own code."""

from __future__ import annotations

import signal

import torch
import torch.distributed as dist
from transformers import TrainerCallback


class Preemption(TrainerCallback):
    """``stopped`` tells the entry point to exit with ``EXIT_PREEMPTED``."""

    def __init__(self):
        self.asked = self.stopped = False
        self.previous = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.previous = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum, frame):
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs):
        flag = torch.tensor([int(self.asked)], device=args.device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)  # a launcher may signal the ranks at different moments
        if flag.item() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self.previous or signal.SIG_DFL)
