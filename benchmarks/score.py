"""``unipixel score TASK``: predictions against ground truth -> averages with their uncertainty, a table, and a result file.

Owns the command and the table; what an example scores is its task's, averaging is ``benchmarks.result``. The truth fixes every
denominator: a missing or failed prediction counts as wrong, and no headline is printed while predictions are missing or replies are not
judged, unless that is asked for.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tabulate import tabulate

from benchmarks.card import file_hash, run_card, score_card
from benchmarks.judge import Judgement, judge_with
from benchmarks.protocol import Protocol
from benchmarks.result import LISTED, SCHEMA, write_json
from benchmarks.st_evidence import DEFAULT, RELEASE_FPS, from_st_evidence
from benchmarks.task import Task
from benchmarks.tasks import TASKS, get_task
from benchmarks.tasks.judged import Judged
from benchmarks.truth import GroundTruth, read_samples
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predictions import Prediction

__all__ = ["SCHEMA", "ScoreArguments", "main", "percent", "run", "score", "table", "write_json"]
GENERATION = "st-evidence-gen"


class NoPublicTruth(DataError):
    """There is nothing to score here: only the benchmark's server has the truth."""


@dataclass
class ScoreArguments:
    """Settings of ``unipixel score``."""

    predictions: str = setting("", "prediction file (.jsonl), or a .json file in one of the forms of the ST-Evidence release")
    shards: list[str] = setting([], "packed datasets with the ground truth")
    csv: str = setting("", "st-evidence-gen: ground truth as released, st_evidence_gen.csv")
    gt_masks: str = setting("", "folder <entry_id>/%05d.png with the true masks, beside --csv")
    pred_masks: str = setting("", "folder <entry_id>/masks/%05d.png with the predicted masks, beside a .json prediction file")
    fps: float = setting(RELEASE_FPS, "frame rate of the true masks beside --csv")
    out: str = setting("", "write the result file here")
    compat: str = setting("none", "name of a published evaluator whose arithmetic is repeated; `unipixel bench --list` names each task's")
    on_size_mismatch: Literal["resize", "error"] = setting("resize", "predicted masks of another size: nearest resize (counted) or error")
    allow_missing: bool = setting(False, "score although predictions are missing; they count as wrong")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals; 0 leaves them out")
    seed: int = setting(0, "seed of the resampling")
    models: str = setting("", "judged benchmarks: YAML file with the role 'judge' (docs/preference_data.md)")
    replies: str = setting("", "judged benchmarks: file that keeps the judge's replies; default: beside the predictions")

    def __post_init__(self):
        if not self.predictions:
            raise ConfigError("--predictions is needed: the file that the model wrote")
        if bool(self.shards) == bool(self.csv):
            raise ConfigError("give the ground truth once: --shards DIR, or --csv FILE with --gt-masks DIR")
        if self.gt_masks and not self.csv:
            raise ConfigError("--gt-masks belongs to --csv; shards hold their masks themselves")
        if self.bootstrap < 0 or self.fps <= 0:
            raise ConfigError(f"bootstrap={self.bootstrap} must not be negative and fps={self.fps} must be positive")


def score(truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol = DEFAULT, *, task: Task | None = None,
          split: str = "", bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Result of a benchmark (ST-Evidence generation when ``task`` is not given) without its card; see :meth:`Task.score`."""
    return (task or TASKS[GENERATION]).score(list(truths), predictions, protocol, split=split, bootstrap=bootstrap, seed=seed)


@dataclass(frozen=True)
class Truths:
    """Ground truth of one benchmark: ``split`` as its shards call it, ``id`` identifies the content."""

    truths: list[GroundTruth]
    split: str
    id: str


def read_truths(task: Task, shards: Sequence[str], protocol: Protocol) -> Truths:
    """Truth of everything in packed folders that belongs to the task.

    Raises:
        DataError: nothing in them does.
    """
    from unipixel.data.shards import ShardDataset  # pyarrow and webdataset are not needed to score a CSV

    truths: list[GroundTruth] = []
    splits: dict[str, None] = {}
    media = 0
    for sample in task.questions(read_samples(shards), protocol):
        truths += task.truths(sample, protocol)
        splits.setdefault(sample.split)
        media += 1
    if not truths:
        raise DataError(f"{list(shards)} hold no example of {task.name}" + (f"; pack them with --source {task.source}" if task.source else ""))
    split = "+".join(splits)
    want_media, want = task.expected.get(split, (0, 0))
    if want and (len(truths), media) != (want, want_media or media):
        print(f"warning: {task.name}/{split} has {len(truths)} examples of {media} media here, the published set has {want}"
              + (f" of {want_media}" if want_media else ""))
    return Truths(truths, split, ShardDataset(list(shards)).fingerprint)


def table(result: Mapping[str, Any], style: str = "simple") -> str:
    """Headline, groups and counts as text; ``style`` is a tabulate format. Shares are in percent."""
    units = result["units"]
    rows = [[name, shown(m["value"], units[name]), _interval(m["ci95"], units[name]), shown(result["trivial"].get(name), units[name]), m["n"]]
            for name, m in result["metrics"].items()]
    parts = [tabulate(rows, ["metric", "value", "95 % interval", "trivial", "examples"], style, disable_numparse=True,
                      colalign=("left", "right", "right", "right", "right"))]
    columns = result["headline"]
    for division, groups in result["groups"].items():
        if len(groups) > 1:
            kinds = [[kind, group["n"], *(shown(group["metrics"][name]["value"], units[name]) for name in columns)] for kind, group in groups.items()]
            parts.append(tabulate(kinds, [division, "examples", *columns], style, disable_numparse=True,
                                  colalign=("left", *["right"] * (len(columns) + 1))))
    counts = [*(f"{status}: {n}" for status, n in result["status"].items()),
              *(f"{problem}: {n}" for problem, n in result["format_errors"].items()),
              f"masks resized: {result['resized']}", f"predictions without truth: {len(result['unknown'])}"]
    parts.append("trivial: a random option, the whole medium, no mask.  " + ", ".join(counts))
    return "\n\n".join(parts)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def shown(value: float | None, unit: str) -> str:
    """A share in percent, any other unit as it is."""
    return percent(value) if unit == "share" or value is None else f"{value:.2f}"


def _interval(bounds: Sequence[float] | None, unit: str) -> str:
    return "–" if bounds is None else f"{shown(bounds[0], unit)} – {shown(bounds[1], unit)}"


def check_complete(result: Mapping[str, Any], allow_missing: bool) -> None:
    """Missing predictions are named; :class:`DataError` unless they may count as wrong."""
    missing = result["missing"]
    if missing:
        listed = ", ".join(missing[:LISTED]) + (f" and {len(missing) - LISTED} more" if len(missing) > LISTED else "")
        message = f"{len(missing)} of {result['n']} predictions are missing: {listed}"
        if not allow_missing:
            raise DataError(f"{message}; predict them, or set --allow-missing to count them as wrong")
        print(f"{message}; they count as wrong")
    if result["resized"]:
        print(f"warning: the masks of {result['resized']} predictions have another size than the truth and were resized")


def check_judged(judgement: Judgement | None) -> None:
    """Raises :class:`DataError` when replies stayed unjudged: no score is made up for them."""
    if judgement is not None and judgement.unjudged:
        reasons = ", ".join(f"{example_id} ({reason})" for example_id, reason in list(judgement.unjudged.items())[:LISTED])
        raise DataError(f"{len(judgement.unjudged)} replies are not judged: {reasons}; mend the judge and score again, what was judged is kept")


def run(args: ScoreArguments, task: Task | None = None) -> dict[str, Any]:
    """Score, print the table, write the result file.

    Raises:
        DataError: predictions are missing without ``allow_missing``, or a file is damaged or belongs to other examples.
    """
    task = task or TASKS[GENERATION]
    protocol = dataclasses.replace(task.protocol(args.compat), on_size_mismatch=args.on_size_mismatch)
    if args.csv and task.name != GENERATION:
        raise ConfigError(f"--csv is the table of {GENERATION}; {task.name} is scored against --shards")
    truth = (Truths(list(from_st_evidence(args.csv, args.gt_masks or None, args.fps)), "test", file_hash(args.csv)) if args.csv
             else read_truths(task, args.shards, protocol))
    predictions = task.load(args.predictions, args.pred_masks)
    truths, judgement = truth.truths, None
    if task.answers in ("masks", "evidence") and all(one.size is None and one.segments is None and not one.answer for one in truths):
        raise NoPublicTruth(f"the truth of {task.name}/{truth.split} is not public: its server scores what `unipixel bench --export true` writes")
    if isinstance(task, Judged):
        judgement = judge_with(args.models, args.replies or f"{args.predictions}.judge.jsonl", task.cases(truths, predictions))
        task = task.with_judgement(judgement)
    if task.name == GENERATION and args.predictions.endswith(".json") and not args.pred_masks:
        print("masks are not scored: --pred-masks was not given")
        truths = [dataclasses.replace(one, evidence={}) for one in truths]
    result = score(truths, predictions, protocol, task=task, split=truth.split, bootstrap=args.bootstrap, seed=args.seed)
    result["card"] = score_card(
        protocol, bootstrap=args.bootstrap, seed=args.seed,
        predictions={"path": args.predictions, "sha256": file_hash(args.predictions), "masks": args.pred_masks or None},
        truth={"path": args.shards or args.csv, "masks": args.gt_masks or None, "id": truth.id}, judge=judgement and judgement.judge,
        run=run_card(args.predictions))
    check_complete(result, args.allow_missing)
    check_judged(judgement)
    if args.out:
        write_json(args.out, result)
    print(table(result))
    if args.out:
        print(f"result written to {args.out}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel score TASK [FILE]``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] in (["-h"], ["--help"]):
            argv = [GENERATION, *argv]
        if not argv or argv[0].startswith("-"):
            raise ConfigError(f"first argument {argv[0] if argv else None!r} must name the benchmark: one of {', '.join(TASKS)}")
        task, rest = get_task(argv[0]), argv[1:]
        if rest and not rest[0].startswith("-"):  # the published scorers take the prediction file as it is
            rest = ["--predictions", *rest]
        (args,) = parse([ScoreArguments], ["--predictions" if flag == "--pred_file" else flag for flag in rest], prog=f"unipixel score {task.name}")
        run(args, task)
    except UniPixelError as error:
        print(f"unipixel score: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
