"""Training order as a pure function of (seed, cursors): which samples form which step, on which rank, in which micro-batch.

An optimizer step holds ``G = world x micro-batch x accumulation`` samples of ONE kind, so that all ranks run the same modules. Each
kind is an endless stream: epoch after epoch of a seeded permutation; the state is one cursor per kind. Nothing here depends on
workers or on prefetching, and a change of world size keeps the order as long as ``G`` stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unipixel.errors import CheckpointError, DataError


def _hash64(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser on uint64: a permutation of 64-bit integers, stable over NumPy versions (unlike ``Generator.permutation``)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permutation(size: int, *parts) -> np.ndarray:
    """Order of ``range(size)`` that depends only on ``parts``; (size,) int64."""
    key = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
    keys = _hash64(_hash64(np.arange(size, dtype=np.uint64)) ^ np.uint64(key))
    return np.argsort(keys, kind="stable")


@dataclass(frozen=True)
class MicroBatch:
    """What one rank loads at once.

    Attributes:
        step: optimizer step this belongs to, from 0.
        kind: modality group, the same on all ranks and micro-batches of the step.
        draws: (group, epoch) per sample; ``epoch`` counts how often this group has been seen before.
        state: the plan's state *after* this step; stored in the checkpoint once the step has been consumed.
    """

    step: int
    kind: str
    draws: tuple[tuple[int, int], ...]
    state: dict


class OrderPlan:
    """Order over ``len(kinds)`` groups of examples. ``kinds[i]`` is the kind of group i.

    Args:
        fingerprint: identity of the data; a state saved with another one is refused.
    """

    def __init__(self, kinds: Sequence[str], *, seed: int, fingerprint: str):
        if not len(kinds):
            raise DataError("the training data holds no sample: check shards and what `unipixel pack` reported as skipped")
        array = np.asarray(kinds)
        self.members = {kind: np.flatnonzero(array == kind) for kind in sorted(set(kinds))}
        self.seed, self.fingerprint = seed, fingerprint
        self.step = 0
        self.cursors = dict.fromkeys(self.members, 0)
        self._order: dict[str, tuple[int, np.ndarray]] = {}

    def state(self) -> dict:
        return {"fingerprint": self.fingerprint, "seed": self.seed, "step": self.step, "cursors": dict(self.cursors)}

    def load_state(self, state: Mapping) -> None:
        """Continue after ``state``.

        Raises:
            CheckpointError: it was saved over other data or with another seed.
        """
        for name, mine in (("fingerprint", self.fingerprint), ("seed", self.seed)):
            if state[name] != mine:
                raise CheckpointError(f"the checkpoint's data order has {name}={state[name]!r}, this run has {mine!r}: the data or the seed "
                                      "changed. Restore them, or start a new run from the checkpoint's weights (init_from)")
        self.step, self.cursors = state["step"], dict(state["cursors"])

    def next_kind(self) -> str:
        """The kind that is furthest behind its share of all samples; depends on the cursors only."""
        return min(self.members, key=lambda kind: ((self.cursors[kind] + 0.5) / len(self.members[kind]), kind))

    def draw(self, kind: str, position: int) -> tuple[int, int]:
        """(group, epoch) at an absolute position of a kind's endless stream."""
        epoch, offset = divmod(position, len(self.members[kind]))
        if self._order.get(kind, (None,))[0] != epoch:
            self._order[kind] = epoch, self.members[kind][permutation(len(self.members[kind]), self.seed, kind, epoch)]
        return int(self._order[kind][1][offset]), epoch

    def batches(self, *, rank: int, world: int, micro: int, accumulation: int) -> Iterator[MicroBatch]:
        """Endless micro-batches of one rank, ``accumulation`` of them per step. Advances this plan."""
        size = world * micro * accumulation
        while True:
            kind = self.next_kind()
            draws = [self.draw(kind, p) for p in range(self.cursors[kind], self.cursors[kind] + size)]
            step, self.step = self.step, self.step + 1
            self.cursors[kind] += size
            state = self.state()
            for a in range(accumulation):
                start = (a * world + rank) * micro
                yield MicroBatch(step, kind, tuple(draws[start:start + micro]), state)
