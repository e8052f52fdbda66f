"""Checkpoint folders: which ones are complete, which is the newest, which old ones go.

``trainer_state.json`` is written before the last file of a checkpoint is safe, and transformers' own search does not look inside the
folders, so a worker killed while saving makes every restart fail. Here a checkpoint exists only once every rank has written its part
and rank 0 has listed all files with their sizes in :data:`MARKER`.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

from unipixel.errors import CheckpointError

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """List the files of ``folder`` in its marker; call on rank 0 after all ranks have written."""
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    temporary = folder / f".{MARKER}.tmp"
    temporary.write_text(json.dumps({"files": files}, indent=1) + "\n")
    temporary.rename(folder / MARKER)


def problem(folder: Path) -> str | None:
    """Why ``folder`` is no complete checkpoint, or ``None`` when it is one."""
    marker = folder / MARKER
    if not marker.is_file():
        return "the run was stopped while writing it (no complete.json)"
    try:
        files = json.loads(marker.read_text())["files"]
    except (ValueError, KeyError):
        return f"{MARKER} is damaged"
    for name, size in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, {size} were written"
    return None


def _step(folder: Path) -> int:
    return int(_NAME.fullmatch(folder.name)[1])


def checkpoints(out: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first, complete or not."""
    return sorted((p for p in out.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)), key=_step)


def newest_complete(out: Path) -> tuple[Path | None, list[str]]:
    """(newest complete checkpoint or ``None``, one line per newer folder that was passed over)."""
    passed = []
    for folder in reversed(checkpoints(out)):
        reason = problem(folder)
        if reason is None:
            return folder, passed
        passed.append(f"{folder.name}: {reason}")
    return None, passed


def require_complete(folder: Path) -> Path:
    """``folder``, which the user named.

    Raises:
        CheckpointError: it is no complete checkpoint; complete ones beside it are listed.
    """
    if folder.is_dir() and not _NAME.fullmatch(folder.name) and checkpoints(folder):
        found, _ = newest_complete(folder)
        if found:
            return found
    reason = problem(folder) if folder.is_dir() else "there is no such folder"
    if reason is not None:
        others = [p.name for p in checkpoints(folder.parent) if p != folder and problem(p) is None]
        hint = f"; complete ones beside it: {', '.join(others)}" if others else ""
        raise CheckpointError(f"cannot resume from {folder}: {reason}{hint}")
    return folder


def set_aside(out: Path, resumed: Path | None) -> Path | None:
    """Move complete checkpoints of later steps than ``resumed`` (``None``: all) into a folder, which is returned when there were any.

    A run that starts before them writes others; a later automatic resume would mix the two.
    """
    later = [p for p in checkpoints(out) if problem(p) is None and (resumed is None or _step(p) > _step(resumed))]
    if not later:
        return None
    number = 1 + len(list(out.glob("superseded-*")))
    (out / f"superseded-{number}").mkdir()
    for folder in later:
        folder.rename(out / f"superseded-{number}" / folder.name)
    return out / f"superseded-{number}"


def out_of_space(error: BaseException, folder: Path) -> bool:
    """Whether a failed write into ``folder`` is a full disk; torch and safetensors hide the system's error behind errors of their own."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    return full or shutil.disk_usage(folder).free < 2**20


def rotate(out: Path, keep: int | None, best: int | None = None) -> None:
    """Delete the oldest complete checkpoints beyond ``keep``, and incomplete ones older than the newest complete one. The one of step ``best``
    is always among those that are kept; so is the newest, which the run resumes from."""
    if not keep:
        return
    complete = sorted((p for p in checkpoints(out) if problem(p) is None), key=lambda p: (_step(p) == best, _step(p)))
    newest = max(complete, key=_step, default=None)
    if newest is not None and newest not in complete[-keep:]:
        keep += 1
    for folder in checkpoints(out):
        if folder in complete[:-keep] or (folder not in complete and newest and _step(folder) < _step(newest)):
            shutil.rmtree(folder)
