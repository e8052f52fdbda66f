"""The data that is measured on: seeded clips of 16 JPEG frames (640 x 360, quality 90, about 50 KB each) with two or three mask tracks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from unipixel.data.encode import SampleEncoder
from unipixel.data.media import FrameSettings
from unipixel.data.shards import ShardDataset
from unipixel.data.template import TemplateSettings
from unipixel.data.writer import ShardWriter
from unipixel.model.tiny import train_tokenizer
from unipixel.sample import Example, MaskTrack, Medium, SceneObject

WIDTH, HEIGHT, FRAMES = 640, 360, 16
GRAIN = 2.6
"""Standard deviation of the noise on each pixel; sets the size of the files."""
NAMES = ("red", "green", "blue")
COLOURS = ((200, 60, 50), (60, 170, 80), (60, 80, 200))
NUM_TOKENS = 500


def jpeg(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> JPEG, quality 90, 4:2:0."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def outline(rng: np.random.Generator, scale: float = 1) -> np.ndarray:
    """(T, H, W) bool: a wobbling disc that moves."""
    y, x = np.arange(round(HEIGHT * scale)) / scale, np.arange(round(WIDTH * scale)) / scale
    start, step, radius = rng.uniform((150, 100), (490, 260)), rng.uniform(-7, 7, 2), rng.uniform(35, 70)
    masks = np.zeros((FRAMES, len(y), len(x)), dtype=bool)
    for t in range(FRAMES):
        dx, dy = x - start[0] - step[0] * t, y - start[1] - step[1] * t
        rows, columns = (np.flatnonzero(np.abs(distance) < 1.15 * radius) for distance in (dy, dx))  # the disc's box
        dx, dy = np.meshgrid(dx[columns], dy[rows])
        masks[t][np.ix_(rows, columns)] = np.hypot(dx, dy) < radius * (1 + 0.15 * np.sin(5 * np.arctan2(dy, dx) + t / 3))
    return masks


def clip(index: int, scale: float = 1) -> tuple[Medium, list[Example], list[bytes]]:
    """A medium with an example that asks for all of its objects; ``scale`` shrinks the pictures."""
    rng = np.random.default_rng(index)
    count = 2 + index % 2
    masks = {name: outline(rng, scale) for name in NAMES[:count]}
    height, width = masks[NAMES[0]].shape[1:]
    scene = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, GRAIN, (height, width, 1))
    frames = []
    for t in range(FRAMES):
        pixels = np.array(scene, np.float32)
        for colour, track in zip(COLOURS, masks.values()):
            pixels[track[t]] = colour
        frames.append(jpeg(np.clip(pixels + np.roll(grain, 37 * t, 1), 0, 255).astype(np.uint8)))
    objects = {name: SceneObject(name, f"the {name} shape", MaskTrack.from_masks(track)) for name, track in masks.items()}
    medium = Medium(f"clip{index}", "frames", width, height, tuple(t / 2 for t in range(FRAMES)), FRAMES / 2, objects)
    example = Example(f"clip{index}/0", "evidence", "Which shapes move?", ("All of them", "One", "None"), "All of them", ((0.0, 4.0),),
                      tuple((name,) for name in masks))
    return medium, [example], frames


def write(folder: Path, count: int, *, per_shard: int = 32, scale: float = 1) -> ShardDataset:
    """Shards of the first ``count`` clips."""
    with ShardWriter(folder, dataset="throughput", split="train", max_bundles=per_shard) as writer:
        for index in range(count):
            writer.write(*clip(index, scale))
    return ShardDataset(folder)


def encoder(*, tokens: int = 128, sam_size: int = 768) -> SampleEncoder:
    """All frames, with at most ``tokens`` patch groups of 28 x 28 pixels each for the language model (128: 420 x 224 pixels) and ``sam_size``
    squared for SAM 2; the tokenizer is a toy one."""
    frames = FrameSettings(num_frames=FRAMES, frame_sampling="uniform", max_pixels=tokens * 28 * 28, min_pixels=28 * 28)
    tokenizer = train_tokenizer(["Which shapes move? All of them, one or none."] * 8, NUM_TOKENS)
    return SampleEncoder(tokenizer, frames, TemplateSettings(), sam_size=sam_size)
