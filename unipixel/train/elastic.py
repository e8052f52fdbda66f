"""Resuming an engine's checkpoint with another number of processes.

DeepSpeed stores the optimizer in one part per process and refuses another number; its universal format has none. The conversion runs
once, on rank 0, beside the checkpoint's own files, and appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from unipixel.distributed import barrier
from unipixel.errors import CheckpointError

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK")


def stored_world(checkpoint: Path) -> int | None:
    """Number of processes whose optimizer parts a checkpoint holds; ``None`` when its format does not depend on it."""
    latest = checkpoint / "latest"
    if not latest.is_file():
        return None
    return len(list((checkpoint / latest.read_text().strip()).glob("*_optim_states.pt"))) or None


def prepare_resume(checkpoint: Path, args) -> bool:
    """Make ``checkpoint`` loadable by this run; whether it had to be converted. A collective: every rank calls it.

    Raises:
        CheckpointError: the conversion failed; its output is shown.
    """
    world, engine = stored_world(checkpoint), getattr(args, "hf_deepspeed_config", None)
    if engine is None or world in (None, args.world_size):
        return False
    if args.process_index == 0:
        convert(checkpoint)
    barrier()
    engine.config["checkpoint"] = {"load_universal": True}
    return True


def convert(checkpoint: Path) -> Path:
    """``global_stepN_universal`` beside ``global_stepN``, and ``latest_universal`` that names it."""
    tag = (checkpoint / "latest").read_text().strip()
    done, marker = checkpoint / f"{tag}_universal", checkpoint / "latest_universal"
    if done.is_dir() and marker.is_file() and marker.read_text().strip() == done.name:
        return done
    temporary = checkpoint / f"{tag}_universal.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    # ZeRO-1/2 checkpoints lack the converter's description of the model's parallel layout: there is none
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint / tag), "--output_folder",
               str(temporary), "--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{checkpoint} was written by {stored_world(checkpoint)} processes and cannot be converted for another number:\n"
                              f"{(result.stdout + result.stderr)[-1500:]}")
    shutil.rmtree(done, ignore_errors=True)
    temporary.rename(done)
    written = marker.with_name(marker.name + ".tmp")
    written.write_text(done.name)
    written.replace(marker)
    return done
