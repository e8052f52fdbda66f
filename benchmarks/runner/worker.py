"""One worker: claims units, longest first, lets the model answer, and writes down whatever happened to each question.

Workers need nothing but the run folder: they may start late, run anywhere and die at any time. A question that cannot be answered becomes a
prediction with the status that says why; it counts as wrong and is listed, never as an honest "nothing there".
"""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.adapters.base import Adapter
from benchmarks.runner.plan import JobData, Plan, Unit
from benchmarks.runner.units import Units, check_masks
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.infer.predictions import Prediction
from unipixel.sample import Sample

HOPELESS = 5
"""Units in a row in which nothing worked, after which a worker takes its model or machine to be broken."""
POLL_S = 0.5


def run_worker(folder: str | Path, plan: Plan, adapter: Adapter, *, name: str = "") -> dict[str, int]:
    """Work until every unit of the plan is finished, by this worker or by others; number of predictions by status that this one made.

    Raises:
        DataError: ``HOPELESS`` units in a row failed as a whole.
    """
    units = Units(Path(folder), plan, name or f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:6]}")
    data: dict[int, JobData] = {}
    counts: dict[str, int] = {}
    waiting, busy, failures = deque(sorted(plan.units, key=lambda unit: (-unit.cost, unit.number))), [], 0
    with tqdm(total=len(waiting), desc="bench", unit="medium") as bar:
        while waiting or busy:
            if not waiting:  # others work on what is left; their leases are watched
                time.sleep(POLL_S)
                waiting, busy = deque(busy), []
            unit = waiting.popleft()
            if units.finished(unit):
                bar.update()
                continue
            if not units.claim(unit):
                busy.append(unit)
                continue
            try:
                if unit.job not in data:
                    data[unit.job] = JobData(plan.jobs[unit.job])
                made = do_unit(units, unit, data[unit.job], adapter)
            finally:
                units.release(unit)
            if units.finished(unit):
                bar.update()
            else:
                busy.append(unit)  # it was taken over; look after its new worker too
            for prediction in made:
                counts[prediction.status] = counts.get(prediction.status, 0) + 1
            failures = failures + 1 if made and all(p.failed and p.status not in ("decode_error", "no_reply") for p in made) else 0
            if failures == HOPELESS:
                raise DataError(f"{HOPELESS} media in a row failed as a whole, the last one with {made[-1].status}: {made[-1].error}; mend the model "
                                "or the machine, remove the failed units' files, and start the same command again")
    return counts


def do_unit(units: Units, unit: Unit, data: JobData, adapter: Adapter) -> list[Prediction]:
    """Answer what is left of a unit and finish it; the predictions that were made now."""
    done = units.inherited(unit)
    left = [i for i in unit.example_ids if i not in done]
    made: list[Prediction] = []
    if left:
        for prediction in units.append(unit, answers(unit, left, data, adapter)):
            made.append(prediction)
            if units.lost(unit):  # the successor keeps what is written, and goes on
                return made
    found = done | {prediction.example_id: prediction for prediction in made}
    units.finish(unit, [found[i] for i in unit.example_ids])
    return made


def answers(unit: Unit, left: list[str], data: JobData, adapter: Adapter) -> Iterator[Prediction]:
    """One prediction per example id of ``left``, in order."""
    try:
        sample = data.shown(unit.rows)
        assert sample is not None, f"unit {unit.number} was planned from other data"
        examples = tuple(example for example in sample.examples if example.example_id in left)
        sample = replace(sample, examples=examples)
    except SampleError as error:
        yield from failed(unit, left, "decode_error", str(error))
        return
    waiting = list(left)
    for prediction in tried(unit, sample, data, adapter):
        if prediction.example_id not in waiting:
            raise AssertionError(f"{adapter.name} answered {prediction.example_id!r}, which was not asked")
        try:
            check_masks(prediction, unit)
        except DataError as error:
            prediction = next(failed(unit, [prediction.example_id], "wrong_masks", str(error)))
        waiting.remove(prediction.example_id)
        yield prediction
    yield from failed(unit, waiting, "error", f"{adapter.name} gave no prediction")


def tried(unit: Unit, sample: Sample, data: JobData, adapter: Adapter) -> Iterator[Prediction]:
    """The adapter's predictions; what goes wrong becomes the status of the examples that it has not answered yet."""
    left = [example.example_id for example in sample.examples]
    for careful in (False, True):
        rest = replace(sample, examples=tuple(e for e in sample.examples if e.example_id in left))
        try:
            for prediction in adapter.answer(data.task, rest, data.protocol, careful=careful):
                left.remove(prediction.example_id)
                yield prediction
            return
        except torch.OutOfMemoryError as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            status, reason = "oom", str(error).splitlines()[0]
            if not careful:
                continue
        except SampleError as error:
            status, reason = error.reason, str(error)
        except (ConfigError, DataError):
            raise  # every unit would meet it
        except Exception as error:  # noqa: BLE001 - one poisoned medium must not end a run of days; it is listed with its reason
            traceback.print_exc()
            status, reason = "error", f"{type(error).__name__}: {error}"
        yield from failed(unit, left, status, reason)
        return


def failed(unit: Unit, example_ids: list[str], status: str, reason: str) -> Iterator[Prediction]:
    for example_id in example_ids:
        yield Prediction(example_id, unit.medium_id, status, error=reason[:500])
