"""Benchmarks that lmms-eval runs: the command for the seven sets that VideoPASTA reports, and its result files read into ours.

lmms-eval is a program of its own with its own environment; nothing of it is imported. Its numbers keep their protocol (its version, its task
settings) in the card, so that they are never taken for ours of the same name: MVBench there is cut into segments and leaves unanswered
questions out, for example.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.card import code_hash, file_hash, versions
from benchmarks.protocol import content_hash
from benchmarks.result import SCHEMA
from unipixel.errors import ConfigError, DataError, nearest


@dataclass(frozen=True)
class ExternalTask:
    """A task of lmms-eval.

    Attributes:
        metric: its name there.
        percent: whether it is given in 0-100.
        seen: training data known to hold questions or videos of the set.
    """

    name: str
    metric: str
    percent: bool
    seen: str = ""


EXTERNAL = {task.name: task for task in (
    ExternalTask("tempcompass_multi_choice", "accuracy", False),
    ExternalTask("perceptiontest_val_mc", "accuracy", False),
    ExternalTask("nextqa_mc_test", "exact_match", False, "VideoGPT+ 576k holds NExT-QA's training questions; ST-Evidence uses its videos"),
    ExternalTask("mvbench", "mvbench_accuracy", True, "made from CLEVRER, Something-Something v2 and others, which VideoGPT+ 576k draws from too"),
    ExternalTask("longvideobench_val_v", "lvb_acc", False),
    ExternalTask("mlvu_dev", "mlvu_percetion_score", True),
    ExternalTask("videomme", "videomme_perception_score", True),
)}


def command(model: str, tasks: Sequence[str] = (), *, backend: str = "vllm", tensor_parallel: int = 1, out: str = "lmms_results") -> list[str]:
    """Command line of ``lmms_eval`` for a Hugging Face model: vLLM as VideoPASTA ran it (memory 0.9, batch 1), or ``qwen2_5_vl`` in process.

    Raises:
        ConfigError: an unknown task or backend.
    """
    tasks = list(tasks) or list(EXTERNAL)
    for task in tasks:
        if task not in EXTERNAL:
            raise ConfigError(f"lmms-eval task {task!r} is not one of {sorted(EXTERNAL)}{nearest(task, EXTERNAL)}")
    if backend == "vllm":
        arguments = f"model={model},tensor_parallel_size={tensor_parallel},gpu_memory_utilization=0.9"
    elif backend == "qwen2_5_vl":
        arguments = f"pretrained={model}"
    else:
        raise ConfigError(f"backend={backend!r} must be 'vllm' or 'qwen2_5_vl'")
    return ["python", "-m", "lmms_eval", "--model", backend, "--model_args", arguments, "--tasks", ",".join(tasks), "--batch_size", "1",
            "--log_samples", "--output_path", out]


def import_results(path: str | Path) -> list[dict[str, Any]]:
    """One result per known task of a ``results_*.json`` / ``*_results.json`` file; per-example rows are not part of that file.

    Raises:
        DataError: it is no result file, holds none of the known tasks, or a value is outside its range.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        measured = raw["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no result file of lmms-eval: {error!r}") from error
    found = [_result(task, measured, raw, path) for name, task in EXTERNAL.items() if name in measured or _subtasks(name, measured)]
    if not found:
        raise DataError(f"{path} holds {sorted(measured)}, none of {sorted(EXTERNAL)}")
    return found


def _result(task: ExternalTask, measured: Mapping[str, Any], raw: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    parts = {task.name: measured[task.name]} if _value(task, measured.get(task.name, {})) is not None else _subtasks(task.name, measured)
    values = {name: _value(task, part) for name, part in parts.items()}
    if not values or None in values.values():
        raise DataError(f"{path}: {task.name} has no number {task.metric!r}: {sorted(measured.get(task.name, {}))}")
    counts = {name: _count(raw, name) for name in values}
    n = sum(counts.values())
    weights = counts if all(counts.values()) else dict.fromkeys(values, 1)
    value = sum(weights[name] * values[name] for name in values) / sum(weights.values())
    config = {"lmms_eval": raw.get("git_hash") or raw.get("lmms_eval_version"), "config": raw.get("config", {}),
              "task": raw.get("configs", {}).get(task.name, {}), "version": raw.get("versions", {}).get(task.name)}
    summary = {"value": value, "n": n, "ci95": _interval(task, parts, value)}
    groups = {name.removeprefix(f"{task.name}_"): {"n": counts[name], "metrics": {"accuracy": {"value": v, "n": counts[name], "ci95": None}}}
              for name, v in values.items()} if len(values) > 1 else {}
    return {"schema": SCHEMA, "benchmark": f"lmms-eval/{task.name}", "split": "", "n": n, "headline": ["accuracy"], "metrics": {"accuracy": summary},
            "units": {"accuracy": "share"}, "averaging": {"accuracy": "examples"}, "trivial": {"accuracy": None}, "chance": {},
            "groups": {"task": groups} if groups else {}, "missing": [], "unknown": [], "status": {}, "format_errors": {}, "resized": 0,
            "per_example": {},
            "card": {"protocol": config | {"compat": "lmms-eval", "hash": content_hash(json.loads(json.dumps(config, default=str)))},
                     "predictions": {"path": str(path), "sha256": file_hash(path)}, "truth": {"path": None, "id": None}, "judge": None,
                     "run": {"model": raw.get("model_name") or raw.get("config", {}).get("model_args")}, "contamination": task.seen or None,
                     "bootstrap": 0, "seed": 0, "code": code_hash(), "versions": versions()}}


def _subtasks(name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a group such as MVBench, whose own entry may have no number."""
    task = EXTERNAL[name]
    return {other: part for other, part in measured.items() if other.startswith(f"{name}_") and _value(task, part) is not None}


def _value(task: ExternalTask, part: Mapping[str, Any]) -> float | None:
    raw = part.get(f"{task.metric},none", part.get(task.metric)) if isinstance(part, Mapping) else None
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    value = raw / 100 if task.percent else float(raw)
    if not 0 <= value <= 1:
        raise DataError(f"{task.name}: {task.metric}={raw} is outside of 0-{100 if task.percent else 1}: this version of lmms-eval uses another unit")
    return value


def _count(raw: Mapping[str, Any], name: str) -> int:
    n = raw.get("n-samples", {}).get(name, {})
    return int(n.get("effective", 0)) if isinstance(n, Mapping) else 0


def _interval(task: ExternalTask, parts: Mapping[str, Any], value: float) -> list[float] | None:
    """Normal interval of the reported standard error; group values have none."""
    (part,) = parts.values() if len(parts) == 1 else ({},)
    error = part.get(f"{task.metric}_stderr,none")
    if isinstance(error, bool) or not isinstance(error, (int, float)) or not math.isfinite(error):
        return None
    spread = 1.96 * error / (100 if task.percent else 1)
    return [max(0.0, value - spread), min(1.0, value + spread)]
