"""A run that is killed and resumed with other numbers of processes, micro-batches and accumulation sees every sample exactly once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests import tiny_run
from tests.tiny_run import Ranks, global_losses, recipe, steps, wait_for
from unipixel.train import checkpoints, elastic
from unipixel.train.checkpoints import MARKER


def settings(tiny, folder: Path, engine: str, max_steps: int, **changes) -> dict:
    return recipe(tiny, max_steps=max_steps, save_steps=1, lora_dropout=0.0, examples_per_medium=1,
                  deepspeed=tiny_run.engine(engine, folder) if engine else "", **changes)


def consumed(out: Path, world: int, first: int, last: int) -> list[str]:
    """Keys of the steps ``first`` … ``last - 1``, over all ranks."""
    return [key for rank in range(world) for line in steps(out, rank) if first <= line["step"] < last for key in line["keys"]]


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_fewer_and_more_processes_continue_the_same_run(tiny, tmp_path, engine):
    """2 -> 1 -> 2 processes with the same global batch: the losses of the run that nothing interrupted."""
    whole = Ranks(settings(tiny, tmp_path, engine, 3, lr_scheduler_type="constant"), tmp_path / "whole").finish()
    out = tmp_path / "run"
    for until, world, accumulation in ((1, 2, 1), (2, 1, 2), (3, 2, 1)):
        run = Ranks(settings(tiny, tmp_path, engine, until, lr_scheduler_type="constant", gradient_accumulation_steps=accumulation), out, world=world)
        run.finish()
        assert ("converted for another number of processes" in run.log(0)) == (until > 1)
    expected, seen = {}, {}
    for folder, into in ((whole, expected), (out, seen)):
        for rank in (0, 1):
            for line in steps(folder, rank):
                into.setdefault(line["step"], []).extend(line["keys"])
    assert {step: sorted(keys) for step, keys in seen.items()} == {step: sorted(keys) for step, keys in expected.items()}
    alone = sum(line["loss"] for line in steps(out, 0) if line["step"] == 1)
    assert alone == pytest.approx(global_losses(whole)[1], rel=2e-5)
    last = sum(steps(out, rank)[-1]["loss"] for rank in (0, 1)) / 2
    assert last == pytest.approx(global_losses(whole)[2], rel=2e-5)


def test_killed_at_any_step_with_any_shape_no_sample_is_lost_or_repeated(tiny, tmp_path):
    """Plain data parallelism, no engine. What counts is what led to the checkpoint that the next run started from."""
    out, done, keys = tmp_path / "run", 0, Counter()
    for world, micro, accumulation, until in ((2, 1, 1, 3), (1, 3, 1, 5), (2, 1, 2, 7)):
        before = {rank: len(steps(out, rank)) if (out / f"steps_{rank}.jsonl").exists() else 0 for rank in range(world)}
        run = Ranks(settings(tiny, tmp_path, "", 50, per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation), out, world=world)
        wait_for(out / f"checkpoint-{until}" / MARKER, run.processes)
        run.kill()
        reached = int(checkpoints.newest_complete(out)[0].name.rpartition("-")[2])
        for rank in range(world):
            for line in steps(out, rank)[before[rank]:]:
                if done <= line["step"] < reached:
                    keys.update(line["keys"])
        done = reached
    state = json.loads((checkpoints.newest_complete(out)[0] / "data_order.json").read_text())["state"]
    assert sum(keys.values()) == sum(drawn for drawn, *_ in state["cursors"])
    rounds = sum(epoch + (offset > 0) for _, epoch, offset, _ in state["cursors"])
    assert max(keys.values()) <= max(1, rounds), "an example comes again only with the next epoch of its source"


def test_a_failed_conversion_leaves_nothing(tmp_path):
    checkpoint = tmp_path / "checkpoint-3"
    (checkpoint / "global_step3").mkdir(parents=True)
    (checkpoint / "latest").write_text("global_step3")
    (checkpoint / "global_step3" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"damaged")
    assert elastic.stored_world(checkpoint) == 1 and elastic.stored_world(tmp_path) is None
    with pytest.raises(Exception, match="cannot be converted for another number"):
        elastic.convert(checkpoint)
    assert sorted(p.name for p in checkpoint.iterdir()) == ["global_step3", "latest"]
