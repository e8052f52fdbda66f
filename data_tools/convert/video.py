"""Frames at a fixed rate: a folder of numbered JPEGs as it is, or decoded from a video file when there is no folder."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av

from data_tools.convert.base import read_frames
from unipixel.errors import SampleError

JPEG_QUALITY = 95
TIE_S = 1e-6
"""Two frames this equally near are a tie, which the later one wins, whatever the rounding of their times."""
NUMBERED = re.compile(r"frame_(\d+)\.jpg")


@dataclass(frozen=True)
class FrameList:
    """Frames sampled at ``fps``: ``numbers[i] / fps`` is the time in seconds of ``frames[i]``."""

    numbers: tuple[int, ...]
    frames: tuple[bytes, ...]
    fps: float
    duration_s: float

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(n / self.fps for n in self.numbers)

    @property
    def positions(self) -> dict[int, int]:
        """Frame number -> position in ``frames``."""
        return {n: i for i, n in enumerate(self.numbers)}


def read_folder(folders: Iterable[Path], fps: float) -> FrameList | None:
    """``frame_%04d.jpg`` (zero-based) of the first folder that exists; ``None`` when there is none.

    The duration is taken as one frame after the last one. A number that is missing in between is simply not listed.
    """
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        return None
    files = sorted((int(m.group(1)), p) for p in folder.iterdir() if (m := NUMBERED.fullmatch(p.name)))
    if not files:
        raise SampleError(f"no frame_%04d.jpg in {folder}", reason="no_frames")
    numbers = tuple(n for n, _ in files)
    return FrameList(numbers, read_frames([p for _, p in files]), fps, (numbers[-1] + 1) / fps)


def decode_video(path: Path, fps: float) -> FrameList:
    """Decode ``path`` and keep, for every i, the frame nearest to i/fps seconds, as JPEG of quality ``JPEG_QUALITY``.

    i runs while i/fps is at most half a source frame after the last frame. Times count from the first frame.

    Raises:
        SampleError: ``video_unreadable``.
    """
    numbers, frames = [], []
    previous = origin = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            period = float(1 / stream.average_rate)
            for frame in container.decode(stream):
                origin = frame.time if origin is None else origin
                time = frame.time - origin
                while len(numbers) / fps <= time:
                    wanted = len(numbers) / fps
                    nearest = frame if previous is None or time - wanted <= wanted - previous[0] + TIE_S else previous[1]
                    numbers.append(len(numbers))
                    frames.append(_jpeg(nearest))
                previous = (time, frame)
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise SampleError(f"cannot decode {path}: {error}", reason="video_unreadable") from error
    if previous is None:
        raise SampleError(f"{path} holds no frame", reason="video_unreadable")
    while len(numbers) / fps <= previous[0] + period / 2:
        numbers.append(len(numbers))
        frames.append(_jpeg(previous[1]))
    return FrameList(tuple(numbers), tuple(frames), fps, previous[0] + period)


def _jpeg(frame: av.VideoFrame) -> bytes:
    out = io.BytesIO()
    frame.to_image().save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
