"""Log-probabilities of the reference in a file, so that training needs no reference: worth it from the second epoch on, and for sweeps.

The file is named by what the numbers depend on (weights, prompt form, frames, data, supervised tokens, precision); another run refuses it
when any of that differs. It is a safetensors file: per pair the numbers of tokens of both sides, and all log-probabilities in a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unipixel.data.collate import collate
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PREFERENCE, PairEncoder
from unipixel.errors import ConfigError, DataError, SampleError

IDENTITY, KEYS = "identity", "keys"


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
                keys, counts, values = json.loads(file.metadata()[KEYS]), file.get_tensor("counts"), file.get_tensor("log_probs")
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


def identity(**parts) -> dict:
    """What log-probabilities depend on, as plain values."""
    return json.loads(json.dumps(parts, sort_keys=True))


@torch.no_grad()
def make_cache(model, encoder: PairEncoder, groups: PairGroups, device: torch.device, *, rank: int, world: int,
               autocast: bool) -> dict[str, tuple[tuple[int, int], Tensor]]:
    """Key -> (token counts, log-probabilities) of this rank's share of all pairs. Samples that cannot be used are left to training, which
    counts and lists them."""
    found = {}
    model.to(device).eval()
    for group in range(rank, len(groups), world):
        try:
            batch = collate([encoder(groups.sample(group))], PREFERENCE)
        except SampleError:
            continue
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            scores = model(**batch).policy.log_probs
        key, = batch["keys"]
        if key in found:
            raise DataError(f"two pairs are called {key}: give them names of their own")
        found[key] = batch["label_counts"][0], scores.cpu()
    return found


def write_cache(path: Path, parts: Sequence[Path], identity: Mapping) -> None:
    """Join the parts of all ranks into ``path``, which appears when it is complete."""
    keys, counts, values = [], [], []
    for part in parts:
        with safe_open(part, "pt") as file:
            keys += json.loads(file.metadata()[KEYS])
            counts.append(file.get_tensor("counts"))
            values.append(file.get_tensor("log_probs"))
    if len(set(keys)) != len(keys):
        raise DataError(f"{len(keys) - len(set(keys))} pairs have the name of another one: give them names of their own")
    temporary = path.with_name(path.name + ".tmp")
    save_file({"counts": torch.cat(counts), "log_probs": torch.cat(values)}, temporary,
              metadata={IDENTITY: json.dumps(identity), KEYS: json.dumps(keys)})
    temporary.replace(path)
    for part in parts:
        part.unlink()


def write_part(path: Path, found: Mapping[str, tuple[tuple[int, int], Tensor]]) -> None:
    """One rank's share, in the form of the whole file."""
    counts = torch.tensor([count for count, _ in found.values()], dtype=torch.int64).reshape(-1, 2)
    values = torch.cat([torch.zeros(0), *(scores for _, scores in found.values())])
    save_file({"counts": counts, "log_probs": values}, path, metadata={KEYS: json.dumps(list(found))})
