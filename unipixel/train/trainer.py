"""``transformers.Trainer`` for :class:`GroundedVLM`: the order plan as data, global loss normalisation, small complete checkpoints.

What is overridden and why:
    data         the loader is ours, its plan state goes into each checkpoint;
    normalising  losses are divided by the global number of labels and of mask frames of the whole optimizer step;
    groups       LoRA, SAM 2's encoder and decoder and the rest have their own learning rates;
    saving       only trained weights, and a checkpoint counts only when every rank has finished it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import get_parameter_names

from unipixel.data.collate import Batch
from unipixel.data.loader import Groups, build_loader
from unipixel.data.pairs import PAIR_KINDS
from unipixel.data.plan import OrderPlan
from unipixel.data.targets import batch_targets
from unipixel.distributed import agree, barrier, check_world, gather_ints
from unipixel.errors import CheckpointError, DataError
from unipixel.model.adapters import part_of
from unipixel.model.checkpoint import always_written, copy_trained, load_trained_values, save_trained
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import module_name
from unipixel.model.reference import is_reference
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums
from unipixel.train import checkpoints, deepspeed_private
from unipixel.train.callbacks import Scalars
from unipixel.train.settings import RunSettings, SFTArguments
from unipixel.train.validation import Validation

PLAN_FILE, SKIPPED_FILE = "data_order.json", "skipped.jsonl"
KINDS = ("text", *PAIR_KINDS,
         *(base + shown + drawn for base in ("image", "video") for shown in ("", "_regions", "_prompts") for drawn in ("", "_masks")))


class StepCounts(dict):
    """Global counts of one optimizer step: ``labels`` and ``mask_frames`` over all ranks and micro-batches."""


class GroundedTrainer(Trainer):
    """Supervised fine-tuning.

    Args:
        groups, encoder, plan: the data, see ``unipixel.data.loader``.
        checkpoint_extra: fields for ``config.json`` of saved models.
        carried: module names of what the run started from (``init_from``): saved models hold it also where it does not train any more, because
            their base model has other values.
        tokenizer: saved with each model.
        validation: media for the validation loss, which the callback ``Evaluate`` asks for; its least value marks the best checkpoint.
    """

    def __init__(self, model: GroundedVLM, args: SFTArguments, *, run: RunSettings, groups: Groups, encoder, plan: OrderPlan, tokenizer,
                 mask_settings: MaskLossSettings, checkpoint_extra: dict, max_skips: int, scalars: Scalars,
                 carried: AbstractSet[str] = frozenset(), validation: Validation | None = None, callbacks=()):
        self.run, self.groups, self.encoder, self.plan = run, groups, encoder, plan
        self.mask_settings, self.checkpoint_extra, self.max_skips = mask_settings, checkpoint_extra, max_skips
        self.scalars, self.carried, self.validation = scalars, carried, validation
        self.consumed_state: dict | None = None
        self.skips = self.logged_step = 0
        self.meters: dict[str, float] = {}
        self.step_kind = ""
        self.last_batch: tuple[Batch, object] | None = None
        self.keep_last = False
        super().__init__(model=model, args=args, processing_class=tokenizer, callbacks=[scalars, *callbacks])
        scalars.trainer = self
        model.touch_all = deepspeed_private.keeps_gradients(self)
        self.loss_is_scaled_for_ga = True  # divided by global counts below
        check_world(args.world_size)
        self.keep_checkpoints, args.save_total_limit = args.save_total_limit, None  # rotation is ours: only after the marker is written

    # --- data ------------------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        return build_loader(self.groups, self.encoder, self.plan, rank=args.process_index, world=args.world_size,
                            micro=args.per_device_train_batch_size, accumulation=args.gradient_accumulation_steps,
                            workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory and not args.use_cpu)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device) -> tuple[list[Batch], StepCounts]:
        """One optimizer step's micro-batches; all ranks agree on step and kind here, before any forward pass."""
        started = time.perf_counter()
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        self._add("data_wait_s", time.perf_counter() - started)
        self.consumed_state, self.step_kind = batches[-1]["plan"], batches[-1]["kind"]
        kinds = {KINDS.index(b["kind"]) for b in batches}
        order = int(self.consumed_state["plan"][:15], 16)  # 15 hex digits fit int64
        agree([order, self.consumed_state["step"], min(kinds), max(kinds)], ("data order", "step", "kind", "kind"), "the next training step", device)
        labels = sum(len(b["label_ids"]) for b in batches)
        frames = sum(int(b["mask_valid"].sum()) for b in batches if "mask_valid" in b)
        skips = sum(len(b["skips"]) for b in batches)
        tokens = sum(b["input_ids"].shape[1] for b in batches)
        dialogues = sum(len(b["segment_lengths"]) for b in batches)
        everyone = gather_ints([labels, frames, skips, tokens, dialogues], device)
        labels, frames, skips, tokens, dialogues = (sum(column) for column in zip(*everyone))
        self.record_skips([s for b in batches for s in b["skips"]], skips)
        self._add("tokens", tokens)
        self._add("samples", dialogues)
        return batches, StepCounts(labels=labels, mask_frames=max(frames, 1))

    def record_skips(self, mine: list, total: int) -> None:
        """List unusable samples in ``skipped.jsonl`` (each rank its own lines) and stop when there are too many over all ranks."""
        if mine:
            path = Path(self.args.output_dir) / SKIPPED_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                for skip in mine:
                    file.write(json.dumps({**vars(skip), "rank": self.args.process_index}) + "\n")
        self.skips += total
        if self.skips > self.max_skips:
            raise DataError(f"{self.skips} samples could not be used (max_skips={self.max_skips}); they are listed in "
                            f"{Path(self.args.output_dir) / SKIPPED_FILE}. Repair the shards, or raise max_skips if this is expected")

    # --- loss ------------------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch: StepCounts | None = None):
        out = model(**inputs)
        # Engines average gradients over ranks; the counts are global, so each rank's share is scaled up by the number of ranks.
        ranks = self.args.world_size
        losses = {"language": cross_entropy_sum(out.logits, inputs["label_ids"]) * (ranks / num_items_in_batch["labels"])}
        if out.masks is not None:
            sums = mask_loss_sums(out.masks, batch_targets(inputs), inputs["mask_valid"], self.mask_settings)
            scale = self.run.mask_loss_weight * ranks / num_items_in_batch["mask_frames"]
            losses |= {name: value * scale for name, value in sums.items()}
        for name, value in losses.items():
            self._add(f"loss_{name}", value.detach())
        if self.keep_last:
            self.last_batch = inputs, out
        loss = torch.stack(list(losses.values())).sum()
        if out.anchor is not None:
            loss = loss + out.anchor
            self._add("blank_passes", 1)
        return (loss, out) if return_outputs else loss

    def _add(self, name: str, value) -> None:
        self.meters[name] = self.meters.get(name, 0.0) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the scalars of ``unipixel.train.callbacks.scalars`` to each training record."""
        if self.consumed_state:
            self.state.epoch = self.plan.epoch_of(self.consumed_state)  # of the data; transformers counts steps
        if "loss" in logs:
            logs = logs | self.scalars.collect(self.state.global_step - self.logged_step)
            self.logged_step = self.state.global_step
        super().log(logs, start_time)

    def evaluate(self, *_, metric_key_prefix: str = "eval", **__) -> dict[str, float]:
        """The validation loss, logged; transformers' own loop knows neither packed rows nor our kinds."""
        metrics = {f"{metric_key_prefix}_loss": self.validation.loss(self)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # --- optimizer -------------------------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            kwargs = {"betas": (self.args.adam_beta1, self.args.adam_beta2), "eps": self.args.adam_epsilon}
            self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.args, self.run), **kwargs)
            if not self.is_deepspeed_enabled:
                self.optimizer.register_step_pre_hook(zero_missing_gradients)
        return self.optimizer

    # --- checkpoints -----------------------------------------------------------------------------------------------------------

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds, on the CPU, full size; under ZeRO-3 a collective that every rank must call (others get an empty dict)."""
        names = {n for n, p in self.model.named_parameters() if p.requires_grad}
        names |= {n for n, _ in self.model.named_parameters() if always_written(n) or module_name(n) in self.carried and not is_reference(n)}
        engine = self.deepspeed if self.is_deepspeed_enabled else None
        return {n: t.detach().cpu().clone() for n, t in deepspeed_private.full_state(engine, self.model, names).items()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        out, state = Path(output_dir or self.args.output_dir), self.trainable_state()
        if self.args.should_save:
            save_trained(self.model, state, out, self.checkpoint_extra)
            self.processing_class.save_pretrained(out)
        barrier()

    def save_best(self, output_dir: str) -> None:
        """The model of the checkpoint with the least validation loss, as its files; :class:`CheckpointError` when it is not there."""
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if (reason := checkpoints.problem(best)) is not None:
            raise CheckpointError(f"keep_best: {best} with the least validation loss cannot be used: {reason}")
        if self.args.should_save:
            print(f"best checkpoint: step {self.state.best_global_step}, validation loss {self.state.best_metric:.4f}")
            self.processing_class.save_pretrained(output_dir)
            copy_trained(best, Path(output_dir))
        barrier()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")
        return None

    def _save_checkpoint(self, model, trial) -> None:
        """Write, wait for all ranks, list the files in the marker, and only then delete older checkpoints."""
        out = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save and out.exists():
                shutil.rmtree(out)  # left half-written by a run that was killed at this very step
            barrier()
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                (out / PLAN_FILE).write_text(json.dumps({"state": self.consumed_state, "skips": self.skips, "order": self.plan.describe()}) + "\n")
            barrier()
            if self.args.should_save:
                checkpoints.mark_complete(out)
                checkpoints.rotate(out.parent, self.keep_checkpoints, self.state.best_global_step if self.run.keep_best else None)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not checkpoints.out_of_space(error, out.parent):
                raise
            free = shutil.disk_usage(out.parent).free
            raise CheckpointError(f"no space left while writing {out} ({free / 2**20:.0f} MiB free); the folder is incomplete and will not be "
                                  "used. Free space or lower save_total_limit, then start the same command again: it resumes from the "
                                  "checkpoint before") from error
        barrier()

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if resume_from_checkpoint:
            stored = json.loads((Path(resume_from_checkpoint) / PLAN_FILE).read_text())
            self.skips = stored["skips"]
            self.plan.load_state(stored["state"], stored["order"])
            self.logged_step = stored["state"]["step"]
            if self.logged_step >= self.args.max_steps:  # transformers would still take one step
                load_trained_values(self.model, resume_from_checkpoint)
                self.state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
                return None
        with deepspeed_private.partial_resume():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Plain DDP: trained weights only (with DeepSpeed the engine has loaded them already)."""
        if self.is_deepspeed_enabled:
            return
        load_trained_values(self.model, resume_from_checkpoint)


def zero_missing_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    """As all DeepSpeed engines do: a parameter that the step did not use follows its momentum, where torch alone would leave it out."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def parameter_groups(model: nn.Module, args: SFTArguments, run: RunSettings) -> list[dict]:
    """One group per learning rate and decay; ``name`` labels the TensorBoard curve. Norms and biases are never decayed."""
    rates = {"lora": run.lora_lr or args.learning_rate, "sam2_encoder": run.sam2_encoder_lr, "sam2_decoder": run.sam2_decoder_lr}
    decayed = set(get_parameter_names(model, [nn.LayerNorm, nn.RMSNorm], ["bias", "norm"]))
    groups: dict[tuple[str, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((part if part in rates else "base", name in decayed), []).append(parameter)
    return [{"params": parameters, "lr": rates.get(part, args.learning_rate), "weight_decay": args.weight_decay if decay else 0.0,
             "name": part + ("" if decay else "_no_decay")} for (part, decay), parameters in groups.items()]


