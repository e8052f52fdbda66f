"""Mixtures: folders with repeat factors or shares, as they stand in a recipe, and the weights that follow.

An entry of the ``shards`` setting is ``FOLDER``, ``FOLDER=3`` (seen three times per epoch) or ``FOLDER=10%`` (a tenth of all samples drawn,
whatever its size). Relative folders are taken from ``data_root``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unipixel.data.index import is_dataset, read_manifest
from unipixel.data.storage import is_remote, join
from unipixel.errors import ConfigError, DataError


@dataclass(frozen=True)
class Part:
    """A folder's place in a mixture: its repeat factor, or the share of all samples that it makes (0 < ``share`` <= 1)."""

    folder: str
    repeat: float = 1.0
    share: float | None = None


def read_part(entry: str, root: str = "") -> Part:
    """One entry of the ``shards`` setting.

    Raises:
        ConfigError: an amount that is no positive number or percentage.
    """
    folder, separator, amount = entry.rpartition("=")
    if not separator:
        folder, amount = entry, "1"
    try:
        value = float(amount.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not folder or not (0 < value < math.inf) or (amount.endswith("%") and value > 100):
        raise ConfigError(f"shards entry {entry!r}: {amount!r} is neither a repeat factor above 0 nor a share of up to 100%; write FOLDER, "
                          "FOLDER=3 or FOLDER=10%")
    path = folder if not root or is_remote(folder) or Path(folder).is_absolute() else join(root, folder)
    return Part(path, share=value / 100) if amount.endswith("%") else Part(path, value)


def read_mixture(entries: Sequence[str], root: str = "", *, skip_missing: bool = False) -> tuple[list[Part], list[str]]:
    """(parts that exist, folders that do not). The rest of the mixture keeps its proportions.

    Raises:
        ConfigError: a malformed entry, a folder listed twice, or folders that are missing although ``skip_missing`` is off: all of them
            are named at once.
    """
    parts = [read_part(entry, root) for entry in entries]
    folders = [part.folder for part in parts]
    twice = sorted({f for f in folders if folders.count(f) > 1})
    if twice:
        raise ConfigError(f"shards lists {twice} more than once: write one entry with a repeat factor, FOLDER=2")
    missing = [folder for folder in folders if not is_dataset(folder)]
    if missing and (not skip_missing or len(missing) == len(parts)):
        raise ConfigError(f"{len(missing)} of {len(parts)} folders in shards are not packed datasets: {'; '.join(map(_why, missing))}. Or correct "
                          "data_root, or set skip_missing: true to train on the others in the same proportions")
    return [part for part in parts if part.folder not in missing], missing


def _why(folder: str) -> str:
    try:
        return f"{folder} ({read_manifest(folder)['name']})"
    except DataError as error:
        return str(error)


def mixture_weights(parts: Sequence[Part], sizes: np.ndarray) -> np.ndarray:
    """(parts,) float64: how often each sample of a part is seen per epoch of the mixture. ``sizes`` (parts,): samples of each.

    Repeated parts are seen as often as they say; parts with shares get what makes their samples that share of all draws.

    Raises:
        ConfigError: shares that come to more than 100 %, or to 100 % beside parts with repeat factors.
    """
    shares = np.array([part.share or 0.0 for part in parts])
    repeats = np.array([0.0 if part.share else part.repeat for part in parts])
    rest, taken = float((repeats * sizes).sum()), float(shares.sum())
    if taken > 1 + 1e-9 or (rest and taken > 1 - 1e-9):
        raise ConfigError(f"the shares of the mixture come to {100 * taken:g} %" + (", which leaves nothing for the folders without a share"
                          if rest else "; they must not exceed 100 %"))
    total = rest / (1 - taken) if rest else float(sizes.sum()) / taken
    return repeats + shares * total / np.maximum(sizes, 1)
