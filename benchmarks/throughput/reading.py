"""Bytes from shards: by index, against the bytes alone and against ``webdataset``; and a few frames of a clip against all of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import webdataset as wds
from isal import isal_zlib

from benchmarks.throughput import clips
from benchmarks.throughput.decoding import bare
from benchmarks.throughput.timing import Check, Costs, run
from unipixel.data.shards import WHOLE, ShardDataset

FEW = range(0, clips.FRAMES, 4)


def write_members(data: ShardDataset, path: Path) -> Path:
    """The same clips as they are usually stored: one tar member per frame."""
    with wds.TarWriter(str(path), encoder=False) as writer:
        for i in range(len(data)):
            frames = {f"{t:03d}.jpg": frame for t, frame in enumerate(data.sample(i).frames)}
            texts = data.extent(i)[:int(data.rows["head"][i].as_py())]
            writer.write({"__key__": f"{i:06d}", "json": texts, **frames})
    return path


def measure(folder: Path, quick: bool = False) -> list[Check]:
    data = clips.write(folder / "shards", 24 if quick else 48)
    usual = str(write_members(data, folder / "members.tar"))
    rows = data.rows.to_pylist()
    assert min(row["length"] for row in rows) > WHOLE, "these clips are read by frame"
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    sizes = [os.path.getsize(path) for path in data.shards]
    buffer = memoryview(bytearray(1 << 20))
    extents = [data.extent(i) for i in range(8)]
    frames = [list(data.sample(i).frames) for i in range(8)]

    def raw() -> None:
        for path, size in zip(data.shards, sizes):
            file = os.open(path, os.O_RDONLY)
            for at in range(0, size, len(buffer)):
                os.preadv(file, [buffer], at)
            os.close(file)

    def indexed() -> None:
        for i in order:
            data.storage.read(data.shards[rows[i]["shard"]], rows[i]["offset"], rows[i]["length"])

    def verified() -> None:
        for i in order:
            data.extent(i)

    def stream(urls) -> None:
        for _ in wds.WebDataset(urls, shardshuffle=False):
            pass

    def samples() -> None:
        for i in order:
            list(data.sample(i).frames)

    def few_frames() -> None:
        for i in order:
            data.sample(i).frames.read(FEW)

    turns = 5 if quick else 31
    costs = Costs({"raw": raw, "indexed": indexed, "verified": verified, "members": lambda: stream(usual), "bundles": lambda: stream(data.shards),
                   "whole": samples, "few": few_frames}, turns)
    checksum = Costs({"crc32": lambda: [isal_zlib.crc32(extent) for extent in extents], "decode": lambda: [bare(f) is None for f in frames]}, turns)
    ratio = costs.best_ratio if quick else costs.ratio
    return [
        Check("raw read / shuffled read by index", ratio("raw", "indexed"), 0.7),
        Check("wds.WebDataset without decoding, a member per frame / shuffled read by index", ratio("members", "indexed"), 4),
        Check("raw read / shuffled read by index with checksums", ratio("raw", "verified"), 0.7),
        Check("wds.WebDataset, a member per frame / shuffled read by index with checksums", ratio("members", "verified"), 4),
        Check("wds.WebDataset on our shards / shuffled read by index with checksums", ratio("bundles", "verified")),
        Check("checksum / JPEG decoding of the same bytes", checksum.ratio("crc32", "decode"), 0.03, at_least=False),
        Check(f"samples with all {clips.FRAMES} frames / with {len(FEW)} of them", ratio("whole", "few"), 1.5),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
