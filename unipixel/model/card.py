"""The card of an exported model: what it was made from, on which data, with which settings and versions, and how it was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

RECIPE = "settings.yaml"
LIBRARIES = ("unipixel-train", "torch", "transformers", "peft", "deepspeed", "sam2")


def model_card(config: Mapping, checkpoint: Path, checks: Sequence[str]) -> str:
    """Markdown with the metadata block of model hubs. ``checks``: one line per comparison made on export."""
    recipe = find_recipe(checkpoint)
    data = yaml.safe_load(recipe.read_text()).get("shards", []) if recipe else []
    head = yaml.safe_dump({"base_model": config.get("base_model_path"), "library_name": "unipixel-train", "pipeline_tag": "video-text-to-text",
                           "tags": ["video", "segmentation", "grounding"]}, sort_keys=False)
    rows = [("Base model", config.get("base_model_path")), ("SAM 2", f"{config.get('sam2_config')}, {config.get('sam2_image_size')} px"),
            ("Prompted frames", config.get("sam2_prompting")), ("Patches of a region", config.get("mem_order")), ("Weights", config.get("dtype")),
            ("Checkpoint", checkpoint.name), ("Data", ", ".join(map(str, data)) or "not recorded"), ("Versions", ", ".join(versions()))]
    parts = [f"---\n{head}---\n", "# Grounded video-language model\n",
             "Answers questions about videos with text, time segments and masks (`unipixel predict --checkpoint` this folder).\n",
             "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows),
             "## Checks on export\n", "".join(f"- {line}\n" for line in checks)]
    if recipe:
        parts += ["## Recipe\n", f"```yaml\n{recipe.read_text().strip()}\n```\n"]
    return "\n".join(parts)


def find_recipe(checkpoint: Path) -> Path | None:
    """Resolved settings of the run, beside the model or one folder up (a checkpoint inside its run)."""
    return next((place / RECIPE for place in (checkpoint, checkpoint.parent) if (place / RECIPE).is_file()), None)


def versions() -> list[str]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} (not installed as a package)")
    return found
