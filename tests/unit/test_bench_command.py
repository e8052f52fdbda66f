"""``unipixel bench`` from the command line with a toy checkpoint and with a served model, suites, ``auto_eval.sh``, and lmms-eval."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks import bench
from benchmarks.lmms_eval import EXTERNAL, command, import_results
from benchmarks.result import read_result
from benchmarks.tasks import TASKS
from tests.bench_samples import packed
from tests.chat_server import chat_server, write_videos
from tests.dataset_fixtures import video
from tests.tiny_run import flags, recipe
from unipixel.config import parse
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError
from unipixel.infer.predictions import read_predictions
from unipixel.sample import Example
from unipixel.train.sft import SETTINGS, save_untrained

LAUNCH = Path(bench.__file__).parents[1] / "launch"
SUITES = Path(bench.__file__).parent / "suites"


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """An untrained toy model as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_untrained(*parse(SETTINGS, [*flags(recipe(tiny), folder / "recipe"), "--output_dir", str(folder / "tiny")]))
    return folder / "tiny"


@pytest.fixture(scope="module")
def mevis(tmp_path_factory):
    return packed("mevis", video.mevis, tmp_path_factory.mktemp("mevis"), "valid_u")


@pytest.fixture
def few_tokens(monkeypatch):
    """Replies of random weights do not end by themselves."""
    from unipixel.infer import predict  # noqa: PLC0415

    original = predict.generate
    monkeypatch.setattr(predict, "generate", lambda *args, max_new_tokens, **more: original(*args, max_new_tokens=2, **more))


def test_one_model_on_several_benchmarks(checkpoint, mevis, tiny, tmp_path, few_tokens, capsys):
    """Planned, answered, merged, scored and exported in one go; a second start does nothing again."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump([
        {"task": "mevis", "label": "val", "shards": str(mevis)}, {"task": "st-evidence-gen", "shards": [str(tiny.clips)]},
        {"task": "revos", "shards": "$NOWHERE/revos"}]))
    out = tmp_path / "run"
    argv = ["--suite", str(suite), "--skip_absent", "true", "--model", str(checkpoint), "--out", str(out), "--compat", "unipixel", "--export", "true",
            "--bootstrap", "20", "--workers", "1"]
    assert bench.main(argv) == 0
    printed = capsys.readouterr().out
    assert "left out, their shards are not there: revos@unipixel ($NOWHERE/revos)" in printed
    assert "mevis-val@unipixel: 4 questions" in printed and "0 missing" in printed
    results = {path.stem: read_result(path) for path in (out / "results").iterdir()}
    assert sorted(results) == ["mevis-val@unipixel", "st-evidence-gen"]
    refer = results["mevis-val@unipixel"]
    assert refer["benchmark"] == "mevis" and refer["split"] == "valid_u" and refer["card"]["protocol"]["frames"] == 16 and not refer["missing"]
    run = refer["card"]["run"]
    assert run["model"]["model"] == "tiny" and len(run["model"]["checkpoint"]) == 16
    assert run["plan"] == json.loads((out / "plan.json").read_text())["fingerprint"]
    assert results["st-evidence-gen"]["card"]["protocol"]["compat"] == "none", "it has no such switch"
    assert (out / "export/mevis-val@unipixel.zip").is_file() and (out / "export/st-evidence-gen/predictions.json").is_file()
    before = (out / "predictions/mevis-val@unipixel.jsonl").read_bytes()
    assert bench.main(argv) == 0 and "nothing was left to do" in capsys.readouterr().out
    assert (out / "predictions/mevis-val@unipixel.jsonl").read_bytes() == before
    assert bench.main([*argv, "--limit", "2"]) == EXIT_USER_ERROR and "another run" in capsys.readouterr().err


def test_a_limited_run_has_no_headline(checkpoint, mevis, tmp_path, few_tokens, capsys):
    argv = ["mevis", "--shards", str(mevis), "--model", str(checkpoint), "--out", str(tmp_path), "--limit", "1", "--workers", "1"]
    assert bench.main(argv) == EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert "only 1 questions were asked" in captured.err and "J&F" not in captured.out
    assert len(read_predictions(tmp_path / "predictions/mevis.jsonl")) == 1
    assert bench.main([*argv, "--stop_after", "merge"]) == 0


def test_a_served_model_judged_by_another(tmp_path, capsys):
    """Replies and verdicts come over HTTP; nothing is asked twice when the command is started again."""
    examples = {f"v{n}": [Example(f"v{n}_q", "evidence", f"What is seen in {n}?", answer="A dog")] for n in range(3)}
    shards = write_videos(tmp_path / "shards", list(examples), seconds=2, fps=2, examples=examples, split="test")

    def answer(body):
        return "{'pred': 'yes', 'score': 4}" if body["messages"][0]["role"] == "system" else "A dog."

    with chat_server(answer) as server:
        models = server.models(tmp_path / "models.yaml", "answerer", "judge")
        argv = ["msvd-qa", "--shards", str(shards), "--model", "gpt-4o", "--models", str(models), "--out", str(tmp_path / "run"), "--workers", "1"]
        assert bench.main(argv) == 0 and len(server.requests) == 3 + 1 + 2
        assert bench.main(argv) == 0 and len(server.requests) == 6
    result = read_result(tmp_path / "run/results/msvd-qa.json")
    assert result["metrics"]["accuracy"]["value"] == 1 and result["metrics"]["score"]["value"] == 4
    assert result["card"]["judge"]["model"] == "toy" and result["card"]["run"]["model"]["preset"] == "gpt-4o"
    capsys.readouterr()
    assert bench.main(["revos", *argv[1:]]) == EXIT_USER_ERROR and "needs masks" in capsys.readouterr().err


def test_workers_get_a_gpu_each_and_are_watched(monkeypatch):
    started = []

    class Process:
        def __init__(self, argv, env):
            started.append((argv[-4:], env.get("CUDA_VISIBLE_DEVICES")))
            self.code = codes[len(started) - 1]

        def wait(self):
            return self.code

    monkeypatch.setattr(bench.subprocess, "Popen", Process)
    monkeypatch.setattr(bench.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    codes = [0, 9, 0]
    bench.start_workers(["revos", "--out", "x"], 3)
    assert [device for _, device in started] == ["4", "7", "4"] and started[1][0] == ["--out", "x", "--worker", "1"]
    codes = [1, 1]
    started.clear()
    with pytest.raises(DataError, match="all 2 workers failed"):
        bench.start_workers([], 2)


@pytest.mark.parametrize("argv, message", [
    (["revoss", "--shards", "x", "--model", "."], "nearest: 'revos'"), (["revos", "--model", "."], "--shards is needed"),
    (["revos", "mevis", "--shards", "x", "--model", "."], "--suite"), (["--model", "."], "name one benchmark"),
    (["revos", "--shards", "x"], "--model"), (["revos", "--shards", "x", "--model", "gpt4o"], "nearest: 'gpt-4o'"),
    (["revos", "--shards", "x", "--model", ".", "--segmenter", "y"], "second step"), (["revos", "--suite", "nope.yaml", "--model", "."], "name one"),
    (["--suite", "nope.yaml", "--model", "."], "is not a file"), (["revos", "--shards", "x", "--model", ".", "--wrokers", "2"], "--workers")])
def test_wrong_commands(argv, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert bench.main([*argv, "--workers", "1"]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="compat='publishd': revos has none, unipixel"):
        bench.read_jobs(["revos"], bench.BenchArguments(shards=["x"], compat="publishd"))


@pytest.mark.parametrize("entry, message", [({"task": "revos", "shard": "x"}, "nearest: 'shards'"), ({"task": "revos"}, "its shards"),
                                            ({"task": "revos", "shards": "x", "label": "../x"}, "file names"), ("revos", "list of mappings")])
def test_wrong_suites(entry, message, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(ConfigError, match=message):
        bench.read_jobs([], bench.BenchArguments(suite=str(tmp_path / "s.yaml")))


def test_the_list_names_everything(capsys):
    assert bench.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*TASKS, *EXTERNAL, "referformer", "videorefer_bench_q"))


@pytest.mark.parametrize("name", ["unipixel", "judged"])
def test_shipped_suites_are_valid(name, monkeypatch):
    monkeypatch.setenv("SHARDS", "/data")
    jobs = bench.read_jobs([], bench.BenchArguments(suite=str(SUITES / f"{name}.yaml"), compat="unipixel"))
    assert len({job.name for job in jobs}) == len(jobs) > 5 and all(folder.startswith("/data/") for job in jobs for folder in job.shards)


# --- auto_eval.sh ----------------------------------------------------------------------------------------------------------------

def auto_eval(*argv, cwd, **env):
    return subprocess.run(["bash", str(LAUNCH / "auto_eval.sh"), *argv], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


def test_auto_eval(tmp_path):
    (tmp_path / "my run").mkdir()
    result = auto_eval("my run", "--print", "--published", "--", "--models", "m.yaml", cwd=tmp_path, SHARDS="/data", WORK_DIRS="/w")
    shown = shlex.split(result.stdout)
    assert shown[0] == "SHARDS=/data" and shown[1:3] == ["unipixel", "bench"] and shown[-2:] == ["--models", "m.yaml"]
    given = dict(zip(shown[3::2], shown[4::2]))
    assert given["--model"] == str(tmp_path / "my run") and given["--out"] == "/w/eval/my run_unipixel_unipixel" and given["--compat"] == "unipixel"
    assert given["--suite"] == str(SUITES / "unipixel.yaml")
    names = {name for cls in (bench.BenchArguments, bench.ModelArguments) for name in cls.__dataclass_fields__}
    assert {flag.removeprefix("--") for flag in given} <= names
    for argv in ((), ("nowhere",), ("my run", "nosuite"), ("my run", "judged", "more"), ("my run", "--what")):
        result = auto_eval(*argv, cwd=tmp_path)
        assert result.returncode == 2 and "usage:" in result.stderr


# --- lmms-eval -------------------------------------------------------------------------------------------------------------------

def test_the_command_of_lmms_eval(capsys):
    assert bench.external(["--model", "org/model", "--tensor_parallel", "4"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words == command("org/model", tensor_parallel=4) and words[words.index("--tasks") + 1].split(",") == list(EXTERNAL)
    assert "model=org/model,tensor_parallel_size=4,gpu_memory_utilization=0.9" in words
    assert "pretrained=m" in command("m", ["mvbench"], backend="qwen2_5_vl")
    for bad in ({"tasks": ["mvbnech"]}, {"backend": "hf"}):
        with pytest.raises(ConfigError):
            command("m", **bad)


def test_results_of_lmms_eval(tmp_path, capsys):
    raw = {"results": {
        "videomme": {"alias": "videomme", "videomme_perception_score,none": 62.5, "videomme_perception_score_stderr,none": "N/A"},
        "longvideobench_val_v": {"lvb_acc,none": 0.607, "lvb_acc_stderr,none": 0.01}, "mvbench": {"alias": "mvbench", " ": " "},
        "mvbench_action_sequence": {"mvbench_accuracy,none": 60.0}, "mvbench_state_change": {"mvbench_accuracy,none": 70.0},
        "other": {"acc,none": 1}},
        "n-samples": {"videomme": {"original": 2700, "effective": 2700}, "longvideobench_val_v": {"effective": 1337},
                      "mvbench_action_sequence": {"effective": 200}, "mvbench_state_change": {"effective": 100}},
        "config": {"model": "vllm", "model_args": "model=x"}, "git_hash": "abc", "versions": {"videomme": 0.0}}
    (tmp_path / "r_results.json").write_text(json.dumps(raw))
    assert bench.external(["--results", str(tmp_path / "r_results.json"), "--out", str(tmp_path / "out")]) == 0
    assert "lmms-eval/videomme: accuracy 62.50 over 2700" in capsys.readouterr().out
    found = {name: read_result(tmp_path / f"out/lmms-eval_{name}.json") for name in ("videomme", "longvideobench_val_v", "mvbench")}
    assert found["videomme"]["metrics"]["accuracy"] == {"value": 0.625, "n": 2700, "ci95": None}
    assert found["longvideobench_val_v"]["metrics"]["accuracy"]["ci95"] == pytest.approx([0.5874, 0.6266])
    assert found["mvbench"]["metrics"]["accuracy"] == {"value": pytest.approx((0.6 * 200 + 0.7 * 100) / 300), "n": 300, "ci95": None}
    assert found["mvbench"]["groups"]["task"]["state_change"]["n"] == 100 and found["mvbench"]["card"]["contamination"]
    assert found["mvbench"]["card"]["protocol"]["compat"] == "lmms-eval" and found["mvbench"]["card"]["run"]["model"] == "model=x"


@pytest.mark.parametrize("raw, message", [("x", "no result file"), ({"results": {"other": {}}}, "none of"),
                                          ({"results": {"videomme": {"a": 1}}}, "no number"),
                                          ({"results": {"longvideobench_val_v": {"lvb_acc,none": 60.7}}}, "another unit")])
def test_what_is_no_result_of_lmms_eval(tmp_path, raw, message):
    (tmp_path / "r.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    with pytest.raises(DataError, match=message):
        import_results(tmp_path / "r.json")
