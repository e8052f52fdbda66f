"""``unipixel film split``: which films are in which part, how many questions that makes, the hash that names the division.

Reads the annotations only, all of them, so it is also the quick check of annotation files before films are decoded for hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from data_tools.convert.film_questions import question_files, read_film_questions
from data_tools.convert.film_split import PARTS, RATIO, SEED, divide
from data_tools.preference.command import command
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError


@dataclass(kw_only=True)
class SplitSettings:
    """The options of the source ``reasonvqa`` that divide films, under the same names."""

    questions: str = setting("", "folder of <film>.json or .jsonl, e.g. data/annotations")
    validation: int = setting(0, "number of training films that are the part validation instead")
    fold: str | None = setting(None, "leave one film out: the only film for testing, by name or by its place from 0 among the sorted names")
    split_ratio: float = setting(RATIO, "share of the films that are not for testing")
    split_seed: int = setting(SEED, "of the shuffle that divides the films")

    def __post_init__(self):
        if not self.questions or not Path(self.questions).is_dir():
            raise ConfigError(f"--questions {self.questions!r} is not a folder")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film split``: exit code 0, or ``EXIT_USER_ERROR`` where a setting or an annotation is wrong; each is named."""
    return command("film split", (SplitSettings,), show, argv)


def show(settings: SplitSettings) -> None:
    """Print the division.

    Raises:
        DataError: items that cannot be used, after the table of those that can.
    """
    files, ledger = question_files(Path(settings.questions)), SkipLedger()
    division = divide(files, ratio=settings.split_ratio, seed=settings.split_seed, validation=settings.validation, fold=settings.fold)
    rows = []
    for part in PARTS:
        counts = []
        for film in getattr(division, part):
            counts.append(0)
            with ledger.catching(film, files[film].name):
                counts[-1] = len(read_film_questions(files[film], ledger))
        rows.append((part, len(counts), sum(counts), " ".join(f"{film} ({n})" for film, n in zip(getattr(division, part), counts, strict=True))))
    print(tabulate(rows, headers=("part", "films", "questions", "films with their questions")))
    print(f"split_hash {division.hash}")
    if len(ledger):
        raise DataError("\n".join([f"{len(ledger)} problems {ledger.counts}:", *(f"  {s.key}: {s.reason}: {s.message}" for s in ledger.skips)]))
