"""TRL's DPO arithmetic without TRL's data path: what this package needs of ``DPOTrainer`` that is not public, in one place.

``DPOTrainer._compute_loss`` calls a model for per-token log-probabilities and does everything else itself: all losses, their weights, length
desensitisation, f-divergences, its metrics. Here that "model" is an object that returns scores which are already there. Its constructor, which
wants a dataset to tokenise and a transformers model to patch, is passed over; the attributes that it would set are set here.
A test fails when a new version of TRL reads others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace

from torch import Tensor
from transformers import Trainer
from trl import DPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from unipixel.objectives.preference import reply_mask, reply_rows


class PreferenceLoss(DPOTrainer):
    """``DPOTrainer`` whose model's scores are given. Its settings are those of ``trl.DPOConfig``."""

    def __init__(self, model, args, **kwargs):
        self.take_settings(args)
        if args.disable_dropout:
            disable_dropout_in_model(model)
        Trainer.__init__(self, model=model, args=args, **kwargs)
        model.is_gradient_checkpointing = False  # TRL would switch it off for the reference's pass, which is over before it is asked

    def take_settings(self, args) -> None:
        """What the constructor of ``DPOTrainer`` copies from its settings, and the state of its metrics."""
        self.beta, self.loss_types, self.loss_weights = args.beta, args.loss_type, args.loss_weights or [1.0] * len(args.loss_type)
        self.ld_alpha, self.label_smoothing, self.use_weighting = args.ld_alpha, args.label_smoothing, args.use_weighting
        self.f_divergence_type, self.f_alpha_divergence_coef = args.f_divergence_type, args.f_alpha_divergence_coef
        self.precompute_ref_logps, self.ref_model = False, None
        self.aux_loss_enabled, self.router_aux_loss_coef = False, 0.0
        self.maybe_activation_offload_context = nullcontext()
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._total_train_tokens, self._tp_size = 0, 1

    def trl_loss(self, policy, reference: Tensor, counts: Sequence[tuple[int, int]]) -> Tensor:
        """Mean loss of B pairs. A collective: its metrics are gathered, so every rank must call it equally often.

        Args:
            policy: ``unipixel.model.prefix.TokenScores`` of their tokens.
            reference: (L,) log-probabilities of the same tokens.
            counts: supervised tokens of both sides of each pair.
        """
        mask = reply_mask(counts, reference.device)
        scored = {name: reply_rows(value, counts) for name, value in vars(policy).items()}
        self.ref_model = _Scored(log_probs=reply_rows(reference, counts))
        try:
            return self._compute_loss(_Scored(**scored), {"completion_mask": mask, "input_ids": mask, "attention_mask": mask[:, 1:]}, False)
        finally:
            self.ref_model = None

    def _save_checkpoint(self, model, trial) -> None:
        """Without TRL's model card, whose template asks the hub's questions."""
        Trainer._save_checkpoint(self, model, trial)


class _Scored:
    """Stands where TRL calls a model."""

    def __init__(self, **scores: Tensor):
        self.scores = SimpleNamespace(**scores)

    def __call__(self, **inputs) -> SimpleNamespace:
        return self.scores

