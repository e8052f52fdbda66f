"""Training order as a pure function of (seed, cursors): which samples form which step, on which rank, in which micro-batch.

A *source* is one kind of sample of one dataset: an endless stream, epoch after epoch of a seeded shuffle. Sources of one kind are mixed
by stride scheduling on their weights; an optimizer step holds ``G = world x micro-batch x accumulation`` samples of ONE kind, so that
all ranks run the same modules. The state is one line of numbers per source. Nothing depends on workers, prefetching or earlier draws,
and a run goes on with another world size or batch from where it stopped: no sample is lost or repeated.

The shuffle permutes blocks of ``BLOCK`` neighbouring samples over the whole epoch and samples inside windows of ``WINDOW`` blocks, so
that neither memory nor the first lookup grows with the dataset. Permutations come from SplitMix64 keys, which no library version changes.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unipixel.errors import CheckpointError, DataError

BLOCK, WINDOW = 64, 64
STATE_LIMIT = 4096
"""Bytes that the state of a plan may have as JSON: it travels in every batch."""


def _key(*parts) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _hash64(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser on uint64: a permutation of 64-bit integers, stable over NumPy versions (unlike ``Generator.permutation``)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permutation(size: int, *parts) -> np.ndarray:
    """Order of ``range(size)`` that depends only on ``parts``; (size,) int64."""
    keys = _hash64(_hash64(np.arange(size, dtype=np.uint64)) ^ np.uint64(_key(*parts)))
    return np.argsort(keys, kind="stable")


def pick(size: int, *parts) -> int:
    """A number below ``size`` that depends only on ``parts``."""
    return _key(*parts) % size


class EpochOrder:
    """One epoch's order of ``size`` samples: blocks permuted, then samples inside each window of blocks. Windows are made on demand."""

    def __init__(self, size: int, *key):
        self.size, self.key = size, key
        blocks = -(-size // BLOCK)
        self.blocks = permutation(blocks, *key).astype(np.int32)
        self.missing = blocks * BLOCK - size  # samples that the last block lacks
        self.short_at = int(np.flatnonzero(self.blocks == blocks - 1)[0]) if self.missing else blocks
        self._window = (-1, 0, [])  # number, first position, samples

    def _start(self, window: int) -> int:
        block = window * WINDOW
        return block * BLOCK - (self.missing if self.short_at < block else 0)

    def _load(self, position: int) -> None:
        window = position // (BLOCK * WINDOW)
        if position >= self._start(window + 1):  # a short block before it moved the border
            window += 1
        starts = self.blocks[window * WINDOW:(window + 1) * WINDOW].astype(np.int64) * BLOCK
        samples = (starts[:, None] + np.arange(BLOCK)).ravel()
        samples = samples[samples < self.size]
        self._window = window, self._start(window), samples[permutation(len(samples), *self.key, window)].tolist()

    def take(self, offset: int, count: int) -> list[int]:
        """Samples at positions ``offset`` … ``offset + count - 1`` of this epoch."""
        if offset + count > self.size:
            raise IndexError(f"positions up to {offset + count} of an epoch of {self.size} samples")
        out: list[int] = []
        while count:
            _, first, samples = self._window
            if not first <= offset < first + len(samples):
                self._load(offset)
                continue
            part = samples[offset - first:offset - first + count]
            out += part
            offset, count = offset + len(part), count - len(part)
        return out


@dataclass(frozen=True, eq=False)
class Source:
    """One kind of sample of one dataset.

    Attributes:
        members: (n,) numbers of its groups of examples, in storage order.
        weight: samples per mixture epoch, the size times its repeat factor; shares of the mixture are proportional to it.
        fingerprint: identity of the data; a state saved over other data is refused.
        excluded: positions in ``members`` that are to be left out, in the order in which they were listed. An epoch that has begun keeps
            the exclusions it began with.
    """

    name: str
    kind: str
    members: np.ndarray
    weight: float
    fingerprint: str = ""
    excluded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self):
        if not len(self.members):
            raise DataError(f"source {self.name!r} has no sample of kind {self.kind!r}")
        if not self.weight > 0:
            raise DataError(f"source {self.name!r} has weight {self.weight}: leave it out, or give it a positive repeat factor")

    @property
    def label(self) -> str:
        return f"{self.name} ({self.kind})"


@dataclass
class Cursor:
    """Where a source stands: samples drawn in all, epoch, position in it, and how many exclusions that epoch knows."""

    drawn: int = 0
    epoch: int = 0
    offset: int = 0
    excluded: int = 0

    def numbers(self) -> list[int]:
        return [self.drawn, self.epoch, self.offset, self.excluded]


class _Stream:
    """The endless stream of one source, read at its cursor."""

    def __init__(self, source: Source, seed: int):
        self.source, self.seed, self.cursor = source, seed, Cursor(excluded=len(source.excluded))
        self._epoch: tuple | None = None

    def _open(self) -> None:
        """The order of the cursor's epoch, over the samples that are not excluded in it."""
        at = (self.cursor.epoch, self.cursor.excluded)
        if self._epoch and self._epoch[0] == at:
            return
        known, members = self.source.excluded[: self.cursor.excluded], self.source.members
        members = np.delete(members, known) if len(known) else members
        if not len(members):
            raise DataError(f"every sample of {self.source.label} is excluded: repair the data or leave the source out")
        self._epoch = at, EpochOrder(len(members), self.seed, self.source.name, self.source.kind, self.cursor.epoch), members

    def take(self, count: int) -> list[tuple[int, int]]:
        """The next ``count`` (group, epoch) pairs; moves the cursor."""
        out, cursor = [], self.cursor
        while count:
            self._open()
            _, order, members = self._epoch
            positions = order.take(cursor.offset, min(count, order.size - cursor.offset))
            out += [(group, cursor.epoch) for group in members[positions].tolist()]
            cursor.offset, cursor.drawn, count = cursor.offset + len(positions), cursor.drawn + len(positions), count - len(positions)
            if cursor.offset == order.size:
                cursor.epoch, cursor.offset, cursor.excluded = cursor.epoch + 1, 0, len(self.source.excluded)
        return out


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
    """Order over a mixture of sources."""

    def __init__(self, sources: Sequence[Source], *, seed: int):
        if not sources:
            raise DataError("the training data holds no sample: check shards and what `unipixel pack` reported as skipped")
        labels = [source.label for source in sources]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise DataError(f"sources are listed more than once: {repeated}; give one of them a repeat factor instead")
        self.sources, self.seed, self.step = list(sources), seed, 0
        self.streams = [_Stream(source, seed) for source in sources]
        self.of_kind: dict[str, list[int]] = {}
        for i, source in enumerate(sources):
            self.of_kind.setdefault(source.kind, []).append(i)
        self.weights = {kind: sum(sources[i].weight for i in members) for kind, members in self.of_kind.items()}
        self.epoch_size = sum(self.weights.values())
        """Samples of one pass over the mixture, repeats included."""
        self.digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]
        length = len(json.dumps(self.state()))
        if length > STATE_LIMIT // 2:  # cursors grow
            raise DataError(f"{len(sources)} sources make a state of {length} bytes, {STATE_LIMIT // 2} are allowed: pack datasets together")

    def describe(self) -> dict:
        """What the order depends on besides the cursors; stored beside a checkpoint to say what changed."""
        return {"seed": self.seed, "sources": [
            {"name": s.name, "kind": s.kind, "samples": len(s.members), "weight": round(s.weight, 6), "fingerprint": s.fingerprint}
            for s in self.sources]}

    def state(self) -> dict:
        return {"plan": self.digest, "step": self.step, "cursors": [stream.cursor.numbers() for stream in self.streams]}

    def load_state(self, state: Mapping, description: Mapping | None = None) -> None:
        """Continue after ``state``. Exclusions listed since then take effect when their source begins its next epoch.

        Args:
            description: :meth:`describe` of the plan that made the state, to name what changed.

        Raises:
            CheckpointError: it was saved over other data, other weights or with another seed.
        """
        if state["plan"] != self.digest:
            changes = difference(description, self.describe()) if description else [f"plan {state['plan']} became {self.digest}"]
            raise CheckpointError("the checkpoint's data order belongs to other data or settings: " + "; ".join(changes)
                                  + ". Restore them, or start a new run from the checkpoint's weights (init_from)")
        cursors = [Cursor(*numbers) for numbers in state["cursors"]]
        for source, cursor in zip(self.sources, cursors, strict=True):
            if cursor.excluded > len(source.excluded):
                raise CheckpointError(f"{source.label}: the checkpoint knows {cursor.excluded} excluded samples, now {len(source.excluded)} are "
                                      "listed; exclusions may be added, not taken back. Restore the list, or start a new run (init_from)")
        self.step = state["step"]
        for stream, cursor in zip(self.streams, cursors, strict=True):
            stream.cursor = cursor

    def epoch_of(self, state: Mapping) -> float:
        """Passes over the mixture at a state."""
        return sum(cursor[0] for cursor in state["cursors"]) / self.epoch_size

    def next_kind(self) -> str:
        """The kind that is furthest behind its share of all samples; depends on the cursors only."""
        def due(kind: str) -> float:
            return (sum(self.streams[i].cursor.drawn for i in self.of_kind[kind]) + 0.5) / self.weights[kind]

        return min(self.of_kind, key=lambda kind: (due(kind), kind))

    def draw_step(self, kind: str, size: int) -> list[tuple[int, int]]:
        """The next ``size`` (group, epoch) pairs of a kind, sources interleaved by stride on their weights; moves the cursors."""
        heap = [((self.streams[i].cursor.drawn + 0.5) / self.sources[i].weight, i) for i in self.of_kind[kind]]
        heapq.heapify(heap)
        turns = []
        for _ in range(size):
            due, i = heap[0]
            turns.append(i)
            heapq.heapreplace(heap, (due + 1 / self.sources[i].weight, i))
        drawn = {i: iter(self.streams[i].take(turns.count(i))) for i in set(turns)}
        return [next(drawn[i]) for i in turns]

    def batches(self, *, rank: int, world: int, micro: int, accumulation: int) -> Iterator[MicroBatch]:
        """Endless micro-batches of one rank, ``accumulation`` of them per step. Advances this plan."""
        size = world * micro * accumulation
        while True:
            kind = self.next_kind()
            draws = self.draw_step(kind, size)
            step, self.step = self.step, self.step + 1
            state = self.state()
            for a in range(accumulation):
                start = (a * world + rank) * micro
                yield MicroBatch(step, kind, tuple(draws[start:start + micro]), state)


def difference(old: Mapping, new: Mapping) -> list[str]:
    """What changed between two :meth:`OrderPlan.describe`, in words."""
    changes = [f"seed {old['seed']} became {new['seed']}"] if old["seed"] != new["seed"] else []
    before, after = ({(s["name"], s["kind"]): s for s in side["sources"]} for side in (old, new))
    for name, kind in sorted(before.keys() | after.keys()):
        label = f"{name} ({kind})"
        if (name, kind) not in after:
            changes.append(f"{label} is gone")
        elif (name, kind) not in before:
            changes.append(f"{label} is new")
        else:
            changes += [f"{label}: {what} {was} became {now}" for what, was in before[name, kind].items()
                        if was != (now := after[name, kind][what])]
    return changes or ["the order of the sources changed"]
