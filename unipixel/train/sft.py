"""Supervised fine-tuning, the entry point: ``torchrun -m unipixel.train.sft --config recipe.yaml`` (or ``deepspeed``, or ``unipixel train sft``).

Parse, build, train, close; everything else lives in the modules named here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

import torch
import yaml
from tabulate import tabulate
from transformers import set_seed

from unipixel import distributed
from unipixel.config import parse
from unipixel.data.encode import SampleEncoder
from unipixel.data.loader import Groups
from unipixel.data.media import FrameSettings
from unipixel.data.mixture import read_mixture
from unipixel.data.plan import OrderPlan
from unipixel.data.shards import ShardDataset
from unipixel.data.storage import Storage
from unipixel.data.template import TemplateSettings
from unipixel.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, ConfigError, UniPixelError
from unipixel.model import attention
from unipixel.model.adapters import LoraSettings, TrainableReport, set_trainable
from unipixel.model.build import ModelSettings, build_model, checkpoint_fields
from unipixel.model.checkpoint import always_written, load_trained_values, save_trained
from unipixel.objectives.masks import MaskLossSettings
from unipixel.train import checkpoints, elastic
from unipixel.train.callbacks import GradientCheck, MaskPanels, Preemption, Scalars
from unipixel.train.deepspeed_private import whole_weights
from unipixel.train.settings import DataSettings, RunSettings, SFTArguments
from unipixel.train.trainer import GroundedTrainer
from unipixel.train.validation import Evaluate, Validation, check_held_out, film_divisions

log = logging.getLogger(__name__)
SETTINGS = (ModelSettings, LoraSettings, DataSettings, FrameSettings, TemplateSettings, MaskLossSettings, RunSettings, SFTArguments)


def print_trainable(report: TrainableReport) -> None:
    """Which part trains with how many parameters, and which modules the LoRA rule matched."""
    rows = [(part, tensors, f"{parameters:,}") for part, tensors, parameters in report.rows()]
    rows.append(("all of it", "", f"{report.trainable:,} of {report.total:,} ({report.trainable / report.total:.2%})"))
    print(tabulate(rows, headers=("trains", "tensors", "parameters"), colalign=("left", "right", "right")))
    if report.lora_modules:
        print(f"LoRA in {len(report.lora_modules)} modules: {', '.join(report.lora_modules[:3])}, … {report.lora_modules[-1]}")


def print_divisions(hashes: list[str]) -> None:
    """Which division of films trains, the same hash that evaluations of it print."""
    if hashes:
        print(f"films: split hash {', '.join(hashes)}")


def total_steps(args: SFTArguments, groups: float) -> int:
    """``max_steps``, or what the epochs come to with this batch."""
    if args.max_steps > 0:
        return args.max_steps
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return max(1, -(-int(args.num_train_epochs * groups) // per_step))


def find_resume(run: RunSettings, out: Path) -> Path | None:
    """The checkpoint to resume from, by the three modes of ``resume``."""
    if run.resume == "never":
        return None
    if run.resume != "auto":
        return checkpoints.require_complete(Path(run.resume))
    found, passed = checkpoints.newest_complete(out)
    for line in passed:
        log.warning("not resuming from %s", line)
    return found


def build_validation(data: DataSettings, run: RunSettings, args: SFTArguments, train: ShardDataset, encoder: SampleEncoder) -> Validation | None:
    """Validation as the settings ask for it; it decides which checkpoint is the best one.

    Raises:
        ConfigError: ``keep_best`` without anything to tell it by, or media that must not decide.
    """
    if not data.eval_shards:
        if run.keep_best:
            raise ConfigError("keep_best=true chooses by the validation loss: set eval_shards to media that do not train, or keep_best: false")
        return None
    parts, _ = read_mixture(data.eval_shards, data.data_root)
    held_out = ShardDataset([part.folder for part in parts], train.storage)
    check_held_out(train, held_out)
    args.metric_for_best_model, args.greater_is_better = "eval_loss", False
    return Validation(Groups(held_out, data.examples_per_medium), encoder)


def save_untrained(model_settings, lora, data, frames, text, masks, run, args) -> None:
    """Write to ``output_dir`` the model that training with these settings starts from: a baseline that can predict."""
    set_seed(args.seed)
    model, tokenizer = build_model(model_settings)
    set_trainable(model, lora, run.train)
    state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad or always_written(name)}
    save_trained(model, state, Path(args.output_dir), checkpoint_fields(model_settings, tokenizer) | inference_fields(frames, text))
    tokenizer.save_pretrained(args.output_dir)


def run_sft(model_settings, lora, data, frames, text, masks, run, args) -> int:
    """Train; returns the exit code."""
    if model_settings.dtype == torch.bfloat16 and not (args.bf16 or "torch_autocast" in (args.deepspeed or {})):
        raise ConfigError(f"model_dtype={model_settings.model_dtype!r} keeps the frozen backbone in bfloat16, which trains only under autocast: set "
                          "bf16: true, or model_dtype: float32")
    set_seed(args.seed)  # before LoRA draws its weights
    out = Path(args.output_dir)
    resume = find_resume(run, out)
    main_process = args.process_index == 0

    converted = resume is not None and elastic.prepare_resume(resume, args)

    with whole_weights():
        model, tokenizer = build_model(model_settings)
        report = set_trainable(model, lora, run.train)
        carried = set().union(*(load_trained_values(model, source.strip()) for source in filter(None, run.init_from.split(","))))
    parts, missing = read_mixture(data.shards, data.data_root, skip_missing=data.skip_missing)
    dataset = ShardDataset([part.folder for part in parts], Storage(data.cache_dir, int(data.cache_gib * 2**30)))
    groups = Groups(dataset, data.examples_per_medium, data.mask_share)
    encoder = SampleEncoder(tokenizer, frames, text, sam_size=model_settings.sam2_image_size, max_tokens=data.max_tokens,
                            max_turns=data.max_turns, max_objects=data.max_objects, seed=args.seed, layout=model.family.layout)
    plan = OrderPlan(groups.sources(parts), seed=args.seed)
    args.max_steps = total_steps(args, plan.epoch_size)

    divisions = film_divisions(dataset)
    validation = build_validation(data, run, args, dataset, encoder)
    gradients, preemption, scalars = GradientCheck(), Preemption(), Scalars()
    callbacks = [*([Evaluate()] if validation else []), gradients, preemption]  # before Preemption: what that saves is not evaluated
    panels = MaskPanels(run.panel_steps) if run.panel_steps and "tensorboard" in args.report_to else None
    trainer = GroundedTrainer(model, args, run=run, groups=groups, encoder=encoder, plan=plan, tokenizer=tokenizer, mask_settings=masks,
                              checkpoint_extra=checkpoint_fields(model_settings, tokenizer) | inference_fields(frames, text),
                              max_skips=data.max_skips, carried=carried, scalars=scalars, validation=validation,
                              callbacks=callbacks + ([panels] if panels else []))
    gradients.trainer = trainer
    if panels:
        panels.trainer = trainer
    if main_process:
        print_trainable(report)
        if missing:
            print(f"data: {len(missing)} folders are missing and left out (skip_missing): {', '.join(missing)}")
        print(f"data: {len(dataset)} examples in {len(groups)} groups, {plan.epoch_size:g} groups per epoch, {args.max_steps} steps of "
              f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size} (media x accumulation x processes)")
        print_divisions(divisions)
        if validation:
            print(f"validation: {len(validation.groups)} groups of {', '.join(data.eval_shards)} at each checkpoint"
                  f"{'; the best one is the result' if run.keep_best else ''}")
        print(f"attention: {attention.kernel(model_settings.attn_implementation)}")
        print(f"{'resuming from ' + str(resume) if resume else 'starting from the base model'}"
              f"{', converted for another number of processes' if converted else ''}")
        write_settings(out, model_settings, lora, data, frames, text, masks, run, args)
        if run.resume != "auto" and (aside := checkpoints.set_aside(out, resume)):
            print(f"later checkpoints of an earlier run moved to {aside}")

    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if preemption.stopped:
        return EXIT_PREEMPTED
    if run.keep_best:
        trainer.save_best(str(out))
    else:
        trainer.save_model(str(out))
    return 0


def inference_fields(frames: FrameSettings, text: TemplateSettings) -> dict:
    """What prediction must repeat from training, stored in ``config.json``: frame budget and prompt form."""
    return {"unipixel": {"frames": dataclasses.asdict(frames), "template": dataclasses.asdict(text)}}


def write_settings(out: Path, *settings) -> None:
    """The resolved settings as one recipe beside the run."""
    out.mkdir(parents=True, exist_ok=True)
    merged = {field.name: getattr(part, field.name) for part in settings for field in dataclasses.fields(part) if field.init}
    (out / "settings.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(merged, default=str)), sort_keys=True))


def main(argv: list[str] | None = None) -> int:
    argv = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith(("--local_rank", "--local-rank"))]
    try:
        distributed.prepare()
        return run_sft(*parse(SETTINGS, argv, prog="unipixel train sft"))
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
