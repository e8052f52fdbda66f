"""Processes: an environment in which the real stack starts safely, and agreement between ranks.

:func:`prepare` must run before anything creates ``TrainingArguments`` or a DeepSpeed engine: each line of it closes a trap of the
installed libraries that fails late or silently.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist

from unipixel.errors import DistributedError


def prepare() -> None:
    """Set up this process for DeepSpeed, with or without a launcher, with or without a GPU."""
    import deepspeed.ops  # noqa: PLC0415  (a second of imports that only training needs)

    # On CPU, init_distributed compiles this op first (26-110 s, needs g++ and ninja); only inference_all_reduce would use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    check_restarts()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 1) // local_world_size()))
    if "RANK" not in os.environ:  # started without a launcher: DeepSpeed would otherwise look for MPI
        # Nobody else has to know the port, so the store takes a free one itself: one that was looked up before may be taken by then.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def check_restarts() -> None:
    """After a restart, processes would connect to addresses of the dead attempt, which the store that torchrun shares with them still holds.

    Raises:
        DistributedError: torchrun may restart processes and shares its store; only its own environment can change that.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise DistributedError(f"torchrun was started with --max_restarts={os.environ['TORCHELASTIC_MAX_RESTARTS']} and shares its store between "
                               "attempts, so that restarts fail to connect: export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun "
                               "(`unipixel train` does)")


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_world(seen: int) -> None:
    """The launcher's number of processes must be the one the trainer sees.

    Raises:
        DistributedError: without it every process would believe to be rank 0: same batches everywhere, and all write the checkpoint.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if seen != started:
        raise DistributedError(f"the launcher started {started} processes but the trainer sees {seen}; on a machine without a GPU set "
                               "use_cpu=true (the toolkit does so itself: was TrainingArguments built by other code?)")


def agree(values: Sequence[int], names: Sequence[str], what: str, device: torch.device) -> None:
    """Check that all ranks hold the same integers; one small collective.

    Raises:
        DistributedError: on every rank, before the mismatch can turn into a hang inside a collective of the model.
    """
    gathered = gather_ints(values, device)
    if any(row != gathered[0] for row in gathered):
        listed = "; ".join(f"rank {rank}: " + ", ".join(f"{n}={v}" for n, v in zip(names, row)) for rank, row in enumerate(gathered))
        raise DistributedError(f"ranks disagree about {what}: {listed}")


def gather_ints(values: Sequence[int], device: torch.device) -> list[list[int]]:
    """Every rank's integers, in rank order."""
    mine = torch.tensor(list(values), dtype=torch.int64, device=device)
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [mine.tolist()]
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return torch.stack(everyone).tolist()


def barrier() -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
