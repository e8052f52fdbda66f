"""``unipixel pairs check``: do packed pairs repeat each other, and do they hold what a benchmark tests?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from data_tools.preference.command import EXIT_FOUND, command
from data_tools.preference.filter import check_similarity
from data_tools.preference.leakage import Benchmarks
from data_tools.preference.steps import Media
from data_tools.preference.style import repeated
from unipixel.config import setting
from unipixel.data.pairs import marker_pattern, pair_key, sounds_alike
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Example, PreferencePair, Sample

SHOWN = 20
"""Findings that are printed."""


@dataclass(kw_only=True)
class CheckSettings:
    """What is compared with what."""

    shards: list[str] = setting([], "packed folders with pairs")
    benchmarks: list[str] = setting([], "packed folders, tables or lists of videos that must not be in them")
    max_similarity: float = setting(0.9, "pairs whose words are this similar count as repeated (Jaccard, 0.5 to 1); 0: do not look")

    answer_marker: str = setting("", "what stands before the answer (Final Answer:): pairs with a side that lacks it are found; empty: do not look")

    def __post_init__(self):
        if not self.shards:
            raise ConfigError("--shards is empty: name at least one packed folder")
        check_similarity(self.max_similarity)


@dataclass(frozen=True)
class Finding:
    reason: str
    key: str
    message: str


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs check``: exit code 0 when nothing was found, ``EXIT_FOUND`` (1) when something was, 2 for a wrong call."""
    return command("pairs check", (CheckSettings,), check, argv)


def check(settings: CheckSettings) -> int:
    findings = list(findings_of(settings))
    for reason, count in Counter(f.reason for f in findings).most_common():
        print(f"{count:6d} {reason}")
    if not findings:
        print("nothing found")
        return 0
    print(tabulate([(f.reason, f.key, f.message[:100]) for f in findings[:SHOWN]], headers=("reason", "pair", "what")))
    return EXIT_FOUND


def findings_of(settings: CheckSettings) -> Iterator[Finding]:
    """
    Raises:
        DataError: there is no pair.
    """
    benchmarks = Benchmarks(settings.benchmarks) if settings.benchmarks else None
    marker = marker_pattern(settings.answer_marker) if settings.answer_marker else None
    texts: list[tuple[str, str]] = []
    for sample, example, pair in pairs_of(Media(settings.shards)):
        key, question = pair_key(sample, example, pair), question_of(example)
        texts.append((key, f"{question} {pair.chosen} {pair.rejected}"))
        if sounds_alike(pair):
            yield Finding("same_words", key, "both sides are the same words: a language model learns nothing from them")
        lacking = [side for side in ("chosen", "rejected") if marker and not marker.search(getattr(pair, side))]
        if lacking:
            yield Finding("marker_missing", key, f"{' and '.join(lacking)} without {settings.answer_marker!r}")
        leak = benchmarks.leak(sample.medium, question) if benchmarks else None
        if leak:
            yield Finding(leak.what, key, leak.detail)
    if not texts:
        raise DataError(f"{settings.shards} hold no preference pair")
    if settings.max_similarity:
        for key, earlier, value in repeated(texts, settings.max_similarity):
            yield Finding("near_duplicate", key, f"resembles {earlier} (similarity {value:.2f})")


def pairs_of(media: Media) -> Iterator[tuple[Sample, Example, PreferencePair]]:
    for key in media:
        sample = media.sample(key)
        for example in sample.examples:
            for pair in example.pairs:
                yield sample, example, pair


def question_of(example: Example) -> str:
    """The question, or the last one of a dialogue."""
    return example.question or next((t.text for t in reversed(example.turns) if t.role == "user"), "")
