"""``unipixel pairs filter``: choose pairs from judged replies, leave out repetitions and what benchmarks hold, write shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.preference.command import command
from data_tools.preference.leakage import Benchmarks, without_leaks
from data_tools.preference.questions import read_questions
from data_tools.preference.select import Made, SelectSettings, balance, select
from data_tools.preference.steps import Media
from data_tools.preference.style import repeated
from data_tools.preference.write import write_pairs
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError


@dataclass(kw_only=True)
class FilterSettings:
    """From which table into which folder, and what is left out."""

    questions: str = setting("", "table of questions, judged if its recipe needs that")
    shards: list[str] = setting([], "packed folders with the videos")
    out: str = setting("", "folder for the shards")
    dataset: str = setting("pairs", "name of the dataset in keys and manifest")
    max_similarity: float = setting(0.9, "a pair that resembles an earlier one this much in its words is left out (Jaccard, 0.5 to 1); 0: keep all")
    benchmarks: list[str] = setting([], "packed folders, tables or lists of videos whose videos and questions are left out")

    def __post_init__(self):
        for name in ("questions", "shards", "out"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is empty")
        check_similarity(self.max_similarity)


def check_similarity(value: float) -> None:
    if value and not 0.5 <= value <= 1:
        raise ConfigError(f"max_similarity={value} must be 0 or from 0.5 to 1")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs filter``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs filter", (FilterSettings, SelectSettings), filter_pairs, argv)


def filter_pairs(settings: FilterSettings, selection: SelectSettings) -> None:
    """Leaks and repetitions go before the balanced part is drawn, so that the part is as large as asked for."""
    questions, ledger, media = read_questions(settings.questions), SkipLedger(), Media(settings.shards)
    if len(set(media.splits)) > 1:
        raise ConfigError(f"--shards are of the splits {sorted(set(media.splits))}: filter one split at a time")
    if all(q.of("preferred") for q in questions):
        for name in ("rank_by", "choice", "min_margin"):
            if getattr(selection, name) != getattr(SelectSettings(), name):
                raise ConfigError(f"--{name} has no effect on questions that have a preferred reply")
    made = select(questions, selection, ledger)
    if settings.benchmarks:
        made = without_leaks(made, media, Benchmarks(settings.benchmarks), ledger)
    if settings.max_similarity:
        made = without_repetitions(made, settings.max_similarity, ledger)
    made = balance(made, selection, ledger)
    manifest = write_pairs(made, media, settings.out, ledger, dataset=settings.dataset, split=media.splits[0])
    print("\n".join(ledger.summary()) or "nothing skipped")
    modes = Counter(m.pair.failure_mode for m in made)
    print(f"{len(made)} pairs {dict(sorted(modes.items()))} of {manifest['bundles']} media in {settings.out}")


def without_repetitions(made: Sequence[Made], similarity: float, ledger: SkipLedger) -> list[Made]:
    """Pairs that do not resemble an earlier one in the words of question and both replies together."""
    found = {name: (earlier, value) for name, earlier, value in
             repeated(((m.pair.pair_id, f"{m.question.prompt} {m.pair.chosen} {m.pair.rejected}") for m in made), similarity)}
    for name, (earlier, value) in found.items():
        ledger.skip("repetition", name, "near_duplicate", f"resembles {earlier} (similarity {value:.2f})")
    return [m for m in made if m.pair.pair_id not in found]
