"""Settings of preference training: TRL's for the loss, ours for data and reference, and refusals of what would have no effect."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from trl import DPOConfig

from unipixel.config import setting
from unipixel.errors import ConfigError, nearest
from unipixel.sample import FAILURE_MODES
from unipixel.train.settings import DataSettings, RunSettings, SFTArguments

REFERENCES = ("adapter", "base", "cached")
LOSSES = ("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
          "discopop", "sft", "sigmoid_norm")
SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
SORTED = ("aot", "aot_unpaired")
"""They compare the sorted pairs of a micro-batch, so pairs cannot be weighted."""
WITHOUT_EFFECT = {
    "max_length": "set max_tokens: longer pairs are skipped and counted, never cut",
    "truncation_mode": "nothing is cut; see max_tokens",
    "padding_free": "pairs are packed into one row without padding anyway",
    "pad_to_multiple_of": "pairs are packed into one row without padding",
    "precompute_ref_log_probs": "set reference: cached",
    "precompute_ref_batch_size": "set reference: cached",
    "dataset_num_proc": "set dataloader_num_workers",
    "model_init_kwargs": "the model is described by backbone, model_dtype and attn_implementation",
    "trust_remote_code": "no code is ever downloaded",
    "router_aux_loss_coef": "the backbones have no experts",
    "activation_offloading": "set gradient_checkpointing, or a smaller num_frames",
    "sync_ref_model": "the reference is frozen",
    "ref_model_mixup_alpha": "the reference is frozen",
    "ref_model_sync_steps": "the reference is frozen",
    "pad_token": "pairs are packed into one row without padding",
    "use_liger_kernel": "log-probabilities are made of the supervised rows only, which its fused head does not know",
}
"""Settings of TRL that this trainer does not use, and what to set instead."""
MASK_PARTS = ("seg", "sam2_encoder", "sam2_decoder")


def _fixed(value):
    return field(init=False, default=value)


@dataclass(kw_only=True)
class PairDataSettings(DataSettings):
    """Which pairs train: every pair of every example of the shards, once per epoch."""

    examples_per_medium: int = _fixed(1)
    max_turns: int = _fixed(1)
    mask_share: float = _fixed(0.0)
    max_objects: int = _fixed(0)
    eval_shards: list[str] = field(init=False, default_factory=list)


@dataclass(kw_only=True)
class PairRunSettings(RunSettings):
    """How this run starts, and what it is compared with."""

    train: list[str] = setting([], "parts trained in full beside LoRA (llm, visual, embedding, projector; with mask_preference also seg, "
                                    "sam2_encoder, sam2_decoder); they "
                                    "need reference: cached")
    init_from: str = setting("", "trained model that policy and reference start from: the folder of an `unipixel train sft` run with the same LoRA "
                                "settings; empty: the base model")
    reference: str = setting("adapter", "adapter: a frozen copy of the adapter at the start; base: the model without adapter; cached: "
                                        "log-probabilities in reference_cache")
    reference_cache: str = setting("", "with reference: cached, the file of log-probabilities; made before training when it does not exist")
    mode_weights: list[str] = setting([], "MODE=WEIGHT of each failure mode, e.g. spatial=1 temporal=1 cross_frame=1: the loss is the weighted mean "
                                          "of the modes' own means; empty: the mean of all pairs")
    global_batch: int = setting(0, "pairs per optimizer step that this recipe means; any other product of devices, micro-batch and accumulation is "
                                   "refused. 0: whatever it comes to")
    mask_preference: float = setting(0.0, "weight of the preference between the masks of the objects that both sides cite; 0: SAM 2 does not run")
    mask_beta: float = setting(1.0, "beta of that preference, per nat and pixel where the two masks differ")
    mask_sft: float = setting(0.0, "weight of the supervised mask losses on the chosen side's masks, beside their preference")
    mask_loss_weight: float = _fixed(0.0)
    panel_steps: int = _fixed(0)
    keep_best: bool = _fixed(False)

    def __post_init__(self):
        if self.reference not in REFERENCES:
            raise ConfigError(f"reference={self.reference!r} must be one of {REFERENCES}{nearest(self.reference, REFERENCES)}")
        if (self.reference == "cached") != bool(self.reference_cache):
            raise ConfigError(f"reference={self.reference!r} with reference_cache={self.reference_cache!r}: cached needs a file, the others use none")
        if unused := [part for part in self.train if part in MASK_PARTS and not self.mask_preference]:
            raise ConfigError(f"train={','.join(unused)}: SAM 2 and its head take no part in preferences over words; remove them, or set "
                              "mask_preference")
        for name in ("mask_preference", "mask_sft"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be a number, at least 0")
        if not 0 < self.mask_beta < math.inf:
            raise ConfigError(f"mask_beta={self.mask_beta} must be a positive number")
        if self.mask_sft and not self.mask_preference:
            raise ConfigError(f"mask_sft={self.mask_sft} has no effect without mask_preference: SAM 2 does not run")
        self.weights = mode_weights(self.mode_weights)


@dataclass(kw_only=True)
class PreferenceArguments(SFTArguments, DPOConfig):
    """``trl.DPOConfig`` with the starting behaviour of ``SFTArguments``; settings that would have no effect are refused."""

    learning_rate: float = setting(5e-7, "learning rate of everything that has none of its own")
    max_length: int | None = setting(None, "not used, see max_tokens")
    output_dir: str | None = setting("work_dirs/dpo", "where checkpoints, logs and the trained model go")

    def __post_init__(self):
        self.check()
        super().__post_init__()

    def check(self) -> None:
        """
        Raises:
            ConfigError: settings that have no effect here, or that contradict each other.
        """
        for name, instead in WITHOUT_EFFECT.items():
            default = next(f for f in dataclasses.fields(self) if f.name == name).default
            if getattr(self, name) != default:
                raise ConfigError(f"{name}={getattr(self, name)!r} has no effect here: {instead}")
        check_losses(self)


def check_losses(args: DPOConfig) -> None:
    """
    Raises:
        ConfigError: an unknown loss, or settings that these losses would ignore.
    """
    losses = [args.loss_type] if isinstance(args.loss_type, str) else args.loss_type
    for loss in losses:
        if loss not in LOSSES:
            raise ConfigError(f"loss_type={loss!r} must be one of {', '.join(LOSSES)}{nearest(loss, LOSSES)}")
    if args.loss_weights is not None and len(args.loss_weights) != len(losses):
        raise ConfigError(f"loss_weights={args.loss_weights} for loss_type={losses}: one weight per loss")
    if not (args.beta > 0 and math.isfinite(args.beta)):
        raise ConfigError(f"beta={args.beta} must be a positive number")
    if args.ld_alpha is not None and not 0 <= args.ld_alpha <= 1:
        raise ConfigError(f"ld_alpha={args.ld_alpha} must be between 0 and 1")
    if not 0 <= args.label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing={args.label_smoothing} must be at least 0 and below 0.5")
    if args.label_smoothing and (ignoring := [loss for loss in losses if loss not in SMOOTHED]):
        raise ConfigError(f"label_smoothing={args.label_smoothing} has no effect on loss_type={','.join(ignoring)}; of all losses, "
                          f"{', '.join(SMOOTHED)} have it")
    if "exo_pair" in losses and not args.label_smoothing:
        raise ConfigError("loss_type=exo_pair needs label_smoothing above 0; its paper recommends 1.0e-3")
    plain = not args.use_weighting and args.f_divergence_type == "reverse_kl"
    if not plain and (set(losses) & set(SORTED) or (args.label_smoothing and "sigmoid" in losses)):
        raise ConfigError(f"use_weighting={args.use_weighting} and f_divergence_type={args.f_divergence_type!r} do not go with loss_type="
                          f"{','.join(losses)} and label_smoothing={args.label_smoothing}")
    if set(losses) & set(SORTED) and args.per_device_train_batch_size < 2:
        raise ConfigError(f"loss_type={','.join(losses)} sorts the pairs of a micro-batch: per_device_train_batch_size="
                          f"{args.per_device_train_batch_size} leaves nothing to sort")


def mode_weights(entries: list[str]) -> dict[str, float]:
    """
    Raises:
        ConfigError: an entry that is not MODE=WEIGHT with a known mode and a positive weight, or a mode given twice.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        mode, _, value = entry.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if mode not in FAILURE_MODES or mode in weights or not 0 < weight < math.inf:
            raise ConfigError(f"mode_weights entry {entry!r}: write MODE=WEIGHT once per mode, with a positive weight and a mode of {FAILURE_MODES}"
                              f"{nearest(mode, FAILURE_MODES)}")
        weights[mode] = weight
    return weights
