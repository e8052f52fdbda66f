"""The training samples of preference data: every pair of every example once per epoch.

The index says which examples have pairs but not how many, so their bundles are read once at the start; with that comes the list of pairs
that cannot train.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from unipixel.data.loader import Groups, Skip
from unipixel.data.pairs import PREFERENCE, one_pair, pair_key, pair_kind
from unipixel.data.shards import RowGroups
from unipixel.errors import DataError, SampleError
from unipixel.sample import Sample


@dataclass
class PairGroups(Groups):
    """One group per pair.

    Attributes:
        masks: whether the masks of cited objects are compared; otherwise pairs that differ in nothing else are left out.
        number: (groups,) int32 place of each group's pair in its example.
        modes: failure modes of the pairs, counted.
        left_out: pairs that are not among the groups, as skips at step -1.

    Raises:
        DataError: the data holds no pair that can train.
    """

    per_medium: int = 1
    masks: bool = False
    number: np.ndarray = field(init=False)
    modes: Counter[str] = field(init=False, default_factory=Counter)
    left_out: list[Skip] = field(init=False, default_factory=list)

    def __post_init__(self):
        data, found = self.dataset, []
        for row in np.flatnonzero(data.rows["has_pairs"].to_numpy()).tolist():
            found += [(row, number, kind) for number, kind in self._usable(row)]
        if not found:
            raise DataError(f"{len(data)} examples, but no preference pair that can train ({len(self.left_out)} left out): name shards whose "
                            "examples have pairs in shards, see `unipixel data-stats`")
        rows, numbers, kinds = zip(*found)
        self.number = np.array(numbers, np.int32)
        self.rows = RowGroups(np.array(rows, np.int64), np.arange(len(rows) + 1))
        self.kinds = sorted(set(kinds))
        self.kind_of = np.array([self.kinds.index(kind) for kind in kinds], np.int8)
        self.folder_of = data.folder_of[np.array(rows)]

    @property
    def grouping(self) -> str:
        return f"{super().grouping}/{'masks' if self.masks else 'words'}"

    def _usable(self, row: int) -> list[tuple[int, str]]:
        """(number, kind) of a row's pairs that can train. A sample that cannot be read stands for one: training meets it, counts it and lists
        it."""
        try:
            sample = self.dataset.sample(row)
        except SampleError:
            return [(0, PREFERENCE)]
        shard, offset, key = self.dataset.place(row)
        example, = sample.examples
        usable = []
        for number, pair in enumerate(example.pairs):
            kind = pair_kind(sample.medium, pair, masks=self.masks)
            if kind is None:
                message = f"{pair_key(sample, example, pair)}: both sides are the same words, they differ in the objects only"
                self.left_out.append(Skip(shard, offset, key, "same_words", message, -1))
            else:
                usable.append((number, kind))
                self.modes[pair.failure_mode] += 1
        return usable

    def sample(self, group: int) -> Sample:
        """The medium of a pair with its example, which holds this pair only."""
        return one_pair(super().sample(group), int(self.number[group]))
