"""Frames and prompt of a model that is no longer trained: what its checkpoint records, without chance, and what a command changes.

What may be changed is what the model is shown. Evaluating a model otherwise than it was trained (more frames, no subtitles, another
prompt) is then a matter of these few names, the same for every command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from unipixel.data.media import FrameSettings
from unipixel.data.template import TemplateSettings
from unipixel.errors import ConfigError, nearest


def evaluation_settings(stored: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> tuple[FrameSettings, TemplateSettings]:
    """
    Args:
        stored: ``frames`` and ``template`` as a checkpoint has them; what is missing has its default.
        changes: values of fields of either.

    Frames drawn at random and paraphrased requests belong to training: frames are spread uniformly and the first wording is used.

    Raises:
        ConfigError: a name that neither has, or a value of another type than the field's.
    """
    frames, text = dict(stored.get("frames", {})), {**stored.get("template", {}), "paraphrase": False}
    if frames.get("frame_sampling", "random") == "random":
        frames["frame_sampling"] = "uniform"
    fields = {f.name: (f.default, part) for cls, part in ((FrameSettings, frames), (TemplateSettings, text)) for f in dataclasses.fields(cls)}
    for name, value in (changes or {}).items():
        if name not in fields:
            raise ConfigError(f"{name!r} is not a setting of frames or prompts{nearest(name, fields)}: {sorted(fields)}")
        default, part = fields[name]
        if type(value) is not type(default):
            raise ConfigError(f"{name}={value!r} must be {type(default).__name__}, like {default!r}")
        part[name] = value
    return FrameSettings(**frames), TemplateSettings(**text)


def read_changes(words: Sequence[str]) -> dict[str, Any]:
    """``["num_frames=59", "use_subtitles=false"]`` -> values as YAML reads them."""
    changes = {}
    for word in words:
        name, given, value = word.partition("=")
        if not given:
            raise ConfigError(f"--set {word!r} is not of the form name=value")
        changes[name] = yaml.safe_load(value)
    return changes
