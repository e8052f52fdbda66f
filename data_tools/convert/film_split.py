"""Which films train, choose checkpoints and test: whole films, never questions, in parts that depend on the films' names alone.

The default is the published division of ReasonVQA: names sorted, shuffled with Python's generator seeded 42, the first nine tenths train.
Every medium keeps its part and the hash of the whole division, so that results of different divisions are not compared by mistake.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from unipixel.errors import ConfigError, nearest

PARTS = ("train", "validation", "test")
RATIO, SEED = 0.9, 42
HASH_DIGITS = 16


@dataclass(frozen=True)
class FilmSplit:
    """Films per part; those of ``train`` and ``test`` in the shuffled order."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def films(self, part: str) -> tuple[str, ...]:
        """Films of one of :data:`PARTS`; :class:`ConfigError` for another name, and for a part that is empty."""
        if part not in PARTS:
            raise ConfigError(f"split {part!r} is not one of {list(PARTS)}{nearest(part, PARTS)}")
        films: tuple[str, ...] = getattr(self, part)
        if not films:
            raise ConfigError("the division has no validation films: set validation to their number, e.g. 1")
        return films

    @property
    def hash(self) -> str:
        """First hex digits of the SHA-256 of the division, independent of any order: the same in training and in every evaluation of it."""
        plain = {part: sorted(films) for part, films in asdict(self).items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:HASH_DIGITS]


def divide(names: Iterable[str], *, ratio: float = RATIO, seed: int = SEED, validation: int = 0, fold: str | None = None) -> FilmSplit:
    """The parts of the films called ``names``, in whatever order they come.

    Args:
        ratio: share of the films that are not for testing, rounded down to whole films.
        validation: how many of the training films, the last ones in the shuffled order, choose checkpoints instead.
        fold: the one film that is for testing, by name or by its place from 0 among the sorted names, instead of ``ratio``.

    Raises:
        ConfigError: an option is out of range, no film is called ``fold``, or a part would be empty.
    """
    shuffled = sorted(set(names))
    order = list(shuffled)
    random.Random(seed).shuffle(shuffled)
    if fold is not None:
        if ratio != RATIO:
            raise ConfigError(f"split_ratio={ratio} has no effect with fold={fold!r}: leave one of them out")
        left_out = _film(order, fold)
        train, test = [name for name in shuffled if name != left_out], [left_out]
    else:
        if not 0 < ratio < 1:
            raise ConfigError(f"split_ratio={ratio} must be above 0 and below 1")
        cut = int(len(shuffled) * ratio)
        train, test = shuffled[:cut], shuffled[cut:]
    if not 0 <= validation < max(1, len(train)):
        raise ConfigError(f"validation={validation} must be at least 0 and leave one of the {len(train)} training films")
    if not train or not test:
        raise ConfigError(f"{len(order)} films give {len(train)} for training and {len(test)} for testing: neither may be 0")
    cut = len(train) - validation
    return FilmSplit(tuple(train[:cut]), tuple(train[cut:]), tuple(test))


def _film(names: list[str], fold: str) -> str:
    if fold in names:
        return fold
    if fold.isdecimal() and int(fold) < len(names):
        return names[int(fold)]
    raise ConfigError(f"fold={fold!r} is neither a film nor a place from 0 to {len(names) - 1}{nearest(fold, names)}")
