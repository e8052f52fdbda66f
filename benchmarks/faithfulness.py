"""``unipixel faithfulness``: does a model answer because of the evidence that it cites?

Every question is asked again with only the cited evidence, without it, and with as much of something else. Evidence that a model used is
enough to keep its answers right (*sufficiency*), more than as much of anything else is (*specificity*), and is missed when it is gone
(*necessity*). Answers are scored as the evidence benchmark scores them; questions that cite nothing are listed and left out of all columns.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate
from tqdm import tqdm

from benchmarks.adapters.grounded import checkpoint_card
from benchmarks.card import file_hash
from benchmarks.evidence_views import VIEWS, pixel_views, time_views
from benchmarks.protocol import content_hash
from benchmarks.result import summarise, write_json
from benchmarks.st_evidence import score_example, scored_examples
from benchmarks.truth import read_samples, truth_of
from unipixel.config import parse, setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predict import Predictor, load_predictor
from unipixel.infer.predictions import Prediction, PredictionWriter, load_predictions, part_path, read_predictions
from unipixel.metrics import mcnemar_exact
from unipixel.sample import Example, Sample

SCHEMA = "unipixel-faithfulness/1"
NAME = "faithfulness"
REPLIES, LEFT_OUT = "replies.jsonl", "left_out.jsonl"
CONTRASTS = {"sufficiency": ("only", None), "specificity": ("only", "elsewhere"), "necessity": ("all", "without")}
"""Score -> the column it is, or the two columns whose difference it is."""


@dataclass(kw_only=True)
class FaithfulnessSettings:
    """What is asked again, and of whom."""

    checkpoint: str = setting("", "folder of the trained model that made the predictions")
    predictions: str = setting("", "what it predicted for --shards (unipixel predict): its answers and the evidence that it cites")
    shards: list[str] = setting([], "packed folders with the questions")
    by: Literal["time", "pixels"] = setting("time", "evidence that is cut out: the cited segments, or the pixels of the predicted masks")
    out: str = setting("faithfulness", "folder for replies.jsonl (a partial file is continued) and faithfulness.json")
    backbone: str = setting("", "base model folder, when it is not where the checkpoint says")
    max_new_tokens: int = setting(128, "longest reply in tokens")
    batch_size: int = setting(8, "prompts generated together")
    limit: int = setting(0, "only the first N questions that can be asked; 0: all")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals; 0 leaves them out")
    seed: int = setting(0, "of what is shown instead of the evidence, and of the resampling")
    device: str = setting("auto", "cuda, cpu, or auto")

    def __post_init__(self):
        missing = [f"--{name}" for name in ("checkpoint", "predictions", "shards") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"{missing} must be set")
        for name in ("limit", "bootstrap"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")


def asked(settings: FaithfulnessSettings, cited: dict[str, Prediction], ledger: SkipLedger) -> Iterator[tuple[Example, dict[str, Sample]]]:
    """(question, its views) of every question whose evidence can be cut out.

    Raises:
        DataError: a question has no prediction.
    """
    views, left = (time_views if settings.by == "time" else pixel_views), settings.limit or sys.maxsize
    for sample in read_samples(settings.shards):
        for example in scored_examples(sample):
            if example.example_id not in cited:
                raise DataError(f"{settings.predictions} has no prediction of {example.example_id!r}: predict all of --shards")
            if not example.answer or left <= 0:
                continue
            with ledger.catching(NAME, example.example_id):
                made = views(sample, example, cited[example.example_id], settings.seed)
                left -= 1
                yield example, made


def ask(predictor: Predictor, out: Path, settings: FaithfulnessSettings, cited: dict[str, Prediction]) -> None:
    """Replies to all views, one line each, and the questions that are left out; what is there already stays."""
    ledger = SkipLedger()
    with PredictionWriter(out / REPLIES) as writer, tqdm(desc="ask again", unit="reply", initial=len(writer.completed)) as bar:
        waiting: list[Sample] = []

        def answer(samples: list[Sample]) -> None:
            for reply in predictor.predict(samples):
                writer.write(reply)
                bar.update()

        for example, views in asked(settings, cited, ledger):
            named = {_name(example, view): sample for view, sample in views.items()}
            waiting += [dataclasses.replace(sample, examples=(dataclasses.replace(example, example_id=name),)) for name, sample in named.items()
                        if name not in writer.completed]
            while len(waiting) >= settings.batch_size:
                answer(waiting[:settings.batch_size])
                del waiting[:settings.batch_size]
        answer(waiting)
        ledger.write(out / LEFT_OUT)
        writer.finish()


def _name(example: Example, view: str) -> str:
    return f"{example.example_id}#{view}"


def rows_of(settings: FaithfulnessSettings, cited: dict[str, Prediction], replies: dict[str, Prediction]) -> dict[str, dict[str, Any]]:
    """Question -> whether the answer is right with everything and in each view, and the differences."""
    rows = {}
    for sample in read_samples(settings.shards):
        for example in scored_examples(sample):
            if _name(example, VIEWS[0]) not in replies:
                continue
            truth = truth_of(example, sample.medium, segments=None, size=None, evidence={})
            made = {"all": cited[example.example_id]} | {view: replies[_name(example, view)] for view in VIEWS}
            words = {view: dataclasses.replace(p, segments=None, masks=(), size=None) for view, p in made.items()}
            right = {view: float(score_example(truth, said).correct) for view, said in words.items()}
            scores = {name: right[a] - (right[b] if b else 0.0) for name, (a, b) in CONTRASTS.items()}
            rows[example.example_id] = {"question_type": example.question_type, "values": right | scores}
    return rows


def result(settings: FaithfulnessSettings, rows: dict[str, dict[str, Any]], left_out: dict[str, int]) -> dict[str, Any]:
    """Means with intervals over questions, and the exact paired tests of the differences."""
    names = ("all", *VIEWS, *CONTRASTS)
    metrics = summarise(list(rows.values()), dict.fromkeys(names, "examples"), settings.bootstrap, settings.seed)
    for name, (_, other) in CONTRASTS.items():
        if other:
            changes = [row["values"][name] for row in rows.values()]
            metrics[name]["p"] = mcnemar_exact(sum(c > 0 for c in changes), sum(c < 0 for c in changes))
    return {"schema": SCHEMA, "by": settings.by, "n": len(rows), "left_out": left_out, "metrics": metrics, "per_example": rows,
            "settings": asdict(settings), "predictions": file_hash(settings.predictions), "checkpoint": checkpoint_card(settings.checkpoint)}


def table(found: dict[str, Any]) -> str:
    def cells(name: str) -> list[str]:
        metric = found["metrics"][name]
        low, high = metric["ci95"] or (None, None)
        p = metric.get("p")
        return [f"{100 * metric['value']:.1f}", "–" if low is None else f"{100 * low:.1f} – {100 * high:.1f}", "" if p is None else f"{p:.3g}"]

    lines = [["everything (as predicted)", *cells("all")], ["only the evidence: sufficiency", *cells("only")],
             ["as much of something else", *cells("elsewhere")], ["without the evidence", *cells("without")],
             ["only − something else: specificity", *cells("specificity")], ["everything − without: necessity", *cells("necessity")]]
    left = ", ".join(f"{reason} {count}" for reason, count in found["left_out"].items()) or "none"
    text = tabulate(lines, [f"right answers, % ({found['n']} questions)", "", "95 % interval", "p (McNemar)"], disable_numparse=True,
                    colalign=("left", "right", "left", "right"))
    return f"{text}\n\nEvidence in {found['by']}. Left out: {left}."


def run(settings: FaithfulnessSettings) -> dict[str, Any]:
    """
    Raises:
        UniPixelError: predictions do not fit, nothing is cited, or a folder holds replies to other questions.
    """
    out = Path(settings.out)
    cited = load_predictions(settings.predictions)
    _same_run(out, settings)
    if not (out / REPLIES).exists():
        ask(load_predictor(settings.checkpoint, backbone=settings.backbone, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size,
                           device=settings.device, draw_masks=False), out, settings, cited)
    rows = rows_of(settings, cited, read_predictions(out / REPLIES))
    left_out = dict(Counter(json.loads(line)["reason"] for line in (out / LEFT_OUT).read_text(encoding="utf-8").splitlines()).most_common())
    if not rows:
        raise DataError(f"no question cites evidence that can be cut out: {left_out}")
    found = result(settings, rows, left_out)
    write_json(out / "faithfulness.json", found)
    print(table(found))
    return found


def _same_run(out: Path, settings: FaithfulnessSettings) -> None:
    """Replies in a folder belong to one model, one set of predictions and one way to cut."""
    mine = content_hash([checkpoint_card(settings.checkpoint), file_hash(settings.predictions), settings.shards, settings.by, settings.seed,
                         settings.limit, settings.max_new_tokens])
    stored, replies = out / "asked.json", out / REPLIES
    if replies.exists() or part_path(replies).exists():
        if not stored.exists() or json.loads(stored.read_text())["content"] != mine:
            raise ConfigError(f"--out {settings.out!r} holds replies of another model, other predictions or settings: choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(stored, {"content": mine})


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel faithfulness``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        run(parse([FaithfulnessSettings], argv, prog="unipixel faithfulness")[0])
    except UniPixelError as error:
        print(f"unipixel faithfulness: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
