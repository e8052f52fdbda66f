"""Frames at a fixed rate: a folder of numbered JPEGs as it is, or decoded from a video file when there is no folder."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from unipixel.data.stored_video import StoredVideo
from unipixel.errors import DataError, SampleError
from unipixel.sample import Medium

JPEG_QUALITY = 95
TIE_S = 1e-6
"""Two frames this equally near are a tie, which the later one wins, whatever the rounding of their times."""
NUMBERED = re.compile(r"frame_(\d+)\.jpg")


@dataclass(frozen=True)
class FrameList:
    """Frames sampled at ``fps``: ``numbers[i] / fps`` is the time in seconds of ``frames[i]``."""

    numbers: tuple[int, ...]
    frames: Sequence[bytes]
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


def decode_numbered(path: Path, wanted: Callable[[int], bool]) -> tuple[FrameList, tuple[float, ...]]:
    """Decode ``path`` and keep, as JPEG, the frames whose number in decoding order is ``wanted``: (frames, their true times in seconds).

    ``FrameList.fps`` is the average rate of the file. Times count from the first frame.

    Raises:
        SampleError: ``video_unreadable``.
    """
    numbers, frames, times, last = [], [], [], -1
    origin = end = 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate)
            for last, frame in enumerate(container.decode(stream)):
                if last == 0:
                    origin = frame.time
                end = frame.time - origin
                if wanted(last):
                    numbers.append(last)
                    times.append(end)
                    frames.append(_jpeg(frame))
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise SampleError(f"cannot decode {path}: {error}", reason="video_unreadable") from error
    if last < 0:
        raise SampleError(f"{path} holds no frame", reason="video_unreadable")
    return FrameList(tuple(numbers), tuple(frames), fps, end + 1 / fps), tuple(times)


def count_frames(path: Path) -> int:
    """Number of frames of a video file by reading its packets, which is much quicker than decoding.

    Raises:
        SampleError: ``video_unreadable``.
    """
    try:
        with av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except (av.FFmpegError, IndexError) as error:
        raise SampleError(f"cannot read {path}: {error}", reason="video_unreadable") from error


def list_video(path: Path, fps: float) -> FrameList:
    """The frames that :func:`decode_video` keeps, as a ``StoredVideo`` of the file: nothing is decoded here, time stamps come from packets.

    Raises:
        SampleError: ``video_unreadable``.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stamps = sorted(float(p.pts * stream.time_base) for p in container.demux(stream) if p.pts is not None)
            period = float(1 / stream.average_rate)
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise SampleError(f"cannot read {path}: {error}", reason="video_unreadable") from error
    if not stamps:
        raise SampleError(f"{path} holds no frame", reason="video_unreadable")
    last = stamps[-1] - stamps[0]
    numbers = tuple(range(int((last + period / 2) * fps) + 1))
    return FrameList(numbers, StoredVideo(path.read_bytes, [n / fps for n in numbers], str(path)), fps, last + period)


def _jpeg(frame: av.VideoFrame) -> bytes:
    out = io.BytesIO()
    frame.to_image().save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def read_frames(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Bytes of the frame files, unchanged (``frame_missing`` names the first one that does not exist)."""
    frames = []
    for path in paths:
        try:
            frames.append(path.read_bytes())
        except FileNotFoundError:
            raise SampleError(f"no frame {path}", reason="frame_missing") from None
    return tuple(frames)


def medium_from_path(path: str | Path, fps: float) -> tuple[Medium, tuple[bytes, ...]]:
    """A video file sampled at ``fps``, or a folder of JPEG/PNG frames in name order taken to run at ``fps``.

    Raises:
        DataError: no such path, or a folder without images.
        SampleError: the video or its first frame cannot be decoded.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise DataError(f"{path} holds no .jpg or .png frames")
        frames = read_frames(files)
        listed = FrameList(tuple(range(len(frames))), frames, fps, len(frames) / fps)
    elif path.is_file():
        listed = decode_video(path, fps)
    else:
        raise DataError(f"--video {str(path)!r} is neither a file nor a folder")
    try:
        with Image.open(io.BytesIO(listed.frames[0])) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise SampleError(f"unreadable frame: {error}", reason="unreadable_frame", key=str(path)) from error
    medium = Medium(path.stem, "frames", width, height, listed.times, listed.duration_s, source={"path": str(path)})
    return medium, listed.frames
