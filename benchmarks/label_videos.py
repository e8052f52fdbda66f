"""J and F of every object and frame of one video of label pictures: the work that ``unipixel score-masks`` spreads over processes.

A few frames are held at a time, so memory does not grow with the video; the imports are few, so that a process starts quickly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.label_png import VOID, read_labels
from unipixel.errors import DataError
from unipixel.metrics import jf_sequence
from unipixel.metrics.bitplane import PAIRS


@dataclass
class VideoScores:
    """Scores of one video.

    Attributes:
        values: (O, 2, T) float64, J and F of each object in each scored frame.
        empty: (O, 2, T) float64, the same of a prediction without any mask.
        missing: predicted pictures that do not exist, as ``<video>/<file>``.
        pred_sha256, gt_sha256: of the files that were read, names and content.
    """

    values: np.ndarray
    empty: np.ndarray
    missing: list[str] = field(default_factory=list)
    pred_sha256: str = ""
    gt_sha256: str = ""


def video_frames(folder: Path) -> list[Path]:
    frames = sorted(folder.glob("*.png"))
    if not frames:
        raise DataError(f"{folder} holds no PNG file")
    return frames


def true_objects(frames: Sequence[Path], protocol: str) -> int:
    """Number of objects: the highest label of the first frame, or of any frame."""
    seen = (read_labels(path) for path in (frames[:1] if protocol == "davis2017" else frames))
    return max(int(labels[labels != VOID].max(initial=0)) for labels in seen)


def score_video(gt: Path, pred: Path, protocol: str, bound_th: float) -> VideoScores:
    """Scores of the pictures in ``pred`` against those in ``gt``.

    Raises:
        DataError: a picture is damaged, of another size than the truth, or names an object that the truth has not.
    """
    frames = video_frames(gt)
    objects = true_objects(frames, protocol)
    scored = frames[1:-1] if protocol == "davis2017" else frames
    if not objects or not scored:
        raise DataError(f"{gt}: {objects} objects in {len(frames)} frames: protocol={protocol!r} has nothing to score there")
    values, empty, missing, present = [], [], [], []
    for start in range(0, len(scored), PAIRS):
        some = scored[start:start + PAIRS]
        true = _stack(some)
        said = np.zeros_like(true)
        for at, path in enumerate(some):
            file = pred / path.name
            if file.exists():
                said[at] = _predicted(file, true.shape[1:], objects)
                present.append(file)
            else:
                missing.append(f"{gt.name}/{path.name}")
        for number in range(1, objects + 1):
            mask = true == number
            absent = ~mask.any(axis=(1, 2))
            values.append(jf_sequence(said == number, mask, bound_th))
            empty.append((absent, absent | mask.all(axis=(1, 2))))  # a mask that fills the frame has no boundary
    return VideoScores(_by_object(values, objects), _by_object(empty, objects), missing, _hash(present), _hash(frames))


def _hash(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stack(paths: Sequence[Path]) -> np.ndarray:
    """(T, H, W) uint8 labels of the truth."""
    labels = [read_labels(path) for path in paths]
    if len({picture.shape for picture in labels}) > 1:
        raise DataError(f"{paths[0].parent}: pictures of several sizes: {sorted({picture.shape for picture in labels})}")
    return np.stack(labels)


def _predicted(path: Path, size: tuple[int, int], objects: int) -> np.ndarray:
    labels = read_labels(path)
    if labels.shape != size:
        raise DataError(f"{path} is {labels.shape[1]}x{labels.shape[0]} px, the truth is {size[1]}x{size[0]} px")
    if labels.max() > objects:
        raise DataError(f"{path} names object {labels.max()}, the truth of this video has objects 1 to {objects}")
    return labels


def _by_object(parts: Sequence[tuple[np.ndarray, np.ndarray]], objects: int) -> np.ndarray:
    """Parts of some frames each, objects in turn -> (O, 2, T) float64."""
    return np.stack([np.concatenate(parts[number::objects], axis=1) for number in range(objects)]).astype(np.float64)
