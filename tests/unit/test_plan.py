"""The order of training: a pure function of seed and cursors, the same however it is cut into ranks, exact over epochs, refused on other
data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from unipixel.data.plan import BLOCK, STATE_LIMIT, WINDOW, EpochOrder, MicroBatch, OrderPlan, Source, permutation, pick
from unipixel.errors import CheckpointError, DataError

SIZES = {"clips": ("video_masks", 12), "talk": ("video", 6), "notes": ("text", 5)}


def sources(sizes=SIZES, weights: dict[str, float] | None = None, **changes) -> list[Source]:
    """Sources with consecutive group numbers."""
    made, at = [], 0
    for name, (kind, size) in sizes.items():
        made.append(Source(name, kind, np.arange(at, at + size), (weights or {}).get(name, 1) * size, **changes))
        at += size
    return made


def make_plan(sizes=SIZES, seed: int = 3, weights=None, **changes) -> OrderPlan:
    return OrderPlan(sources(sizes, weights, **changes), seed=seed)


def take(plan: OrderPlan, count: int, rank: int = 0, world: int = 1, micro: int = 4, accumulation: int = 1) -> list[MicroBatch]:
    return list(islice(plan.batches(rank=rank, world=world, micro=micro, accumulation=accumulation), count))


# --- the shuffle ------------------------------------------------------------------------------------------------------------------------

def test_permutation_is_frozen():
    """A change of these numbers would reorder every run that is being resumed."""
    assert permutation(12, 0, "video", 0).tolist() == [8, 9, 1, 4, 2, 11, 5, 3, 6, 7, 0, 10]
    digest = hashlib.sha256(permutation(100_000, 7, "video_masks", 3).astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("822c61ff748b0599")


def test_order_is_frozen():
    """The first ten thousand samples of a mixture."""
    plan = make_plan({"a": ("video", 9000), "b": ("video", 700), "c": ("text", 3000)}, seed=7, weights={"b": 5})
    draws = [draw for batch in take(plan, 313, micro=32) for draw in batch.draws]
    digest = hashlib.sha256(np.array(draws, "<i8").tobytes()).hexdigest()
    assert digest.startswith("0832315bf3505bff")


@pytest.mark.parametrize("size", [1, 2, 97, 5000])
def test_permutation_is_one(size):
    assert sorted(permutation(size, "any", size)) == list(range(size))


def test_permutation_depends_on_every_part():
    orders = {tuple(permutation(50, *parts)) for parts in [(0, "video", 0), (1, "video", 0), (0, "text", 0), (0, "video", 1)]}
    assert len(orders) == 4
    assert len({pick(1000, "a", i) for i in range(50)}) > 40 and all(pick(3, i) < 3 for i in range(50))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK * WINDOW, BLOCK * WINDOW + 1, BLOCK * WINDOW * 3 + 17, BLOCK * (WINDOW + 1)])
@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_holds_every_sample_once(size, seed):
    """Wherever the short last block lands."""
    order = EpochOrder(size, seed)
    everything = order.take(0, size)
    assert sorted(everything) == list(range(size))
    again = EpochOrder(size, seed)
    at = size * 2 // 3
    assert again.take(at, size - at) == everything[at:] and again.take(0, 1) == everything[:1]
    with pytest.raises(IndexError):
        again.take(1, size)


def test_an_epoch_mixes():
    """Neighbours end up apart, and a step draws from many places."""
    size = BLOCK * WINDOW * 5 + 100
    order = np.array(EpochOrder(size, 11).take(0, size))
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert len(set(order[:64] // BLOCK)) > 20


# --- steps ------------------------------------------------------------------------------------------------------------------------------

def test_a_step_holds_one_kind():
    kinds = np.repeat([kind for kind, _ in SIZES.values()], [size for _, size in SIZES.values()])
    for batch in take(make_plan(), 40):
        assert len(batch.draws) == 4 and {kinds[group] for group, _ in batch.draws} == {batch.kind}


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
    plan = make_plan({"a": ("video", 7), "b": ("text", 5)})
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
    plan, counts = make_plan(), Counter()
    for batch in take(plan, 60):
        counts[batch.kind] += 4
        shares = [counts[kind] / size for kind, size in SIZES.values()]
        assert max(shares) - min(shares) <= 4 / 5 + 1e-9


@pytest.mark.parametrize("micro", [1, 32])
def test_mixture_is_kept(micro):
    """Shares after 10,000 samples are within 1 % of the weights, with sources a hundred times smaller than others."""
    sizes = {"big": ("video", 20_000), "small": ("video", 200), "stills": ("image", 3000), "clips": ("video_masks", 700), "few": ("text", 3)}
    weights = {"small": 10, "clips": 5, "few": 40}
    plan, drawn = make_plan(sizes, weights=weights), Counter()
    owner = np.repeat(list(sizes), [size for _, size in sizes.values()])
    for batch in take(plan, 10_000 // micro, micro=micro):
        drawn.update(owner[[group for group, _ in batch.draws]].tolist())
    total = sum(drawn.values())
    for name, (_, size) in sizes.items():
        assert abs(drawn[name] / total - weights.get(name, 1) * size / plan.epoch_size) < 0.01


def test_sources_of_a_kind_share_its_steps():
    plan = make_plan({"a": ("video", 40), "b": ("video", 40)}, weights={"a": 3})
    for batch in take(plan, 20, micro=8):
        assert sum(group < 40 for group, _ in batch.draws) == 6


# --- state ------------------------------------------------------------------------------------------------------------------------------

def test_state_round_trip():
    whole = take(make_plan(), 30)
    plan = make_plan()
    done = take(plan, 13)
    stored = json.loads(json.dumps(done[-1].state))
    assert stored["step"] == 13 and sum(drawn for drawn, *_ in stored["cursors"]) == 13 * 4
    resumed = make_plan()
    resumed.load_state(stored)
    assert take(resumed, 17) == whole[13:]


def test_state_of_a_step_does_not_depend_on_prefetching():
    """Each micro-batch carries the state after its own step, however far the plan has been read ahead."""
    batches = take(make_plan(), 20, micro=2, accumulation=2)
    assert [batch.state["step"] for batch in batches] == [1 + i // 2 for i in range(20)]


def test_state_stays_small():
    many = {f"dataset-{i}/train": (kind, 1000) for i, kind in enumerate(["video", "image", "text"] * 27)}
    state = make_plan(many).state()
    state["cursors"] = [[10**9, 10**4, 10**8, 10**4]] * len(many)
    assert len(json.dumps(state)) < STATE_LIMIT
    with pytest.raises(DataError, match="pack datasets together"):
        make_plan({f"d{i}": ("video", 5) for i in range(400)})


@pytest.mark.parametrize("shapes", [
    [(8, 1, 1), (6, 1, 1), (3, 1, 2), (16, 1, 1)], [(2, 4, 1), (2, 1, 3), (1, 5, 1)], [(1, 1, 1), (4, 2, 2)],
])
def test_elastic(shapes):
    """World size, micro-batch and accumulation change at every restart: the samples of all parts together are those of an endless epoch
    sequence, none lost, none repeated."""
    sizes = {"a": ("video", 37), "b": ("video", 300), "c": ("text", 11)}
    plan, seen, state = make_plan(sizes), Counter(), None
    for turn, (world, micro, accumulation) in enumerate(shapes):
        ranks = []
        for rank in range(world):
            plan = make_plan(sizes)
            if state:
                plan.load_state(state)
            ranks.append(take(plan, (7 + turn) * accumulation, rank, world, micro, accumulation))
        seen.update(draw for rank in ranks for batch in rank for draw in batch.draws)
        state = ranks[0][-1].state
    assert set(seen.values()) == {1}
    at = 0
    for (_, size), (drawn, epoch, offset, _) in zip(sizes.values(), state["cursors"]):
        mine = {draw for draw in seen if at <= draw[0] < at + size}
        assert len(mine) == drawn == epoch * size + offset
        assert {(group, e) for group, e in mine if e < epoch} == {(g, e) for g in range(at, at + size) for e in range(epoch)}
        at += size


@pytest.mark.parametrize(("changes", "words"), [
    ({"seed": 4}, "seed 3 became 4"), ({"fingerprint": "other"}, "clips (video_masks): fingerprint  became other"),
    ({"weights": {"notes": 2}}, "notes (text): weight 5 became 10"),
    ({"sizes": {"clips": ("video_masks", 12), "new": ("video", 6)}}, "new (video) is new; notes (text) is gone; talk (video) is gone"),
    ({"sizes": {**SIZES, "talk": ("video", 7)}}, "talk (video): samples 6 became 7"),
])
def test_state_of_another_run_is_refused(changes, words):
    plan = make_plan()
    state = take(plan, 1)[0].state
    with pytest.raises(CheckpointError) as caught:
        make_plan(**changes).load_state(state, plan.describe())
    assert words in str(caught.value) and "init_from" in str(caught.value)


def test_exclusions_begin_with_the_next_epoch():
    sizes = {"a": ("video", 10)}
    whole = [draw for batch in take(make_plan(sizes), 10, micro=2) for draw in batch.draws]
    plan = make_plan(sizes)
    state = take(plan, 2, micro=2)[-1].state
    later = make_plan(sizes, excluded=np.array([4, 7]))
    later.load_state(state)
    rest = [draw for batch in take(later, 8, micro=2) for draw in batch.draws]
    assert rest[:6] == whole[4:10], "the epoch that has begun keeps its samples"
    assert {group for group, epoch in rest[6:14]} == set(range(10)) - {4, 7} and {epoch for _, epoch in rest[6:14]} == {1}
    assert rest[14][1] == 2
    with pytest.raises(CheckpointError, match="may be added, not taken back"):
        make_plan(sizes).load_state(take(later, 1, micro=2)[0].state)
    with pytest.raises(DataError, match="every sample of a .video. is excluded"):
        take(make_plan(sizes, excluded=np.arange(10)), 1)


def test_no_samples_is_an_error():
    with pytest.raises(DataError, match="holds no sample"):
        OrderPlan([], seed=0)
    with pytest.raises(DataError, match="weight 0"):
        make_plan(weights={"notes": 0})
    with pytest.raises(DataError, match="listed more than once: .'clips .video_masks.'"):
        OrderPlan(sources() + sources()[:1], seed=0)


def test_loader_order_does_not_depend_on_workers(tiny):
    from tests.tiny_run import tiny_parts
    from unipixel.data.loader import build_loader

    _, _, encoder, groups = tiny_parts(tiny, deepspeed="")
    orders = []
    for workers in (0, 1, 3):
        plan = OrderPlan(groups.sources(), seed=0)
        loader = build_loader(groups, encoder, plan, rank=0, world=2, micro=2, accumulation=1, workers=workers)
        batches = list(islice(loader, 6))
        orders.append([(batch["kind"], batch["keys"], batch["plan"], batch["input_ids"].tolist()) for batch in batches])
    assert orders[0] == orders[1] == orders[2] and len({kind for kind, *_ in orders[0]}) == 2
