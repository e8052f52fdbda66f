"""Starting runs: number of processes, exit codes and signals of real processes, ``sft.sh``, and the SLURM script on a stubbed cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import start
from tests.tiny_run import free_port
from unipixel.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, ConfigError

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
WORKER = """
import os, pathlib, signal, sys, time
rank, folder, mode = int(os.environ["RANK"]), pathlib.Path(sys.argv[1]), sys.argv[2]
asked = []
if mode == "saves":
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(folder / f"ready{rank}").write_text(os.environ["WORLD_SIZE"])
while mode == "saves" and not asked:
    time.sleep(0.05)
if asked:
    time.sleep(0.2 + 0.3 * rank)
    (folder / f"saved{rank}").touch()
sys.exit({"ok": 0, "saves": 85, "user_error": 2 if rank else 0, "crash": 3}[mode])
"""
RUN = "import sys; from launch.start import run_workers; sys.exit(run_workers('dummy_worker', sys.argv[3:], nproc=int(sys.argv[1]), {}))"


@pytest.fixture
def workers(tmp_path):
    """``start(mode)`` runs two processes of a dummy training and gives (launcher, folder)."""
    (tmp_path / "dummy_worker.py").write_text(WORKER)
    folder = tmp_path / "out"
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    started = []

    def begin(mode: str, nproc: int = 2, more: str = "") -> subprocess.Popen:
        command = [sys.executable, "-c", RUN.format(more), str(nproc), "--", str(folder), mode]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin, folder
    for process in started:
        if process.poll() is None:
            process.kill()


def wait_for(*paths: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"{[str(p) for p in paths if not p.exists()]} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize(("mode", "code", "text"), [
    ("ok", 0, ""), ("user_error", EXIT_USER_ERROR, "process 1 ended first, with exit code 2"), ("crash", 1, "with exit code 3")])
def test_exit_codes_of_workers_come_back(workers, mode, code, text):
    begin, folder = workers
    launcher = begin(mode)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == code and text in error
    assert (folder / "ready0").read_text() == "2"


def test_sigterm_lets_all_workers_save(workers):
    begin, folder = workers
    launcher = begin("saves")
    wait_for(folder / "ready0", folder / "ready1")
    launcher.send_signal(signal.SIGTERM)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_PREEMPTED
    assert (folder / "saved0").exists()
    assert "the same command continues the run" in error


def test_two_machines_that_are_told_to_stop(workers):
    begin, folder = workers
    port = free_port()
    machines = [begin("saves", nproc=1, more=f"nnodes=2, rdzv='localhost:{port}'") for _ in range(2)]
    wait_for(folder / "ready0", folder / "ready1")
    assert (folder / "ready0").read_text() == "2"
    for machine in machines:
        machine.send_signal(signal.SIGTERM)
    for machine in machines:
        machine.communicate(timeout=60)
    # The one that does not host the meeting point may lose it first and end with 1; srun reports the highest code.
    assert max(machine.returncode for machine in machines) == EXIT_PREEMPTED


@pytest.mark.parametrize(("codes", "code"), [([85], 85), ([-15, 85], 85), ([1, 2], 2), ([2, 85], 85), ([-9], 1), ([1, -15], 1)])
def test_the_meaningful_exit_code_decides(codes, code):
    assert start.exit_code(codes) == code


@pytest.fixture
def calls(monkeypatch):
    """Records what ``train`` does instead of doing it."""
    calls = []
    monkeypatch.setitem(sys.modules, "dummy_training", SimpleNamespace(main=lambda argv: calls.append(("here", argv)) or 0))
    monkeypatch.setattr(start, "run_workers", lambda module, argv, **how: calls.append((how, argv)) or 0)
    monkeypatch.delenv("RANK", raising=False)
    return calls


def train(*argv: str) -> int:
    return start.train("dummy_training", argv, prog="dummy")


@pytest.mark.parametrize(("gpus", "argv", "expected"), [
    (0, [], "here"), (1, [], "here"), (4, ["--nproc", "1"], "here"),
    (4, [], {"nproc": 4, "nnodes": 1, "rdzv": "localhost:0"}), (0, ["--nproc", "3"], {"nproc": 3, "nnodes": 1, "rdzv": "localhost:0"}),
    (2, ["--nnodes", "2", "--rdzv", "node-a:29500"], {"nproc": 2, "nnodes": 2, "rdzv": "node-a:29500"}),
])
def test_number_of_processes(calls, monkeypatch, gpus, argv, expected):
    monkeypatch.setattr(start.torch.cuda, "device_count", lambda: gpus)
    assert train("--shards", "a", "b", *argv, "--lora_r", "8") == 0
    assert calls == [(expected, ["--shards", "a", "b", "--lora_r", "8"])]


def test_under_a_launcher_it_is_one_process(calls, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(start.torch.cuda, "device_count", lambda: 8)
    assert train("--seed", "1") == 0
    assert calls == [("here", ["--seed", "1"])]
    with pytest.raises(ConfigError, match="has RANK=3 already"):
        train("--nproc", "2")


def test_recipes_by_name(calls):
    train("--config=sft_7b", "--seed", "1")
    assert calls == [("here", ["--config", str(LAUNCH / "recipes" / "sft_7b.yaml"), "--seed", "1"])]
    with pytest.raises(ConfigError, match="--config 'sft_7' is neither a file nor one of .*nearest: 'sft_7b'"):
        train("--config", "sft_7")


@pytest.mark.parametrize(("argv", "message"), [
    (["--nproc", "0"], "--nproc=0 must be at least 1"), (["--gpus", "8"], "--gpus belongs to --dry-run"),
    (["--nnodes", "2"], "need --rdzv"), (["--rdzv", "a:1"], "one machine has no use for it")])
def test_contradictions_are_refused(calls, argv, message):
    with pytest.raises(ConfigError, match=message):
        train(*argv)
    assert calls == []


# --- sft.sh ----------------------------------------------------------------------------------------------------------------------

def sft_sh(*argv: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(LAUNCH / "sft.sh"), *argv], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


def printed(result: subprocess.CompletedProcess) -> dict[str, str]:
    """Flag -> value of the printed command; a repeated flag has its last value, as argparse takes it."""
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout)
    assert words[:3] == ["unipixel", "train", "sft"]
    return dict(zip(words[3::2], words[4::2], strict=True))


@pytest.mark.parametrize(("argv", "size", "sam2", "resume"), [
    ([], "3b", "base", "auto"), (["3b"], "3b", "base", "auto"), (["7b"], "7b", "base", "auto"), (["7b", "large"], "7b", "large", "auto"),
    (["large"], "3b", "large", "auto"), (["3b", "base", "--from_scratch"], "3b", "base", "never"), (["7b", "--from_scratch"], "7b", "base", "never"),
    (["3b", "base", "CHECKPOINT"], "3b", "base", "CHECKPOINT"),
])
def test_sft_sh_arguments(tmp_path, argv, size, sam2, resume):
    checkpoint = tmp_path / "a run" / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    place = {"CHECKPOINT": str(checkpoint)}
    flags = printed(sft_sh("--print", *(place.get(a, a) for a in argv), cwd=tmp_path))
    weights = {"base": ("sam2.1_hiera_b+", "sam2.1_hiera_base_plus.pt"), "large": ("sam2.1_hiera_l", "sam2.1_hiera_large.pt")}[sam2]
    assert flags == {
        "--config": str(LAUNCH / "recipes" / f"sft_{size}.yaml"), "--sam2_config": weights[0],
        "--sam2_checkpoint": str(ROOT / "model_zoo" / weights[1]), "--output_dir": str(ROOT / "work_dirs" / f"sft_{size}_{sam2}"),
        "--resume": place.get(resume, resume)}
    assert Path(flags["--config"]).is_file()


def test_sft_sh_passes_flags_and_folders_on(tmp_path):
    flags = printed(sft_sh("7b", "--", "--shards", "my data", "--resume", "never", cwd=tmp_path, DRY="1", MODEL_ZOO="/zoo", WORK_DIRS="/runs"))
    assert (flags["--shards"], flags["--resume"]) == ("my data", "never")
    assert (flags["--sam2_checkpoint"], flags["--output_dir"]) == ("/zoo/sam2.1_hiera_base_plus.pt", "/runs/sft_7b_base")


@pytest.mark.parametrize("argv", [["8b"], ["3b", "7b"], ["base", "large"], ["3b", "base", "/no/such/folder"], ["--form_scratch"],
                                  ["3b", "base", "--from_scratch", "."], ["3b", "base", ".", "."]])
def test_sft_sh_refuses_bad_arguments(tmp_path, argv):
    result = sft_sh("--print", *argv, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("sft.sh: ") and "usage: sft.sh" in result.stderr


def test_sft_sh_runs_the_command(tmp_path):
    stub(tmp_path / "bin" / "unipixel", 'printf "<%s>" "$@"; exit 85')
    result = sft_sh("3b", "base", "--", "--seed", "7", cwd=tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert result.returncode == 85
    assert result.stdout.splitlines()[1].startswith("<train><sft><--config>") and result.stdout.endswith("<--resume><auto><--seed><7>")


# --- SLURM -----------------------------------------------------------------------------------------------------------------------

def stub(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path):
    """Stubs of SLURM's commands: srun runs its command as a step whose pid scancel signals; everything is logged."""
    log = tmp_path / "log"
    log.touch()
    stub(tmp_path / "bin" / "srun", f'echo "srun $*" >> {log}; while [[ $1 == --* ]]; do shift; done\n"$@" & echo $! > {tmp_path}/step; wait $!')
    stub(tmp_path / "bin" / "scancel", f'echo "scancel $*" >> {log}; kill -TERM "$(cat {tmp_path}/step)"')
    stub(tmp_path / "bin" / "scontrol", f'echo "scontrol $*" >> {log}; [[ $1 == show ]] && printf "node-a\\nnode-b\\n"; exit 0')
    # the training: ends with 85 some time after SIGTERM, or at once with what --end says
    stub(tmp_path / "bin" / "unipixel", f'[[ $* == *--end* ]] && exit "${{!#}}"\ntrap "sleep 0.3; exit 85" TERM; touch {tmp_path}/ready\n'
                                        "while true; do sleep 0.1; done")
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]"}

    def submit(*argv: str, nodes: int = 1) -> subprocess.Popen:
        return subprocess.Popen(["bash", str(LAUNCH / "slurm.sbatch"), *argv], env={**env, "SLURM_NNODES": str(nodes)})

    return submit, tmp_path


def test_slurm_preemption_saves_and_requeues(cluster):
    submit, folder = cluster
    job = submit("--config", "sft_3b", nodes=2)
    wait_for(folder / "ready")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == EXIT_PREEMPTED
    assert (folder / "log").read_text().splitlines() == [
        "scontrol show hostnames node-[a-b]",
        "srun --kill-on-bad-exit=1 unipixel train sft --nnodes 2 --rdzv node-a:24711 --config sft_3b",
        "scancel --signal=TERM 4711", "scontrol requeue 4711"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_slurm_does_not_requeue_what_ended_by_itself(cluster, code):
    submit, folder = cluster
    assert submit("--end", str(code)).wait(timeout=30) == code
    assert (folder / "log").read_text() == f"srun --kill-on-bad-exit=1 unipixel train sft --end {code}\n"


def test_slurm_and_python_agree_on_the_exit_code():
    assert f"readonly PREEMPTED={EXIT_PREEMPTED} " in (LAUNCH / "slurm.sbatch").read_text()
