"""What trains: LoRA targets by rule, frozen and trained parts by name, and the table that proves it.

Parts have fixed names (:data:`PARTS`); a rule that matches nothing is an error, never a silent no-op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from peft import LoraConfig, get_peft_model
from torch import nn

from unipixel.config import setting
from unipixel.errors import ConfigError, nearest
from unipixel.model.grounded import GroundedVLM

PARTS: dict[str, tuple[str, ...]] = {
    "llm": ("language_model.",),
    "visual": ("visual.",),
    "embedding": ("embed_tokens.", "lm_head."),
    "projector": ("visual.merger.", "visual.deepstack_merger_list."),
    "ref": ("ref_proj", "tem_emb.", "tem_proj."),
    "ref_encoder": ("ref_encoder.",),
    "mem": ("msk_proj.",),
    "seg": ("seg_head.",),
    "sam2_encoder": ("sam2.image_encoder.",),
    "sam2_decoder": ("sam2.",),
}
"""Part -> substrings of parameter names. A parameter that fits several belongs to the last one listed here, so that ``projector`` can
train while ``visual`` stays frozen and ``sam2_encoder`` has its own rate; ``sam2_decoder`` is all of SAM 2 but its image encoder.
``ref`` and ``ref_encoder`` embed points and boxes, ``mem`` embeds regions."""

NEVER_USED = ("sam2.mask_downsample.", "sam2.no_mem_pos_enc", "sam_prompt_encoder.point_embeddings.", "sam_prompt_encoder.mask_downscaling.",
              "ref_encoder.point_embeddings.0.", "ref_encoder.no_mask_embed.", "ref_encoder.mask_downscaling.")
"""Weights that prompting by embeddings, positive points and boxes never touches; kept in checkpoints, never trained."""

_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj", "attn.qkv", "attn.proj")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA by rule. Defaults are those of the UniPixel family."""

    lora_layers: str = setting("qkvo", "qkvo (attention projections), linear (every linear layer), or none (no LoRA)")
    lora_scope: str = setting("all", "which part gets adapters: llm, visual or all")
    lora_r: int = setting(128, "rank of the adapters")
    lora_alpha: int = setting(256, "scale numerator: adapters are scaled by alpha / r")
    lora_dropout: float = setting(0.1, "dropout of the adapters' input")
    lora_variant: str = setting("plain", "plain; rslora (scaled by alpha / sqrt(r)); or dora (direction by LoRA, length of each row trained)")
    train_new_tokens: bool = setting(False, "train the embeddings of <|ref|>, <|seg|> and <|mem|> alone, in place of the part embedding")
    lora_projector: bool = setting(False, "also adapters in the projector between vision tower and language model, whatever lora_scope says")
    lora_targets: str = setting("", "explicit name endings within lora_scope instead of lora_layers, comma-separated, e.g. q_proj,merger.mlp.0")

    def __post_init__(self):
        for name, allowed in (("lora_layers", ("none", "qkvo", "linear")), ("lora_scope", ("llm", "visual", "all")),
                              ("lora_variant", ("plain", "rslora", "dora"))):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} must be one of {allowed}{nearest(value, allowed)}")
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ConfigError("LoRA needs lora_r >= 1, lora_alpha > 0 and 0 <= lora_dropout < 1, got "
                              f"lora_r={self.lora_r}, lora_alpha={self.lora_alpha}, lora_dropout={self.lora_dropout}")
        if self.train_new_tokens and self.lora_layers == "none":
            raise ConfigError("train_new_tokens=true is part of the adapters, which lora_layers='none' leaves out: choose lora_layers, or list "
                              "embedding in train")
        if self.lora_projector and self.lora_layers == "none":
            raise ConfigError("lora_projector=true adds adapters, which lora_layers='none' leaves out: choose lora_layers, or list projector in "
                              "train")


def lora_targets(backbone: nn.Module, settings: LoraSettings, train: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers of the backbone that get an adapter.

    In parts that train in full only attention projections get one (and keep their own weights frozen). An output head tied to the
    embedding gets none: an adapter on one side of a tie is lost when it is merged. Nor does one whose new rows train by themselves.

    Raises:
        ConfigError: the rule, or one of the explicit endings, matches nothing.
    """
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    projector = _projector(linear, train) if settings.lora_projector else []
    inside = [name for name in linear if settings.lora_scope == "all" or ("visual" in name) == (settings.lora_scope == "visual")]
    if settings.lora_targets:
        endings = [t.strip() for t in settings.lora_targets.split(",") if t.strip()]
        for ending in endings:
            if not any(_ends_with(name, ending) for name in inside):
                scope = "" if len(inside) == len(linear) else f" of lora_scope={settings.lora_scope!r}"
                raise ConfigError(f"lora_targets={ending!r} matched 0 of {len(inside)} linear layers{scope}{nearest(ending, _short_names(inside))}")
        chosen = [name for name in inside if any(_ends_with(name, e) for e in endings)]
    else:
        whole = tied_embeddings(backbone.config) or settings.train_new_tokens
        free = [name for name in inside if (name.endswith(_QKVO) or part_of(name + ".weight") not in train) and not (whole and name == "lm_head")]
        chosen = [name for name in free if settings.lora_layers == "linear" or name.endswith(_QKVO)]
    if not chosen:
        raise ConfigError(f"lora_layers={settings.lora_layers!r} with lora_scope={settings.lora_scope!r} matched 0 of {len(linear)} linear layers")
    return chosen + [name for name in projector if name not in chosen]


def _projector(linear: Sequence[str], train: Sequence[str]) -> list[str]:
    if "projector" in train:
        raise ConfigError("lora_projector=true adapts the projector, train lists all of it: leave one of them out")
    found = [name for name in linear if part_of(name + ".weight") == "projector"]
    if not found:
        raise ConfigError(f"lora_projector=true matched 0 of {len(linear)} linear layers: this backbone has no projector of a known name")
    return found


def tied_embeddings(config) -> bool:
    """Whether input and output embeddings are one matrix; the switch stands in the text settings of some checkpoints, outside in others."""
    inner = getattr(config.get_text_config(), "tie_word_embeddings", None)
    return bool(getattr(config, "tie_word_embeddings", False) if inner is None else inner)


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith("." + ending)


def _short_names(names: Sequence[str]) -> set[str]:
    return {".".join(p for p in name.split(".")[-depth:]) for name in names for depth in (1, 2, 3)}


def part_of(name: str) -> str:
    """Part of a parameter name: ``lora``, a key of :data:`PARTS`, or ``other``."""
    if "lora_" in name:
        return "lora"
    found = [part for part, fragments in PARTS.items() if any(f in name for f in fragments)]
    if "sam2_encoder" in found:
        return "sam2_encoder"
    return found[-1] if found else "other"


@dataclass
class TrainableReport:
    """What trains, per part: parameters and tensors, and the LoRA rule's matches."""

    counts: dict[str, tuple[int, int]]
    lora_modules: list[str] = field(default_factory=list)
    total: int = 0

    @property
    def trainable(self) -> int:
        return sum(parameters for parameters, _ in self.counts.values())

    def rows(self) -> list[tuple[str, int, int]]:
        return [(part, tensors, parameters) for part, (parameters, tensors) in self.counts.items()]


def set_trainable(model: GroundedVLM, lora: LoraSettings, train: Sequence[str]) -> TrainableReport:
    """Freeze everything, add LoRA, then unfreeze the parts in ``train``. Seed before: LoRA draws its initial weights here.

    Raises:
        ConfigError: an unknown part, a part without parameters, or a LoRA rule that matches nothing.
    """
    for part in train:
        if part not in PARTS:
            raise ConfigError(f"train={part!r} is not a part of the model; known: {', '.join(PARTS)}{nearest(part, PARTS)}")
    if getattr(model.core, "is_quantized", False) and "llm" in train:
        raise ConfigError("train=llm: a quantized language model cannot train in full; remove llm from train, or set quantize: none")
    model.requires_grad_(False)
    targets: list[str] = []
    if lora.lora_layers != "none":
        targets = lora_targets(model.backbone, lora, train)
        model.backbone = get_peft_model(model.backbone, peft_config(model, lora, targets, train))
    for name, parameter in model.named_parameters():
        if part_of(name) in train and ".base_layer." not in name and not any(pattern in name for pattern in NEVER_USED):
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()  # trained weights are float32 masters whatever the frozen ones are; autocast computes
    report = trainable_report(model, targets)
    missing = [part for part in train if part not in report.counts]
    if missing:
        raise ConfigError(f"train={','.join(missing)} matched no parameter of this model")
    if not report.counts:
        raise ConfigError("nothing trains: set lora_layers or list parts in train")
    return report


def peft_config(model: GroundedVLM, lora: LoraSettings, targets: Sequence[str], train: Sequence[str]) -> LoraConfig:
    """PEFT's settings, which it stores beside the adapters and rebuilds them from.

    Raises:
        ConfigError: new tokens alone and the whole embedding at once, or a model that was built without a tokenizer.
    """
    tokens = None
    if lora.train_new_tokens:
        if "embedding" in train:
            raise ConfigError("train_new_tokens=true trains three rows of the embedding, train lists all of it: leave one of them out")
        if not model.new_tokens:
            raise ConfigError("train_new_tokens=true: this model does not know the ids of its new tokens")
        if any(_ends_with(name, "lm_head") for name in targets):
            raise ConfigError(f"lora_targets={lora.lora_targets!r} adapts lm_head, whose new rows train_new_tokens=true trains by themselves: leave "
                              "one of them out")
        tokens = {"embed_tokens": list(model.new_tokens)} | ({} if tied_embeddings(model.config) else {"lm_head": list(model.new_tokens)})
    return LoraConfig(r=lora.lora_r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout, target_modules=list(targets),
                      use_rslora=lora.lora_variant == "rslora", use_dora=lora.lora_variant == "dora", trainable_token_indices=tokens,
                      task_type="CAUSAL_LM")


def trainable_report(model: nn.Module, lora_modules: Sequence[str] = ()) -> TrainableReport:
    counts: dict[str, tuple[int, int]] = {}
    total = 0
    for name, parameter in model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        total += size
        if parameter.requires_grad:
            parameters, tensors = counts.get(part_of(name), (0, 0))
            counts[part_of(name)] = parameters + size, tensors + 1
    return TrainableReport(counts, list(lora_modules), total)
