"""Prompts are template files; a pair's provenance names the file and the hash of its text, so that a changed wording is seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

FOLDER = Path(__file__).parent / "prompts"
_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - text, not HTML


@dataclass(frozen=True)
class Prompt:
    """A template by the name of its file, ``prompts/<name>.j2``."""

    name: str
    source: str

    def render(self, **values: Any) -> str:
        """The filled-in text; a value that the template wants and does not get is a ``jinja2.UndefinedError``."""
        return _ENVIRONMENT.from_string(self.source).render(**values).strip()

    @property
    def provenance(self) -> dict[str, str]:
        return {"name": self.name, "sha256": hashlib.sha256(self.source.encode()).hexdigest()}


@cache
def prompt(name: str) -> Prompt:
    return Prompt(name, (FOLDER / f"{name}.j2").read_text(encoding="utf-8"))
