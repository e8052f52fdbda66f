"""The scripts of POVQA's runs (``run_sft.sh`` and the others) over a stub of the command: what they start, for what, and where they stop."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from launch.cli import find

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = ("run_sft.sh", "run_sft_eval.sh", "run_dpo.sh", "run_dpo_eval.sh", "run_tvqa_eval.sh")
METHODS = ["blend_blur_with_last_frame", "weighted_average", "weighted_average_exponential", "weighted_average_ramp"]
PLACES = {"PAIRS": "pairs", "SFT_MODELS": "sft", "DPO_MODELS": "dpo", "TRAIN": "train", "VALIDATION": "val", "TEST": "test", "INPUT": "tvqa"}


def script(name: str, folder: Path, *argv: str, unipixel: str = 'printf "%s|" "$@"; echo', **env: str) -> subprocess.CompletedProcess:
    """Run with data, pairs and models of the methods wa and war in ``folder``; every other method lacks everything."""
    for method in ("wa", "war"):
        for kind in ("pairs", "sft", "dpo", "train", "val", "test"):
            (folder / kind / method).mkdir(parents=True, exist_ok=True)
        (folder / "pairs" / method / "dataset.json").touch()
    (folder / "tvqa/tvqa_qa_release").mkdir(parents=True, exist_ok=True)
    (folder / "tvqa/tvqa_qa_release/tvqa_val.jsonl").touch()
    stub = folder / "bin" / "unipixel"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(f"#!/bin/bash\n{unipixel}\n")
    stub.chmod(0o755)
    places = PLACES | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(["bash", str(LAUNCH / name), *argv], cwd=folder, env={**os.environ, **places, **env}, capture_output=True, text=True)


def commands(result: subprocess.CompletedProcess) -> list[list[str]]:
    assert result.returncode == 0, result.stderr
    return [shlex.split(line)[1:] for line in result.stdout.splitlines()]


def calls(result: subprocess.CompletedProcess) -> list[list[str]]:
    """What the stub was called with."""
    assert result.returncode == 0, result.stderr
    return [line.split("|")[:-1] for line in result.stdout.splitlines() if "|" in line]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_printed_command_exists(tmp_path, name):
    for words in commands(script(name, tmp_path, "--print")):
        assert find(words)[0] == " ".join(words[:words.index(next(w for w in words if w.startswith("-")))])


@pytest.mark.parametrize("name", SCRIPTS)
def test_methods_by_default_and_both_ways_to_give_them(tmp_path, name):
    printed = script(name, tmp_path, "--print").stdout
    assert all(method in printed for method in METHODS)
    one, other = (script(name, tmp_path, "--print", METHODS=given).stdout for given in ("wa war", "(wa war)"))
    assert one == other and "weighted" not in one


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("argv", "env", "message"), [(("wa",), {}, "unknown argument wa"), ((), {"METHODS": "()"}, "METHODS is empty")])
def test_bad_arguments(tmp_path, name, argv, env, message):
    result = script(name, tmp_path, *argv, **env)
    assert (result.returncode, result.stdout) == (2, "") and message in result.stderr and f"usage: [METHODS=(NAME …)] {name}" in result.stderr


@pytest.mark.parametrize(("name", "missing"), [("run_sft.sh", "train/wae"), ("run_sft_eval.sh", "test/wae"), ("run_dpo.sh", "sft/wae"),
                                               ("run_dpo_eval.sh", "test/wae")])
def test_a_missing_method_is_named_before_anything_runs(tmp_path, name, missing):
    result = script(name, tmp_path, METHODS="wa wae")
    assert (result.returncode, result.stdout) == (2, "") and f"{missing} is not a folder" in result.stderr


# --- training --------------------------------------------------------------------------------------------------------------------

def test_run_sft_trains_each_method(tmp_path):
    found = calls(script("run_sft.sh", tmp_path, "--", "--seed", "7", METHODS="wa war"))
    assert found == [["train", "sft", "--config", "sft_povqa", "--shards", f"train/{m}", "--eval_shards", f"val/{m}", "--output_dir", f"sft/{m}",
                      "--seed", "7"] for m in ("wa", "war")]


def test_run_sft_without_validation_keeps_the_last_checkpoint(tmp_path):
    (found,) = calls(script("run_sft.sh", tmp_path, METHODS="wa", VALIDATION=""))
    assert "--eval_shards" not in found and found[found.index("--keep_best") + 1] == "false"


def test_run_dpo_trains_each_method(tmp_path):
    found = calls(script("run_dpo.sh", tmp_path, "--", "--seed", "7", METHODS="wa war"))
    assert found == [["train", "dpo", "--config", "dpo_povqa", "--shards", f"pairs/{m}", "--init_from", f"sft/{m}", "--output_dir", f"dpo/{m}",
                      "--seed", "7"] for m in ("wa", "war")]


def test_run_dpo_makes_pairs_that_are_missing(tmp_path):
    found = calls(script("run_dpo.sh", tmp_path, METHODS="wa war", PAIRS="new"))
    assert [" ".join(words[:2]) for words in found] == ["pairs make", "pairs filter"] * 2 + ["train dpo"] * 2
    assert found[0][3:] == ["--shards", "train/wa", "--out", "new/wa.questions.jsonl"]
    assert found[1][2:] == ["--questions", "new/wa.questions.jsonl", "--shards", "train/wa", "--out", "new/wa"]
    refused = script("run_dpo.sh", tmp_path, METHODS="wa war", PAIRS="new", TRAIN="none")
    assert refused.returncode == 2 and "new/wa is no packed folder, nor is none/wa" in refused.stderr


@pytest.mark.parametrize(("name", "models"), [("run_sft.sh", "sft"), ("run_dpo.sh", "dpo")])
def test_training_stops_at_the_first_failure_and_keeps_what_is_done(tmp_path, name, models):
    failed = script(name, tmp_path, unipixel="exit 85", METHODS="wa war")
    assert (failed.returncode, failed.stdout.split()) == (85, ["wa"])
    (tmp_path / models / "wa" / "adapter_model.safetensors").touch()
    again = script(name, tmp_path, METHODS="wa war")
    assert again.stdout.splitlines()[0] == f"wa: {models}/wa is complete" and [words[-1] for words in calls(again)] == [f"{models}/war"]


# --- evaluation ------------------------------------------------------------------------------------------------------------------

def test_run_sft_eval(tmp_path):
    base, sft, grid = calls(script("run_sft_eval.sh", tmp_path, "--", "--limit", "5", METHODS="wa war", RUNS="r"))
    common = ["--shards", "test", "--methods", "wa", "war", "--variant", "full", "--train_shards", "train/wa", "--limit", "5"]
    assert base == ["film", "eval", "--base", str(LAUNCH / "recipes/sft_povqa.yaml"), "--out", "r/base-qwen7b_59f_plus_keyframe", *common]
    assert sft == ["film", "eval", "--models", "sft", "--out", "r/sft-qwen7b-interleaved-16f_59f_plus_keyframe", *common]
    assert grid[:4] == ["film", "grid", "--runs", "r"] and grid[5:7] == [Path(words[words.index("--out") + 1]).name for words in (base, sft)]


def test_ablations_have_run_folders_of_their_own(tmp_path):
    base, sft, _ = calls(script("run_sft_eval.sh", tmp_path, METHODS="wa", VARIANT="text_only"))
    assert base[base.index("--out") + 1] == "runs/base-qwen7b_text_only" and sft[sft.index("--variant") + 1] == "text_only"
    dpo, _ = calls(script("run_dpo_eval.sh", tmp_path, METHODS="wa", VARIANT="text_only"))
    assert dpo[dpo.index("--out") + 1] == "runs/dpo-qwen7b-interleaved-16f_text_only"


@pytest.mark.parametrize("name", ["run_sft_eval.sh", "run_dpo_eval.sh", "run_tvqa_eval.sh"])
def test_evaluation_stops_at_the_first_failure(tmp_path, name):
    failed = script(name, tmp_path, unipixel='echo "$@"; [[ $2 != eval ]]', METHODS="wa war")
    assert failed.returncode == 1 and failed.stdout.count("film eval") == 1 and "film grid" not in failed.stdout


def test_run_tvqa_eval_keeps_what_is_there(tmp_path):
    done = {"COUNT": "10", "SEED": "1", "METHODS": "wa war", "TVQA": "packed"}
    first = [" ".join(words[:2]) for words in calls(script("run_tvqa_eval.sh", tmp_path, **done))]
    assert first == ["film sample", "film prepare", "pack --source", "pack --source", "film eval", "film grid"]
    (tmp_path / "processed_tvqa").mkdir()
    (tmp_path / "processed_tvqa/val_10_seed1.jsonl").touch()
    (tmp_path / "packed/wa").mkdir(parents=True)
    (tmp_path / "packed/wa/dataset.json").touch()
    pack, evaluation, _ = calls(script("run_tvqa_eval.sh", tmp_path, PREPARED="1", CONTEXT="clip", **done))
    assert pack == ["pack", "--source", "tvqa", "--input", ".", "--split", "val", "--out", "packed/war", "--set",
                    "table=processed_tvqa/val_10_seed1.jsonl", "pooling=war", "context=clip"]
    assert evaluation[:7] == ["film", "eval", "--task", "tvqa", "--models", "dpo", "--shards"]
    assert evaluation[-1] == "runs/tvqa_dpo_val5k_59f_uniform_clip"


def test_run_tvqa_eval_refuses(tmp_path):
    for env, message in (({"INPUT": "none"}, "none/tvqa_qa_release/tvqa_val.jsonl is not a file"), ({"PROCESSED": "x/y"}, "named processed_tvqa")):
        result = script("run_tvqa_eval.sh", tmp_path, METHODS="wa", **env)
        assert result.returncode == 2 and message in result.stderr
