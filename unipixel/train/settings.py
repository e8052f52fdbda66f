"""Settings of supervised fine-tuning: what is ours on top of ``transformers.TrainingArguments``, with defaults for this model."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from unipixel.config import setting
from unipixel.errors import ConfigError, nearest

DEEPSPEED_CONFIGS = Path(__file__).parents[2] / "deepspeed_configs"


@dataclass(kw_only=True)
class DataSettings:
    """Which samples train."""

    shards: list[str] = setting([], "folders or URLs written by `unipixel pack`; FOLDER=3 is seen three times per epoch, FOLDER=10% makes a tenth of "
                                    "all samples")
    eval_shards: list[str] = setting([], "folders of media that do not train, for the validation loss (of words) at each checkpoint")
    data_root: str = setting("", "folder or URL that relative entries of shards are taken from")
    skip_missing: bool = setting(False, "train without the folders that do not exist, in the same proportions, instead of stopping")
    cache_dir: str = setting("", "folder on this machine that keeps copies of remote shards; empty: read ranges over the network")
    cache_gib: float = setting(0.0, "size of cache_dir beyond which the least recently used shards are removed; 0: no limit")
    examples_per_medium: int = setting(3, "examples of one medium trained together; they share its encoded frames")
    max_turns: int = setting(3, "examples of one medium that become the turns of one dialogue; the others get dialogues of their own")
    mask_share: float = setting(1.0, "share of the groups with masks whose masks are supervised; the others train language only")
    max_objects: int = setting(5, "most masks supervised per medium and step, drawn per epoch; 0: all")
    max_tokens: int = setting(40_960, "longer dialogues are skipped and counted, never cut")
    max_skips: int = setting(100, "unusable samples after which the run stops with the list; each is replaced and listed in skipped.jsonl")

    def __post_init__(self):
        if not self.shards:
            raise ConfigError("shards is empty: name at least one folder written by `unipixel pack`")
        if self.examples_per_medium < 1 or self.max_turns < 1:
            raise ConfigError(f"examples_per_medium={self.examples_per_medium} and max_turns={self.max_turns} must be at least 1")
        if not 0 <= self.mask_share <= 1:
            raise ConfigError(f"mask_share={self.mask_share} must be between 0 and 1")


@dataclass(kw_only=True)
class RunSettings:
    """How this run starts and what it writes beside checkpoints."""

    train: list[str] = setting(["embedding", "seg", "sam2_encoder", "sam2_decoder"], "parts trained in full beside LoRA: llm, visual, embedding, "
                               "projector, ref, ref_encoder, mem, seg, sam2_encoder, sam2_decoder")
    resume: str = setting("auto", "auto: from the newest complete checkpoint when there is one; never: from scratch; or a checkpoint folder")
    init_from: str = setting("", "trained models whose weights this run starts from (a new run, not a resume): folders or partial files, "
                                "comma-separated; later ones win")
    lora_lr: float = setting(0.0, "learning rate of LoRA; 0: learning_rate")
    sam2_encoder_lr: float = setting(5e-6, "learning rate of SAM 2's image encoder")
    sam2_decoder_lr: float = setting(5e-6, "learning rate of the rest of SAM 2")
    keep_best: bool = setting(False, "the trained model is the checkpoint with the least validation loss, instead of the last one; needs eval_shards")
    mask_loss_weight: float = setting(1.0, "weight of all mask losses against the language loss")
    panel_steps: int = setting(200, "write predicted against true masks, with J and F, to TensorBoard every N steps; 0: never")


@dataclass(kw_only=True)
class SFTArguments(TrainingArguments):
    """``TrainingArguments`` with the defaults of this model family; ``deepspeed`` also takes a name from ``deepspeed_configs/``."""

    learning_rate: float = setting(2e-5, "learning rate of everything that has none of its own")
    lr_scheduler_type: str = setting("cosine", "schedule of all learning rates")
    warmup_steps: float = setting(0.03, "warm-up: steps, or a share of all steps when below 1")
    weight_decay: float = setting(0.0, "weight decay (never on biases and norms)")
    per_device_train_batch_size: int = setting(1, "media per process and micro-batch, packed into one row")
    num_train_epochs: float = setting(1.0, "epochs over all groups of examples; max_steps overrides it")
    gradient_checkpointing: bool = setting(True, "recompute activations of the backbone (non-reentrant)")
    bf16: bool | None = setting(None, "autocast to bfloat16; unset: on a GPU")
    logging_steps: float = setting(10, "log every N steps")
    save_steps: float = setting(500, "checkpoint every N steps")
    report_to: str | None = setting("tensorboard", "tensorboard or none")
    remove_unused_columns: bool = False
    output_dir: str | None = setting("work_dirs/sft", "where checkpoints, logs and the trained model go")

    def __post_init__(self):
        on_gpu = torch.cuda.is_available()
        # Without use_cpu, accelerate ignores the process group on a machine without a GPU: every process believes to be rank 0.
        self.use_cpu = not on_gpu
        if self.bf16 is None:
            self.bf16 = on_gpu
        if isinstance(self.deepspeed, str) and self.deepspeed:
            self.deepspeed = engine_config(deepspeed_config(self.deepspeed), bf16=self.bf16)
            self.bf16 = False  # autocast is the engine's from here on
        self.gradient_checkpointing_kwargs = {"use_reentrant": False}
        self.ignore_data_skip = True  # the order plan knows where it was
        self.label_names = []
        super().__post_init__()


def deepspeed_config(name: str) -> Path:
    """A path, or the name of a file in ``deepspeed_configs/`` (``zero2`` -> ``zero2.json``).

    Raises:
        ConfigError: neither; names the nearest.
    """
    for candidate in (Path(name), DEEPSPEED_CONFIGS / f"{name}.json"):
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in DEEPSPEED_CONFIGS.glob("*.json"))
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.3)
    raise ConfigError(f"deepspeed={name!r} is neither a file nor one of {known}{nearest(name, close)}")


def engine_config(path: Path, *, bf16: bool) -> dict:
    """DeepSpeed settings for this model: half precision by autocast, so that SAM 2 and all trained weights stay float32.

    Raises:
        ConfigError: the file is damaged, brings its own optimizer, or switches the engine itself to bf16 or fp16. That would cast
            SAM 2, which fails in pure bf16; and in stage 0 DeepSpeed then takes one Adam step on zero gradients first, which puts every
            later step off by one.
    """
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a mapping of DeepSpeed settings but a {type(config).__name__}")
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise ConfigError(f"{path}: remove the {section} section; it would replace the recipe's, with its learning rate per part")
    for half in ("bf16", "fp16"):
        if config.get(half, {}).get("enabled") not in (None, False):
            raise ConfigError(f"{path}: {half}.enabled={config[half]['enabled']!r} casts the whole model, SAM 2 included (and makes stage 0 start "
                              f"Adam one step late); remove the {half} section and set bf16: true in the recipe, which uses autocast")
    if bf16:
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config
