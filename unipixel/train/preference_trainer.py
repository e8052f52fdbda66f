"""Preference training: :class:`GroundedTrainer`'s data order, steps and checkpoints around TRL's losses.

One forward pass of the engine gives the token scores of policy and reference (``unipixel.model.prefix``), TRL turns them into losses
(``unipixel.train.trl_private``), and each pair is weighted so that a step's loss does not depend on ranks, micro-batches or accumulation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unipixel.data.collate import Batch
from unipixel.distributed import gather_ints
from unipixel.model.prefix import PairScores, TokenScores
from unipixel.objectives.masks import MaskLossSettings
from unipixel.objectives.preference import pair_weights, reply_rows
from unipixel.sample import FAILURE_MODES
from unipixel.train.preference_settings import PairRunSettings, PreferenceArguments
from unipixel.train.reference_cache import ReferenceCache
from unipixel.train.trainer import GroundedTrainer, StepCounts
from unipixel.train.trl_private import PreferenceLoss


class PreferenceTrainer(GroundedTrainer, PreferenceLoss):
    """
    Args:
        cache: log-probabilities of the reference, for ``reference: cached``; otherwise the model itself scores as its reference
            (``GroundedVLM.pair_reference``).
        others: as :class:`GroundedTrainer`.
    """

    def __init__(self, model, args: PreferenceArguments, *, run: PairRunSettings, cache: ReferenceCache | None = None, **others):
        super().__init__(model, args, run=run, mask_settings=MaskLossSettings(), **others)
        self.cache, self.weights = cache, run.weights
        self.smoothed = args.label_smoothing > 0 and "sigmoid" in self.loss_types
        if self.smoothed:
            # TRL ignores label smoothing in its sigmoid loss. Its optimal-transport loss sorts the pairs of a batch and has it; for a
            # single pair there is nothing to sort, and the two are the same formula.
            self.loss_types = ["aot" if name == "sigmoid" else name for name in self.loss_types]
        self.mode_sums = torch.zeros(len(FAILURE_MODES), 3)

    # --- step ------------------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches: int, device) -> tuple[list[Batch], StepCounts]:
        """Also counts the pairs of each failure mode in the step, over all ranks."""
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        mine = [mode for batch in batches for mode in batch["modes"]]
        everyone = gather_ints([*map(mine.count, FAILURE_MODES), sum(b["whole_replies"] for b in batches)], device)
        *totals, whole = (sum(column) for column in zip(*everyone))
        self._metrics["train"]["replies_without_marker"].append(whole)
        return batches, StepCounts(counts, modes=dict(zip(FAILURE_MODES, totals)))

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch: StepCounts | None = None):
        scores: PairScores = model(**inputs)
        reference = self.reference_of(scores, inputs)
        counts, ranks = inputs["label_counts"], self.args.world_size
        weights = pair_weights(inputs["modes"], num_items_in_batch["modes"], self.weights)
        if self.smoothed or self.weights:  # these need the loss of every pair, where TRL gives the mean of a batch
            losses = [self.trl_loss(policy, theirs, [count]) for policy, theirs, count in per_pair(scores.policy, reference, counts)]
            loss = (torch.stack(losses) * torch.tensor(weights, device=losses[0].device)).sum() * ranks
        else:
            loss = self.trl_loss(scores.policy, reference, counts) * (sum(weights) * ranks)
        self._add("loss_preference", loss.detach())
        self.count_modes(scores.policy, reference, inputs)
        return (loss, scores) if return_outputs else loss

    def reference_of(self, scores: PairScores, inputs: Batch) -> Tensor:
        """(L,) log-probabilities of the reference, in the precision of the policy's.

        Raises:
            TypeError: the two precisions differ.
        """
        policy = scores.policy.log_probs
        reference = scores.reference.log_probs if self.cache is None else self.cache.of(inputs["keys"], inputs["label_counts"]).to(policy.device)
        if reference.dtype != policy.dtype:
            raise TypeError(f"the policy's log-probabilities are {policy.dtype}, those of the reference {reference.dtype}")
        return reference

    # --- scalars ---------------------------------------------------------------------------------------------------------------

    def count_modes(self, policy: TokenScores, reference: Tensor, inputs: Batch) -> None:
        """Adds up, per failure mode: pairs, pairs whose chosen reply gained more than the rejected one, and by how much."""
        chosen, rejected = reply_rows(policy.log_probs.detach() - reference, inputs["label_counts"]).sum(1).chunk(2)
        for mode, margin in zip(inputs["modes"], (self.beta * (chosen - rejected)).tolist(), strict=True):
            self.mode_sums[FAILURE_MODES.index(mode)] += torch.tensor([1, margin > 0, margin])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds accuracy and margin of each failure mode since the last record, over all ranks, to what TRL logs."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.mode_sums.to(self.args.device)).cpu()
            self.mode_sums.zero_()
            for mode, (pairs, right, margin) in zip(FAILURE_MODES, sums.tolist()):
                if pairs:
                    logs |= {f"{mode}/pairs": pairs, f"{mode}/accuracy": right / pairs, f"{mode}/margin": margin / pairs}
        super().log(logs, start_time)


def per_pair(policy: TokenScores, reference: Tensor, counts):
    """(policy's scores, reference, counts) of each pair alone."""
    sizes = [sum(count) for count in counts]
    split = {name: value.split(sizes) for name, value in vars(policy).items()}
    for i, theirs in enumerate(reference.split(sizes)):
        yield TokenScores(**{name: parts[i] for name, parts in split.items()}), theirs, counts[i]
