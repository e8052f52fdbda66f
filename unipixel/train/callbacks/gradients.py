"""After the first step: every tensor that trains must have had a gradient; what had none is listed."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from unipixel.errors import ConfigError
from unipixel.model.adapters import part_of

log = logging.getLogger(__name__)


class GradientCheck(TrainerCallback):
    """Watches the first optimizer step through tensor hooks, which fire under every engine.

    A part (LoRA, seg, SAM 2, …) none of whose tensors had a gradient, although the step used it, stops the run: it would train nothing
    in silence. Single tensors without gradient are listed once.
    """

    def __init__(self):
        self.seen: dict[str, bool] = {}
        self.handles = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.seen[name] = False
                self.handles.append(parameter.register_hook(lambda grad, name=name: self._mark(name)))

    def _mark(self, name: str) -> None:
        self.seen[name] = True

    def on_step_end(self, args, state, control, trainer_kind: str | None = None, **kwargs):
        if not self.handles:
            return
        for handle in self.handles:
            handle.remove()
        self.handles = []
        names = list(self.seen)
        had = torch.tensor([self.seen[n] for n in names], dtype=torch.int32, device=args.device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(had, op=dist.ReduceOp.MAX)
        without = [n for n, h in zip(names, had.tolist()) if not h]
        if not without:
            return
        dead = {part_of(n) for n in without} - {part_of(n) for n, h in zip(names, had.tolist()) if h}
        unused = set() if self.uses_masks else {"seg", "sam2_encoder", "sam2_decoder"}
        if dead - unused:
            raise ConfigError(f"no tensor of {', '.join(sorted(dead - unused))} had a gradient in the first step: it would train nothing. Remove it "
                              "from train / lora_scope, or give it data that uses it")
        if args.process_index == 0:
            log.warning("%d of %d trainable tensors had no gradient in the first step (unused by this kind of sample):\n  %s", len(without),
                        len(names), "\n  ".join(without[:40] + ([f"… and {len(without) - 40} more"] if len(without) > 40 else [])))

    uses_masks = True
    """Set by the trainer entry: whether the first step's kind has masks."""
