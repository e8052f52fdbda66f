"""The options of a converter: its keyword parameters, with type and default from the signature, help from the docstring or ``COMMON``.

One source for the command line (``--set name=value``), its error messages, ``unipixel pack --list`` and the documentation.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unipixel.errors import ConfigError, nearest

GIVEN = ("folder", "split", "ledger")
"""Parameters that every converter gets from ``unipixel pack``."""
COMMON = {
    "fps": "frames per second of frames that come as pictures without times",
    "max_frames": "leave out training items with more listed (regions: annotated) frames; 0: no limit",
    "max_objects": "leave out items with more objects; 0: no limit",
    "max_words": "leave out items with more words in question and answer; 0: no limit",
    "min_ratio": "leave out rows whose `ratio` is smaller",
    "context_frames": "frames spread over the video that are stored for rows with a single annotated one",
    "server": "pack expressions without masks, of a split whose masks only the benchmark's server has",
    "verify": "compare the masks with the palette PNGs of the release; without those PNGs set false",
}
"""Help of options that several converters have; a converter's own docstring goes first."""
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Option:
    """One keyword parameter; ``kind`` is bool, int, float or str."""

    name: str
    kind: type
    default: Any
    help: str

    def parse(self, text: str) -> Any:
        try:
            return WORDS[text.lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError):
            raise ConfigError(f"--set {self.name}={text}: expected {'true or false' if self.kind is bool else self.kind.__name__}") from None


def options_of(convert: Callable) -> dict[str, Option]:
    """Options of a converter by name, in the order of its signature."""
    hints, helps = typing.get_type_hints(convert), _helps(inspect.getdoc(convert) or "")
    found = {}
    for name, parameter in inspect.signature(convert).parameters.items():
        if name in GIVEN:
            continue
        kinds = [k for k in typing.get_args(hints[name]) or (hints[name],) if k is not type(None)]
        assert len(kinds) == 1 and kinds[0] in (bool, int, float, str), f"option {name!r} has the type {hints[name]}"
        found[name] = Option(name, kinds[0], parameter.default, helps.get(name, COMMON.get(name, "")))
    return found


def parse_settings(source: str, options: Mapping[str, Option], settings: Iterable[str]) -> dict[str, Any]:
    """``["fps=6", ...]`` -> keyword arguments.

    Raises:
        ConfigError: a setting without ``=``, of an unknown option, given twice, or of the wrong type.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: write name=value")
        if name not in options:
            raise ConfigError(f"--set {name}: source {source!r} has " + (f"the options {list(options)}{nearest(name, options)}" if options
                                                                        else "no options"))
        if name in values:
            raise ConfigError(f"--set {name} is given twice")
        values[name] = options[name].parse(text)
    return values


def describe(converters: Mapping[str, Callable]) -> str:
    """Every source with the first line of its converter's docstring and its options."""
    lines = []
    for name, convert in converters.items():
        lines.append(f"{name:<40}{(inspect.getdoc(convert) or '').splitlines()[0]}")
        lines += [f"    {f'{o.name}={o.default}':<36}{o.help}" for o in options_of(convert).values()]
    return "\n".join(lines)


def _helps(doc: str) -> dict[str, str]:
    """``name: text`` items of the ``Args:`` section; a deeper line continues the item before it."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    items = re.findall(r"^    (\w+): (.+(?:\n {8,}.+)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}
