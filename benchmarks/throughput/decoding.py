"""Frames from JPEG: the loader against a bare loop over the same decoder, and other decoders."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.throughput import clips
from benchmarks.throughput.timing import Check, Costs, run
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


def measure(folder: Path, quick: bool = False) -> list[Check]:
    data = clips.write(folder / "shards", 3)
    encoded = [list(data.sample(i).frames) for i in range(len(data))]
    batches = iter(DataLoader(DecodedClips(data), batch_size=None, sampler=Endless(len(data))))
    warnings.filterwarnings("ignore", message=".*deprecated.*", module="torchvision")  # compared, not used

    costs = Costs({
        "bare": lambda: consume(map(bare, encoded)),
        "loader": lambda: consume(islice(batches, len(data))),
        "torchvision": lambda: consume(map(with_torchvision, encoded)),
    }, 9 if quick else 75)
    ratio = costs.best_ratio if quick else costs.ratio
    return [
        Check("bare JPEG decoding / loader that reads by index, verifies and decodes (0 workers)", ratio("bare", "loader"), 0.95),
        Check("decoding with torchvision (deprecated there) / with Pillow", ratio("torchvision", "bare")),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
