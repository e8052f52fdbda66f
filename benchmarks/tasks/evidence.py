"""ST-Evidence, generation: an answer, the time segments that prove it and the masks of what proves it, scored alone and jointly.

What one example scores is ``benchmarks.st_evidence``. ``joint@t`` is the honest headline: a right answer with wrong evidence is luck.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import st_evidence
from benchmarks.adapters.evidence_reply import GENERATION_PROMPT, is_json_reply, read_evidence
from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.st_evidence import THRESHOLDS, ExampleScore
from benchmarks.task import Task, random_choice
from benchmarks.truth import GroundTruth
from unipixel.data.template import letter
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample


def _at_least(field: str, threshold: float):
    return lambda row: None if row[field] is None else row[field] >= threshold


def _grounded(row: Mapping[str, Any], threshold: float) -> bool | None:
    """Temporal IoU and J&F both at least ``threshold``; ``None`` where one of them has no truth."""
    return None if row["iou"] is None or row["jf"] is None else row["iou"] >= threshold and row["jf"] >= threshold


METRICS = (
    Metric("accuracy", lambda row: row["correct"]),
    Metric("mIoU", lambda row: row["iou"]),
    *(Metric(f"TIoU@{t}", _at_least("iou", t)) for t in THRESHOLDS),
    Metric("mIoP", lambda row: row["iop"]),
    *(Metric(f"TIoP@{t}", _at_least("iop", t)) for t in THRESHOLDS),
    Metric("t-mean", lambda row: row["t_mean"]),
    Metric("J", lambda row: row["j"]),
    Metric("F", lambda row: row["f"]),
    Metric("J&F", lambda row: row["jf"]),
    *(Metric(f"joint@{t}", lambda row, t=t: row[f"joint@{t}"]) for t in THRESHOLDS),
    Metric("right if grounded@0.5", lambda row: row["correct"] if _grounded(row, 0.5) else None, conditional=True),
    Metric("grounded@0.5 if right", lambda row: _grounded(row, 0.5) if row["correct"] else None, conditional=True),
)


class EvidenceGeneration(Task):
    name = "st-evidence-gen"
    summary = "ST-Evidence, generation: answer + time segments + masks, and all three jointly"
    answers = "evidence"
    source = "st_evidence"
    metrics = METRICS
    headline = ("accuracy", "t-mean", "J&F", "joint@0.5")
    groups = {"question type": "question_type"}
    protocols = {
        "none": Protocol(prompt=GENERATION_PROMPT, averaging="mean over examples; J and F over annotated frames first"),
        "seed": Protocol("seed", prompt=GENERATION_PROMPT, frames=128, fps=1.0, averaging="mean over examples; J and F over predicted frames first"),
    }

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return st_evidence.scored_examples(sample)

    def prompt(self, sample: Sample, example: Example, protocol: Protocol) -> str:
        options = "\n".join(f"({letter(i)}) {option}" for i, option in enumerate(example.options))
        return protocol.prompt.format(question=example.question, options=options, duration=f"{sample.medium.duration_s:.1f}")

    def read(self, example: Example, prediction: Prediction) -> Prediction:
        return read_evidence(prediction)

    def load(self, path: str, pred_masks: str) -> dict[str, Prediction]:
        """Also the published JSON forms. What was wrong with a reply is found in the form that it has: our labels, or JSON."""
        return {i: read_evidence(p) if is_json_reply(p) else p for i, p in super().load(path, pred_masks).items()}

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        return _fields(st_evidence.score_example(truth, prediction, protocol))

    def trivial(self, truth: GroundTruth) -> Prediction:
        """No answer, the whole medium as evidence in time (where its length is known), no masks."""
        return Prediction(truth.example_id, truth.medium_id, "no_mask", segments=((0.0, truth.duration_s),) if truth.duration_s else ())

    def chance(self, truths: Sequence[GroundTruth]) -> dict[str, float | None]:
        """Accuracy of a random option. Time is known only where every length is; joint scores have no trivial baseline."""
        known = all(truth.duration_s for truth in truths if truth.segments is not None)
        timed = [m.name for m in METRICS if m.name.startswith(("mIo", "TIo", "t-"))]
        undefined = [m.name for m in METRICS if m.name.startswith("joint") or m.conditional] + ([] if known else timed)
        return dict.fromkeys(undefined) | {"accuracy": random_choice([truth for truth in truths if truth.answer])}


def _fields(score: ExampleScore) -> dict[str, Any]:
    named = dataclasses.asdict(score)
    kept = ("correct", "iou", "iop", "j", "f", "n_frames", "resized")
    return {name: named[name] for name in kept} | {"t_mean": score.t_mean, "jf": score.jf} | {f"joint@{t}": score.joint(t) for t in THRESHOLDS}
