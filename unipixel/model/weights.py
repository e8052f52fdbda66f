"""Weight files: read whole folders of safetensors (one file, or shards with an index), and write them atomically.

Nothing here knows a model. Tensors are memory-mapped, so reading a folder costs no memory until they are copied. Pickled ``.bin``
files are not read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unipixel.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def is_full(folder: str | Path) -> bool:
    """Whether a folder holds all weights of a model."""
    return any((Path(folder) / name).is_file() for name in (WHOLE, INDEX))


def read_file(file: Path) -> dict[str, Tensor]:
    """Tensors of one file.

    Raises:
        CheckpointError: it is no safetensors file, or a truncated one.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}; copy or download it again") from error


def read_full(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a full checkpoint.

    Raises:
        CheckpointError: no weights, a shard is missing, or a shard lacks a tensor that the index promises or holds others.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        if not (folder / WHOLE).is_file():
            raise CheckpointError(f"{folder} holds neither {WHOLE} nor {INDEX}")
        return read_file(folder / WHOLE)
    try:
        listed: Mapping[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / INDEX} is damaged: {error!r}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX} names {name!r}: a shard must lie in the folder itself")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; the index lists {len(set(listed.values()))} shards: download all of them")
        tensors |= read_file(folder / name)
    if missing := sorted(set(listed) - set(tensors)):
        raise CheckpointError(f"{folder}: {len(missing)} tensors of the index are in no shard: {shortened(missing)}")
    return tensors


def write_full(tensors: Mapping[str, Tensor], folder: Path, shard_size: str = "5GB") -> None:
    """Write ``model.safetensors``, or shards with an index when the tensors are larger than one shard."""
    save_torch_state_dict({name: t.contiguous() for name, t in tensors.items()}, folder, max_shard_size=shard_size, metadata={"format": "pt"})


def shortened(names: list[str], most: int = 8) -> str:
    """The first names of a list, for an error message."""
    return ", ".join(names[:most]) + (f", … {len(names) - most} more" if len(names) > most else "")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into; it becomes ``out`` when the block ends well and disappears when it does not.

    Raises:
        CheckpointError: ``out`` exists and is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} exists and is not empty; name another folder, or remove it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
