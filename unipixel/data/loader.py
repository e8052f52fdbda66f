"""From shards to batches: groups of examples, their sources, loading with counted substitutes for unusable samples.

The loader is a plain ``torch.utils.data.DataLoader`` whose items are whole micro-batches, so that the order does not depend on the
number of workers. The plan's state travels inside each batch: what a checkpoint stores is the state of the last *consumed* batch.
"""

from __future__ import annotations

import multiprocessing.util
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unipixel.data.collate import Batch, collate
from unipixel.data.encode import EncodedMedium, SampleEncoder
from unipixel.data.mixture import Part, mixture_weights
from unipixel.data.plan import MicroBatch, OrderPlan, Source, pick
from unipixel.data.shards import RowGroups, ShardDataset
from unipixel.errors import DataError, SampleError
from unipixel.sample import Sample

MAX_ATTEMPTS = 16
"""Substitutes tried in a row for one draw before the data is declared broken."""


@dataclass(frozen=True)
class Skip:
    """An unusable sample: where it is stored, what was wrong, and where in training it was drawn."""

    shard: str
    offset: int
    key: str
    reason: str
    message: str
    step: int


@dataclass
class Groups:
    """Examples of one medium and one kind that are trained together, sharing the encoded frames.

    ``mask_share`` below 1 takes a fixed, evenly spread part of the groups with masks as language-only ones: SAM 2 is the larger part of
    a step's cost, and language often needs more steps than masks do.

    Attributes:
        rows: row numbers of each group.
        kinds: names of the kinds; ``kind_of`` (groups,) int8 gives each group's place among them, ``folder_of`` (groups,) its folder.
    """

    dataset: ShardDataset
    per_medium: int
    mask_share: float = 1.0
    rows: RowGroups = field(init=False)
    kinds: list[str] = field(init=False)
    kind_of: np.ndarray = field(init=False)
    folder_of: np.ndarray = field(init=False)

    def __post_init__(self):
        self.rows = self.dataset.groups(self.per_medium)
        first = self.rows.first
        names, codes = self.dataset.kinds
        kind_of = codes[first]
        self.kinds = sorted({*names, *(name.removesuffix("_masks") for name in names)})
        self.kind_of = np.array([self.kinds.index(name) for name in names], np.int8)[kind_of]
        self.folder_of = self.dataset.folder_of[first]
        grounded = np.flatnonzero(np.array([name.endswith("_masks") for name in names])[kind_of])
        count = np.arange(len(grounded))
        plain = grounded[((count + 1) * self.mask_share).astype(int) == (count * self.mask_share).astype(int)]
        without = np.array([self.kinds.index(name.removesuffix("_masks")) for name in self.kinds], np.int8)
        self.kind_of[plain] = without[self.kind_of[plain]]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, group: int) -> Sample:
        """The medium of a group with its examples; raises what ``ShardDataset.sample`` does."""
        rows = self.rows[group]
        return self.dataset.sample(rows[0], rows)

    @property
    def grouping(self) -> str:
        """What else than the data decides which groups there are."""
        return f"{self.per_medium}/{self.mask_share}"

    def sources(self, parts: Sequence[Part] | None = None) -> list[Source]:
        """One source per folder and kind. ``parts``: the folders' places in the mixture; default: every folder once.

        Exclusions that are listed in a folder apply to every group of the excluded sample.
        """
        data = self.dataset
        weights = mixture_weights(parts or [Part(str(path)) for path in data.paths], np.bincount(self.folder_of, minlength=len(data.paths)))
        found = []
        for folder, manifest in enumerate(data.manifests):
            in_folder = self.folder_of == folder
            for code, kind in enumerate(self.kinds):
                members = np.flatnonzero(in_folder & (self.kind_of == code))
                if len(members):
                    found.append(Source(f"{manifest['name']}/{manifest['split']}", kind, members, weights[folder] * len(members),
                                        f"{manifest['fingerprint'][:16]}/{self.grouping}", self._excluded(folder, members)))
        return found

    def _excluded(self, folder: int, members: np.ndarray) -> np.ndarray:
        """Positions in ``members`` of the groups of excluded samples, in the order of the list."""
        listed = self.dataset.excluded[folder]
        if not listed:
            return np.zeros(0, np.int64)
        keys = self.dataset.rows["key"].take(self.rows.first[members]).to_pylist()
        places: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            places.setdefault(key, []).append(position)
        return np.array([position for key in listed for position in places.get(key, ())], np.int64)


class MicroBatches(Dataset):
    """``dataset[MicroBatch] -> Batch``. An unusable sample gets a substitute of the same folder and kind, chosen by a hash of the draw; the
    skip is listed in the batch's ``skips``."""

    def __init__(self, groups: Groups, encoder: SampleEncoder):
        self.groups, self.encoder = groups, encoder

    def __getitem__(self, request: MicroBatch) -> Batch:
        skips: list[Skip] = []
        media = [self.load(group, epoch, request, skips) for group, epoch in request.draws]
        return collate(media, request.kind) | {"skips": skips, "plan": request.state}

    def load(self, group: int, epoch: int, request: MicroBatch, skips: list[Skip]) -> EncodedMedium:
        groups, drawn = self.groups, group
        for attempt in range(MAX_ATTEMPTS):
            rows = groups.rows[group]
            try:
                return self.encoder(groups.sample(group), epoch, with_masks=request.kind.endswith("_masks"))
            except SampleError as error:
                shard, offset, key = groups.dataset.place(rows[0])
                skips.append(Skip(shard, offset, key, error.reason, str(error), request.step))
                alike = np.flatnonzero((groups.kind_of == groups.kind_of[drawn]) & (groups.folder_of == groups.folder_of[drawn]))
                group = int(alike[pick(len(alike), "substitute", drawn, epoch, attempt)])
        listed = "\n".join(f"  {s.key}: {s.message}" for s in skips[-MAX_ATTEMPTS:])
        raise DataError(f"{MAX_ATTEMPTS} samples of kind {request.kind!r} in a row cannot be used; run `unipixel validate` on the shards:\n{listed}")


class _PlanSampler(Sampler):
    def __init__(self, plan: OrderPlan, **shape: int):
        self.plan, self.shape = plan, shape

    def __iter__(self) -> Iterator[MicroBatch]:
        return self.plan.batches(**self.shape)


def build_loader(groups: Groups, encoder: SampleEncoder, plan: OrderPlan, *, rank: int, world: int, micro: int, accumulation: int,
                 workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Endless loader of this rank's micro-batches, in plan order.

    It has a generator of its own: an iterator draws a seed when it starts, which would shift the dropout of a resumed run.
    """
    multiprocessing.util.Finalize(None, _end_workers, exitpriority=0)
    return DataLoader(MicroBatches(groups, encoder), sampler=_PlanSampler(plan, rank=rank, world=world, micro=micro, accumulation=accumulation),
                      batch_size=None, num_workers=workers, collate_fn=_identity, pin_memory=pin_memory, worker_init_fn=_start_worker,
                      persistent_workers=False, prefetch_factor=2 if workers else None, generator=torch.Generator())


def _identity(batch: Batch) -> Batch:
    return batch


def _end_workers() -> None:
    """Before this process waits for its workers at exit: they ignore the signal that would end them. The iterator ends them in order, but not
    when one of them died with the lock of their queue. Torch would report each of them as lost, and change the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    # A scheduler signals all processes of a job; the training process needs data until it has saved, and then ends its workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
