"""Helpers of the packing tests: small pictures, running a pack, reading back what it kept and what it skipped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_tools import pack
from unipixel.data.shards import ShardDataset
from unipixel.sample import Example, Medium

W, H = 32, 24


def jpeg(seed: int, size=(W, H)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=80)
    return out.getvalue()


def skipped(out: Path) -> dict[str, str]:
    """key -> reason"""
    lines = (out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    return {s["key"]: s["reason"] for s in map(json.loads, lines)}


def run(source: str, folder: Path, out: Path, *more: str) -> ShardDataset:
    pack.pack(pack.parse(["--source", source, "--input", str(folder), "--out", str(out), *more]))
    return ShardDataset(out)


def examples_of(data: ShardDataset) -> dict[str, tuple[Medium, Example]]:
    samples = [data.sample(i) for i in range(len(data))]
    return {s.examples[0].example_id: (s.medium, s.examples[0]) for s in samples}


def grey_video(path: Path, n_frames: int, rate: int) -> None:
    """Frame t has grey level 4 * t."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"crf": "1"}
        for t in range(n_frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * t, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
