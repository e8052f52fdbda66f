"""What answers in a run: a trained folder, or the untrained base that a recipe describes, with the context that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapters.grounded import GroundedAdapter, checkpoint_card
from benchmarks.protocol import Protocol
from unipixel.config import read_recipe
from unipixel.data.media import FrameSettings
from unipixel.data.template import TemplateSettings
from unipixel.errors import ConfigError
from unipixel.infer.predict import Predictor, load_predictor
from unipixel.infer.settings import evaluation_settings
from unipixel.model.build import ModelSettings, build_model
from unipixel.model.checkpoint import read_config
from unipixel.sample import Sample

Context = tuple[FrameSettings, TemplateSettings]


class FilmAdapter(GroundedAdapter):
    """A grounded model whose replies may be cut shorter than the protocol allows."""

    def __init__(self, predictor: Predictor, identity: Mapping[str, Any], max_new_tokens: int = 0):
        super().__init__(predictor, {})
        self.identity = dict(identity)
        self.max_new_tokens = max_new_tokens

    def predictor_for(self, sample: Sample, protocol: Protocol, careful: bool = False) -> Predictor:
        shorter = dataclasses.replace(protocol, max_new_tokens=self.max_new_tokens or protocol.max_new_tokens)
        return super().predictor_for(sample, shorter, careful)


@dataclass(frozen=True)
class Model:
    """Something to evaluate, not loaded yet.

    Attributes:
        stage: ``base``, ``sft`` or ``dpo``.
        context: frames and prompt, as trained (or as the recipe says) with what the command changes.
        content: what decides the weights, by content.
    """

    name: str | None
    stage: str
    context: Context
    content: Mapping[str, Any]
    source: str
    changes: Mapping[str, Any]
    backbone: str = ""

    def load(self, batch_size: int, device: str) -> Predictor:
        if self.name is not None:
            return load_predictor(self.source, backbone=self.backbone, batch_size=batch_size, device=device, context=self.changes)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        model, tokenizer = build_model(base_settings(self.source, self.backbone))
        return Predictor(model.to(device), tokenizer, *self.context, batch_size=batch_size)


def trained_model(name: str, folder: Path, changes: Mapping[str, Any], backbone: str = "") -> Model:
    """Raises :class:`ConfigError` when the folder does not say how it was trained."""
    config = read_config(folder)
    if "unipixel" not in config:
        raise ConfigError(f"{folder} does not record frames and prompt: it was not trained by `unipixel train`")
    content = checkpoint_card(folder)["content"]
    return Model(name, "dpo" if "preference" in config else "sft", evaluation_settings(config["unipixel"], changes), {"checkpoint": content},
                 str(folder), changes, backbone)


def base_model(recipe: str, changes: Mapping[str, Any], backbone: str = "") -> Model:
    """The model that a training by ``recipe`` starts from, without its adapters; context as the recipe has it.

    Args:
        recipe: a recipe file, or ``settings.yaml`` of a run.
    """
    values = read_recipe(recipe)
    stored = {name: _of(cls, values) for name, cls in (("frames", FrameSettings), ("template", TemplateSettings))}
    return Model(None, "base", evaluation_settings(stored, changes), {"base": dataclasses.asdict(base_settings(recipe, backbone))}, recipe, changes,
                 backbone)


def base_settings(recipe: str, backbone: str = "") -> ModelSettings:
    return ModelSettings(**_of(ModelSettings, read_recipe(recipe)) | ({"backbone": backbone} if backbone else {}))


def _of(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that belong to one dataclass."""
    return {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
