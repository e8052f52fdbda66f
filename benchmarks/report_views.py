"""What a page shows about one example, as plain data for the templates: question, replies, scores, a time bar, frames with their layers.

It scores nothing: numbers are those of the result files. It knows no task: examples and truths are those of the benchmark that the result
names, values stand in its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.masks import predicted_evidence
from benchmarks.report_pictures import decode_frame, fit, jpeg_uri, layer_uri, layers
from benchmarks.score import percent, shown
from benchmarks.tasks import get_task
from benchmarks.truth import GroundTruth
from unipixel.infer.predictions import Prediction
from unipixel.metrics import jf, map_option
from unipixel.sample import EMPTY, Entry, Example, Sample, Segment, decode_entry

LAYERS = ("errors", "truth", "prediction")
GOOD = 0.5
"""An example whose first headline value is at least this counts as right in filters."""


@dataclass(frozen=True)
class Run:
    """One model's predictions and their result file."""

    name: str
    predictions: Mapping[str, Prediction]
    result: Mapping[str, Any]

    def row(self, example_id: str) -> Mapping[str, Any]:
        return self.result["per_example"][example_id]

    def right(self, example_id: str) -> bool | None:
        """By the first headline metric that has a value for the example."""
        values = self.row(example_id)["values"]
        return next((number(values[name]) >= GOOD for name in self.result["headline"] if values.get(name) is not None), None)

    def values(self, example_id: str) -> list[tuple[str, str]]:
        """Metrics of the example as text, but for thresholds (``@``), which follow from the others, and those over a chosen subset."""
        values, units, how = self.row(example_id)["values"], self.result["units"], self.result["averaging"]
        return [(name, shown(number(value), units[name])) for name, value in values.items()
                if value is not None and "@" not in name and how[name] != "conditional"]


def number(value: float | bool | Sequence[float]) -> float:
    """Value of an example; of a numerator and denominator their ratio."""
    if isinstance(value, (list, tuple)):
        return value[0] / value[1] if value[1] else 0.0
    return float(value)


def scored(samples: Iterable[Sample], result: Mapping[str, Any]) -> Iterator[tuple[Sample, Example, GroundTruth]]:
    """Every example of the benchmark that the result belongs to, with the frames as its models were shown them."""
    task = get_task(result["benchmark"])
    protocol = task.protocol(result["card"]["protocol"]["compat"])
    for sample in task.questions(samples, protocol):
        for example, truth in zip(sample.examples, task.truths(sample, protocol), strict=True):
            yield sample, example, truth


def choose_frames(truth: GroundTruth, n_frames: int, count: int) -> list[int]:
    """Up to ``count`` positions, one per equal part of the scored frames (of all frames without mask truth), visible ones first."""
    candidates = sorted(truth.evidence) or list(range(n_frames))
    chosen = []
    for part in np.array_split(np.array(candidates), min(count, len(candidates))) if candidates else ():
        middle = part[len(part) // 2]
        visible = [t for t in part if not isinstance(truth.evidence.get(t, EMPTY), str) or truth.evidence.get(t, EMPTY) != EMPTY]
        chosen.append(int(min(visible or [middle], key=lambda t: abs(t - middle))))
    return chosen


def model_masks(prediction: Prediction | None, truth: GroundTruth) -> dict[int, Entry]:
    """Frame position -> predicted union in the size of the truth; empty without a prediction or without masks."""
    return predicted_evidence(prediction, truth, "resize")[0] if prediction is not None and any(prediction.masks) and truth.size else {}


def tiles(frames: Mapping[int, np.ndarray], truth: GroundTruth, prediction: Prediction | None) -> list[dict[str, Any]]:
    """Layers of one model over the chosen frames, and J and F of each; a failed prediction has no masks to judge."""
    failed = prediction is None or prediction.failed
    predicted = {} if failed else model_masks(prediction, truth)
    views = []
    for t, frame in frames.items():
        entry, time = truth.evidence.get(t), truth.frame_times[t]
        true = None if entry is None else entry if isinstance(entry, np.ndarray) else decode_entry(entry, truth.size)
        mask = decode_entry(predicted.get(t, EMPTY), truth.size) if truth.size and not failed else None
        note = ("no prediction" if failed else "" if truth.size is None else "not annotated" if true is None
                else "J {}  F {}".format(*map(percent, jf(mask, true))))
        small = [None if side is None else fit(side, frame) for side in (true, mask)]
        views.append({"frame": t, "time": f"{time:.1f} s", "note": note, "layers": {name: layer_uri(one) for name, one in layers(*small).items()},
                      "evidence": any(start <= time <= end for start, end in truth.segments or ())})
    return views


def lane(name: str, kind: str, segments: Sequence[Segment] | None, length: float) -> dict[str, Any]:
    """One row of the time bar, in percent of the medium; a part beyond its end shows as a sliver there, the text has its times."""
    segments = segments or ()
    parts = [{"left": min(100 * start / length, 99.4), "width": max(100 * (min(end, length) - start) / length, 0.6)}
             for start, end in segments]
    text = ", ".join(f"{start:.1f} – {end:.1f} s" for start, end in segments)
    return {"name": name, "kind": kind, "parts": parts, "text": text or "none"}


def example_view(sample: Sample, example: Example, truth: GroundTruth, runs: Sequence[Run], n_frames: int, width: int) -> dict[str, Any]:
    """Everything a page shows about one example, with its line in the index under ``line``."""
    chosen = choose_frames(truth, len(sample.frames), n_frames)
    frames = {t: decode_frame(sample.frames[t], width) for t in chosen}
    length = max(truth.duration_s, *truth.frame_times, *(end for _, end in truth.segments or ()), 0.1)
    timed = truth.segments is not None or any(p is not None and p.segments for p in (run.predictions.get(truth.example_id) for run in runs))
    lanes = [lane("truth", "truth", truth.segments, length)] if timed else []
    models, picked = [], {}
    for place, run in enumerate(runs):
        prediction, row = run.predictions.get(truth.example_id), run.row(truth.example_id)
        if timed:
            lanes.append(lane(run.name, f"model{place}", prediction and prediction.segments, length))
        answer = prediction.answer if prediction else None
        if answer is not None and example.options:
            picked.setdefault(map_option(answer, example.options), []).append(run.name)
        models.append({"name": run.name, "status": row["status"], "problems": row["problems"], "resized": row["resized"], "answer": answer,
                       "reply": prediction.reply if prediction else None, "error": prediction.error if prediction else None,
                       "right": run.right(truth.example_id), "values": run.values(truth.example_id), "tiles": tiles(frames, truth, prediction)})
    return {
        "id": truth.example_id, "question": example.question, "type": example.question_type, "answer": example.answer,
        "options": [{"letter": chr(65 + i), "text": text, "right": text == example.answer, "by": picked.get(i, [])}
                    for i, text in enumerate(example.options)],
        "lanes": lanes, "marks": [100 * truth.frame_times[t] / length for t in chosen] if timed else [], "models": models,
        "frames": {t: {"uri": jpeg_uri(frame), "ratio": frame.shape[1] / frame.shape[0]} for t, frame in frames.items()},
        "line": {"id": truth.example_id, "type": truth.question_type, "question": example.question, "right": [model["right"] for model in models],
                 "status": [model["status"] for model in models], "values": [_headline(run, truth.example_id) for run in runs]},
    }


def _headline(run: Run, example_id: str) -> list[float | None]:
    """Headline values of an example, shares in percent, rounded for display."""
    values, units = run.row(example_id)["values"], run.result["units"]
    return [None if values.get(name) is None else round(number(values[name]) * (100 if units[name] == "share" else 1), 2)
            for name in run.result["headline"]]
