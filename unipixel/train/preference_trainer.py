"""Preference training: :class:`GroundedTrainer`'s data order, steps and checkpoints around TRL's losses.

One forward pass of the engine gives the token scores and masks of policy and reference (``unipixel.model.prefix``), TRL turns the scores into
losses (``unipixel.train.trl_private``), masks are compared here by the same sigmoid loss, and each pair is weighted so that a step's loss does not
depend on ranks, micro-batches or accumulation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unipixel.data.collate import Batch
from unipixel.data.targets import batch_targets
from unipixel.distributed import gather_ints
from unipixel.model.prefix import PairScores, TokenScores
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums
from unipixel.objectives.preference import mask_margins, pair_weights, reply_rows
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
        self.mask_sums = torch.zeros(3)

    # --- step ------------------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches: int, device) -> tuple[list[Batch], StepCounts]:
        """Also counts the pairs of each failure mode in the step, and the annotated frames of chosen objects, over all ranks."""
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        mine = [mode for batch in batches for mode in batch["modes"]]
        chosen = sum(int(b["mask_valid"][:, 0::2].sum()) for b in batches if "mask_valid" in b)
        everyone = gather_ints([*map(mine.count, FAILURE_MODES), sum(b["whole_replies"] for b in batches), chosen], device)
        *totals, whole, chosen = (sum(column) for column in zip(*everyone))
        self._metrics["train"]["replies_without_marker"].append(whole)
        return batches, StepCounts(counts, modes=dict(zip(FAILURE_MODES, totals)), chosen_frames=max(chosen, 1))

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch: StepCounts | None = None):
        scores: PairScores = model(**inputs)
        weights = pair_weights(inputs["modes"], num_items_in_batch["modes"], self.weights)
        losses, gains = {}, torch.zeros(len(weights))
        if scores.policy is not None:
            losses["preference"], gains = self.words_loss(scores, inputs, weights)
        if scores.masks is not None:
            mask_losses, mask_gains = self.mask_losses(scores, inputs, weights, num_items_in_batch["chosen_frames"])
            losses |= mask_losses
            gains = gains + mask_gains
        for name, value in losses.items():
            self._add(f"loss_{name}", value.detach())
        for mode, gain in zip(inputs["modes"], gains.tolist(), strict=True):
            self.mode_sums[FAILURE_MODES.index(mode)] += torch.tensor([1, gain > 0, gain])
        loss = torch.stack(list(losses.values())).sum()
        if scores.anchor is not None:
            loss = loss + scores.anchor
            self._add("blank_passes", 1)
        return (loss, scores) if return_outputs else loss

    def words_loss(self, scores: PairScores, inputs: Batch, weights: list[float]) -> tuple[Tensor, Tensor]:
        """(this rank's share of the step's loss, (B,) by how much the reward of each chosen reply is above that of the rejected one)."""
        reference = self.reference_of(scores, inputs)
        counts, ranks = inputs["label_counts"], self.args.world_size
        if self.smoothed or self.weights:  # these need the loss of every pair, where TRL gives the mean of a batch
            losses = [self.trl_loss(policy, theirs, [count]) for policy, theirs, count in per_pair(scores.policy, reference, counts)]
            loss = (torch.stack(losses) * torch.tensor(weights, device=losses[0].device)).sum() * ranks
        else:
            loss = self.trl_loss(scores.policy, reference, counts) * (sum(weights) * ranks)
        chosen, rejected = reply_rows(scores.policy.log_probs.detach() - reference, counts).sum(1).chunk(2)
        return loss, (self.beta * (chosen - rejected)).cpu()

    def mask_losses(self, scores: PairScores, inputs: Batch, weights: list[float], chosen_frames: int) -> tuple[dict[str, Tensor], Tensor]:
        """As :meth:`words_loss`, of the masks: DPO's sigmoid loss of :func:`mask_margins`, and the supervised mask losses of the chosen side."""
        targets, valid, ranks = batch_targets(inputs), inputs["mask_valid"], self.args.world_size
        policy = mask_margins(scores.masks.masks, targets, valid)
        if self.cache is None:
            reference = mask_margins(scores.reference_masks.masks, targets, valid)
        else:
            reference = self.cache.masks_of(inputs["keys"]).to(policy.device)
        gains = self.run.mask_beta * (policy - reference)
        share = torch.tensor(weights, device=gains.device) * (self.run.mask_preference * ranks)
        losses = {"mask_preference": -(F.logsigmoid(gains) * share).sum()}
        if self.run.mask_sft:
            chosen = scores.masks.select(slice(None, None, 2 if scores.masks.ious.shape[1] == targets.shape[1] else 1))
            sums = mask_loss_sums(chosen, targets[:, 0::2], valid[:, 0::2], self.mask_settings)
            losses["mask_sft"] = sum(sums.values()) * (self.run.mask_sft * ranks / chosen_frames)
        gains = gains.detach().cpu()
        self.mask_sums += torch.tensor([len(gains), (gains > 0).sum(), gains.sum()])
        return losses, gains

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds accuracy and margin of each failure mode, and of masks, since the last record, over all ranks, to what TRL logs."""
        if "loss" in logs:
            mine = torch.cat([self.mode_sums, self.mask_sums[None]])
            sums = self.accelerator.reduce(mine.to(self.args.device)).cpu()
            self.mode_sums.zero_()
            self.mask_sums.zero_()
            for mode, (pairs, right, margin) in zip((*FAILURE_MODES, "masks"), sums.tolist()):
                if pairs:
                    logs |= {f"{mode}/pairs": pairs, f"{mode}/accuracy": right / pairs, f"{mode}/margin": margin / pairs}
        super().log(logs, start_time)


def per_pair(policy: TokenScores, reference: Tensor, counts):
    """(policy's scores, reference, counts) of each pair alone."""
    sizes = [sum(count) for count in counts]
    split = {name: value.split(sizes) for name, value in vars(policy).items()}
    for i, theirs in enumerate(reference.split(sizes)):
        yield TokenScores(**{name: parts[i] for name, parts in split.items()}), theirs, counts[i]
