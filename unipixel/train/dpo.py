"""Preference training, the entry point: ``torchrun -m unipixel.train.dpo --config recipe.yaml`` (or ``deepspeed``, or ``unipixel train dpo``).

Parse, build, train, close, as ``unipixel.train.sft``; what is different is the data (pairs), the loss (TRL's) and the reference.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from transformers import set_seed

from unipixel import distributed
from unipixel.config import parse
from unipixel.data.media import FrameSettings
from unipixel.data.mixture import read_mixture
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PairEncoder, PairSettings
from unipixel.data.plan import OrderPlan
from unipixel.data.shards import ShardDataset
from unipixel.data.storage import Storage
from unipixel.data.template import TemplateSettings
from unipixel.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, CheckpointError, ConfigError, UniPixelError
from unipixel.model.adapters import LoraSettings, set_trainable
from unipixel.model.build import ModelSettings, build_model, checkpoint_fields
from unipixel.model.checkpoint import ADAPTER_CONFIG, load_trained_values, read_config
from unipixel.model.reference import add_reference_adapter, check_reference, weights_digest
from unipixel.train import checkpoints, elastic, reference_cache
from unipixel.train.callbacks import GradientCheck, Preemption, Scalars
from unipixel.train.deepspeed_private import whole_weights
from unipixel.train.preference_settings import SORTED, PairDataSettings, PairRunSettings, PreferenceArguments
from unipixel.train.preference_trainer import PreferenceTrainer
from unipixel.train.sft import find_resume, inference_fields, print_divisions, print_trainable, total_steps, write_settings
from unipixel.train.validation import film_divisions

SETTINGS = (ModelSettings, LoraSettings, PairDataSettings, FrameSettings, TemplateSettings, PairSettings, PairRunSettings, PreferenceArguments)
FIELD = "preference"
"""In ``config.json`` of checkpoints: what the policy was compared with."""


def check_settings(lora: LoraSettings, frames: FrameSettings, text: TemplateSettings, run: PairRunSettings, args: PreferenceArguments) -> None:
    """What no single part of the settings can know.

    Raises:
        ConfigError: settings that contradict each other, or the batch is not the one that the recipe means.
    """
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if run.global_batch and batch != run.global_batch:
        raise ConfigError(f"global_batch={run.global_batch}, but per_device_train_batch_size={args.per_device_train_batch_size} x "
                          f"gradient_accumulation_steps={args.gradient_accumulation_steps} x {args.world_size} processes = {batch}: set "
                          f"gradient_accumulation_steps: {run.global_batch / (args.per_device_train_batch_size * args.world_size):g}")
    weighted = bool(run.mode_weights) or (args.label_smoothing and "sigmoid" in args.loss_type)
    if weighted and set(args.loss_type) & set(SORTED):
        raise ConfigError(f"loss_type={','.join(args.loss_type)} sorts pairs, which neither mode_weights nor sigmoid with label_smoothing can weight")
    if run.reference == "cached" and (frames.frame_sampling != "uniform" or text.paraphrase):
        raise ConfigError(f"reference: cached needs the same input at every visit: frame_sampling={frames.frame_sampling!r} must be uniform and "
                          f"paraphrase={text.paraphrase} must be false")
    for source in filter(None, run.init_from.split(",")):
        check_start(Path(source.strip()), lora, run)


def check_modes(run: PairRunSettings, modes: Counter) -> None:
    """
    Raises:
        ConfigError: ``mode_weights`` leaves out a failure mode of the data, or names one that the data does not have.
    """
    if run.weights and run.weights.keys() != modes.keys():
        raise ConfigError(f"mode_weights={run.mode_weights}, but the pairs are of the failure modes {dict(modes)}: give a weight to each of them and "
                          "to no other")


def check_start(source: Path, lora: LoraSettings, run: PairRunSettings) -> None:
    """
    Raises:
        ConfigError: the adapter of the model to start from is scaled differently here, or would not be part of the reference.
    """
    if not (source / ADAPTER_CONFIG).is_file():
        return
    if run.reference == "base":
        raise ConfigError(f"reference: base is the model without adapter, but init_from={str(source)!r} brings one, which would be lost in the "
                          "reference: set reference: adapter")
    stored = json.loads((source / ADAPTER_CONFIG).read_text())
    variant = "dora" if stored.get("use_dora") else "rslora" if stored.get("use_rslora") else "plain"
    for name, trained in (("lora_r", stored["r"]), ("lora_alpha", stored["lora_alpha"]), ("lora_variant", variant)):
        if trained != getattr(lora, name):
            raise ConfigError(f"{name}={getattr(lora, name)}, but the adapter in init_from={str(source)!r} was trained with {trained}: set "
                              f"{name}: {trained}")


def autocasts(args: PreferenceArguments) -> bool:
    return bool(args.bf16 or "torch_autocast" in (args.deepspeed or {}))


def prepare_reference(model, run: PairRunSettings, args: PreferenceArguments, encoder: PairEncoder, groups: PairGroups, depends_on: dict):
    """(identity of the reference, cache or ``None``). A collective when the cache has to be made."""
    digest = weights_digest(model, adapters=run.reference != "base")
    stored = {"reference": run.reference, "weights": digest}
    if run.reference != "cached":
        check_reference(model)
        if run.reference == "adapter":
            add_reference_adapter(model)
        model.pair_reference = run.reference
        return stored, None
    path = Path(run.reference_cache)
    identity = reference_cache.identity(weights=digest, data=groups.dataset.fingerprint, precision="bfloat16" if autocasts(args) else "float32",
                                        **depends_on)
    complete = path.is_file()
    distributed.barrier()  # or a rank might see the file that a faster one has just made
    if not complete:
        parts = [path.with_name(f"{path.name}.part{rank}") for rank in range(args.world_size)]
        path.parent.mkdir(parents=True, exist_ok=True)
        found = reference_cache.make_cache(model, encoder, groups, args.device, rank=args.process_index, world=args.world_size,
                                           autocast=autocasts(args))
        reference_cache.write_part(parts[args.process_index], found)
        distributed.barrier()
        if args.process_index == 0:
            reference_cache.write_cache(path, parts, identity)
        distributed.barrier()
    return stored, reference_cache.ReferenceCache(path, identity)


def check_resume(resume: Path, reference: dict) -> None:
    """
    Raises:
        CheckpointError: the run was started against another reference.
    """
    stored = read_config(resume).get(FIELD)
    if stored != reference:
        raise CheckpointError(f"{resume} was trained against the reference {stored}, this run has {reference}: restore init_from, the base "
                              "model, the seed and reference, or start a new run with resume: never")


def run_dpo(model_settings, lora, data, frames, text, pairs, run, args) -> int:
    """Train; returns the exit code."""
    if model_settings.dtype == torch.bfloat16 and not autocasts(args):
        raise ConfigError(f"model_dtype={model_settings.model_dtype!r} keeps the frozen backbone in bfloat16, which trains only under autocast: set "
                          "bf16: true, or model_dtype: float32")
    check_settings(lora, frames, text, run, args)
    set_seed(args.seed)  # before LoRA draws its weights
    out = Path(args.output_dir)
    resume = find_resume(run, out)
    converted = resume is not None and elastic.prepare_resume(resume, args)
    with whole_weights():
        model, tokenizer = build_model(model_settings)
        report = set_trainable(model, lora, run.train)
        carried = set().union(*(load_trained_values(model, source.strip()) for source in filter(None, run.init_from.split(","))))
    parts, missing = read_mixture(data.shards, data.data_root, skip_missing=data.skip_missing)
    dataset = ShardDataset([part.folder for part in parts], Storage(data.cache_dir, int(data.cache_gib * 2**30)))
    divisions = film_divisions(dataset)
    groups = PairGroups(dataset, masks=run.mask_preference > 0)
    check_modes(run, groups.modes)
    encoder = PairEncoder(tokenizer, frames, text, sam_size=model_settings.sam2_image_size, max_tokens=data.max_tokens, seed=args.seed,
                          layout=model.family.layout, pairs=pairs)
    plan = OrderPlan(groups.sources(parts), seed=args.seed)
    args.max_steps = total_steps(args, plan.epoch_size)
    depends_on = {part: dataclasses.asdict(value) for part, value in (("template", text), ("frames", frames), ("pairs", pairs))}
    depends_on["masks"] = {"sam2_image_size": model_settings.sam2_image_size, "prompting": model_settings.sam2_prompting} if groups.masks else None
    reference, cache = prepare_reference(model, run, args, encoder, groups, depends_on)
    if resume:
        check_resume(resume, reference)
    set_seed(args.seed)  # the same draws whatever the reference took

    gradients, preemption = GradientCheck(), Preemption()
    trainer = PreferenceTrainer(
        model, args, run=run, cache=cache, groups=groups, encoder=encoder, plan=plan, tokenizer=tokenizer, max_skips=data.max_skips, carried=carried,
        scalars=Scalars(), callbacks=[gradients, preemption],
        checkpoint_extra=checkpoint_fields(model_settings, tokenizer) | inference_fields(frames, text) | {FIELD: reference})
    gradients.trainer = trainer
    if args.process_index == 0:
        print_trainable(report)
        print_divisions(divisions)
        print_plan(run, args, groups, plan, reference, missing)
        print(f"{'resuming from ' + str(resume) if resume else 'starting from ' + (run.init_from or 'the base model')}"
              f"{', converted for another number of processes' if converted else ''}")
        write_settings(out, model_settings, lora, data, frames, text, pairs, run, args)
        if resume is None:
            trainer.record_skips(groups.left_out, 0)
        if run.resume != "auto" and (aside := checkpoints.set_aside(out, resume)):
            print(f"later checkpoints of an earlier run moved to {aside}")

    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if preemption.stopped:
        return EXIT_PREEMPTED
    trainer.save_model(str(out))
    return 0


def print_plan(run: PairRunSettings, args: PreferenceArguments, groups: PairGroups, plan: OrderPlan, reference: dict, missing: list[str]) -> None:
    """What trains on what, against what."""
    if missing:
        print(f"data: {len(missing)} folders are missing and left out (skip_missing): {', '.join(missing)}")
    for reason, count in Counter(skip.reason for skip in groups.left_out).items():
        print(f"data: {count} pairs are left out ({reason}); they are listed in skipped.jsonl")
    micro, accumulation, world = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    print(f"data: {len(groups)} pairs, {plan.epoch_size:g} per epoch, {args.max_steps} steps of {micro * accumulation * world} pairs = {micro} x "
          f"{accumulation} x {world} (micro-batch x accumulation x processes)")
    if run.mask_preference:
        shares = [f"{int((groups.kind_of == code).sum())} {kind}" for code, kind in enumerate(groups.kinds)]
        print(f"masks: weight {run.mask_preference:g}, beta {run.mask_beta:g}, supervised {run.mask_sft:g}; {', '.join(shares)}")
    print(f"failure modes: {', '.join(f'{mode} {count}' for mode, count in groups.modes.most_common())}")
    print(f"loss: {' + '.join(args.loss_type)}, beta {args.beta:g}, learning rate {args.learning_rate:g}, {args.lr_scheduler_type.value}, warm-up "
          f"{args.warmup_steps:g}{', ' + ' '.join(run.mode_weights) if run.mode_weights else ''}")
    print(f"reference: {reference['reference']}, weights {reference['weights'][:16]}"
          f"{', log-probabilities in ' + run.reference_cache if run.reference_cache else ''}")


def main(argv: list[str] | None = None) -> int:
    argv = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith(("--local_rank", "--local-rank"))]
    try:
        distributed.prepare()
        return run_dpo(*parse(SETTINGS, argv, prog="unipixel train dpo"))
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
