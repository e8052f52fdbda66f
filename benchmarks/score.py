"""``unipixel score``: predictions against ground truth -> averages with their uncertainty, a table, and a result file.

Owns averaging, confidence intervals, trivial baselines and the result file; what one example scores is ``benchmarks.st_evidence``. The
truth fixes every denominator: a missing or failed prediction counts as wrong, and no headline is printed while predictions are missing
unless that is asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from benchmarks.st_evidence import (
    DEFAULT,
    RELEASE_FPS,
    THRESHOLDS,
    ExampleScore,
    GroundTruth,
    Protocol,
    from_samples,
    from_st_evidence,
    read_samples,
    score_example,
)
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predictions import Prediction, load_predictions

SCHEMA = "unipixel-score/1"
BENCHMARKS = ("st-evidence",)
METRICS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "accuracy": lambda row: row["correct"],
    "mIoU": lambda row: row["iou"],
    **{f"TIoU@{t}": lambda row, t=t: None if row["iou"] is None else row["iou"] >= t for t in THRESHOLDS},
    "mIoP": lambda row: row["iop"],
    **{f"TIoP@{t}": lambda row, t=t: None if row["iop"] is None else row["iop"] >= t for t in THRESHOLDS},
    "t-mean": lambda row: row["t_mean"],
    "J": lambda row: row["j"],
    "F": lambda row: row["f"],
    "J&F": lambda row: row["jf"],
    **{f"joint@{t}": lambda row, t=t: row[f"joint@{t}"] for t in THRESHOLDS},
    "right if grounded@0.5": lambda row: row["correct"] if _grounded(row, 0.5) else None,
    "grounded@0.5 if right": lambda row: _grounded(row, 0.5) if row["correct"] else None,
}
"""Value of each metric for one entry of ``per_example``; ``None`` where the example has no truth for it or is not in the condition."""
CONDITIONAL = ("right if grounded@0.5", "grounded@0.5 if right")
"""Metrics over the examples that a model itself selects: two models cannot be paired on them."""
TYPE_COLUMNS = ("accuracy", "t-mean", "J&F", "joint@0.5")
LISTED = 20


@dataclass
class ScoreArguments:
    """Settings of ``unipixel score st-evidence``."""

    predictions: str = setting("", "prediction file (.jsonl), or a .json file in one of the forms of the ST-Evidence release")
    shards: list[str] = setting([], "packed datasets with the ground truth")
    csv: str = setting("", "ground truth as released: st_evidence_gen.csv")
    gt_masks: str = setting("", "folder <entry_id>/%05d.png with the true masks, beside --csv")
    pred_masks: str = setting("", "folder <entry_id>/masks/%05d.png with the predicted masks, beside a .json prediction file")
    fps: float = setting(RELEASE_FPS, "frame rate of the true masks beside --csv")
    out: str = setting("", "write the result file here")
    compat: Literal["none", "seed"] = setting("none", "'seed' repeats the arithmetic of the published ST-Evidence evaluator")
    on_size_mismatch: Literal["resize", "error"] = setting("resize", "predicted masks of another size: nearest resize (counted) or error")
    allow_missing: bool = setting(False, "score although predictions are missing; they count as wrong")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals; 0 leaves them out")
    seed: int = setting(0, "seed of the resampling")

    def __post_init__(self):
        if not self.predictions:
            raise ConfigError("--predictions is needed: the file that the model wrote")
        if bool(self.shards) == bool(self.csv):
            raise ConfigError("give the ground truth once: --shards DIR, or --csv FILE with --gt-masks DIR")
        if self.gt_masks and not self.csv:
            raise ConfigError("--gt-masks belongs to --csv; shards hold their masks themselves")
        if self.bootstrap < 0 or self.fps <= 0:
            raise ConfigError(f"bootstrap={self.bootstrap} must not be negative and fps={self.fps} must be positive")


def score(truths: Iterable[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol = DEFAULT, *, bootstrap: int = 1000,
          seed: int = 0) -> dict[str, Any]:
    """Result of a whole benchmark as plain JSON data; every value is a share in 0-1, ``None`` where no example has a truth for it.

    Raises:
        DataError: no ground truth, repeated example ids, or a prediction that cannot be compared with its truth.
    """
    truths = list(truths)
    repeated = [example_id for example_id, n in Counter(truth.example_id for truth in truths).items() if n > 1]
    if repeated or not truths:
        raise DataError(f"example ids repeat in the ground truth: {repeated[:LISTED]}" if repeated else "the ground truth holds no example")
    rows = [_row(score_example(truth, predictions.get(truth.example_id), protocol)) for truth in truths]
    trivial = [_row(score_example(truth, _trivial(truth), dataclasses.replace(protocol, name="unipixel"))) for truth in truths]
    return {
        "schema": SCHEMA,
        "benchmark": BENCHMARKS[0],
        "n": len(truths),
        "metrics": summarise(rows, bootstrap, seed),
        "trivial": {**{name: summary["value"] for name, summary in summarise(trivial, 0, 0).items()}, **_chance(truths)},
        "by_question_type": {kind: {"n": len(group), "metrics": summarise(group, bootstrap, seed)} for kind, group in _by_type(rows)},
        "missing": [truth.example_id for truth in truths if truth.example_id not in predictions],
        "unknown": sorted(set(predictions) - {truth.example_id for truth in truths}),
        "status": dict(sorted(Counter(row["status"] for row in rows).items())),
        "format_errors": dict(sorted(Counter(problem for row in rows for problem in row["problems"]).items())),
        "resized": sum(row["resized"] for row in rows),
        "per_example": {truth.example_id: row for truth, row in zip(truths, rows)},
    }


def summarise(rows: Sequence[Mapping[str, Any]], bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """Per metric: mean, number of examples with a truth, and the 2.5 % and 97.5 % percentiles of the means of resampled examples."""
    return {name: _mean([value for value in map(measure, rows) if value is not None], bootstrap, seed) for name, measure in METRICS.items()}


def differences(rows: Mapping[str, Mapping[str, Any]], baseline: Mapping[str, Mapping[str, Any]], bootstrap: int,
                seed: int) -> dict[str, dict[str, Any]]:
    """Like :func:`summarise`, of the paired differences to a baseline's ``per_example`` over the same examples; not for ``CONDITIONAL``."""
    if set(rows) != set(baseline):
        raise DataError(f"the two results score different examples: {sorted(set(rows) ^ set(baseline))[:LISTED]}")
    pairs = {name: [(measure(row), measure(baseline[example_id])) for example_id, row in rows.items() if name not in CONDITIONAL]
             for name, measure in METRICS.items()}
    return {name: _mean([float(a) - float(b) for a, b in values if a is not None and b is not None], bootstrap, seed)
            for name, values in pairs.items()}


def _mean(values: Sequence[float], bootstrap: int, seed: int) -> dict[str, Any]:
    if not values:
        return {"value": None, "n": 0, "ci95": None}
    values = np.array(values, np.float64)
    interval = None
    if bootstrap:
        draws = np.random.default_rng(seed).integers(len(values), size=(bootstrap, len(values)))
        interval = [float(bound) for bound in np.percentile(values[draws].mean(axis=1), [2.5, 97.5])]
    return {"value": float(values.mean()), "n": len(values), "ci95": interval}


def _trivial(truth: GroundTruth) -> Prediction:
    """No answer, the whole medium as evidence in time (where its length is known), no masks."""
    return Prediction(truth.example_id, truth.medium_id, "no_mask", segments=((0.0, truth.duration_s),) if truth.duration_s else ())


def _chance(truths: Sequence[GroundTruth]) -> dict[str, float | None]:
    """Baselines that the trivial prediction does not give: random choice; time only where every length is known; joint is undefined."""
    shares = [1 / len(truth.options) for truth in truths if truth.options and truth.answer]
    known = all(truth.duration_s for truth in truths if truth.segments is not None)
    timed = [name for name in METRICS if name.startswith(("mIo", "TIo", "t-"))]
    undefined = [name for name in METRICS if name.startswith("joint") or name in CONDITIONAL] + ([] if known else timed)
    return dict.fromkeys(undefined) | {"accuracy": float(np.mean(shares)) if shares else None}


def _by_type(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [(kind, [row for row in rows if row["question_type"] == kind]) for kind in sorted({row["question_type"] for row in rows})]


def _grounded(row: Mapping[str, Any], threshold: float) -> bool | None:
    """Temporal IoU and J&F both at least ``threshold``; ``None`` where one of them has no truth."""
    return None if row["iou"] is None or row["jf"] is None else row["iou"] >= threshold and row["jf"] >= threshold


def _row(score: ExampleScore) -> dict[str, Any]:
    return {"question_type": score.question_type, "status": score.status, "correct": score.correct, "iou": score.iou, "iop": score.iop,
            "t_mean": score.t_mean, "j": score.j, "f": score.f, "jf": score.jf, "n_frames": score.n_frames, "resized": score.resized,
            **{f"joint@{t}": score.joint(t) for t in THRESHOLDS}, "problems": list(score.problems)}


# --- table and file --------------------------------------------------------------------------------------------------------------

def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{percent(bounds[0])} – {percent(bounds[1])}"


def table(result: Mapping[str, Any], style: str = "simple") -> str:
    """Headline, question types and counts as text; ``style`` is a tabulate format. Values are percent."""
    rows = [[name, percent(m["value"]), _interval(m["ci95"]), percent(result["trivial"][name]), m["n"]]
            for name, m in result["metrics"].items()]
    parts = [tabulate(rows, ["metric", "value", "95 % interval", "trivial", "examples"], style, disable_numparse=True,
                      colalign=("left", "right", "right", "right", "right"))]
    kinds = [[kind, group["n"], *(percent(group["metrics"][name]["value"]) for name in TYPE_COLUMNS)]
             for kind, group in result["by_question_type"].items()]
    parts.append(tabulate(kinds, ["question type", "examples", *TYPE_COLUMNS], style, disable_numparse=True,
                          colalign=("left", *["right"] * (len(TYPE_COLUMNS) + 1))))
    counts = [*(f"{status}: {n}" for status, n in result["status"].items()),
              *(f"{problem}: {n}" for problem, n in result["format_errors"].items()),
              f"masks resized: {result['resized']}", f"predictions without truth: {len(result['unknown'])}"]
    parts.append("trivial: a random option, the whole medium, no mask.  " + ", ".join(counts))
    return "\n\n".join(parts)


def card(protocol: Protocol, args: ScoreArguments, truth_id: str) -> dict[str, Any]:
    """How the result was made: protocol, inputs by content, versions."""
    return {
        "protocol": dataclasses.asdict(protocol), "thresholds": list(THRESHOLDS), "bootstrap": args.bootstrap, "seed": args.seed,
        "predictions": {"path": args.predictions, "sha256": _sha256(args.predictions), "masks": args.pred_masks or None},
        "truth": {"path": args.shards or args.csv, "masks": args.gt_masks or None, "id": truth_id},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "pycocotools", "pillow")}},
    }


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _truths(args: ScoreArguments) -> tuple[list[GroundTruth], str]:
    """Ground truth and what identifies its content."""
    if args.csv:
        return list(from_st_evidence(args.csv, args.gt_masks or None, args.fps)), _sha256(args.csv)
    from unipixel.data.shards import ShardDataset  # pyarrow and webdataset are not needed to score a CSV

    return list(from_samples(read_samples(args.shards))), ShardDataset(args.shards).fingerprint


def write_json(path: str | Path, value: Any) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def run(args: ScoreArguments) -> dict[str, Any]:
    """Score, print the table, write the result file.

    Raises:
        DataError: predictions are missing without ``allow_missing``, or a file is damaged or belongs to other examples.
    """
    protocol = Protocol("seed" if args.compat == "seed" else "unipixel", args.on_size_mismatch)
    truths, truth_id = _truths(args)
    predictions = load_predictions(args.predictions, args.pred_masks or None)
    if args.predictions.endswith(".json") and not args.pred_masks:
        print("masks are not scored: --pred-masks was not given")
        truths = [dataclasses.replace(truth, evidence={}) for truth in truths]
    result = score(truths, predictions, protocol, bootstrap=args.bootstrap, seed=args.seed) | {"card": card(protocol, args, truth_id)}
    missing = result["missing"]
    if missing:
        listed = ", ".join(missing[:LISTED]) + (f" and {len(missing) - LISTED} more" if len(missing) > LISTED else "")
        message = f"{len(missing)} of {result['n']} predictions are missing: {listed}"
        if not args.allow_missing:
            raise DataError(f"{message}; predict them, or set --allow-missing to count them as wrong")
        print(f"{message}; they count as wrong")
    if result["resized"]:
        print(f"warning: the masks of {result['resized']} predictions have another size than the truth and were resized")
    if args.out:
        write_json(args.out, result)
    print(table(result))
    if args.out:
        print(f"result written to {args.out}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel score st-evidence``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] in (["-h"], ["--help"]):
            argv = [BENCHMARKS[0], *argv]
        if argv[:1] != [BENCHMARKS[0]]:
            raise ConfigError(f"first argument {argv[0] if argv else None!r} must name the benchmark: one of {', '.join(BENCHMARKS)}")
        (args,) = parse([ScoreArguments], argv[1:], prog=f"unipixel score {BENCHMARKS[0]}")
        run(args)
    except UniPixelError as error:
        print(f"unipixel score: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
