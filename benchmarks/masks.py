"""Predicted masks against true ones: placed on the frames of the truth, brought to its size, united, and scored by J and F.

Which frames count is decided by the truth alone; what a model leaves out is an empty mask. Which of several predicted tracks are meant
is the task's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.truth import GroundTruth, union_entry
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction
from unipixel.metrics import jf_sequence_rle
from unipixel.metrics.rle import parse_runs
from unipixel.sample import EMPTY, Entry, decode_entry, encode_mask

_SAME_TIME_S = 0.01


@dataclass(frozen=True)
class MaskScore:
    """J and F of one example, means over ``n_frames`` frames; ``None`` without a mask truth."""

    j: float | None = None
    f: float | None = None
    n_frames: int = 0
    resized: bool = False

    @property
    def jf(self) -> float | None:
        return None if self.j is None else (self.j + self.f) / 2


def resize_entry(entry: Entry, size: tuple[int, int], new_size: tuple[int, int]) -> Entry:
    """Nearest-neighbour resize: each new pixel takes the old pixel under its centre."""
    if entry == EMPTY or size == new_size:
        return entry
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(size, new_size))
    return encode_mask(decode_entry(entry, size)[np.ix_(rows, columns)])


def predicted_evidence(prediction: Prediction, truth: GroundTruth, on_size_mismatch: str) -> tuple[dict[int, Entry], bool]:
    """Frame position of the truth -> union of the predicted masks, and whether they had to be resized.

    Raises:
        DataError: masks are damaged, lie on other frames, or are of another size where that is an error.
    """
    frames = sorted({frame for track in prediction.masks for frame in track})
    place = _placement(prediction, truth, frames)
    resized = bool(frames) and prediction.size != truth.size
    if resized and on_size_mismatch == "error":
        raise DataError(f"predicted masks are {prediction.size}, the truth is {truth.size} (height, width); predict at that size or set "
                        "on_size_mismatch=resize")
    parse_runs([entry for track in prediction.masks for entry in track.values()], prediction.size or truth.size)  # before C code reads them
    unions = {place[frame]: union_entry((track[frame] for track in prediction.masks if frame in track), prediction.size)
              for frame in frames}
    return {frame: resize_entry(entry, prediction.size, truth.size) for frame, entry in unions.items()}, resized


def _placement(prediction: Prediction, truth: GroundTruth, frames: Sequence[int]) -> dict[int, int]:
    """Predicted frame position -> position in the truth, by time where both list their times."""
    if not prediction.frame_times or not truth.frame_times:
        return {frame: frame for frame in frames}
    times = np.asarray(truth.frame_times)
    place = {frame: int(np.abs(times - prediction.frame_times[frame]).argmin()) for frame in frames}
    stray = [frame for frame in frames if abs(times[place[frame]] - prediction.frame_times[frame]) > _SAME_TIME_S]
    if stray:
        raise DataError(f"predicted frame {stray[0]} is at {prediction.frame_times[stray[0]]} s, where the truth has no frame: the "
                        "prediction was made on other frames")
    return place


def first_track(prediction: Prediction | None) -> Prediction | None:
    """The prediction with its first mask alone, as published evaluators take it."""
    return prediction if prediction is None else replace(prediction, masks=prediction.masks[:1])


def score_masks(truth: GroundTruth, prediction: Prediction | None, *, on_size_mismatch: str = "resize", bound_th: float = 0.008,
                predicted_frames_only: bool = False) -> MaskScore:
    """J and F over the frames of the truth; ``prediction=None`` (missing or failed) scores 0 wherever there is a truth.

    Args:
        predicted_frames_only: skip true frames without a predicted mask, and score nothing at all as 0 (the published ST-Evidence
            evaluator).

    Raises:
        DataError: see :func:`predicted_evidence`; the example is named.
    """
    if truth.size is None or not truth.evidence:
        return MaskScore()
    if prediction is None or (predicted_frames_only and not any(prediction.masks)):
        return MaskScore(0.0, 0.0, len(truth.evidence))
    try:
        predicted, resized = predicted_evidence(prediction, truth, on_size_mismatch)
    except DataError as error:
        raise DataError(f"example {truth.example_id!r}: {error}") from error
    frames = set(predicted) if predicted_frames_only else set(truth.evidence) | set(predicted)
    frames = sorted(frames & set(truth.evidence) if truth.unlisted_frames == "unscored" else frames)
    if not frames:
        return MaskScore(0.0, 0.0, 0, resized)
    js, fs = jf_sequence_rle([predicted.get(frame, EMPTY) for frame in frames], [true_entry(truth, frame) for frame in frames], truth.size, bound_th)
    return MaskScore(float(js.mean()), float(fs.mean()), len(frames), resized)


def true_entry(truth: GroundTruth, frame: int) -> Entry:
    """Mask of a frame as run lengths; empty where the truth lists none."""
    mask = truth.evidence.get(frame, EMPTY)
    return encode_mask(mask) if isinstance(mask, np.ndarray) else mask
