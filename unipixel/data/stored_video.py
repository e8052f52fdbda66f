"""A video file inside a shard, decoded by position: one pass over what is asked for, jumping to key frames where that saves decoding."""

from __future__ import annotations

import bisect
import io
from collections.abc import Callable, Sequence

import av
import numpy as np

from unipixel.errors import SampleError

JPEG_QUALITY = 95
DECODERS = ("pyav", "torchcodec")
"""PyAV brings its own FFmpeg; torchcodec is an optional package that uses the system's."""


class StoredVideo(Sequence):
    """The frames of an encoded video that are nearest to the listed times. An item is the frame as JPEG; :meth:`decode` avoids that detour.

    Args:
        load: gives the file's bytes; called at the first use.
        times: seconds from the first frame, increasing (``Medium.frame_times``).

    Raises:
        SampleError: ``video_unreadable``, when a frame is used.
    """

    def __init__(self, load: Callable[[], bytes], times: Sequence[float], key: str = ""):
        self._load, self._times, self._key = load, tuple(times), key
        self._data: bytes | None = None
        self._pts: list[int] = []
        self._keyframes: list[int] = []
        self._wanted: list[int] = []

    @property
    def data(self) -> bytes:
        """The whole file."""
        if self._data is None:
            self._data = self._load()
        return self._data

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, t):
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        out = io.BytesIO()
        av.VideoFrame.from_ndarray(self.decode([range(len(self))[t]])[0]).to_image().save(out, "JPEG", quality=JPEG_QUALITY)
        return out.getvalue()

    def decode(self, positions: Sequence[int], decoder: str = "pyav") -> np.ndarray:
        """(T, H, W, 3) uint8 RGB, upright, in the order asked for. ``decoder`` is one of ``DECODERS``."""
        if decoder == "torchcodec":
            return self._decode_torchcodec(positions)
        data = self.data  # a failure to read it is not one to decode it
        try:
            with av.open(io.BytesIO(data)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "NONE"  # loader workers are the parallelism
                self._index(container, stream)
                targets = sorted({self._wanted[t] for t in positions})
                frames = dict(self._walk(container, stream, targets))
        except (av.FFmpegError, IndexError, ValueError) as error:
            raise SampleError(f"cannot decode the video: {error}", reason="video_unreadable", key=self._key) from error
        missing = [t for t in positions if self._wanted[t] not in frames]
        if missing:
            raise SampleError(f"frames at {[self._times[t] for t in missing[:3]]} s do not decode", reason="video_unreadable", key=self._key)
        return np.stack([frames[self._wanted[t]] for t in positions])

    def _decode_torchcodec(self, positions: Sequence[int]) -> np.ndarray:
        from torchcodec.decoders import VideoDecoder  # noqa: PLC0415  (optional; FrameSettings has checked that it is there)

        data = self.data
        try:
            with av.open(io.BytesIO(data)) as container:
                self._index(container, container.streams.video[0])
            frames = VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1)
            return frames.get_frames_at([self._pts.index(self._wanted[t]) for t in positions]).data.numpy()
        except (av.FFmpegError, IndexError, ValueError, RuntimeError) as error:
            raise SampleError(f"cannot decode the video: {error}", reason="video_unreadable", key=self._key) from error

    def _index(self, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> None:
        """Time stamps of all frames and of the key frames, from the packets alone; the stamp wanted at each position."""
        if self._pts:
            return
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
        if not packets:
            raise SampleError("the video holds no frame", reason="video_unreadable", key=self._key)
        self._pts = sorted(pts for pts, _ in packets)
        self._keyframes = sorted(pts for pts, is_key in packets if is_key)
        stamps = np.array(self._pts)
        wanted = stamps[0] + np.array(self._times) / float(stream.time_base)
        after = np.clip(np.searchsorted(stamps, wanted), 1, max(1, len(stamps) - 1))
        before = stamps[after - 1]
        following = stamps[np.minimum(after, len(stamps) - 1)]
        self._wanted = np.where(following - wanted <= wanted - before, following, before).tolist()
        container.seek(stamps[0].item(), stream=stream, backward=True)

    def _walk(self, container, stream, targets: list[int]):
        """Yield (pts, frame) of each target; jumps ahead only to a key frame that lies behind the frame decoded last."""
        reached = None
        while targets:
            start = self._keyframes[max(0, bisect.bisect_right(self._keyframes, targets[0]) - 1)] if self._keyframes else self._pts[0]
            if reached is None or start > reached:
                container.seek(start, stream=stream, backward=True)
            for frame in container.decode(stream):
                reached = frame.pts
                if reached == targets[0]:
                    yield targets.pop(0), _upright(frame)
                    if not targets or self._keyframe_between(reached, targets[0]):
                        break
            else:
                return

    def _keyframe_between(self, reached: int, target: int) -> bool:
        return bisect.bisect_right(self._keyframes, target) > bisect.bisect_right(self._keyframes, reached)


def _upright(frame: av.VideoFrame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))) if frame.rotation else pixels
