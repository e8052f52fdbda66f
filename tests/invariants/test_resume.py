"""A run that was killed, or asked to stop, ends with bitwise the weights of one that was not; half-written checkpoints are never used."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests import tiny_run
from tests.tiny_run import Ranks, recipe, steps, torchrun, train_until_sigterm, wait_for
from unipixel.errors import EXIT_PREEMPTED, CheckpointError
from unipixel.train import checkpoints
from unipixel.train.settings import RunSettings
from unipixel.train.sft import find_resume

STEPS = 4
TRAINED = ("adapter_model.safetensors", "pytorch_model.safetensors")


def settings(tiny, folder: Path, engine: str, **changes) -> dict:
    """Dropout on, a checkpoint after every step; the steps are of the kinds masks, no masks, masks, masks."""
    return recipe(tiny, max_steps=STEPS, save_steps=1, lora_dropout=0.05, examples_per_medium=1, deepspeed=tiny_run.engine(engine, folder),
                  **changes)


def weights(out: Path) -> dict:
    return {f"{file}:{name}": tensor for file in TRAINED for name, tensor in load_file(out / file).items()}


def assert_same_run(out: Path, whole: Path) -> None:
    """Every rank saw the same examples with the same loss, step by step (steps that were run twice count both times), and the trained
    weights are bitwise equal."""
    for rank in (0, 1):
        expected = {line["step"]: line for line in steps(whole, rank)}
        seen = steps(out, rank)
        assert {line["step"] for line in seen} == set(range(STEPS)) == set(expected)
        assert [line for line in seen if line != expected[line["step"]]] == []
    mine, theirs = weights(out), weights(whole)
    assert mine.keys() == theirs.keys() and len(mine) > 20
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


@pytest.fixture(scope="module")
def wholes(tiny, tmp_path_factory) -> Callable[[str], Path]:
    """Output of the run that nothing interrupts, per engine; made when first asked for. It holds a checkpoint of every step."""
    made: dict[str, Path] = {}

    def whole(engine: str) -> Path:
        if engine not in made:
            folder = tmp_path_factory.mktemp(engine)
            made[engine] = Ranks(settings(tiny, folder, engine), folder / "whole").finish()
            kinds = [line["kind"] for line in steps(made[engine])]
            assert kinds == ["video_masks", "video", "video_masks", "video_masks"]
        return made[engine]

    return whole


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_killed_run_continues_bitwise(tiny, wholes, tmp_path, engine):
    out = tmp_path / "run"
    first = Ranks(settings(tiny, tmp_path, engine), out)
    wait_for(out / "checkpoint-1" / checkpoints.MARKER, first.processes)
    first.kill()
    assert [p.exitcode for p in first.processes] == [-signal.SIGKILL] * 2
    assert not (out / TRAINED[0]).exists(), "the run had ended before it was killed"
    found, _ = checkpoints.newest_complete(out)
    half_written(found, out / "checkpoint-9")
    second = Ranks(settings(tiny, tmp_path, engine), out)
    second.finish()
    assert f"resuming from {found}" in second.log(0)
    assert "not resuming from checkpoint-9: the run was stopped while writing it" in second.log(0)
    assert len(steps(out)) >= STEPS
    assert_same_run(out, wholes(engine))


def half_written(complete: Path, copy: Path) -> None:
    """What a kill in the middle of saving leaves: most of the files, no marker."""
    shutil.copytree(complete, copy, dirs_exist_ok=True)
    (copy / checkpoints.MARKER).unlink()


def test_torchrun_restarts_killed_worker(tiny, wholes, tmp_path):
    """``--max_restarts``: the launcher starts both ranks again, they find the checkpoint themselves."""
    out = tmp_path / "run"
    launcher = torchrun(settings(tiny, tmp_path, "zero2"), out, "--max_restarts=1")
    try:
        wait_for(out / "checkpoint-1" / checkpoints.MARKER, [launcher])
        psutil.Process(launcher.pid).children()[1].kill()
        assert launcher.wait(120) == 0, out.with_suffix(".log").read_text()[-4000:]
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert "resuming from" in out.with_suffix(".log").read_text()
    assert_same_run(out, wholes("zero2"))


def test_deepspeed_launcher_runs_the_same_training(tiny, wholes, tmp_path):
    out = tmp_path / "run"
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(tiny_run.free_port()), "--module",
               "tests.tiny_run", *tiny_run.flags(settings(tiny, tmp_path, "zero2"), out), "--output_dir", str(out)]
    result = subprocess.run(command, cwd=tiny_run.ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert_same_run(out, wholes("zero2"))


def test_sigterm_to_one_rank_stops_all_at_the_same_step(tiny, wholes, tmp_path):
    """The signal also reaches that rank's data worker, as under SLURM; it must not leave before the checkpoint is written."""
    out = tmp_path / "run"
    first = Ranks(settings(tiny, tmp_path, "zero2", dataloader_num_workers=1) | {"save_steps": 100}, out, target=train_until_sigterm)
    assert first.wait() == [EXIT_PREEMPTED] * 2, first.logs()
    folders = checkpoints.checkpoints(out)
    assert len(folders) == 1 and checkpoints.problem(folders[0]) is None and not (out / TRAINED[0]).exists()
    done = json.loads((folders[0] / "data_order.json").read_text())["state"]["step"]
    assert [len(steps(out, rank)) for rank in (0, 1)] == [done, done] and done < STEPS
    second = Ranks(settings(tiny, tmp_path, "zero2"), out)
    second.finish()
    assert_same_run(out, wholes("zero2"))


def test_finished_run_started_again_trains_nothing(tiny, wholes, tmp_path):
    out = shutil.copytree(wholes("zero2"), tmp_path / "run")
    before, count = weights(out), len(steps(out))
    Ranks(settings(tiny, tmp_path, "zero2"), out).finish()
    assert len(steps(out)) == count
    assert [f.name for f in checkpoints.checkpoints(out)] == [f"checkpoint-{n}" for n in range(1, STEPS + 1)]
    after = weights(out)
    assert all(after[name].equal(before[name]) for name in before)


def test_resume_never_starts_from_scratch(tiny, wholes, tmp_path):
    """The checkpoints of the earlier run are set aside: the next automatic resume must not mix the two."""
    out = shutil.copytree(wholes("zero2"), tmp_path / "run")
    (out / "steps_0.jsonl").unlink()
    run = Ranks(settings(tiny, tmp_path, "zero2", resume="never") | {"max_steps": 1, "save_steps": 1}, out)
    run.finish()
    assert "starting from the base model" in run.log(0)
    assert [line["step"] for line in steps(out)] == [0]
    assert [f.name for f in checkpoints.checkpoints(out)] == ["checkpoint-1"]
    assert len(list(out.glob("**/checkpoint-4/complete.json"))) == 1, "the earlier checkpoints must not be deleted"


# --- which checkpoint ----------------------------------------------------------------------------------------------------------

def make_checkpoint(out: Path, step: int, complete: bool = True) -> Path:
    folder = out / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    for name in ("model.safetensors", "global_step/optimizer.pt"):
        (folder / name).write_bytes(bytes(64))
    if complete:
        checkpoints.mark_complete(folder)
    return folder


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda f: (f / checkpoints.MARKER).unlink(), "the run was stopped while writing it"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda f: (f / "global_step" / "optimizer.pt").write_bytes(bytes(63)), "global_step/optimizer.pt has 63 bytes, 64 were written"),
    (lambda f: (f / checkpoints.MARKER).write_text("{"), "complete.json is damaged"),
])
def test_t8_half_written_checkpoint_is_passed_over(tmp_path, caplog, damage, reason):
    older, newer = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert find_resume(RunSettings(), tmp_path) == newer
    damage(newer)
    with caplog.at_level(logging.WARNING):
        assert find_resume(RunSettings(), tmp_path) == older
    assert f"checkpoint-10: {reason}" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoint-10.*complete ones beside it: checkpoint-9"):
        find_resume(RunSettings(resume=str(newer)), tmp_path)


def test_resume_modes(tmp_path):
    assert find_resume(RunSettings(), tmp_path) is None
    first, second = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 11)
    make_checkpoint(tmp_path, 12, complete=False)
    (tmp_path / "checkpoint-best").mkdir()
    assert find_resume(RunSettings(resume="never"), tmp_path) is None
    assert find_resume(RunSettings(resume=str(first)), tmp_path / "elsewhere") == first
    assert find_resume(RunSettings(resume=str(tmp_path)), tmp_path / "elsewhere") == second, "a run's folder means its newest checkpoint"
    with pytest.raises(CheckpointError, match="there is no such folder; complete ones beside it: checkpoint-2, checkpoint-11"):
        find_resume(RunSettings(resume=str(tmp_path / "checkpoint-3")), tmp_path)


def test_rotation_keeps_the_newest_complete_ones(tmp_path):
    for step in (1, 2, 3, 10):
        make_checkpoint(tmp_path, step, complete=step != 2)
    make_checkpoint(tmp_path, 11, complete=False)
    checkpoints.rotate(tmp_path, None)
    assert len(checkpoints.checkpoints(tmp_path)) == 5
    checkpoints.rotate(tmp_path, 2)
    assert [f.name for f in checkpoints.checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-10", "checkpoint-11"]
