"""``unipixel bench TASK``: plan, infer, merge, score and export benchmarks with one model, on any number of GPUs and machines.

Everything is in the run folder ``--out``. Starting the same command again goes on where it ended; starting it on another machine that sees
the folder helps. With several GPUs this process starts one worker on each, watches them, and merges and scores when they are done.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml
from tabulate import tabulate

from benchmarks import lmms_eval
from benchmarks.adapters.base import Adapter
from benchmarks.adapters.open import ModelArguments, open_adapter
from benchmarks.result import write_json
from benchmarks.runner.export import PREFIXES, write_release, write_server_zip
from benchmarks.runner.merge import Merged, merge
from benchmarks.runner.plan import Job, JobData, Plan, inputs_hash, load_plan, make_plan
from benchmarks.runner.units import Units
from benchmarks.runner.worker import run_worker
from benchmarks.score import GENERATION, NoPublicTruth, ScoreArguments
from benchmarks.score import run as score
from benchmarks.tasks import ALIASES, TASKS, get_task
from unipixel.config import parse, setting
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError, nearest
from unipixel.infer.predictions import load_predictions

EXTERNAL = "lmms-eval"
Words = list[str]  # a name of its own, because the field ``list`` below would shadow it in the annotations


@dataclass(kw_only=True)
class BenchArguments:
    """Settings of ``unipixel bench``."""

    list: bool = setting(False, "print every benchmark, and stop")
    shards: Words = setting([], "packed datasets of the named benchmark")
    compat: str = setting("none", "protocol of a published evaluator, for every benchmark that has it; --list names each one's")
    suite: str = setting("", "YAML list of {task, shards, compat, label} instead of a benchmark on the command line")
    skip_absent: bool = setting(False, "suite: leave out, and name, benchmarks whose shards are not there")
    out: str = setting("bench", "run folder")
    workers: int = setting(0, "processes on this machine; 0: one per GPU, or one")
    worker: int = setting(-1, "number of this process among several; set by the process that starts them")
    limit: int = setting(0, "only the first N questions of each benchmark; 0: all")
    lease_s: float = setting(60.0, "seconds without a sign of life after which a worker's medium is taken over")
    retry_failed: bool = setting(False, "ask questions again whose status says that they failed")
    allow_missing: bool = setting(False, "merge and score although media are unfinished; their questions count as wrong")
    stop_after: Literal["infer", "merge", "score"] = setting("score", "last step to do")
    export: bool = setting(False, "also write the files that benchmark servers and the ST-Evidence evaluator take")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals")
    seed: int = setting(0, "seed of the resampling")

    def __post_init__(self):
        if self.workers < 0 or self.limit < 0 or self.lease_s <= 0:
            raise ConfigError(f"workers={self.workers} and limit={self.limit} must not be negative, lease_s={self.lease_s} positive")


@dataclass(kw_only=True)
class ExternalArguments:
    """Settings of ``unipixel bench lmms-eval``: print its command, or read its results."""

    model: str = setting("", "Hugging Face model or folder: print the command that evaluates it")
    tasks: list[str] = setting([], "tasks of lmms-eval; default: the seven that VideoPASTA reports")
    backend: str = setting("vllm", "vllm or qwen2_5_vl")
    tensor_parallel: int = setting(1, "GPUs per model, vllm")
    results: str = setting("", "result file of lmms-eval: write it in our form")
    out: str = setting("lmms_results", "folder for the results")

    def __post_init__(self):
        if bool(self.model) == bool(self.results):
            raise ConfigError("give --model to print a command, or --results to read a result file")


# --- what to run -----------------------------------------------------------------------------------------------------------------

def read_jobs(names: Sequence[str], args: BenchArguments) -> tuple[Job, ...]:
    """The benchmarks of the command line or of the suite file.

    Raises:
        ConfigError: neither or both are given, or an entry is wrong.
    """
    if bool(names) == bool(args.suite):
        raise ConfigError(f"name one benchmark, or a file with --suite; benchmarks: {', '.join(TASKS)}")
    if names:
        if len(names) > 1:
            raise ConfigError(f"{list(names)}: several benchmarks have different shards; list them in a file and give it as --suite")
        if not args.shards:
            raise ConfigError(f"--shards is needed: the packed data of {names[0]}")
        return (_job({"task": names[0], "shards": args.shards, "compat": args.compat}, "command line"),)
    path = Path(args.suite)
    if not path.is_file():
        raise ConfigError(f"--suite {args.suite!r} is not a file")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path} must be a list of mappings with task, shards, compat and label")
    jobs = tuple(_job(entry, str(path), args.compat) for entry in entries)
    absent = [job for job in jobs if not all(Path(folder).is_dir() for folder in job.shards)] if args.skip_absent else []
    if absent and args.worker <= 0:
        print("left out, their shards are not there: " + ", ".join(f"{job.name} ({', '.join(job.shards)})" for job in absent))
    if len(absent) == len(jobs):
        raise ConfigError(f"{path}: the shards of no benchmark are there")
    return tuple(job for job in jobs if job not in absent)


def _job(entry: dict, where: str, compat: str = "none") -> Job:
    """``compat`` is for entries that say nothing, where the benchmark has it."""
    fields = ("task", "shards", "compat", "label")
    unknown = [name for name in entry if name not in fields]
    if unknown:
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}{nearest(unknown[0], fields)}")
    shards = entry.get("shards")
    shards = [shards] if isinstance(shards, str) else shards
    if not isinstance(entry.get("task"), str) or not shards:
        raise ConfigError(f"{where}: {entry} needs a task and its shards")
    task = get_task(entry["task"])
    compat = str(entry.get("compat", compat if compat in task.protocols else "none"))
    label = str(entry.get("label", ""))
    if re.fullmatch(r"[\w.-]*", label) is None:
        raise ConfigError(f"{where}: label={label!r} becomes part of file names: letters, digits, '.', '_' and '-' only")
    return Job(task.name, tuple(os.path.expandvars(str(folder)) for folder in shards), task.protocol(compat).compat, label)


def the_plan(jobs: Sequence[Job], adapter: Adapter, args: BenchArguments) -> Plan:
    """The run folder's plan, made now if there is none; :class:`ConfigError` when it is that of another run."""
    for job in jobs:
        adapter.check(get_task(job.task))
    folder = Path(args.out)
    data = tuple(ShardDataset(list(job.shards)).fingerprint for job in jobs)
    if (folder / "plan.json").is_file():
        return load_plan(folder, inputs_hash(jobs, adapter.identity, data, args.limit))
    return make_plan(jobs, adapter.identity, lease_s=args.lease_s, limit=args.limit).save(folder)


# --- running ---------------------------------------------------------------------------------------------------------------------

def infer(jobs: Sequence[Job], args: BenchArguments, model: ModelArguments) -> Plan:
    """One worker: load the model, agree on the plan, work until everything is done."""
    name = f"{os.uname().nodename}-{max(args.worker, 0)}"
    with open_adapter(model, Path(args.out) / "replies" / f"{name}.jsonl") as adapter:
        plan = the_plan(jobs, adapter, args)
        if args.retry_failed and args.worker <= 0:
            units = Units(Path(args.out), plan, "retry")
            print(f"asked again: {sum(units.reopen(unit) for unit in plan.units if units.finished(unit))} failed questions")
        counts = run_worker(args.out, plan, adapter)
    print(f"worker {name}: {counts or 'nothing was left to do'}")
    return plan


def start_workers(argv: Sequence[str], count: int, module: str = "benchmarks.bench") -> None:
    """``count`` processes of a command, one per GPU in turn; a worker that dies leaves its work to the others.

    Raises:
        DataError: none of them ended well.
    """
    gpus = torch.cuda.device_count()
    processes = []
    for number in range(count):
        environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": _device(number % gpus)} if gpus else {})
        processes.append(subprocess.Popen([sys.executable, "-m", module, *argv, "--worker", str(number)], env=environment))
    codes = [process.wait() for process in processes]
    if any(codes):
        print(f"exit codes of the workers: {codes}", file=sys.stderr)
    if all(codes):
        raise DataError(f"all {count} workers failed (exit codes {codes}); their own messages stand above")


def _device(index: int) -> str:
    """The GPU as this process may name it: an entry of its own CUDA_VISIBLE_DEVICES."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[index] if index < len(visible) else str(index)


def run(names: Sequence[str], args: BenchArguments, model: ModelArguments, argv: Sequence[str]) -> list[str]:
    """The whole command; the benchmarks that could not be scored, each with its reason."""
    if not model.model:
        raise ConfigError("--model is needed: a checkpoint folder or a preset")
    jobs = read_jobs(names, args)
    workers = args.workers or torch.cuda.device_count() or 1
    if args.worker >= 0 or workers == 1:
        plan = infer(jobs, args, model)
    else:
        start_workers(argv, workers)
        plan = load_plan(Path(args.out))
    if args.worker >= 0 or args.stop_after == "infer":
        return []
    merged = merge(args.out, plan, allow_missing=args.allow_missing)
    for name, found in merged.items():
        print(f"{name}: {found.summary()}")
    if args.export:
        export(plan, merged, Path(args.out) / "export")
    return [] if args.stop_after == "merge" else score_all(plan, merged, args, model.models)


def score_all(plan: Plan, merged: dict[str, Merged], args: BenchArguments, models: str) -> list[str]:
    """Result files ``results/<job>.json``. One benchmark that cannot be scored does not keep the others from it."""
    problems = []
    for job in plan.jobs:
        print(f"\n{job.name}")
        try:
            if plan.limit:
                raise DataError(f"only {plan.limit} questions were asked (--limit): score them with `unipixel score {job.task} --allow-missing`")
            score(ScoreArguments(predictions=str(merged[job.name].path), shards=list(job.shards), compat=job.compat, bootstrap=args.bootstrap,
                                 out=str(Path(args.out) / "results" / f"{job.name}.json"), allow_missing=args.allow_missing, seed=args.seed,
                                 models=models), get_task(job.task))
        except NoPublicTruth as error:
            print(f"not scored here: {error}")
        except UniPixelError as error:
            print(f"not scored: {error}")
            problems.append(f"{job.name}: {error}")
    return problems


def export(plan: Plan, merged: dict[str, Merged], folder: Path) -> None:
    """Zip files for servers, and the ST-Evidence release's own form."""
    for job in plan.jobs:
        predictions = load_predictions(merged[job.name].path)
        if job.task in PREFIXES:
            data = JobData(job)
            groups = data.dataset.groups(max_turns=len(data.dataset))
            samples = (sample for rows in groups if (sample := data.shown(rows)) is not None)
            count = write_server_zip(job.task, samples, predictions, folder / f"{job.name}.zip", allow_failed=True)
            print(f"{job.name}: {count} expressions in {folder / f'{job.name}.zip'}")
        elif job.task == GENERATION:
            print(f"{job.name}: {write_release(predictions.values(), folder / job.name)}")


def listing() -> str:
    """Every benchmark with its protocols and the source that packs it."""
    rows = [(task.name, ", ".join(task.protocols), task.source or "–", task.summary) for task in TASKS.values()]
    aliases = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
    return (tabulate(rows, ["benchmark", "compat", "pack --source", ""], disable_numparse=True)
            + f"\n\n{EXTERNAL}: prints the command of lmms-eval for {', '.join(lmms_eval.EXTERNAL)}, and reads its results\naliases: {aliases}")


def external(argv: Sequence[str] | None = None) -> int:
    """``unipixel bench lmms-eval``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (args,) = parse([ExternalArguments], argv, prog=f"unipixel bench {EXTERNAL}")
        if args.model:
            print(shlex.join(lmms_eval.command(args.model, args.tasks, backend=args.backend, tensor_parallel=args.tensor_parallel, out=args.out)))
        for result in lmms_eval.import_results(args.results) if args.results else ():
            path = Path(args.out) / f"{result['benchmark'].replace('/', '_')}.json"
            write_json(path, result)
            print(f"{result['benchmark']}: accuracy {100 * result['metrics']['accuracy']['value']:.2f} over {result['n']} questions, {path}")
    except UniPixelError as error:
        print(f"unipixel bench {EXTERNAL}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel bench``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        names = argv[:next((i for i, part in enumerate(argv) if part.startswith("-")), len(argv))]
        args, model = parse([BenchArguments, ModelArguments], argv[len(names):], prog="unipixel bench")
        if args.list:
            print(listing())
            return 0
        problems = run(names, args, model, argv)
    except UniPixelError as error:
        print(f"unipixel bench: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if problems:
        print("unipixel bench: not scored:\n" + "\n".join(problems), file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
