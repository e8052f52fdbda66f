"""Settings: dataclasses filled from a YAML recipe and overridden by flags, and the parser that refuses what it does not know.

Every command uses :func:`parse`, so that a misspelt key is the same error everywhere. Recipes are flat: a key is a flag without dashes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from unipixel.errors import ConfigError, nearest


def setting(default: Any, text: str) -> Any:
    """Dataclass field with its help text; a list default gets a factory."""
    text = text.replace("%", "%%")  # argparse formats help texts
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A YAML mapping; ``extends: other.yaml`` (relative to the file) supplies defaults for the keys it lacks."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--config {str(path)!r} is not a file")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of settings, got {type(values).__name__}")
    parent = values.pop("extends", None)
    return {**read_recipe(path.parent / parent), **values} if parent else values


def parse(classes: Sequence[type], argv: Sequence[str] | None = None, prog: str | None = None) -> tuple:
    """Instances of ``classes`` from ``argv``: ``--config recipe.yaml`` first, then flags.

    Raises:
        ConfigError: unknown key or flag (with the nearest known names), or a value that a dataclass refuses.
    """
    argv = [part for a in (sys.argv[1:] if argv is None else argv) for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    parser = HfArgumentParser(list(classes), prog=prog, allow_abbrev=False)
    parser.add_argument("--config", help="YAML recipe; flags override it")
    known = [f.name for cls in classes for f in dataclasses.fields(cls) if f.init]
    recipe = {}
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise ConfigError("--config needs a file")
        recipe = read_recipe(argv[at + 1])
        for key in recipe:
            if key not in known:
                raise ConfigError(f"{argv[at + 1]}: unknown setting {key!r}{nearest(key, known)}")
        for action in parser._actions:
            if action.dest in recipe:
                action.required = False
                value, several = recipe[action.dest], action.nargs == "+"
                if value is not None and isinstance(value, list) != several:
                    raise ConfigError(f"{argv[at + 1]}: {action.dest}={value!r}, but {action.dest} is "
                                      + (f"a list: write [{value}]" if several else "a single value"))
        parser.set_defaults(**{k: str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for k, v in recipe.items()})
    unknown = parser.parse_known_args(argv)[1]  # before the dataclasses are made: they may miss what the misspelt flag was meant to set
    if unknown:
        flags = [f"--{name}" for name in known]
        raise ConfigError(f"unknown flag {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)}")
    *parsed, _config = parser.parse_args_into_dataclasses(argv)
    return tuple(parsed)
