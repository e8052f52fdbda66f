"""Where the clips of a dataset are found: a video file, or a folder of frames, named with or without a suffix."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.convert.base import inside
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import JPEG_QUALITY, FrameList, decode_video, list_video, read_frames
from unipixel.errors import SampleError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_clip(root: Path, name: str, fps: float, ledger: SkipLedger, store: str = "frames") -> FrameList:
    """Frames of ``root/name``: of the folder of that name (taken to run at ``fps``, in the order of the numbers in the file names), or
    of the video file, sampled at ``fps``. Either may be called ``name`` itself, ``name`` without its video suffix, or with one added.

    Args:
        store: ``frames`` decodes a video file now and keeps JPEGs; ``video`` keeps the file, whose frames are decoded when they are used.

    Raises:
        SampleError: ``no_frames``, ``unsafe_path`` or ``video_unreadable``.
    """
    path = inside(root, name)
    bare = path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
    names = list(dict.fromkeys((path, bare, *(bare.with_name(bare.name + suffix) for suffix in VIDEO_SUFFIXES))))
    found = next((p for p in names if p.exists()), None)
    if found is None:
        raise SampleError(f"no video and no folder of frames at any of {[str(p) for p in names]}", reason="no_frames")
    if found.is_dir():
        files = frame_files(found)
        return FrameList(tuple(range(len(files))), read_frames(files), fps, len(files) / fps)
    if store == "video":
        return list_video(found, fps)
    frames = decode_video(found, fps)
    ledger.note(f"frames decoded from video files and stored as JPEG of quality {JPEG_QUALITY}", len(frames.frames))
    return frames


def frame_files(folder: Path) -> list[Path]:
    """Pictures of a folder, ordered by the numbers in their names (``2.jpg`` before ``10.jpg``); ``no_frames`` when there are none."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES] if folder.is_dir() else []
    if not files:
        raise SampleError(f"no {', '.join(FRAME_SUFFIXES)} in {folder}", reason="no_frames")
    return sorted(files, key=lambda p: [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", p.name)])
