"""``unipixel pairs stats``: lengths, style and overlap of chosen and rejected replies, of packed pairs or of a table of questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.preference.command import command
from data_tools.preference.questions import read_questions
from data_tools.preference.steps import Media
from data_tools.preference.style import Sides, by_role, compare, table
from unipixel.config import setting
from unipixel.errors import ConfigError, DataError


@dataclass(kw_only=True)
class StatsSettings:
    """What is looked at."""

    shards: list[str] = setting([], "packed folders with pairs: statistics per failure mode")
    questions: str = setting("", "or a table of questions: the preferred reply against the replies of each other role")
    out: str = setting("", "also write everything as JSON to this file")

    def __post_init__(self):
        if bool(self.shards) == bool(self.questions):
            raise ConfigError("name either --shards or --questions")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs stats``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs stats", (StatsSettings,), stats, argv)


def stats(settings: StatsSettings) -> None:
    if settings.questions:
        rows = by_role(read_questions(settings.questions))
        if not rows:
            raise DataError(f"{settings.questions} holds no preferred reply with another one beside it")
    else:
        media, sides = Media(settings.shards), {}
        for key in media:
            for example in media.sample(key).examples:
                for pair in example.pairs:
                    sides.setdefault(pair.failure_mode, []).append((pair.chosen, pair.rejected))
        if not sides:
            raise DataError(f"{settings.shards} hold no preference pair")
        everything: list[Sides] = [side for mode in sides.values() for side in mode]
        rows = {mode: compare(sides[mode]) for mode in sorted(sides)} | {"all": compare(everything)}
    print(table(rows))
    print("chosen longer: how often length alone would find the chosen reply; 0.5 is best. words: medians; length ratio: geometric mean")
    if settings.out:
        Path(settings.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
