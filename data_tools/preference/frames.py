"""Which frames of a medium a model sees: by rate, evenly, or both, and how they are encoded. What was shown is part of every provenance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from data_tools.preference.messages import Picture
from unipixel.data.media import decode_frames, sample_frames
from unipixel.data.stored_video import StoredVideo
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Sample

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class FrameRule:
    """First the rate, then the number.

    Attributes:
        fps: the frame nearest to every i / fps seconds; 0: every stored frame.
        count: at most this many of them, spread evenly from the first to the last; 0: all.
        width: pixels; wider frames are made smaller. 0: as stored.
    """

    fps: float = 0.0
    count: int = 0
    width: int = 0

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value < 0:
                raise ConfigError(f"{name}={value} of a choice of frames must not be negative")

    def choose(self, times: Sequence[float]) -> list[int]:
        """Positions of the frames, increasing. ``times``: seconds of all stored frames; none are stored twice to reach ``fps``."""
        positions = list(range(len(times)))
        if self.fps and len(times) > 1:
            stamps = np.asarray(times) - times[0]
            wanted = np.arange(0, stamps[-1] + (stamps[-1] - stamps[-2]) / 2, 1 / self.fps)  # the last frame lasts as long as the one before
            positions = np.unique(np.abs(stamps[None] - wanted[:, None]).argmin(1)).tolist()
        if self.count:
            positions = [positions[i] for i in sample_frames(len(positions), self.count)]
        return positions


@dataclass(frozen=True)
class Shown:
    """Frames as they are sent, with what is told about them."""

    rule: FrameRule
    times: tuple[float, ...]
    pictures: tuple[Picture, ...]

    @property
    def header(self) -> str:
        """One line that tells the model when the frames were taken."""
        if len(self.times) == 1:
            return f"The picture is at {self.times[0]:.1f} s."
        return f"The {len(self.times)} pictures are frames of one video, in order, at {', '.join(f'{t:.1f}' for t in self.times)} seconds."

    @property
    def provenance(self) -> dict[str, Any]:
        """The rule, the seconds of the frames, and the rate that they amount to: a medium may hold fewer than the rule asks for."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return {"rule": asdict(self.rule), "times": [round(t, 3) for t in self.times],
                "effective_fps": round((len(self.times) - 1) / span, 3) if span else None}


def show(sample: Sample, rule: FrameRule) -> Shown:
    """The frames of ``sample`` that ``rule`` chooses.

    Raises:
        SampleError: a frame cannot be read, or the medium is text alone (``no_frames``).
    """
    medium = sample.medium
    if medium.kind == "none":
        raise SampleError("the medium is text alone: there is nothing to show", reason="no_frames")
    positions = rule.choose(medium.frame_times)
    return Shown(rule, tuple(medium.frame_times[t] for t in positions), tuple(Picture(data) for data in _encoded(sample, positions, rule.width)))


def show_at(sample: Sample, times: Sequence[float], width: int) -> Shown:
    """The frames that an earlier ``provenance`` lists.

    Raises:
        SampleError: ``other_frames``: the medium has no frame at one of those times.
    """
    stored = {round(t, 3): i for i, t in enumerate(sample.medium.frame_times)}
    missing = [t for t in times if t not in stored]
    if missing:
        raise SampleError(f"no frames at {missing[:3]} s: the shards were packed anew with other frames", reason="other_frames")
    positions = [stored[t] for t in times]
    return Shown(FrameRule(width=width), tuple(times), tuple(Picture(data) for data in _encoded(sample, positions, width)))


def _encoded(sample: Sample, positions: Sequence[int], width: int) -> list[bytes]:
    medium = sample.medium
    if not isinstance(sample.frames, StoredVideo) and not 0 < width < medium.width:
        return [sample.frames[t] for t in positions]
    pixels = decode_frames(sample.frames, positions, (medium.height, medium.width), sample.key).permute(0, 2, 3, 1).numpy()
    size = (width, max(1, round(medium.height * width / medium.width))) if 0 < width < medium.width else (medium.width, medium.height)
    return [_jpeg(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in pixels]


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
