"""What the reference says, in a file, so that training needs no reference: worth it from the second epoch on, for sweeps, and where weights
train that policy and reference would share.

The file is named by what the numbers depend on (weights, prompt form, frames, data, supervised tokens, masks, precision); another run refuses it
when any of that differs. It is a safetensors file: per pair the numbers of tokens of both sides and how much likelier the chosen side's masks
are (NaN where masks are not compared), and all log-probabilities in a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from unipixel.data.collate import collate
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PairEncoder
from unipixel.data.targets import batch_targets
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.objectives.preference import mask_margins

IDENTITY, KEYS = "identity", "keys"
TENSORS = ("counts", "log_probs", "mask_margins")


class Said(NamedTuple):
    """Supervised tokens of both sides, (L,) log-probabilities of all of them, and the margin of the masks or NaN."""

    counts: tuple[int, int]
    log_probs: Tensor
    mask_margin: float


class ReferenceCache:
    """Log-probabilities by the key of their pair (``unipixel.data.pairs.pair_key``).

    Raises:
        ConfigError: the file was made for something else; every difference is named.
        DataError: it is damaged.
    """

    def __init__(self, path: Path, identity: Mapping):
        try:
            with safe_open(path, "pt") as file:
                stored = json.loads(file.metadata()[IDENTITY])
                keys, counts, values, margins = json.loads(file.metadata()[KEYS]), *map(file.get_tensor, TENSORS)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"reference_cache={str(path)!r} cannot be read ({error}): delete it, and the next start makes it anew") from error
        wanted = json.loads(json.dumps(identity))
        differing = [f"{name}: {stored.get(name)!r} there, {wanted.get(name)!r} here" for name in sorted(stored.keys() | wanted.keys())
                     if stored.get(name) != wanted.get(name)]
        if differing:
            raise ConfigError(f"reference_cache={str(path)!r} was made for something else ({'; '.join(differing)}): name another file, or restore "
                              "the settings")
        self.counts = dict(zip(keys, map(tuple, counts.tolist()), strict=True))
        self.values = dict(zip(keys, values.split(counts.sum(1).tolist()), strict=True))
        self.margins = dict(zip(keys, margins.tolist(), strict=True))

    def of(self, keys: Sequence[str], counts: Sequence[tuple[int, int]]) -> Tensor:
        """(L,) log-probabilities of the tokens of a batch.

        Raises:
            DataError: a pair is not there, or has other tokens.
        """
        for key, count in zip(keys, counts, strict=True):
            if self.counts.get(key) != count:
                raise DataError(f"{key}: {count} supervised tokens, the reference cache has {self.counts.get(key, 'none')}: delete the file, and the "
                                "next start makes it anew")
        return torch.cat([self.values[key] for key in keys])

    def masks_of(self, keys: Sequence[str]) -> Tensor:
        """(B,) what ``unipixel.objectives.preference.mask_margins`` gave for the reference's masks of each pair.

        Raises:
            DataError: a pair is not there, or its masks were not compared.
        """
        if unknown := [key for key in keys if self.margins.get(key, math.nan) != self.margins.get(key, math.nan)]:
            raise DataError(f"{unknown[0]}: the reference cache holds no masks of it: delete the file, and the next start makes it anew")
        return torch.tensor([self.margins[key] for key in keys], dtype=torch.float32)


def identity(**parts) -> dict:
    """What log-probabilities depend on, as plain values."""
    return json.loads(json.dumps(parts, sort_keys=True))


@torch.no_grad()
def make_cache(model, encoder: PairEncoder, groups: PairGroups, device: torch.device, *, rank: int, world: int,
               autocast: bool) -> dict[str, Said]:
    """What the model says about this rank's share of all pairs. Samples that cannot be used are left to training, which counts and lists them."""
    found: dict[str, Said] = {}
    model.to(device).eval()
    for group in tqdm(range(rank, len(groups), world), desc="reference cache", unit="pair", disable=rank > 0):
        kind = groups.kinds[groups.kind_of[group]]
        try:
            batch = send_to_device(collate([encoder(groups.sample(group), with_masks=kind.endswith("_masks"))], kind), device)
        except SampleError:
            continue
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            scores = model(**batch)
        key, = batch["keys"]
        if key in found:
            raise DataError(f"two pairs are called {key}: give them names of their own")
        margin = torch.tensor([math.nan]) if scores.masks is None else mask_margins(scores.masks.masks, batch_targets(batch), batch["mask_valid"])
        found[key] = Said(batch["label_counts"][0], torch.zeros(0) if scores.policy is None else scores.policy.log_probs.cpu(), margin.item())
    return found


def write_cache(path: Path, parts: Sequence[Path], identity: Mapping) -> None:
    """Join the parts of all ranks into ``path``, which appears when it is complete."""
    keys, tensors = [], {name: [] for name in TENSORS}
    for part in parts:
        with safe_open(part, "pt") as file:
            keys += json.loads(file.metadata()[KEYS])
            for name, values in tensors.items():
                values.append(file.get_tensor(name))
    if len(set(keys)) != len(keys):
        raise DataError(f"{len(keys) - len(set(keys))} pairs have the name of another one: give them names of their own")
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: torch.cat(values) for name, values in tensors.items()}, temporary,
              metadata={IDENTITY: json.dumps(identity), KEYS: json.dumps(keys)})
    temporary.replace(path)
    for part in parts:
        part.unlink()


def write_part(path: Path, found: Mapping[str, Said]) -> None:
    """One rank's share, in the form of the whole file."""
    counts = torch.tensor([said.counts for said in found.values()], dtype=torch.int64).reshape(-1, 2)
    values = torch.cat([torch.zeros(0), *(said.log_probs for said in found.values())])
    margins = torch.tensor([said.mask_margin for said in found.values()], dtype=torch.float64)
    save_file(dict(zip(TENSORS, (counts, values, margins))), path, metadata={KEYS: json.dumps(list(found))})
