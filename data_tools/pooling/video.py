"""A video file, or a folder of pictures, as upright RGB pictures of one size, in order of presentation, with exact times.

Decoding is sequential, uses FFmpeg's threads and holds one frame at a time. Times are fractions counted from the first frame, so nothing
drifts at rates such as 24000/1001.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_tools.convert.clips import frame_files
from unipixel.errors import ConfigError, SampleError

FITS = ("stretch", "letterbox")
END_SLACK_S = 1.0
"""A file whose frames end this much before the length in its header is cut off."""
SIDES = 16, 8192
ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""For scaling: PyAV 17 began to start threads for each small picture, which costs more than it brings; before, there was no choice."""


@dataclass(frozen=True)
class PictureSize:
    """Size of the pictures in pixels, and what happens to another shape: ``stretch`` fills the picture (as published), ``letterbox`` keeps
    the shape the film is shown in and pads with black."""

    width: int = 224
    height: int = 224
    fit: str = "stretch"

    def __post_init__(self):
        if self.fit not in FITS:
            raise ConfigError(f"fit={self.fit!r} is not one of {FITS}")
        if not all(SIDES[0] <= side <= SIDES[1] for side in (self.width, self.height)):
            raise ConfigError(f"size {self.width}x{self.height} must be {SIDES[0]}..{SIDES[1]} pixels a side")

    @classmethod
    def parse(cls, text: str, fit: str) -> PictureSize:
        """``"224x224"`` -> a size."""
        width, _, height = text.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise ConfigError(f"size {text!r} is not WIDTHxHEIGHT, e.g. 224x224")
        return cls(int(width), int(height), fit)

    def inner(self, width: float, height: float) -> tuple[int, int]:
        """Size of the film inside the picture."""
        if self.fit == "stretch":
            return self.width, self.height
        scale = min(self.width / width, self.height / height)
        return max(1, round(width * scale)), max(1, round(height * scale))


class FilmReader:
    """Iterate to get (time, picture): time is a :class:`Fraction` of seconds from the first frame, picture (H, W, 3) uint8 RGB.

    Attributes:
        rate: average frame rate by the header.
        frames: how many were given so far.
        end: after the iteration, when the last frame leaves the screen, in seconds.
        disordered: frames whose time stamp lay before that of their predecessor; they take its time.

    Raises:
        SampleError: ``video_unreadable``, ``video_truncated``.
    """

    def __init__(self, path: Path, size: PictureSize, *, threads: int = 0):
        self.path, self.size, self.threads = path, size, threads
        self.frames = self.disordered = 0
        self.rate = self.end = Fraction(0)
        self._aspect = 1.0  # width of a pixel by its height
        self._scale = VideoReformatter()  # keeps its tables from frame to frame, which halves the cost of decoding small videos

    def __iter__(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type, stream.codec_context.thread_count = "AUTO", self.threads
                self.rate = stream.average_rate or stream.guessed_rate or Fraction(0)
                self._aspect = float(stream.sample_aspect_ratio or 1)
                yield from self._pictures(container.decode(stream), stream.time_base)
                header = stream.duration and stream.duration * stream.time_base
        except (av.FFmpegError, IndexError, TypeError) as error:
            raise SampleError(f"cannot decode {self.path}: {error}", reason="video_unreadable") from error
        if not self.frames:
            raise SampleError(f"{self.path} holds no frame", reason="video_unreadable")
        if header and float(header - self.end) > END_SLACK_S:
            raise SampleError(f"{self.path} ends after {float(self.end):.3f} s, its header says {float(header):.3f} s: the file is cut off",
                              reason="video_truncated")

    def _pictures(self, decoded: Iterator[av.VideoFrame], base: Fraction) -> Iterator[tuple[Fraction, np.ndarray]]:
        origin, latest = None, 0
        for frame in decoded:
            if frame.pts is None:
                raise SampleError(f"frame {self.frames + 1} of {self.path} has no time stamp", reason="video_unreadable")
            origin = frame.pts if origin is None else origin
            ticks = frame.pts - origin
            self.disordered += ticks < latest
            latest = max(latest, ticks)
            self.frames += 1
            self.end = latest * base + (frame.duration * base if frame.duration else self._period())
            yield latest * base, self._upright(frame)

    def _period(self) -> Fraction:
        return 1 / self.rate if self.rate else Fraction(0)

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        quarters = round(frame.rotation / 90) % 4
        shown = frame.width * self._aspect, float(frame.height)
        width, height = self.size.inner(*(shown[::-1] if quarters % 2 else shown))
        before = (height, width) if quarters % 2 else (width, height)
        pixels = self._scale.reformat(frame, *before, format="rgb24", interpolation="AREA", **ONE_THREAD).to_ndarray()
        if quarters:
            pixels = np.ascontiguousarray(np.rot90(pixels, quarters))
        if (width, height) == (self.size.width, self.size.height):
            return pixels
        padded = np.zeros((self.size.height, self.size.width, 3), np.uint8)
        top, left = (self.size.height - height) // 2, (self.size.width - width) // 2
        padded[top:top + height, left:left + width] = pixels
        return padded


class FrameReader(FilmReader):
    """Pictures of a folder, in the order of the numbers in their names, as a film of ``rate`` frames per second.

    Raises:
        SampleError: ``no_frames``, ``unreadable_frame``.
    """

    def __init__(self, path: Path, size: PictureSize, *, rate: Fraction):
        super().__init__(path, size)
        self.rate = rate

    def __iter__(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        for number, file in enumerate(frame_files(self.path)):
            try:
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except OSError as error:
                raise SampleError(f"cannot read {file}: {error}", reason="unreadable_frame") from error
            self.frames, self.end = number + 1, (number + 1) / self.rate
            yield number / self.rate, self._upright(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
