"""The skip ledger: every item that was left out, with its reason, so that nothing disappears silently.

Used while packing and by readers. It records and prints; whether a skip is fatal is the caller's decision.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from unipixel.errors import SampleError


@dataclass(frozen=True)
class Skip:
    """One skipped item.

    Attributes:
        source: dataset or converter the item came from.
        key: id of the item in its source.
        reason: machine-readable slug (:attr:`SampleError.reason`).
        message: what was wrong, for a person.
        examples: number of examples lost with the item (a skipped video takes all of its examples along).
    """

    source: str
    key: str
    reason: str
    message: str
    examples: int = 1


class SkipLedger:
    """Counts and lists skipped items; ``notes`` counts repairs and conversions that lost nothing."""

    def __init__(self):
        self.skips: list[Skip] = []
        self.notes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.skips)

    def skip(self, source: str, key: str, reason: str, message: str, *, examples: int = 1) -> None:
        self.skips.append(Skip(source, key, reason, message, examples))

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was changed on the way in, e.g. ``"frames decoded from mp4"``."""
        self.notes[what] += count

    @contextmanager
    def catching(self, source: str, key: str, *, examples: int = 1) -> Iterator[None]:
        """Record a :class:`SampleError` raised inside as a skip of ``key`` and go on after the block."""
        try:
            yield
        except SampleError as error:
            self.skip(source, key, error.reason, str(error), examples=examples)

    @property
    def counts(self) -> dict[str, int]:
        """Skipped items per reason, most frequent first."""
        return dict(Counter(s.reason for s in self.skips).most_common())

    def summary(self) -> list[str]:
        """One line per reason with the number of items and examples and the first key, then one line per note."""
        lines = []
        for reason, items in self.counts.items():
            these = [s for s in self.skips if s.reason == reason]
            lost = sum(s.examples for s in these)
            lines.append(f"skipped {items:6d} items ({lost} examples)  {reason:<24} e.g. {these[0].source}/{these[0].key}: {these[0].message}")
        lines += [f"note    {count:6d} {what}" for what, count in self.notes.most_common()]
        return lines

    def write(self, path: Path) -> None:
        """JSON lines, one per skip; the file is written even when it is empty."""
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(asdict(skip), ensure_ascii=False) + "\n" for skip in self.skips)
