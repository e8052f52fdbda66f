"""The finished units of a run -> one prediction file per benchmark, in the plan's order, with a card that says what made it.

The file is a function of the plan and of what the model said: not of the number of workers, nor of who died. Times go beside it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.card import RUN_CARD, file_hash
from benchmarks.result import LISTED, write_json
from benchmarks.runner.plan import Plan
from benchmarks.runner.units import Units
from unipixel.errors import DataError
from unipixel.infer.predictions import write_predictions

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Merged:
    """One benchmark: its file and what is in it; ``failed``: status -> example ids that have no answer."""

    path: Path
    found: int
    status: dict[str, int]
    failed: dict[str, list[str]]
    missing: list[str]

    def summary(self) -> str:
        failed = sum(map(len, self.failed.values()))
        parts = [f"{self.found} questions", f"{self.found - len(self.missing) - failed} answered", f"{failed} failed", f"{len(self.missing)} missing"]
        lines = [", ".join(parts)]
        for status, ids in self.failed.items():
            lines.append(f"  {status}: {', '.join(ids[:LISTED])}" + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""))
        return "\n".join(lines)


def merge(folder: str | Path, plan: Plan, *, allow_missing: bool = False) -> dict[str, Merged]:
    """Files ``predictions/<job>.jsonl`` with their cards ``.run.json`` and times ``.times.json``, by job name.

    Args:
        allow_missing: merge although units are unfinished; their examples are then missing from the file.

    Raises:
        DataError: units are unfinished, or one is damaged, of another run, or does not fit its medium.
    """
    folder = Path(folder)
    units = Units(folder, plan, "merge")
    missing = [unit for unit in plan.units if not units.finished(unit)]
    if missing and not allow_missing:
        raise DataError(f"{len(missing)} of {len(plan.units)} media are not finished, for instance {[u.medium_id for u in missing[:5]]}: start the "
                        "run again")
    out = {}
    for number, job in enumerate(plan.jobs):
        mine = [unit for unit in plan.units if unit.job == number]
        predictions = [prediction for unit in mine if units.finished(unit) for prediction in units.read(unit)]
        path = folder / PREDICTIONS / f"{job.name}.jsonl"
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.part").unlink(missing_ok=True)
        write_predictions(path, [dataclasses.replace(prediction, seconds=0.0) for prediction in predictions])
        write_json(f"{path}.times.json", {prediction.example_id: prediction.seconds for prediction in predictions})
        write_json(f"{path}{RUN_CARD}", run_card_of(plan, number, path))
        failed: dict[str, list[str]] = {}
        for prediction in predictions:
            if prediction.failed:
                failed.setdefault(prediction.status, []).append(prediction.example_id)
        out[job.name] = Merged(path, sum(len(unit.example_ids) for unit in mine), dict(Counter(p.status for p in predictions)), failed,
                               [i for unit in mine if not units.finished(unit) for i in unit.example_ids])
    return out


def run_card_of(plan: Plan, number: int, path: Path) -> dict[str, Any]:
    job = plan.jobs[number]
    return {"benchmark": job.name, "plan": plan.fingerprint, "model": dict(plan.model), "data": plan.data[number],
            "protocol": plan.protocol(job).card(), "limit": plan.limit, "predictions_sha256": file_hash(path)}
