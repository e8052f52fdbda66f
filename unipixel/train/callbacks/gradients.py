"""In the first steps: every part that trains must have had a gradient; single tensors that had none are listed."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from unipixel.errors import ConfigError
from unipixel.model.adapters import part_of

log = logging.getLogger(__name__)


class GradientCheck(TrainerCallback):
    """Watches the first optimizer step of each kind of samples through tensor hooks, which fire under every engine.

    A part (seg, SAM 2, LoRA in the vision tower, …) none of whose tensors has had a gradient, although the step used it, stops the run:
    it would train nothing in silence. After the last kind, single tensors without gradient are listed once.
    """

    def __init__(self):
        self.trainer = None
        self.seen: dict[str, bool] = {}
        self.kinds: set[str] = set()
        self.handles = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.kinds = set(self.trainer.groups.kinds)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.seen[name] = False
                self.handles.append(parameter.register_hook(lambda grad, name=name: self._mark(name)))

    def _mark(self, name: str) -> None:
        self.seen[name] = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.step_kind not in self.kinds:
            return
        self.kinds.remove(self.trainer.step_kind)
        names = list(self.seen)
        had = torch.tensor([self.seen[n] for n in names], dtype=torch.int32, device=args.device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(had, op=dist.ReduceOp.MAX)
        without = [n for n, h in zip(names, had.tolist()) if not h]
        alive = {watched_part(n) for n, h in zip(names, had.tolist()) if h}
        dead = {watched_part(n) for n in without} - alive - unused_parts(self.trainer.step_kind)
        if dead:
            raise ConfigError(f"no tensor of {', '.join(sorted(dead))} had a gradient in the first step of kind {self.trainer.step_kind!r}: it "
                              "would train nothing. Remove it from train or lora_scope, or give it data that uses it")
        if self.kinds:
            return
        for handle in self.handles:
            handle.remove()
        if without and args.process_index == 0:
            log.warning("%d of %d trainable tensors had no gradient in the first step of any kind:\n  %s", len(without), len(names),
                        "\n  ".join(without[:40] + ([f"… and {len(without) - 40} more"] if len(without) > 40 else [])))


def watched_part(name: str) -> str:
    """Part of a parameter; adapters count as part of their own of what they adapt: ``LoRA in visual``."""
    return f"LoRA in {part_of(name.replace('lora_', ''))}" if "lora_" in name else part_of(name)


def unused_parts(kind: str) -> set[str]:
    """Parts that a step of this kind does not run."""
    unused = set() if kind.endswith("_masks") else {"seg", "sam2_encoder", "sam2_decoder"}
    unused |= set() if "_prompts" in kind else {"ref", "ref_encoder"}
    unused |= set() if "_regions" in kind else {"mem"}
    if kind == "text":
        unused |= {"visual", "projector", "LoRA in visual", "LoRA in projector"}
    return unused
