"""``unipixel film eval``: the untrained base, or every trained model of a folder, over every pooling method, into runs as POVQA lays them out.

Everything that can be wrong is looked at before anything is asked. Finished runs are kept, an interrupted one goes on behind its last
question, and the first failure stops the command with what is finished in place.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from tabulate import tabulate

from benchmarks.bench import BenchArguments, start_workers, the_plan
from benchmarks.film_runs import baselines, files
from benchmarks.film_runs import cells as layout
from benchmarks.film_runs.cells import ASKED, BENCH, PREDICTIONS, SUMMARY, VARIANTS, Cell
from benchmarks.film_runs.models import FilmAdapter, Model, base_model, trained_model
from benchmarks.film_runs.scoring import means, score
from benchmarks.film_runs.split import split_of
from benchmarks.protocol import content_hash
from benchmarks.runner.merge import merge
from benchmarks.runner.plan import Job, JobData, Plan, load_plan
from benchmarks.runner.units import Units
from benchmarks.runner.worker import run_worker
from benchmarks.task import Task
from benchmarks.tasks import get_task
from unipixel.config import parse, setting
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError
from unipixel.infer.predict import Predictor
from unipixel.infer.predictions import read_predictions
from unipixel.infer.settings import read_changes
from unipixel.metrics import embedding

NO_ENCODER = "none"


@dataclass(kw_only=True)
class FilmEvalArguments:
    """Settings of ``unipixel film eval``."""

    task: Literal["reasonvqa", "tvqa"] = setting("reasonvqa", "what is asked")
    base: str = setting("", "recipe (or settings.yaml of a run): evaluate the untrained model that it describes")
    models: str = setting("", "folder of trained models: evaluate each of them, instead of --base")
    adapters: list[str] = setting([], "only these folders of --models")
    shards: str = setting("", "folder with a packed folder of questions per method")
    methods: list[str] = setting([], "pooling methods, by long or short names; default: the four of POVQA")
    out: str = setting("", "folder for the runs: OUT/METHOD of a base, OUT/ADAPTER/METHOD of trained models")
    variant: Literal["full", "keyframe_only", "text_only", "frames_only", "classic"] = setting("full", "ablation: what the model is shown")
    num_frames: int = setting(59, "pooled pictures shown, without the key frame; 0: as in training")
    set: list[str] = setting([], "other settings of frames and prompt than in training, as name=value, e.g. max_segments=8")
    max_new_tokens: int = setting(0, "longest reply in tokens; 0: 4096 for reasonvqa, 512 for tvqa")
    compat: Literal["none", "seed"] = setting("none", "seed: compare the first six words of answers only, as POVQA's script does")
    limit: int = setting(0, "only the first N questions; 0: all")
    train_shards: list[str] = setting([], "packed training questions, for the baselines that know their answers")
    embed: str = setting("auto", "sentence encoder of EmbedCos: a model's name, none, or auto (POVQA's, when its package is installed)")
    backbone: str = setting("", "base model, when it is not where the checkpoint or recipe says")
    batch_size: int = setting(8, "prompts generated together")
    workers: int = setting(0, "processes on this machine, which share the questions; 0: one per GPU, or one")
    worker: int = setting(-1, "number of this process among several; set by the process that starts them")
    device: str = setting("auto", "cuda, cpu, or auto")
    overwrite: bool = setting(False, "make runs of other settings anew, instead of stopping")
    retry_failed: bool = setting(False, "ask again what failed in a run")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals; 0 leaves them out")
    seed: int = setting(0, "seed of the resampling")

    def __post_init__(self):
        for name in ("shards", "out"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is needed")
        if bool(self.base) == bool(self.models):
            raise ConfigError("give either --base RECIPE or --models FOLDER")
        if self.adapters and not self.models:
            raise ConfigError("--adapters are folders of --models")
        for name in ("num_frames", "max_new_tokens", "limit", "bootstrap", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if self.compat not in get_task(self.task).protocols:
            raise ConfigError(f"compat={self.compat!r} cuts open answers; {self.task} has options")


@dataclass
class Evaluation:
    """One command, checked: the cells of each model, and what scores them."""

    args: FilmEvalArguments
    task: Task
    cells: list[tuple[Model, list[Cell]]]
    encoder_name: str | None
    encoder_missing: str | None


def check(args: FilmEvalArguments) -> Evaluation:
    """Everything that can be known before a model is loaded.

    Raises:
        ConfigError: a method that is not packed, no or an unfinished model, contradictory settings, a run of other settings in the way.
    """
    task, folders = get_task(args.task), layout.method_folders(args.shards, args.methods)
    layout.check_same_questions(folders)
    changes = {**VARIANTS[args.variant], **read_changes(args.set)} | ({"num_frames": args.num_frames} if args.num_frames else {})
    if args.models:
        models = [trained_model(name, folder, changes, args.backbone) for name, folder in layout.find_adapters(args.models, args.adapters).items()]
    else:
        models = [base_model(args.base, changes, args.backbone)]
    name, missing = _encoder(args.embed)
    train = ShardDataset(args.train_shards).fingerprint if args.train_shards else None
    scored = {"compat": args.compat, "embed": name, "train": train, "bootstrap": args.bootstrap, "seed": args.seed}
    cells = []
    for model in models:
        frames, text = (dataclasses.asdict(part) for part in model.context)
        asked = {"task": task.name, "protocol": task.protocol().hash, "model": dict(model.content), "frames": frames, "template": text,
                 "prompt": files.prompt_of(model.context), "max_new_tokens": args.max_new_tokens, "limit": args.limit, "variant": args.variant}
        cells.append((model, [Cell(model.name, method, shards, Path(args.out, *filter(None, (model.name, method))),
                                   asked | {"data": ShardDataset(shards).fingerprint, "method": method}, scored)
                              for method, shards in folders.items()]))
    for cell in (cell for _, row in cells for cell in row):
        cell.state(args.overwrite)
    return Evaluation(args, task, cells, name, missing)


def _encoder(wanted: str) -> tuple[str | None, str | None]:
    """(name of the sentence encoder, or why there is none)."""
    if wanted == NO_ENCODER:
        return None, "embed=none"
    if wanted == "auto" and find_spec("sentence_transformers") is None:
        return None, f"sentence-transformers is not installed: {embedding.INSTALL}"
    return embedding.MODEL if wanted == "auto" else wanted, None


def run(args: FilmEvalArguments, argv: Sequence[str] = ()) -> list[Path]:
    """All cells; their summaries. Raises what stops the first one that fails.

    Args:
        argv: the arguments that ``args`` were made of, for the processes that share the work.
    """
    found = check(args)
    workers = args.workers or torch.cuda.device_count() or 1
    if args.worker >= 0:
        for model, cells in found.cells:
            ask_all(found, model, open_cells(cells, args))
        return []
    encoder = embedding.SentenceTransformer(found.encoder_name) if found.encoder_name else None
    train = baselines.train_examples(args.train_shards, found.task)
    done, rows = [], []
    for model, cells in found.cells:
        for cell in cells:
            if cell.state(args.overwrite) == "other":
                cell.remove()
        left, kept = open_cells(cells, args), [cell for cell in cells if cell.state() == "finished" and not args.retry_failed]
        if left and workers > 1:
            for cell in left:
                claim(cell)  # before several processes look whose run this is
            start_workers([*argv, *(["--adapters", model.name] if model.name else [])], workers, "benchmarks.film_runs.command")
        asking = ask_each(found, model, left) if workers == 1 else iter(left)
        for cell in cells:
            if cell in left:
                next(asking)
            if cell not in kept:
                evaluate(found, cell, model, encoder, train)
            print(f"{cell.name}: {'kept, ' if cell in kept else ''}{cell.out / SUMMARY}")
            done.append(cell.out / SUMMARY)
            rows.append((cell.name, json.loads(done[-1].read_text(encoding="utf-8"))))
    print(table(rows))
    return done


def open_cells(cells: Sequence[Cell], args: FilmEvalArguments) -> list[Cell]:
    """Those whose questions are still to be asked."""
    return [cell for cell in cells if args.retry_failed or cell.state() not in ("finished", "asked")]


def ask_each(evaluation: Evaluation, model: Model, cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells of one model, which is loaded once, each when all its questions are answered."""
    predictor = None
    for cell in cells:
        predictor = predictor or model.load(evaluation.args.batch_size, evaluation.args.device)
        ask(evaluation, cell, model, predictor)
        yield cell


def ask_all(evaluation: Evaluation, model: Model, cells: Sequence[Cell]) -> None:
    for _ in ask_each(evaluation, model, cells):
        pass


def claim(cell: Cell) -> None:
    """Write down what the folder of a cell is asked for."""
    files.write(cell.out / BENCH / ASKED, json.dumps({"hashes": cell.hashes, "asked": dict(cell.asked)}, indent=1) + "\n")


def job(evaluation: Evaluation, cell: Cell) -> Job:
    return Job(evaluation.task.name, (cell.shards,))


def ask(evaluation: Evaluation, cell: Cell, model: Model, predictor: Predictor) -> None:
    """All questions of a cell, by the benchmarks' runner: what is answered already stays."""
    args, folder = evaluation.args, cell.out / BENCH
    adapter = FilmAdapter(predictor, {"adapter": "film", "model": model.name or "base", "asked": cell.hashes["asked"]}, args.max_new_tokens)
    if args.worker < 0:
        claim(cell)
    plan = the_plan((job(evaluation, cell),), adapter, BenchArguments(out=str(folder), limit=args.limit))
    if args.retry_failed and args.worker <= 0:
        units = Units(folder, plan, "retry")
        print(f"asked again: {sum(units.reopen(unit) for unit in plan.units if units.finished(unit))} failed questions")
    run_worker(folder, plan, adapter)


def evaluate(evaluation: Evaluation, cell: Cell, model: Model, encoder: embedding.Encoder | None, train: Sequence) -> None:
    """Numbers and files of a cell whose questions are answered."""
    args, task = evaluation.args, evaluation.task
    plan, folder = load_plan(cell.out / BENCH), cell.out / BENCH
    predictions = read_predictions(merge(folder, plan)[plan.jobs[0].name].path)
    protocol = task.protocol(args.compat)
    samples = list(asked_samples(plan))
    truths = [truth for sample in samples for truth in task.truths(sample, protocol)]
    scored = score(task, protocol, truths, predictions, encoder)
    trivial = {name: means(score(task, protocol, truths, baselines.as_replies(answers), encoder), task)
               for name, answers in baselines.trivial_answers(task, truths, train).items()}
    if chance := task.chance(truths):
        trivial["random_option"] = {"Accuracy": chance["accuracy"]}
    by_id = {one.truth.example_id: one for one in scored}
    lines = [files.line(task, sample, example, by_id[example.example_id], cell, model.context) for sample in samples for example in sample.examples]
    embed = {"encoder": encoder.name, "revision": encoder.revision} if encoder else {"missing": evaluation.encoder_missing}
    content = files.summary(task, scored, cell, model, variant=args.variant, split=split_of(samples), bootstrap=args.bootstrap, seed=args.seed,
                            trivial=trivial, ceiling=means(score(task, protocol, truths, baselines.perfect(truths), encoder), task), embed=embed,
                            compat=args.compat, protocol=protocol.card(), limit=args.limit,
                            predictions_sha256=content_hash(lines))
    files.write_lines(cell.out / PREDICTIONS, lines)
    files.write(cell.out / SUMMARY, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def asked_samples(plan: Plan):
    """The media of a plan with the questions that were asked."""
    data = JobData(plan.jobs[0])
    for unit in plan.units:
        sample = data.shown(unit.rows)
        yield dataclasses.replace(sample, examples=tuple(e for e in sample.examples if e.example_id in unit.example_ids))


def table(rows: Sequence[tuple[str, dict]]) -> str:
    """Cells beside what scores without looking."""
    metrics = [name for name in rows[0][1]["metrics"] if any(summary["metrics"][name] is not None for _, summary in rows)]
    first = rows[0][1]

    def shown(values: dict) -> list[str]:
        return ["–" if values.get(name) is None else f"{values[name]:.3f}" for name in metrics]

    lines = [[name, *shown(summary["metrics"]), summary["runs"], summary["errors"], summary["parse_failures"]] for name, summary in rows]
    lines += [[f"({name.replace('_', ' ')})", *shown(values), first["runs"], "", ""] for name, values in first["trivial"].items()]
    if first["compat"] != "none":
        lines.append(["(perfect answers, cut)", *shown(first["ceiling"]), first["runs"], "", ""])
    text = tabulate(lines, ["", *metrics, "questions", "errors", "no answer"], disable_numparse=True,
                    colalign=("left", *["right"] * (len(metrics) + 3)))
    return f"\n{text}\n\n{first['dataset']}, {first['split']}, split hash {first['split_hash']}, {first['variant']}"


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film eval``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        argv = sys.argv[1:] if argv is None else argv
        (args,) = parse([FilmEvalArguments], argv, prog="unipixel film eval")
        run(args, argv)
    except UniPixelError as error:
        print(f"unipixel film eval: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
