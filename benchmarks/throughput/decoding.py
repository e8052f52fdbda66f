"""Frames from JPEG: the loader against a bare loop over the same decoder, and other decoders."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.throughput import clips
from benchmarks.throughput.timing import Check, Comparison, run
from unipixel.data.media import decode_frames
from unipixel.data.shards import ShardDataset


class DecodedClips(Dataset):
    """All frames of a clip, decoded."""

    def __init__(self, data: ShardDataset):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> torch.Tensor:
        sample = self.data.sample(i)
        return decode_frames(sample.frames, range(len(sample.frames)), (sample.medium.height, sample.medium.width), sample.key)


class Endless(Sampler):
    """One pass after the other, as in training: iterators start once."""

    def __init__(self, size: int):
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return cycle(range(self.size))


def consume(items: Iterable) -> None:
    """Take each item and let go of it before the next is made, so that every alternative has the same memory to reuse."""
    for item in items:
        del item


def bare(frames: list[bytes]) -> np.ndarray:
    """(T, H, W, 3) uint8: nothing but decoding."""
    out = np.empty((len(frames), clips.HEIGHT, clips.WIDTH, 3), np.uint8)
    for t, frame in enumerate(frames):
        out[t] = np.asarray(Image.open(io.BytesIO(frame)))
    return out


def with_torchvision(frames: list[bytes]) -> torch.Tensor:
    """(T, 3, H, W) uint8."""
    return torch.stack([decode_jpeg(torch.frombuffer(bytearray(frame), dtype=torch.uint8), ImageReadMode.RGB) for frame in frames])


def decoders(folder: Path) -> dict[str, Callable[[], None]]:
    data = ShardDataset(folder / "shards")
    encoded = [list(data.sample(i).frames) for i in range(len(data))]
    batches = iter(DataLoader(DecodedClips(data), batch_size=None, sampler=Endless(len(data))))
    return {"bare": lambda: consume(map(bare, encoded)), "loader": lambda: consume(islice(batches, len(data)))}


def pillow_and_torchvision(folder: Path) -> dict[str, Callable[[], None]]:
    warnings.filterwarnings("ignore", message=".*deprecated.*", module="torchvision")  # compared, not used
    data = ShardDataset(folder / "shards")
    encoded = [list(data.sample(i).frames) for i in range(len(data))]
    return {"pillow": lambda: consume(map(bare, encoded)), "torchvision": lambda: consume(map(with_torchvision, encoded))}


def measure(folder: Path, quick: bool = False) -> list[Check]:
    clips.write(folder / "shards", 3)
    loader, other = (Comparison(alternatives, folder, quick) for alternatives in (decoders, pillow_and_torchvision))
    return [
        Check("bare JPEG decoding / loader that reads by index, verifies and decodes (0 workers)", loader.ratio("bare", "loader"), 0.95),
        Check("decoding with torchvision (deprecated there) / with Pillow", other.ratio("torchvision", "pillow")),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
