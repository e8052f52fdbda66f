"""Processes of a training run: one per GPU, signals handed on, and the run's own exit code given back.

``unipixel train sft`` is torchrun with three differences that preemption needs. torchrun turns every failure into exit code 1, here a
run that saved and stopped still ends with ``EXIT_PREEMPTED``. After SIGTERM torchrun kills its workers within 30 s, here they get the
time their step and their checkpoint take. And only the workers get the signal, not the data loaders below them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from unipixel.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, ConfigError, nearest

RECIPES = Path(__file__).parent / "recipes"
DRY_RUN_GPUS = 8
"""What a dry run assumes: the hardware that the recipes are written for."""


def options(prog: str) -> argparse.ArgumentParser:
    """Flags of the start itself; all others belong to the training."""
    parser = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False, usage=f"{prog} [flags below] [settings as flags]")
    parser.add_argument("--config", metavar="RECIPE", help=f"a YAML file, or a shipped one by name: {', '.join(shipped_recipes())}")
    parser.add_argument("--nproc", type=int, metavar="N", help="processes on this machine; default: its visible GPUs, or 1 without a GPU")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines; start the same command on each of them")
    parser.add_argument("--rdzv", metavar="HOST:PORT", help="where they meet: a free port of one of them, needed with --nnodes")
    parser.add_argument("--dry-run", action="store_true", help="print what would train, memory per GPU and the batch; needs no weights")
    parser.add_argument("--gpus", type=int, metavar="N", help=f"with --dry-run: number of GPUs to plan for; default {DRY_RUN_GPUS}")
    return parser


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe(name: str) -> Path:
    """A recipe file, or one of ``launch/recipes`` by its name.

    Raises:
        ConfigError: neither.
    """
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    known = shipped_recipes()
    raise ConfigError(f"--config {name!r} is neither a file nor one of {', '.join(known)}{nearest(name, known)}")


def sft(argv: Sequence[str]) -> int:
    """``unipixel train sft``."""
    return train("unipixel.train.sft", argv, prog="unipixel train sft")


def dpo(argv: Sequence[str]) -> int:
    """``unipixel train dpo``."""
    return train("unipixel.train.dpo", argv, prog="unipixel train dpo")


def train(module: str, argv: Sequence[str], *, prog: str) -> int:
    """Run ``module``'s ``main`` in as many processes as the flags and the machine ask for; returns the exit code.

    Raises:
        ConfigError: flags that contradict each other or the launcher this process was started by.
    """
    parser = options(prog)
    own, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return importlib.import_module(module).main(["--help"])
    if own.config is not None:
        rest = ["--config", str(recipe(own.config)), *rest]
    for name in ("nproc", "nnodes", "gpus"):
        if getattr(own, name) is not None and getattr(own, name) < 1:
            raise ConfigError(f"--{name}={getattr(own, name)} must be at least 1")
    if own.dry_run:
        from launch.dry_run import dry_run  # noqa: PLC0415  (builds on the training's own modules, which a start does not need)

        return dry_run(rest, gpus=own.gpus or DRY_RUN_GPUS, pairs=module == "unipixel.train.dpo")
    if own.gpus is not None:
        raise ConfigError("--gpus belongs to --dry-run; --nproc sets the number of processes")
    if (own.nnodes > 1) != bool(own.rdzv):
        raise ConfigError(f"--nnodes={own.nnodes} with --rdzv={own.rdzv}: several machines need --rdzv HOST:PORT, one machine has no use for it")
    if "RANK" in os.environ:
        if own.nproc or own.nnodes > 1:
            raise ConfigError(f"--nproc and --nnodes are for a start without launcher, but this process has RANK={os.environ['RANK']} already")
        return importlib.import_module(module).main(rest)
    nproc = own.nproc or torch.cuda.device_count() or 1
    if nproc * own.nnodes == 1:
        return importlib.import_module(module).main(rest)
    return run_workers(module, rest, nproc=nproc, nnodes=own.nnodes, rdzv=own.rdzv or "localhost:0")


def run_workers(module: str, argv: Sequence[str], *, nproc: int, nnodes: int = 1, rdzv: str = "localhost:0") -> int:
    """``python -m module argv`` in ``nproc`` processes of this machine, with torchrun's agent; returns the exit code of the run."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: many processes with a thread per core each would fight over cores
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # the agent's part of unipixel.distributed.prepare
    config = LaunchConfig(min_nodes=nnodes, max_nodes=nnodes, nproc_per_node=nproc, run_id="unipixel", rdzv_backend="c10d", rdzv_endpoint=rdzv,
                          max_restarts=0, signals_to_handle="SIGINT,SIGHUP,SIGQUIT")
    previous = signal.signal(signal.SIGTERM, _hand_on)
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = exit_code(f.exitcode for f in error.failures.values())
        if code == EXIT_PREEMPTED:
            print("unipixel: saved and stopped on SIGTERM; the same command continues the run", file=sys.stderr)
        else:
            print(f"unipixel: process {rank} ended first, with exit code {failure.exitcode}", file=sys.stderr)
        return code
    except RendezvousConnectionError:
        print("unipixel: lost the connection to the machine that hosts --rdzv; its own output says why it stopped", file=sys.stderr)
        return 1
    except SignalException as error:
        return 128 + error.sigval
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def exit_code(workers: Iterable[int]) -> int:
    """Exit code of a run whose workers ended with these codes, at least one of them not 0.

    One worker with a meaning of its own decides: the agent stops the others as soon as the first one ends.
    """
    codes = set(workers)
    return next((known for known in (EXIT_PREEMPTED, EXIT_USER_ERROR) if known in codes), 1)


def _hand_on(signum: int, _frame) -> None:
    workers = psutil.Process().children()
    if not workers:  # still waiting for other machines
        raise SystemExit(128 + signum)
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(signum)
