"""From shards to batches: groups of examples, the order plan, loading with counted substitutes for unusable samples.

The loader is a plain ``torch.utils.data.DataLoader`` whose items are whole micro-batches, so that the order does not depend on the
number of workers. The plan's state travels inside each batch: what a checkpoint stores is the state of the last *consumed* batch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unipixel.data.collate import Batch, collate
from unipixel.data.encode import EncodedMedium, SampleEncoder
from unipixel.data.plan import MicroBatch, OrderPlan, permutation
from unipixel.data.shards import ShardDataset
from unipixel.errors import DataError, SampleError

MAX_ATTEMPTS = 16
"""Substitutes tried in a row for one draw before the data is declared broken."""


@dataclass(frozen=True)
class Skip:
    """An unusable sample: what it was, why, and where in training it was drawn."""

    key: str
    reason: str
    message: str
    step: int


@dataclass
class Groups:
    """Examples of one medium and one kind that are trained together, sharing the encoded frames.

    ``mask_share`` below 1 takes a fixed, evenly spread part of the groups with masks as language-only ones: SAM 2 is the larger part of
    a step's cost, and language often needs more steps than masks do.
    """

    dataset: ShardDataset
    per_medium: int
    mask_share: float = 1.0
    rows: list[tuple[int, ...]] = field(init=False)
    kinds: list[str] = field(init=False)

    def __post_init__(self):
        self.rows = self.dataset.groups(self.per_medium)
        kind_of = self.dataset.rows.column("kind").to_pylist()
        self.kinds = [kind_of[group[0]] for group in self.rows]
        grounded = [i for i, kind in enumerate(self.kinds) if kind.endswith("_masks")]
        for n, i in enumerate(grounded):
            if int((n + 1) * self.mask_share) == int(n * self.mask_share):
                self.kinds[i] = self.kinds[i].removesuffix("_masks")

    def __len__(self) -> int:
        return len(self.rows)


class MicroBatches(Dataset):
    """``dataset[MicroBatch] -> Batch``. An unusable sample gets a substitute of the same kind, chosen by a hash of the draw; the skip is
    listed in the batch's ``skips``."""

    def __init__(self, groups: Groups, encoder: SampleEncoder):
        self.groups, self.encoder = groups, encoder
        self.members: dict[str, list[int]] = {}
        for index, kind in enumerate(groups.kinds):
            self.members.setdefault(kind, []).append(index)

    def __getitem__(self, request: MicroBatch) -> Batch:
        skips: list[Skip] = []
        media = [self.load(group, epoch, request, skips) for group, epoch in request.draws]
        return collate(media, request.kind) | {"skips": skips, "plan": request.state}

    def load(self, group: int, epoch: int, request: MicroBatch, skips: list[Skip]) -> EncodedMedium:
        for attempt in range(MAX_ATTEMPTS):
            try:
                rows = self.groups.rows[group]
                return self.encoder(self.groups.dataset.sample(rows[0], rows), epoch, with_masks=request.kind.endswith("_masks"))
            except SampleError as error:
                skips.append(Skip(error.key or f"group {group}", error.reason, str(error), request.step))
                members = self.members[request.kind]
                group = members[int(permutation(len(members), "substitute", group, epoch, attempt)[0])]
        listed = "\n".join(f"  {s.key}: {s.message}" for s in skips[-MAX_ATTEMPTS:])
        raise DataError(f"{MAX_ATTEMPTS} samples of kind {request.kind!r} in a row cannot be used; run `unipixel preview` on the shards:\n{listed}")


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
    return DataLoader(MicroBatches(groups, encoder), sampler=_PlanSampler(plan, rank=rank, world=world, micro=micro, accumulation=accumulation),
                      batch_size=None, num_workers=workers, collate_fn=_identity, pin_memory=pin_memory, worker_init_fn=_start_worker,
                      persistent_workers=False, prefetch_factor=2 if workers else None, generator=torch.Generator())


def _identity(batch: Batch) -> Batch:
    return batch


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    # A scheduler signals all processes of a job; the training process needs data until it has saved, and then ends its workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
