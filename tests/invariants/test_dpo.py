"""Preference training as a whole: it learns under ZeRO-2 and ZeRO-3, starts at ln 2 with every reference, never moves it, and resumes bitwise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import tiny_run
from tests.preference_samples import pair_recipe, records, train_pairs, train_pairs_and_watch, write_pairs
from tests.tiny_run import Ranks, recipe, steps, wait_for
from unipixel.errors import EXIT_USER_ERROR
from unipixel.train import checkpoints

LN_2 = math.log(2)
STEPS = 14


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("preferences") / "pairs", 4, text=True)


def settings(tiny, pairs, folder: Path, engine: str, **changes) -> dict:
    return pair_recipe(tiny, pairs, **{"deepspeed": tiny_run.engine(engine, folder) if engine else "", "lora_dropout": 0.05, **changes})


def run(tiny, pairs, out: Path, engine: str = "", *, world: int = 1, target=train_pairs_and_watch, **changes) -> Path:
    return Ranks(settings(tiny, pairs, out.parent, engine, **changes), out, world=world, target=target).finish()


def weights(out: Path) -> dict:
    return load_file(out / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def wholes(tiny, pairs, tmp_path_factory):
    """Output of a run of two processes that nothing interrupts, per engine; made when first asked for."""
    made: dict[str, Path] = {}

    def whole(engine: str) -> Path:
        if engine not in made:
            folder = tmp_path_factory.mktemp(f"whole_{engine}")
            made[engine] = run(tiny, pairs, folder / "run", engine, world=2, target=train_pairs, max_steps=STEPS, save_steps=8,
                               gradient_accumulation_steps=2)
        return made[engine]

    return whole


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_learns_its_pairs(wholes, engine):
    """15 pairs, videos and text mixed in a step; every pair is seen almost four times."""
    log = records(wholes(engine))
    assert abs(log[0]["loss"] - LN_2) < 1e-5 and log[0]["rewards/margins"] == 0
    assert sum(line["loss"] for line in log[-5:]) / 5 < 0.3
    assert sum(line["rewards/accuracies"] for line in log[-5:]) / 5 >= 0.9
    assert {line["kind"] for rank in (0, 1) for line in steps(wholes(engine), rank)} == {"preference"}
    assert {"spatial/accuracy", "temporal/margin", "cross_frame/pairs"} <= set().union(*log)


def test_engines_agree(wholes):
    two, three = (records(wholes(engine)) for engine in ("zero2", "zero3"))
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(two, three, strict=True)) < 1e-3


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_killed_run_continues_bitwise(tiny, pairs, wholes, tmp_path, engine):
    whole, out = wholes(engine), tmp_path / "run"
    given = settings(tiny, pairs, tmp_path, engine, max_steps=STEPS, save_steps=8, gradient_accumulation_steps=2)
    first = Ranks(given, out, target=train_pairs)
    wait_for(out / "checkpoint-8" / checkpoints.MARKER, first.processes)
    first.kill()
    assert not (out / "adapter_model.safetensors").exists(), "the run had ended before it was killed"
    second = Ranks(given, out, target=train_pairs)
    second.finish()
    assert "resuming from" in second.log(0)
    for rank in (0, 1):
        expected = {(line["step"], tuple(line["keys"])): line for line in steps(whole, rank)}
        seen = steps(out, rank)
        assert {(line["step"], tuple(line["keys"])) for line in seen} == set(expected)
        assert [line for line in seen if line != expected[line["step"], tuple(line["keys"])]] == []
    mine, theirs = weights(out), weights(whole)
    assert mine.keys() == theirs.keys() and mine
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    assert not any("reference" in name for name in mine), "the frozen copy is not saved"


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory) -> Path:
    """A supervised model that preferences start from."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    return Ranks(recipe(tiny, max_steps=3, deepspeed="", lora_scope="llm"), out, world=1).finish()


def test_t5_reference_stays_and_policy_starts_from_it(tiny, pairs, tuned, tmp_path):
    out = run(tiny, pairs, tmp_path / "run", max_steps=4, init_from=str(tuned))
    watched = json.loads((out / "watched.json").read_text())
    assert watched["tensors"] == 16 and watched["policy_moved"] == 1
    assert watched["unequal"] == watched["gradients"] == []
    log = records(out)
    assert abs(log[0]["loss"] - LN_2) < 1e-5 and log[-1]["rewards/margins"] != 0
    untuned = records(run(tiny, pairs, tmp_path / "other", max_steps=1))
    assert abs(untuned[0]["logps/chosen"] - log[0]["logps/chosen"]) > 1, "the supervised model was not loaded"
    assert json.loads((out / "config.json").read_text())["preference"]["reference"] == "adapter"


def test_every_reference_gives_the_same_training(tiny, pairs, tmp_path):
    """A new adapter is zero, so that its copy, the model without it and the cache are one reference."""
    cache = tmp_path / "reference.safetensors"
    kinds = {"adapter": {}, "base": {}, "cached": {"reference_cache": str(cache)}}
    logs = {kind: records(run(tiny, pairs, tmp_path / kind, max_steps=4, reference=kind, **extra)) for kind, extra in kinds.items()}
    for log in logs.values():
        assert abs(log[0]["loss"] - LN_2) < 1e-5
        assert max(abs(a["loss"] - b["loss"]) for a, b in zip(log, logs["adapter"], strict=True)) < 1e-5
    written = cache.stat().st_mtime_ns
    again = records(run(tiny, pairs, tmp_path / "again", max_steps=4, reference="cached", reference_cache=str(cache)))
    assert cache.stat().st_mtime_ns == written and [x["loss"] for x in again] == [x["loss"] for x in logs["cached"]]
    for changes, named in (({"num_frames": 2}, "frames: "), ({"use_subtitles": True}, "template: "), ({"seed": 7}, "weights: "),
                           ({"supervise": "answer"}, "pairs: "), ({"shards": [str(write_pairs(tmp_path / "others", 1))]}, "data: ")):
        assert f"was made for something else ({named}" in refused(tiny, pairs, tmp_path / "bad", reference="cached", reference_cache=str(cache),
                                                                  **changes)


def refused(tiny, pairs, out: Path, **changes) -> str:
    """What a start with these settings is refused with."""
    ranks = Ranks(settings(tiny, pairs, out.parent, "", max_steps=1) | changes, out, world=1, target=train_pairs)
    assert ranks.wait() == [EXIT_USER_ERROR], ranks.logs()
    return ranks.log(0)


def test_full_training_with_a_cached_reference(tiny, pairs, tmp_path):
    out = run(tiny, pairs, tmp_path / "run", max_steps=6, reference="cached", reference_cache=str(tmp_path / "cache"), train=["llm"],
              lora_layers="none", learning_rate=3e-4)
    log = records(out)
    assert abs(log[0]["loss"] - LN_2) < 1e-5 and log[-1]["loss"] < 0.6


def test_starts_that_would_compare_wrongly_are_refused(tiny, pairs, tuned, tmp_path):
    for changes, message in (
            ({"init_from": str(tuned), "lora_alpha": 16}, "lora_alpha=16, but the adapter in init_from="),
            ({"init_from": str(tuned), "reference": "base"}, "would be lost in the reference"),
            ({"train": ["embedding"]}, "trained tensors are not in the adapter"),
            ({"global_batch": 8}, "= 1: set gradient_accumulation_steps: 8"),
            ({"reference": "cached", "reference_cache": "x", "frame_sampling": "random"}, "must be uniform"),
            ({"mode_weights": ["spatial=1"]}, "mode_weights=['spatial=1'], but the pairs are of the failure modes {'spatial': 5, "),
    ):
        assert message in refused(tiny, pairs, tmp_path / "bad", **changes)


def test_another_reference_on_resume_is_refused(tiny, pairs, tuned, tmp_path):
    out = run(tiny, pairs, tmp_path / "run", max_steps=2, save_steps=1)
    assert "was trained against the reference" in refused(tiny, pairs, out, init_from=str(tuned), max_steps=3)
    resumed = run(tiny, pairs, out, max_steps=3, save_steps=1)
    whole = run(tiny, pairs, tmp_path / "whole", max_steps=3, save_steps=1)
    assert all(tensor.equal(weights(whole)[name]) for name, tensor in weights(resumed).items()), "without an engine, too"


def test_pairs_without_marker_are_counted(tiny, pairs, tmp_path):
    out = run(tiny, pairs, tmp_path / "run", max_steps=2, supervise="answer", marker_missing="whole")
    assert [line["replies_without_marker"] for line in records(out)] == [2, 2]
    assert "samples of kind 'preference' in a row cannot be used" in refused(tiny, pairs, tmp_path / "skip", supervise="answer")
