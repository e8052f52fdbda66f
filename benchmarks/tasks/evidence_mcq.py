"""ST-Evidence, multiple choice: the answer, the time segments that prove it, and the picture that shows what proves it.

Three accuracies, how much of each part was answered, and the micro-average over all questions. A missing prediction is wrong. Chance is
one in five for the answer and one in four for the other parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.task import random_choice
from benchmarks.tasks.choice import PROMPT, Choice
from benchmarks.truth import GroundTruth
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction, load_predictions
from unipixel.sample import Example, Sample

PARTS = ("qa", "time", "space")
RELEASED = {"qa": "answer", "time": "evidence_t", "space": "evidence_s"}
"""Field of the published prediction file per part."""


def _of(part: str, field: str):
    return lambda row: row[field] if row["question_type"] == part else None


class EvidenceChoice(Choice):
    name = "st-evidence-mcq"
    summary = "ST-Evidence, multiple choice: answer, time segments and picture, with coverage and letter bias"
    source = "st_evidence_mcq"
    metrics = (*(Metric(f"{part} accuracy", _of(part, "correct")) for part in PARTS), Metric("overall", lambda row: row["correct"]),
               *(Metric(f"{part} coverage", _of(part, "answered")) for part in PARTS))
    headline = (*(f"{part} accuracy" for part in PARTS), "overall")
    groups = {"true letter": "true", "chosen letter": "chosen"}
    protocols = {"none": Protocol(prompt=PROMPT, averaging="mean over questions of each part; overall over all questions")}
    parts: tuple[str, ...] = PARTS

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in super().examples(sample, protocol) if example.question_type in self.parts]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        said = prediction is not None and bool((prediction.answer or prediction.reply or "").strip())
        return super().measure(truth, prediction, protocol) | {"answered": said}

    def chance(self, truths: Sequence[GroundTruth]) -> dict[str, float | None]:
        by_part = {f"{part} accuracy": random_choice([t for t in truths if t.question_type == part]) for part in PARTS}
        return by_part | {"overall": random_choice(truths)} | dict.fromkeys(f"{part} coverage" for part in PARTS)

    def load(self, path: str, pred_masks: str) -> dict[str, Prediction]:
        """Our records, or the published file ``{entry: {answer, evidence_t, evidence_s}}``."""
        return read_release_mcq(path, self.parts) if path.endswith(".json") else load_predictions(path)


class EvidenceChoicePart(EvidenceChoice):
    """One part alone, for models that take no pictures beside the video."""

    def __init__(self, part: str):
        self.name, self.parts = f"st-evidence-mcq-{part}", (part,)
        self.summary = f"ST-Evidence, multiple choice: {part} alone"
        self.metrics = tuple(metric for metric in EvidenceChoice.metrics if metric.name.startswith(part))
        self.headline, self.expected = (f"{part} accuracy",), {"test": (0, 1298)} if part == "qa" else {}

    def chance(self, truths: Sequence[GroundTruth]) -> dict[str, float | None]:
        return {name: value for name, value in super().chance(truths).items() if name.startswith(self.parts)}


def read_release_mcq(path: str | Path, parts: Sequence[str] = PARTS) -> dict[str, Prediction]:
    """Predictions of the published form by ``<entry>:<part>``; a part without a field, or with ``null``, is missing.

    A file of a single part has its reply under ``answer`` too, as the published scripts write them.

    Raises:
        DataError: the file is not of that form.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable prediction file: {error}") from error
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise DataError(f"{path}: expected an object {{entry_id: {{answer, evidence_t, evidence_s}}}}")
    found = {}
    for entry_id, entry in entries.items():
        single = len(parts) == 1 and RELEASED[parts[0]] not in entry
        for part in parts:
            said = entry.get("answer" if single else RELEASED[part])
            if said is not None:
                found[f"{entry_id}:{part}"] = Prediction(f"{entry_id}:{part}", str(entry_id), "ok" if str(said).strip() else "no_reply",
                                                        answer=str(said) or None)
    return found
