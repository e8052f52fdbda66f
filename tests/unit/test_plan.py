"""The order of training: a pure function of seed and cursors, the same however it is cut into ranks, exact over epochs, refused on other
data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from unipixel.data.plan import MicroBatch, OrderPlan, permutation
from unipixel.errors import CheckpointError, DataError

KINDS = ["video_masks"] * 12 + ["video"] * 6 + ["text"] * 5


def make_plan(kinds=KINDS, seed: int = 3, fingerprint: str = "data") -> OrderPlan:
    return OrderPlan(kinds, seed=seed, fingerprint=fingerprint)


def take(plan: OrderPlan, count: int, rank: int = 0, world: int = 1, micro: int = 4, accumulation: int = 1) -> list[MicroBatch]:
    return list(islice(plan.batches(rank=rank, world=world, micro=micro, accumulation=accumulation), count))


def test_permutation_is_frozen():
    """A change of these numbers would reorder every run that is being resumed."""
    assert permutation(12, 0, "video", 0).tolist() == [8, 9, 1, 4, 2, 11, 5, 3, 6, 7, 0, 10]
    digest = hashlib.sha256(permutation(100_000, 7, "video_masks", 3).astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("822c61ff748b0599")


@pytest.mark.parametrize("size", [1, 2, 97, 5000])
def test_permutation_is_one(size):
    assert sorted(permutation(size, "any", size)) == list(range(size))


def test_permutation_depends_on_every_part():
    orders = {tuple(permutation(50, *parts)) for parts in [(0, "video", 0), (1, "video", 0), (0, "text", 0), (0, "video", 1)]}
    assert len(orders) == 4


def test_permutation_mixes():
    """Neighbours end up apart: no correlation of place and number."""
    order = permutation(20_000, 11)
    assert abs(np.corrcoef(order, np.arange(20_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02


def test_a_step_holds_one_kind():
    for batch in take(make_plan(), 40):
        assert len(batch.draws) == 4 and {KINDS[group] for group, _ in batch.draws} == {batch.kind}


@pytest.mark.parametrize(("world", "micro", "accumulation"), [(1, 8, 1), (2, 4, 1), (2, 2, 2), (4, 2, 1), (4, 1, 2), (1, 2, 4)])
def test_order_does_not_depend_on_the_cut(world, micro, accumulation):
    """The samples of each step are the same set in the same order, for every way to make 8 of them."""
    expected = [(batch.kind, batch.draws) for batch in take(make_plan(), 10, micro=8)]
    ranks = [take(make_plan(), 10 * accumulation, rank, world, micro, accumulation) for rank in range(world)]
    for step in range(10):
        parts = [ranks[rank][step * accumulation + a] for a in range(accumulation) for rank in range(world)]
        assert {(part.step, part.kind) for part in parts} == {(step, expected[step][0])}
        assert sum((part.draws for part in parts), ()) == expected[step][1]
        assert all(part.state == parts[0].state for part in parts)


def test_every_group_once_per_epoch():
    plan = make_plan(["video"] * 7 + ["text"] * 5)
    seen: dict[str, list[tuple[int, int]]] = {"video": [], "text": []}
    for batch in take(plan, 24, micro=3):
        seen[batch.kind] += batch.draws
    for kind, size in (("video", 7), ("text", 5)):
        draws = seen[kind]
        assert len(draws) >= 4 * size
        for epoch in range(4):
            part = draws[epoch * size:(epoch + 1) * size]
            assert len({group for group, _ in part}) == size and {e for _, e in part} == {epoch}
    orders = [tuple(g for g, _ in seen["video"][e * 7:(e + 1) * 7]) for e in range(4)]
    assert len(set(orders)) == 4, "each epoch has an order of its own"


def test_kinds_advance_together():
    """No kind runs ahead of the others by more than a step of its share."""
    plan = make_plan()
    counts: Counter[str] = Counter()
    for batch in take(plan, 60):
        counts[batch.kind] += 4
        shares = [counts[kind] / size for kind, size in Counter(KINDS).items()]
        assert max(shares) - min(shares) <= 4 / 5 + 1e-9


def test_state_round_trip():
    whole = take(make_plan(), 30)
    plan = make_plan()
    done = take(plan, 13)
    stored = json.loads(json.dumps(done[-1].state))
    assert stored["step"] == 13 and sum(stored["cursors"].values()) == 13 * 4
    resumed = make_plan()
    resumed.load_state(stored)
    assert take(resumed, 17) == whole[13:]


def test_state_of_a_step_does_not_depend_on_prefetching():
    """Each micro-batch carries the state after its own step, however far the plan has been read ahead."""
    plan = make_plan()
    batches = take(plan, 20, micro=2, accumulation=2)
    assert [batch.state["step"] for batch in batches] == [1 + i // 2 for i in range(20)]


def test_other_shape_continues_where_the_first_stopped():
    """Another number of processes with the same global batch goes on with the same samples."""
    whole = take(make_plan(), 20, micro=8)
    resumed = make_plan()
    resumed.load_state(whole[8].state)
    halves = take(resumed, 11, rank=1, world=2, micro=4)
    assert [half.draws for half in halves] == [batch.draws[4:] for batch in whole[9:]]


@pytest.mark.parametrize(("changes", "words"), [
    ({"fingerprint": "other"}, "fingerprint='data', this run has 'other'"), ({"seed": 4}, "seed=3, this run has 4"),
])
def test_state_of_another_run_is_refused(changes, words):
    state = take(make_plan(), 1)[0].state
    with pytest.raises(CheckpointError) as caught:
        make_plan(**changes).load_state(state)
    assert words in str(caught.value) and "init_from" in str(caught.value)


def test_no_samples_is_an_error():
    with pytest.raises(DataError, match="holds no sample"):
        make_plan([])


def test_loader_order_does_not_depend_on_workers(tiny):
    from tests.tiny_run import tiny_parts
    from unipixel.data.loader import build_loader

    _, _, encoder, groups = tiny_parts(tiny, deepspeed="")
    orders = []
    for workers in (0, 2):
        plan = OrderPlan(groups.kinds, seed=0, fingerprint="x")
        loader = build_loader(groups, encoder, plan, rank=0, world=2, micro=2, accumulation=1, workers=workers)
        batches = list(islice(loader, 6))
        orders.append([(batch["kind"], batch["keys"], batch["plan"], batch["input_ids"].tolist()) for batch in batches])
    assert orders[0] == orders[1] and len({kind for kind, *_ in orders[0]}) == 2
