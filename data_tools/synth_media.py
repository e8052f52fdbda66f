"""Files of a clip: pictures, video with true time stamps, subtitles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from unipixel.sample import Subtitle

JPEG_QUALITY = 90
_TICKS = 90_000
"""Ticks per second where no fixed rate is given; whole milliseconds are exact."""


def write_jpegs(folder: Path, frames: np.ndarray) -> None:
    """``frames`` (T, H, W, 3) uint8 -> ``00000.jpg``, ``00001.jpg``, ..."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:05d}.jpg", quality=JPEG_QUALITY)


def write_mp4(path: Path | str, frames: np.ndarray, times: Sequence[float], *, rate: Fraction | None = None, crf: int = 18) -> None:
    """H.264 (yuv420p) with the given presentation times.

    Args:
        frames: (T, H, W, 3) uint8 with even H and W.
        times: seconds, strictly increasing, the first 0.
        rate: a fixed rate makes frame t start exactly at t / rate (``times`` must say so too); None keeps ``times`` to 1/90000 s.
        crf: quality of libx264, lower is better.
    """
    base = Fraction(1, _TICKS) if rate is None else 1 / rate
    ticks = [round(t / float(base)) for t in times]
    if any(abs(tick * float(base) - t) > 1e-4 for tick, t in zip(ticks, times, strict=True)):
        raise ValueError(f"times do not follow the fixed rate {rate}; pass rate=None")
    gaps = np.diff(ticks).tolist()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate or Fraction(max(1, len(gaps)) * _TICKS, max(1, sum(gaps))))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        stream.time_base = stream.codec_context.time_base = base
        for pixels, tick, gap in zip(frames, ticks, [*gaps, gaps[-1] if gaps else 1], strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base, picture.duration = tick, base, gap
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_srt(subtitles: Iterable[Subtitle], path: Path | str) -> None:
    """SubRip, numbered from 1."""
    blocks = [f"{i}\n{_srt_time(s.start_s)} --> {_srt_time(s.end_s)}\n{s.text}\n" for i, s in enumerate(subtitles, start=1)]
    Path(path).write_text("\n".join(blocks), encoding="utf-8")


def _srt_time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d},{ms % 1000:03d}"
