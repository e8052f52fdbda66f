"""``unipixel train sft|dpo --dry-run``: what a run would train, its memory per GPU and its batch, without weights, network or GPU.

The model is built from configuration on the meta device and goes through the same rules for LoRA, frozen parts, reference and learning
rates as a real run. Backbones are described by the ``config.json`` of a local folder, or by one of the files in ``launch/configs``
(``unipixel.model.meta``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tabulate import tabulate

from launch.activations import Clips, checkpoint_bytes, mask_activation_bytes
from launch.memory import Engine, model_bytes, state_bytes
from unipixel.config import parse
from unipixel.data.layout import MERGE, TEMPORAL
from unipixel.data.loader import Groups
from unipixel.data.media import FrameSettings
from unipixel.data.mixture import read_mixture, read_part
from unipixel.data.pair_groups import PairGroups
from unipixel.data.plan import OrderPlan
from unipixel.data.shards import ShardDataset
from unipixel.data.template import TemplateSettings
from unipixel.model.adapters import LoraSettings, TrainableReport, part_of
from unipixel.model.build import ModelSettings
from unipixel.model.grounded import GroundedVLM
from unipixel.model.meta import meta_model
from unipixel.model.reference import add_reference_adapter, check_reference
from unipixel.objectives.masks import MaskLossSettings
from unipixel.train import dpo, sft
from unipixel.train.preference_settings import PairDataSettings, PairRunSettings, PreferenceArguments
from unipixel.train.settings import DEEPSPEED_CONFIGS, DataSettings, RunSettings, SFTArguments, deepspeed_config
from unipixel.train.trainer import parameter_groups

TEXT_TOKENS = 200
"""Tokens of a dialogue, or of one side of a pair, beside its video: for the estimate of the backbone's activations."""
SIDES = 2
"""Of a pair. Both follow the same video in one row."""
GIB = 2**30


class _Open:
    """Data settings that may leave the shards open."""

    def __post_init__(self):
        if self.shards:
            super().__post_init__()


class _Data(_Open, DataSettings):
    pass


class _PairData(_Open, PairDataSettings):
    pass


class _Values:
    """Training arguments as values only: the real ones look for a GPU and start the process group."""

    gpus = 1

    def __post_init__(self):
        pass

    @property
    def world_size(self) -> int:
        return self.gpus


class _Arguments(_Values, SFTArguments):
    pass


class _PairArguments(_Values, PreferenceArguments):
    def __post_init__(self):
        self.check()


LENIENT = {DataSettings: _Data, PairDataSettings: _PairData, SFTArguments: _Arguments, PreferenceArguments: _PairArguments}


@dataclass(frozen=True)
class Run:
    """All settings of one run; those of preferences when ``pairs``."""

    model: ModelSettings
    lora: LoraSettings
    data: DataSettings
    frames: FrameSettings
    text: TemplateSettings
    run: RunSettings
    args: _Arguments | _PairArguments
    masks: MaskLossSettings = field(default_factory=MaskLossSettings)

    @property
    def pairs(self) -> bool:
        return isinstance(self.run, PairRunSettings)

    @property
    def with_masks(self) -> bool:
        """Whether SAM 2 runs."""
        return not self.pairs or self.run.mask_preference > 0


def read_settings(argv: Sequence[str], gpus: int, *, pairs: bool = False) -> Run:
    """The settings a real start of ``train sft``, or of ``train dpo`` for ``pairs``, with these arguments would use.

    Raises:
        ConfigError: what the real start would refuse, too.
    """
    kinds = (dpo if pairs else sft).SETTINGS
    parsed = dict(zip(kinds, parse([LENIENT.get(kind, kind) for kind in kinds], argv, prog=f"unipixel train {'dpo' if pairs else 'sft'}"),
                      strict=True))
    model, lora, frames, text = (parsed[kind] for kind in (ModelSettings, LoraSettings, FrameSettings, TemplateSettings))
    data, run, args = (parsed[kind] for kind in ((PairDataSettings, PairRunSettings, PreferenceArguments) if pairs else
                                                 (DataSettings, RunSettings, SFTArguments)))
    args.gpus = gpus
    if pairs:
        dpo.check_settings(lora, frames, text, run, args)
        return Run(model, lora, data, frames, text, run, args)
    return Run(model, lora, data, frames, text, run, args, parsed[MaskLossSettings])


def dry_run(argv: Sequence[str], *, gpus: int, pairs: bool = False) -> int:
    """Print the plan of a run with these arguments on ``gpus`` GPUs; returns the exit code.

    Raises:
        ConfigError: what the real start would refuse, too.
    """
    run = read_settings(argv, gpus, pairs=pairs)
    engine = deepspeed_config(run.args.deepspeed) if run.args.deepspeed else None
    model, report = meta_model(run.model, run.lora, run.run.train)
    print(f"{run.model.backbone} + {run.model.sam2_config} at {run.model.sam2_image_size} px: {report.total / 1e6:,.1f} M parameters\n")
    if pairs:
        print(f"Reference: {add_reference(model, run)}\n")
    print(trainable_table(model, report, run) + "\n")
    activations, explained = activation_bytes(model, run)
    print(memory_table(model, engine, activations, gpus) + "\n")
    print(explained)
    if run.data.shards:
        print(mixture_text(run))
    print(batch_text(run))
    return 0


def add_reference(model: GroundedVLM, run: Run) -> str:
    """Put into the model what the policy is compared with, as the run would, and say what that is.

    Raises:
        ConfigError: the reference would move with the policy.
    """
    if run.run.reference == "cached":
        return f"log-probabilities in {run.run.reference_cache}, computed before training if it does not exist"
    check_reference(model)
    if run.run.reference == "base":
        return "the model without its adapter, no memory of its own"
    before = model_bytes(model.parameters()).weights
    with torch.device("meta"):
        add_reference_adapter(model)
    return f"a frozen copy of the adapter, {(model_bytes(model.parameters()).weights - before) / GIB:.1f} GiB"


def trainable_table(model: GroundedVLM, report: TrainableReport, run: Run) -> str:
    """Per part: tensors, parameters, precision, learning rate."""
    rates = {id(p): group["lr"] for group in parameter_groups(model, run.args, run.run) for p in group["params"]}
    precisions: dict[str, set[str]] = {}
    learning_rates: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            precisions.setdefault(part_of(name), set()).add(str(parameter.dtype).removeprefix("torch."))
            learning_rates.setdefault(part_of(name), set()).add(rates[id(parameter)])
    rows = [(part, tensors, f"{count:,}", ", ".join(sorted(precisions[part])), ", ".join(f"{rate:g}" for rate in sorted(learning_rates[part])))
            for part, tensors, count in report.rows()]
    rows.append(("all of it", "", f"{report.trainable:,} of {report.total:,} ({report.trainable / report.total:.2%})", "", ""))
    table = tabulate(rows, ("trains", "tensors", "parameters", "precision", "learning rate"), disable_numparse=True,
                     colalign=("left", "right", "right", "left", "right"))
    return table + (f"\nLoRA in {len(report.lora_modules)} modules" if report.lora_modules else "")


def memory_table(model: GroundedVLM, chosen: Path | None, activations: float, gpus: int) -> str:
    """GiB per GPU for every shipped engine; the recipe's own is marked."""
    sizes = model_bytes(model.parameters())
    engines = {path.stem: path for path in sorted(DEEPSPEED_CONFIGS.glob("*.json"))} | ({chosen.stem: chosen} if chosen else {})
    rows = [] if chosen else [("* none (DDP)", state_bytes(sizes, Engine(0), gpus))]
    rows += [(("* " if path == chosen else "  ") + name, state_bytes(sizes, Engine.read(path), gpus)) for name, path in engines.items()]
    cells = [(name, *(f"{value / GIB:.1f}" for value in (s.weights, s.gradients, s.optimizer, activations, s.gpu + activations, s.host)))
             for name, s in rows]
    heads = ("engine", "weights", "gradients", "optimizer", "activations", "together", "in host memory")
    return f"GiB per GPU on {gpus} GPU{'s' if gpus > 1 else ''} (* this run)\n" + tabulate(
        cells, heads, disable_numparse=True, colalign=("left", *["right"] * 6), preserve_whitespace=True)


def activation_bytes(model: GroundedVLM, run: Run) -> tuple[float, str]:
    """(bytes kept for the backward pass of one micro-batch with masks, what they were counted for)."""
    videos, frames = run.args.per_device_train_batch_size, run.frames.num_frames
    clips = Clips(videos, frames, videos * (SIDES if run.pairs else run.data.max_objects or run.data.examples_per_medium))
    masks = 0
    if run.with_masks:
        masks = mask_activation_bytes(model.sam2, clips, hidden_tokens=run.model.sam2_hidden_tokens, prompting=run.model.sam2_prompting,
                                      losses=run.masks)
    text, vision = model.config.text_config, model.config.vision_config
    cells = -(-frames // TEMPORAL) if run.text.prompt == "plain" else frames + run.frames.key_frame
    visual = cells * run.frames.max_pixels // model.family.layout.token**2
    rows = videos * (visual + SIDES * TEXT_TOKENS if run.pairs else run.data.examples_per_medium * (visual + TEXT_TOKENS))
    vision_trains = any(p.requires_grad for name, p in model.named_parameters() if ".visual." in name)
    patches = videos * visual * MERGE**2 if vision_trains else 0
    backbone = (checkpoint_bytes(text.num_hidden_layers, rows, text.hidden_size) + checkpoint_bytes(vision.depth, patches, vision.hidden_size)
                if run.args.gradient_checkpointing else 0)
    objects = f" with {clips.objects} objects" if run.with_masks else ""
    allowed = "the most this recipe allows"
    if run.pairs:
        allowed = f"the largest pictures, {TEXT_TOKENS} tokens{' and one object' if run.with_masks else ''} per side"
    about = f"{backbone / GIB:.1f} of the checkpointed backbone" if backbone else "the backbone is not counted without gradient_checkpointing"
    sam2 = f"{masks / GIB:.1f} of SAM 2 and the mask losses, " if run.with_masks else "SAM 2 does not run; "
    return masks + backbone, (f"Activations: one micro-batch of {videos} x {frames} frames{objects} and {rows:,} tokens, {allowed}:\n{sam2}{about}. "
                              "Not counted: kernel workspace, communication buffers,\nthe layer at work, fragmentation.")


def mixture_text(run: Run) -> str:
    """The sets and how often each is seen per epoch, or the share that it makes."""
    parts = [read_part(entry) for entry in run.data.shards]
    return "Mixture: " + ", ".join(f"{part.folder} {part.share:.0%}" if part.share else f"{part.folder} x {part.repeat:g}" for part in parts)


def batch_text(run: Run) -> str:
    """Global batch and, when the shards are known, steps."""
    args, data = run.args, run.data
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    unit = "pairs" if run.pairs else "media"
    text = (f"Batch: {args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size} = {step} {unit} per step "
            f"(micro-batch x accumulation x GPUs)" + ("" if run.pairs else f", up to {data.examples_per_medium} examples each") + ".\n")
    if not data.shards:
        return text + "Steps: not known without --shards."
    parts, missing = read_mixture(data.shards, data.data_root, skip_missing=data.skip_missing)
    dataset = ShardDataset([part.folder for part in parts])
    text += f"Left out, missing: {', '.join(missing)}\n" if missing else ""
    if run.pairs:
        groups = PairGroups(dataset, masks=run.with_masks)
        dpo.check_modes(run.run, groups.modes)
        text += f"Failure modes: {', '.join(f'{mode} {count}' for mode, count in groups.modes.most_common())}\n"
    else:
        groups = Groups(dataset, data.examples_per_medium, data.mask_share)
    size = OrderPlan(groups.sources(parts), seed=args.seed).epoch_size
    also = f"{len(groups.left_out):,} left out" if run.pairs else f"{len(dataset):,} examples"
    seen = f"{size:,g} {'pairs' if run.pairs else 'groups'} per epoch ({also})"
    return text + (f"Steps: {sft.total_steps(args, size):,} for {seen}, "
                   f"{'max_steps' if args.max_steps > 0 else f'{args.num_train_epochs:g} epochs'}.")
