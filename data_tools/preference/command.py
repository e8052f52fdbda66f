"""What the ``unipixel pairs`` commands share: settings of where things are, the end with an exit code, outputs that are never overwritten."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError

EXIT_FOUND = 1
"""A check found something."""


def command(name: str, classes: Sequence[type], run: Callable[..., int | None], argv: Sequence[str] | None) -> int:
    """Parse, run, and turn what a user can cause into ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        return run(*parse(classes, argv, prog=f"unipixel {name}")) or 0
    except UniPixelError as error:
        print(f"unipixel {name}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def refuse_idle(settings: Any, names: Iterable[str], why: str) -> None:
    """
    Raises:
        ConfigError: one of these settings was given, and would change nothing.
    """
    for name in names:
        if getattr(settings, name) != type(settings).__dataclass_fields__[name].default:
            raise ConfigError(f"--{name} has no effect {why}")


@dataclass(kw_only=True)
class OutSettings:
    """Where a table of questions goes."""

    out: str = setting("", "JSON Lines file to write; skipped items and counters stand beside it in OUT.skipped.jsonl and OUT.report.json")

    def __post_init__(self):
        if not self.out:
            raise ConfigError("--out is empty: name the file to write")
        if Path(self.out).exists():
            raise ConfigError(f"--out {self.out!r} exists: remove it or name another file")


@dataclass(kw_only=True)
class MediaSettings:
    """Which videos."""

    shards: list[str] = setting([], "packed folders with the videos")
    limit: int = setting(0, "use this many media only; 0: all")

    def __post_init__(self):
        if not self.shards:
            raise ConfigError("--shards is empty: name at least one packed folder")
        if self.limit < 0:
            raise ConfigError(f"--limit={self.limit} must not be negative")


@dataclass(kw_only=True)
class ModelSettings:
    """Which models, and where their replies are kept."""

    models: str = setting("", "YAML file with a model per role")
    replies: str = setting("", "journal of all replies, JSON Lines; a stopped run goes on from it. Default: replies.jsonl beside --out")

    def __post_init__(self):
        if not self.models:
            raise ConfigError("--models is empty: name the YAML file with a model per role")

    def journal(self, out: str) -> Path:
        return Path(self.replies) if self.replies else Path(out).with_name("replies.jsonl")
