"""The plan of a run: which benchmarks, which model, and the list of work that every worker agrees on.

A unit of work is one medium with all its questions of one benchmark, so that a video is decoded and encoded once. The first worker writes
``plan.json``; a later one makes sure that it would have planned the same, and a result of another plan is refused. Plain data: nothing here
touches a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.protocol import Protocol, content_hash
from benchmarks.task import Task
from benchmarks.tasks import get_task
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Sample

SCHEMA = "unipixel-plan/1"
PLAN = "plan.json"


@dataclass(frozen=True)
class Job:
    """One benchmark of a run. ``label`` tells several splits of one benchmark apart."""

    task: str
    shards: tuple[str, ...]
    compat: str = "none"
    label: str = ""

    @property
    def name(self) -> str:
        """Name of its files: the task, and what tells it apart."""
        return self.task + (f"-{self.label}" if self.label else "") + ("" if self.compat == "none" else f"@{self.compat}")


@dataclass(frozen=True)
class Unit:
    """One medium of one job.

    Attributes:
        rows: row numbers in the job's dataset.
        cost: frames times questions, what a mask model's time grows with.
        size, n_frames: of the medium as it is shown, what its masks must agree with.
    """

    number: int
    job: int
    rows: tuple[int, ...]
    medium_id: str
    example_ids: tuple[str, ...]
    cost: int
    size: tuple[int, int]
    n_frames: int


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        model: what answers: adapter, checkpoint by content, decoding and frame settings.
        data: fingerprint of each job's shards.
        lease_s: seconds without a sign of life after which a worker's unit may be taken over.
    """

    jobs: tuple[Job, ...]
    model: Mapping[str, Any]
    data: tuple[str, ...]
    units: tuple[Unit, ...]
    lease_s: float = 60.0
    limit: int = 0

    @cached_property
    def inputs(self) -> str:
        """Hash of everything that decides the predictions, known without reading the media."""
        return inputs_hash(self.jobs, self.model, self.data, self.limit)

    @cached_property
    def fingerprint(self) -> str:
        return content_hash([self.inputs, [asdict(unit) for unit in self.units]])

    def protocol(self, job: Job) -> Protocol:
        return get_task(job.task).protocol(job.compat)

    def save(self, folder: Path) -> Plan:
        """Write ``plan.json`` unless another worker was first; the plan that stands there, which must be this one's equal."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{PLAN}.{os.getpid()}.part"
        content = {"schema": SCHEMA, "inputs": self.inputs, "fingerprint": self.fingerprint} | asdict(self)
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        try:
            os.link(part, folder / PLAN)
        except FileExistsError:
            pass
        finally:
            part.unlink()
        return load_plan(folder, self.inputs)


def inputs_hash(jobs: Sequence[Job], model: Mapping[str, Any], data: Sequence[str], limit: int) -> str:
    protocols = [get_task(job.task).protocol(job.compat).hash for job in jobs]
    return content_hash({"jobs": [asdict(job) | {"shards": None} for job in jobs], "protocols": protocols, "model": dict(model), "data": list(data),
                         "limit": limit})


def load_plan(folder: Path, inputs: str = "") -> Plan:
    """The plan of a run folder.

    Args:
        inputs: hash of what this worker was asked to do.

    Raises:
        DataError: there is no plan, or it is damaged.
        ConfigError: the folder belongs to another run.
    """
    path = folder / PLAN
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        jobs = tuple(Job(job["task"], tuple(job["shards"]), job["compat"], job["label"]) for job in raw["jobs"])
        plan = Plan(jobs, raw["model"], tuple(raw["data"]), tuple(_unit(unit) for unit in raw["units"]), raw["lease_s"], raw["limit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no plan of schema {SCHEMA!r}: {error!r}") from error
    if plan.fingerprint != raw.get("fingerprint"):
        raise DataError(f"{path} does not have its own fingerprint: it was edited, or its benchmarks changed; use another --out")
    if inputs and plan.inputs != inputs:
        raise ConfigError(f"{folder} holds another run ({_said(plan)}): the model, the data or the benchmarks differ; use another --out, or "
                          "remove it")
    return plan


def _unit(raw: Mapping[str, Any]) -> Unit:
    return Unit(**{**raw, "rows": tuple(raw["rows"]), "example_ids": tuple(raw["example_ids"]), "size": tuple(raw["size"])})


def _said(plan: Plan) -> str:
    return f"{', '.join(job.name for job in plan.jobs)} with {plan.model.get('model')}"


@dataclass
class JobData:
    """A job's dataset and what its task makes of it; opened once per process."""

    job: Job
    task: Task = field(init=False)
    protocol: Protocol = field(init=False)
    dataset: ShardDataset = field(init=False)

    def __post_init__(self):
        self.task = get_task(self.job.task)
        self.protocol = self.task.protocol(self.job.compat)
        self.dataset = ShardDataset(list(self.job.shards))

    def shown(self, rows: Sequence[int]) -> Sample | None:
        """The medium of these rows with the task's questions, as a model is shown it; ``None`` when none of them belongs to the task."""
        return next(iter(self.task.questions([self.dataset.sample(rows[0], rows)], self.protocol)), None)


def make_plan(jobs: Sequence[Job], model: Mapping[str, Any], *, lease_s: float = 60.0, limit: int = 0) -> Plan:
    """Reads what the media list, not their frames.

    Args:
        limit: at most this many questions of each job, taken evenly from its media in order; 0: all.

    Raises:
        DataError: a job's shards hold nothing of its benchmark, or an example twice.
        ConfigError: the same job twice, or none.
    """
    names = [job.name for job in jobs]
    if not jobs or len(set(names)) != len(names):
        raise ConfigError(f"benchmarks {names}: name at least one, each once")
    units: list[Unit] = []
    opened = [JobData(job) for job in jobs]
    for number, data in enumerate(opened):
        found = list(_units(data, number, len(units), limit))
        ids = [i for unit in found for i in unit.example_ids]
        if not ids:
            hint = f"; pack them with --source {data.task.source}" if data.task.source else ""
            raise DataError(f"{list(data.job.shards)} hold no example of {data.task.name}{hint}")
        if len(set(ids)) != len(ids):
            raise DataError(f"{list(data.job.shards)} hold the example {next(i for i in ids if ids.count(i) > 1)!r} twice")
        units += found
    return Plan(tuple(jobs), dict(model), tuple(data.dataset.fingerprint for data in opened), tuple(units), lease_s, limit)


def _units(data: JobData, job: int, first: int, limit: int):
    left = limit or len(data.dataset)
    for rows in data.dataset.groups(max_turns=len(data.dataset) or 1):
        sample = data.shown(rows) if left > 0 else None
        if sample is not None:
            ids = tuple(example.example_id for example in sample.examples)[:left]
            left -= len(ids)
            medium = sample.medium
            yield Unit(first, job, rows, medium.medium_id, ids, max(1, len(medium.frame_times)) * len(ids), (medium.height, medium.width),
                       len(medium.frame_times))
            first += 1
