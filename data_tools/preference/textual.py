"""Comparing texts: the normal form, shingles, near-duplicates.

The normal form is that of answer matching in question answering (lower case, no punctuation, no articles), with number words as digits.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter

import numpy as np

NUMBERS = {word: str(n) for n, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))}
ARTICLES = {"a", "an", "the"}
SHINGLE = 3
"""Words per shingle."""
HASHES, BAND = 128, 4
"""Length of a MinHash signature, and rows per band: pairs of Jaccard similarity 0.5 meet in some band with probability 0.87, 0.7 with 0.9998."""
_PRIME = (1 << 31) - 1


def words(text: str) -> list[str]:
    """Normal form as a list of words."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower().replace("’", "'"))
    return [NUMBERS.get(w, w.removesuffix("'s")) for w in found if w not in ARTICLES]


def normal(text: str) -> str:
    return " ".join(words(text))


def equivalent(first: str, second: str) -> bool:
    """Whether two answers say the same as far as their words tell: equal words in any order, or all words of one inside the other."""
    a, b = Counter(words(first)), Counter(words(second))
    return a <= b or b <= a


def shingles(text: str) -> frozenset[str]:
    """Runs of ``SHINGLE`` words in normal form; a shorter text is one run."""
    w = words(text)
    return frozenset(" ".join(w[i:i + SHINGLE]) for i in range(max(1, len(w) - SHINGLE + 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Share of common shingles, 0 to 1."""
    return len(first & second) / len(first | second)


class NearDuplicates:
    """Finds texts that resemble one that was added before: candidates by MinHash (Broder 1997) in bands, each then compared exactly.

    Args:
        similarity: least Jaccard similarity of the shingles that counts as a duplicate, 0.5 to 1; below it the bands would miss too many.
    """

    def __init__(self, similarity: float):
        assert 0.5 <= similarity <= 1, similarity
        self.similarity = similarity
        rng = np.random.default_rng(0)
        self._factors = rng.integers(1, _PRIME, (2, HASHES), dtype=np.uint64)
        self._names: list[str] = []
        self._sets: list[frozenset[str]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def add(self, name: str, text: str) -> None:
        found = shingles(text)
        for band in self._keys(found):
            self._bands.setdefault(band, []).append(len(self._names))
        self._names.append(name)
        self._sets.append(found)

    def find(self, text: str) -> tuple[str, float] | None:
        """(name, similarity) of the most similar text that was added, the earliest of them; ``None`` when there is none."""
        found = shingles(text)
        near = sorted({i for band in self._keys(found) for i in self._bands.get(band, ())})
        best = max(near, key=lambda i: (jaccard(found, self._sets[i]), -i), default=None)
        if best is None or jaccard(found, self._sets[best]) < self.similarity:
            return None
        return self._names[best], jaccard(found, self._sets[best])

    def _keys(self, found: frozenset[str]) -> list[tuple[int, bytes]]:
        hashes = np.array([_hash(s) for s in found], np.uint64)[:, None]
        factor, offset = self._factors
        signature = ((hashes * factor + offset) % np.uint64(_PRIME)).min(0)
        return [(row, signature[row:row + BAND].tobytes()) for row in range(0, HASHES, BAND)]


def _hash(text: str) -> int:
    """31 bits, the same on every machine."""
    return zlib.crc32(text.encode()) >> 1

