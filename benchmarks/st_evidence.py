"""Scoring of evidence: ground truth, protocol, and the scores of one example (answer, time, masks).

Owns what is compared with what; the arithmetic is ``unipixel.metrics``, averages and tables are ``benchmarks.score``. One example is
scored by the union of its evidence: all predicted segments against all true ones, all predicted masks of a frame against the union of
the true objects. Nothing a model leaves out can raise its score: frames and examples are counted by the truth.

Compat ``none`` (default): merged segments; every annotated frame, an absent prediction being an empty mask; options mapped by
``map_option``. Compat ``seed``: the arithmetic of the published ST-Evidence evaluator, kept for comparison with its numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.masks import predicted_evidence, score_masks
from benchmarks.protocol import Protocol
from benchmarks.truth import GroundTruth, read_samples, truth_of
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction, read_png_masks, safe_name
from unipixel.metrics import map_option, normalise_segments, same_text, temporal_iop, temporal_iou
from unipixel.metrics.temporal import MALFORMED_SEGMENTS, parse_literal
from unipixel.sample import Example, Sample, Segment

__all__ = ["DEFAULT", "ExampleScore", "GroundTruth", "Protocol", "from_samples", "from_st_evidence", "predicted_evidence", "read_samples",
           "score_example", "scored_examples"]
THRESHOLDS = (0.3, 0.5)
RELEASE_FPS = 6.0
"""Frame rate of the videos and masks of the ST-Evidence release."""
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

def scored_examples(sample: Sample) -> list[Example]:
    """``evidence`` examples, but for open questions that are only there to carry a preference pair. Dialogues and referring
    expressions are other benchmarks."""
    return [example for example in sample.examples if example.task == "evidence" and (example.options or not example.pairs)]


def from_samples(samples: Iterable[Sample]) -> Iterator[GroundTruth]:
    """Truth of the :func:`scored_examples`."""
    for sample in samples:
        yield from (truth_of(example, sample.medium) for example in scored_examples(sample))


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


# --- scores ----------------------------------------------------------------------------------------------------------------------

def score_example(truth: GroundTruth, prediction: Prediction | None, protocol: Protocol = DEFAULT) -> ExampleScore:
    """Scores of one example; a missing or failed prediction scores 0 wherever there is a truth.

    Raises:
        DataError: masks are damaged, lie on other frames, or are of another size where that is an error.
    """
    failed = prediction is None or prediction.failed
    iou, iop = (None, None) if truth.segments is None else (0.0, 0.0) if failed else _temporal(truth, prediction, protocol)
    masks = score_masks(truth, None if failed else prediction, on_size_mismatch=protocol.on_size_mismatch, bound_th=protocol.bound_th,
                        predicted_frames_only=protocol.compat == "seed")
    return ExampleScore(
        truth.example_id, truth.question_type, "missing" if prediction is None else prediction.status,
        correct=None if not truth.answer else not failed and _is_correct(truth, prediction.answer, protocol), iou=iou, iop=iop, j=masks.j,
        f=masks.f, n_frames=masks.n_frames, resized=masks.resized, problems=() if prediction is None else prediction.problems)


def _is_correct(truth: GroundTruth, answer: str | None, protocol: Protocol) -> bool:
    if answer is None:
        return False
    if protocol.compat == "seed":
        letter = answer.strip()
        index = "ABCDEF".find(letter) if len(letter) == 1 else -1
        return (truth.options[index] if 0 <= index < len(truth.options) else answer).strip() == truth.answer.strip()
    if not truth.options:
        return same_text(answer, truth.answer)
    index = map_option(answer, truth.options)
    return index is not None and truth.options[index] == truth.answer


def _temporal(truth: GroundTruth, prediction: Prediction, protocol: Protocol) -> tuple[float, float]:
    measure = seed_temporal if protocol.compat == "seed" else lambda pred, gt: (temporal_iou(pred, gt), temporal_iop(pred, gt))
    return measure(prediction.segments or (), truth.segments)


def seed_temporal(pred: Sequence[Segment], gt: Sequence[Segment]) -> tuple[float, float]:
    """IoU, IoP of the published evaluator: overlaps of all pairs summed without merging, so that repeated segments exceed 1."""
    overlap = sum(max(0.0, min(p[1], g[1]) - max(p[0], g[0])) for p in pred for g in gt)
    in_pred, in_gt = (sum(max(0.0, end - start) for start, end in side) for side in (pred, gt))
    union = in_pred + in_gt - overlap
    return overlap / union if in_pred and in_gt and union > 0 else 0.0, overlap / in_pred if in_pred and in_gt else 0.0
