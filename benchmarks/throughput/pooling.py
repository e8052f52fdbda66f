"""Pooling a film of two hours with all four operators, pictures written, against decoding it to RGB and letting go of each frame.

The film is made from half a minute of moving texture whose packets are repeated with later time stamps, so that it takes seconds to make.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from benchmarks.throughput.timing import Check, run
from data_tools.film.files import PictureFormat
from data_tools.pooling import METHODS
from data_tools.pooling.chunks import ChunkRule, pooled_chunks
from data_tools.pooling.video import FilmReader, PictureSize

RESULT = Path(__file__).resolve().parents[1] / "results" / "pooling.json"
RATE = Fraction(24000, 1001)
WIDTH, HEIGHT = 640, 360
SCENE_FRAMES = 720
FILM_S, QUICK_S = 7200, 30


def scene(path: Path) -> None:
    """Smooth texture that moves and a little noise, as H.264 without reordered frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8 * 2, 3), dtype=np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)
    noise = rng.integers(-6, 7, (HEIGHT, WIDTH, 3), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23", "bf": "0"}
        for t in range(SCENE_FRAMES):
            picture = texture[:, t % WIDTH:t % WIDTH + WIDTH] + np.roll(noise, 7 * t, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def write_film(path: Path, seconds: int) -> int:
    """Number of its frames."""
    scene(part := path.with_name("scene.mp4"))
    with av.open(str(part)) as source, av.open(str(path), "w") as target:
        template = source.streams.video[0]
        packets = [(bytes(p), p.pts, p.duration, p.is_keyframe) for p in source.demux(template) if p.size]
        stream, length = target.add_stream_from_template(template), sum(duration for _, _, duration, _ in packets)
        repeats = round(seconds / float(length * template.time_base))
        for number in range(repeats):
            for data, pts, duration, is_key in packets:
                packet = av.Packet(data)
                packet.pts = packet.dts = pts + number * length
                packet.duration, packet.time_base, packet.stream, packet.is_keyframe = duration, template.time_base, stream, is_key
                target.mux(packet)
    return repeats * len(packets)


def decoded(path: Path) -> Iterable[None]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24")
            yield


def pooled(path: Path, folder: Path) -> Iterable[None]:
    form = PictureFormat()
    for name in METHODS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for chunk in pooled_chunks(FilmReader(path, PictureSize()), ChunkRule(), {name: {} for name in METHODS}):
        for name, picture in chunk.pictures.items():
            form.save(picture, folder / name / chunk.file_name())
        yield from [None] * chunk.frames


def cost(frames: Iterable[None]) -> tuple[int, float, float]:
    """(frames, CPU seconds, peak resident MiB)."""
    process, peak, count, start = psutil.Process(), 0, 0, time.process_time()
    for _ in frames:
        count += 1
        if count % 120 == 1:
            peak = max(peak, process.memory_info().rss)
    return count, time.process_time() - start, peak / 2**20


def measure(folder: Path, quick: bool = False) -> list[Check]:
    total = write_film(folder / "film.mp4", QUICK_S if quick else FILM_S)
    frames, bare_s, bare_mib = cost(decoded(folder / "film.mp4"))
    same, pooled_s, pooled_mib = cost(pooled(folder / "film.mp4", folder / "pictures"))
    assert total == frames == same, (total, frames, same)
    return [
        Check("decoding a film of two hours to RGB / pooling it with four operators, JPEG written", bare_s / pooled_s, 0.7),
        Check("peak memory of that above decoding", max(0.0, pooled_mib - bare_mib), 1024, at_least=False, unit="MiB"),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure], RESULT))
