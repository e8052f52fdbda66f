"""Scoring of evidence: ground truth, protocol, and the scores of one example (answer, time, masks).

Owns what is compared with what; the arithmetic is ``unipixel.metrics``, averages and tables are ``benchmarks.score``. One example is
scored by the union of its evidence: all predicted segments against all true ones, all predicted masks of a frame against the union of
the true objects. Nothing a model leaves out can raise its score: frames and examples are counted by the truth.

Protocol ``unipixel`` (default): merged segments; every annotated frame, an absent prediction being an empty mask; options mapped by
``map_option``. Protocol ``seed``: the arithmetic of the published ST-Evidence evaluator, kept for comparison with its numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction, read_png_masks, safe_name
from unipixel.metrics import jf_sequence_rle, map_option, normalise_segments, same_text, temporal_iop, temporal_iou
from unipixel.metrics.rle import parse_runs
from unipixel.metrics.temporal import MALFORMED_SEGMENTS, parse_literal
from unipixel.sample import EMPTY, Entry, Example, Medium, Sample, Segment, decode_entry, encode_mask

THRESHOLDS = (0.3, 0.5)
RELEASE_FPS = 6.0
"""Frame rate of the videos and masks of the ST-Evidence release."""
_SAME_TIME_S = 0.01


@dataclass(frozen=True)
class GroundTruth:
    """What is true of one example.

    Attributes:
        options: candidate answers; empty for an open question.
        segments: seconds; ``None`` when time was not annotated, ``()`` when there is no evidence in time.
        size: (H, W) of the masks in pixels, ``None`` without masks.
        evidence: frame position -> union of the evidence objects, as (H, W) bool or as compressed COCO counts (``""``: not visible).
        unlisted_frames: what a frame absent from ``evidence`` is: not annotated and never scored, or known to be empty.
        duration_s: length of the medium; 0 when unknown.
    """

    example_id: str
    medium_id: str
    answer: str
    options: tuple[str, ...] = ()
    segments: tuple[Segment, ...] | None = None
    size: tuple[int, int] | None = None
    frame_times: tuple[float, ...] = ()
    evidence: Mapping[int, Entry | np.ndarray] = field(default_factory=dict)
    question_type: str = "other"
    duration_s: float = 0.0
    unlisted_frames: Literal["unscored", "empty"] = "unscored"


@dataclass(frozen=True)
class Protocol:
    """How examples are scored; stored with every result.

    Attributes:
        name: ``unipixel`` or ``seed``, see the head of this module.
        on_size_mismatch: predicted masks of another size than the truth are resized (nearest, counted) or are an error.
        bound_th: boundary tolerance of F as a share of the diagonal, or in pixels from 1 on.
    """

    name: Literal["unipixel", "seed"] = "unipixel"
    on_size_mismatch: Literal["resize", "error"] = "resize"
    bound_th: float = 0.008


DEFAULT = Protocol()


@dataclass(frozen=True)
class ExampleScore:
    """Scores of one example; ``None`` where there is no truth to compare with. ``status`` is ``missing`` without a prediction."""

    example_id: str
    question_type: str
    status: str
    correct: bool | None
    iou: float | None
    iop: float | None
    j: float | None
    f: float | None
    n_frames: int = 0
    resized: bool = False
    problems: tuple[str, ...] = ()

    @property
    def t_mean(self) -> float | None:
        return None if self.iou is None else (self.iou + self.iop) / 2

    @property
    def jf(self) -> float | None:
        return None if self.j is None else (self.j + self.f) / 2

    def joint(self, threshold: float) -> bool | None:
        """Answer right, temporal IoU and J&F all at least ``threshold``; ``None`` unless all three have a truth."""
        if self.correct is None or self.iou is None or self.j is None:
            return None
        return self.correct and self.iou >= threshold and self.jf >= threshold


# --- ground truth ----------------------------------------------------------------------------------------------------------------

def read_samples(shards: str | Sequence[str]) -> Iterator[Sample]:
    """Every bundle of packed datasets with all its examples of one kind."""
    from unipixel.data.shards import ShardDataset  # pyarrow and webdataset are not needed to score a CSV

    dataset = ShardDataset(shards)
    for rows in dataset.groups(max_turns=len(dataset) or 1):
        yield dataset.sample(rows[0], rows)


def scored_examples(sample: Sample) -> list[Example]:
    """``evidence`` examples, but for open questions that are only there to carry a preference pair. Dialogues and referring
    expressions are other benchmarks."""
    return [example for example in sample.examples if example.task == "evidence" and (example.options or not example.pairs)]


def from_samples(samples: Iterable[Sample]) -> Iterator[GroundTruth]:
    """Truth of the :func:`scored_examples`."""
    for sample in samples:
        medium = sample.medium
        for example in scored_examples(sample):
            size = (medium.height, medium.width) if example.targets else None
            yield GroundTruth(example.example_id, medium.medium_id, example.answer, example.options, example.segments, size,
                              medium.frame_times, evidence_union(example, medium), example.question_type, medium.duration_s)


def evidence_union(example: Example, medium: Medium) -> dict[int, Entry]:
    """Frame position -> union of all evidence objects. A frame counts as annotated only when every one of them is annotated there."""
    tracks = [medium.objects[oid].track for oid in dict.fromkeys(oid for target in example.targets for oid in target)]
    columns = zip(*(track.entries for track in tracks))
    return {frame: union_entry(entries, (medium.height, medium.width)) for frame, entries in enumerate(columns) if None not in entries}


def from_st_evidence(csv_path: str | Path, gt_mask_dir: str | Path | None = None, fps: float = RELEASE_FPS) -> Iterator[GroundTruth]:
    """Truth of the released benchmark: ``st_evidence_gen.csv`` and one union PNG per frame under ``<gt_mask_dir>/<entry_id>/``.

    An entry without such a folder has no mask truth; a frame without a file is empty. Raises :class:`DataError` naming the entry.
    """
    if not Path(csv_path).is_file() or not (gt_mask_dir is None or Path(gt_mask_dir).is_dir()):
        raise DataError(f"csv={str(csv_path)!r} must be a file and gt_masks={str(gt_mask_dir)!r} a folder; one of them does not exist")
    with open(csv_path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        absent = {"entry_id", "candidates", "answer", "segment"} - set(rows.fieldnames or ())
        if absent:
            raise DataError(f"{csv_path}: columns {sorted(absent)} are missing; st_evidence_gen.csv has them, the MCQ table does not")
        for row in rows:
            yield _release_truth(row, gt_mask_dir, fps, csv_path)


def _release_truth(row: Mapping[str, str], gt_mask_dir: str | Path | None, fps: float, csv_path: str | Path) -> GroundTruth:
    entry_id = row["entry_id"]
    segments, problem = normalise_segments(row["segment"])
    try:
        options = parse_literal(row["candidates"])
    except ValueError as error:
        raise DataError(f"{csv_path}: entry {entry_id!r}: candidates: {error}") from error
    if problem == MALFORMED_SEGMENTS or not isinstance(options, (list, tuple)) or row["answer"] not in options:
        raise DataError(f"{csv_path}: entry {entry_id!r}: segment={row['segment']!r} must be a list of [start, end] and "
                        f"answer={row['answer']!r} one of candidates={row['candidates']!r}")
    folder = None if gt_mask_dir is None else Path(gt_mask_dir) / safe_name(entry_id)
    size, evidence = (None, {}) if folder is None else read_png_masks(folder)
    n_frames = max(evidence, default=-1) + 1
    times = tuple(frame / fps for frame in range(n_frames))
    return GroundTruth(entry_id, row.get("video_id") or entry_id, row["answer"], tuple(map(str, options)), tuple(segments), size, times,
                       evidence, row.get("question_type") or "other", n_frames / fps, "empty")


# --- masks -----------------------------------------------------------------------------------------------------------------------

def union_entry(entries: Iterable[Entry], size: tuple[int, int]) -> Entry:
    """Union of mask entries of one frame, none of them ``None``."""
    seen = [entry for entry in entries if entry != EMPTY]
    if len(seen) < 2:
        return seen[0] if seen else EMPTY
    return coco_mask.merge([{"size": list(size), "counts": entry.encode("ascii")} for entry in seen])["counts"].decode("ascii")


def resize_entry(entry: Entry, size: tuple[int, int], new_size: tuple[int, int]) -> Entry:
    """Nearest-neighbour resize: each new pixel takes the old pixel under its centre."""
    if entry == EMPTY or size == new_size:
        return entry
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(size, new_size))
    return encode_mask(decode_entry(entry, size)[np.ix_(rows, columns)])


def predicted_evidence(prediction: Prediction, truth: GroundTruth, on_size_mismatch: str) -> tuple[dict[int, Entry], bool]:
    """Frame position of the truth -> union of the predicted masks, and whether they had to be resized."""
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


# --- scores ----------------------------------------------------------------------------------------------------------------------

def score_example(truth: GroundTruth, prediction: Prediction | None, protocol: Protocol = DEFAULT) -> ExampleScore:
    """Scores of one example; a missing or failed prediction scores 0 wherever there is a truth.

    Raises:
        DataError: masks are damaged, lie on other frames, or are of another size where that is an error.
    """
    failed = prediction is None or prediction.failed
    iou, iop = (None, None) if truth.segments is None else (0.0, 0.0) if failed else _temporal(truth, prediction, protocol)
    try:
        j, f, n_frames, resized = _spatial(truth, None if failed else prediction, protocol)
    except DataError as error:
        raise DataError(f"example {truth.example_id!r}: {error}") from error
    return ExampleScore(
        truth.example_id, truth.question_type, "missing" if prediction is None else prediction.status,
        correct=None if not truth.answer else not failed and _is_correct(truth, prediction.answer, protocol), iou=iou, iop=iop, j=j, f=f,
        n_frames=n_frames, resized=resized, problems=() if prediction is None else prediction.problems)


def _is_correct(truth: GroundTruth, answer: str | None, protocol: Protocol) -> bool:
    if answer is None:
        return False
    if protocol.name == "seed":
        letter = answer.strip()
        index = "ABCDEF".find(letter) if len(letter) == 1 else -1
        return (truth.options[index] if 0 <= index < len(truth.options) else answer).strip() == truth.answer.strip()
    if not truth.options:
        return same_text(answer, truth.answer)
    index = map_option(answer, truth.options)
    return index is not None and truth.options[index] == truth.answer


def _temporal(truth: GroundTruth, prediction: Prediction, protocol: Protocol) -> tuple[float, float]:
    measure = seed_temporal if protocol.name == "seed" else lambda pred, gt: (temporal_iou(pred, gt), temporal_iop(pred, gt))
    return measure(prediction.segments or (), truth.segments)


def seed_temporal(pred: Sequence[Segment], gt: Sequence[Segment]) -> tuple[float, float]:
    """IoU, IoP of the published evaluator: overlaps of all pairs summed without merging, so that repeated segments exceed 1."""
    overlap = sum(max(0.0, min(p[1], g[1]) - max(p[0], g[0])) for p in pred for g in gt)
    in_pred, in_gt = (sum(max(0.0, end - start) for start, end in side) for side in (pred, gt))
    union = in_pred + in_gt - overlap
    return overlap / union if in_pred and in_gt and union > 0 else 0.0, overlap / in_pred if in_pred and in_gt else 0.0


def _spatial(truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> tuple[float | None, float | None, int, bool]:
    """(J, F, scored frames, resized); ``prediction=None`` scores 0 on what the truth lists."""
    if truth.size is None or not truth.evidence:
        return None, None, 0, False
    if prediction is None or (protocol.name == "seed" and not any(prediction.masks)):
        return 0.0, 0.0, len(truth.evidence), False
    predicted, resized = predicted_evidence(prediction, truth, protocol.on_size_mismatch)
    frames = set(predicted) if protocol.name == "seed" else set(truth.evidence) | set(predicted)
    frames = sorted(frames & set(truth.evidence) if truth.unlisted_frames == "unscored" else frames)
    if not frames:
        return 0.0, 0.0, 0, resized
    true = [truth.evidence.get(frame, EMPTY) for frame in frames]
    true = [encode_mask(mask) if isinstance(mask, np.ndarray) else mask for mask in true]
    js, fs = jf_sequence_rle([predicted.get(frame, EMPTY) for frame in frames], true, truth.size, protocol.bound_th)
    return float(js.mean()), float(fs.mean()), len(frames), resized
