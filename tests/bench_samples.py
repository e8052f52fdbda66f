"""Helpers of the benchmark tests: packed fixtures as samples of a task, and predictions of a known quality."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters.base import Adapter
from benchmarks.protocol import Protocol
from benchmarks.task import Task
from benchmarks.tasks import get_task
from benchmarks.truth import GroundTruth, evidence_union, read_samples
from tests.packing import run
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample, decode_entry, encode_mask


def packed(source: str, write: Callable[[Path], Any], folder: Path, split: str = "train", *more: str) -> Path:
    """Shards of a fixture in a released layout; ``write`` makes it."""
    written = write(folder / "in")
    run(source, getattr(written, "root", folder / "in"), folder / "shards", "--split", split, *more)
    return folder / "shards"


def questions_of(name: str, shards: Path, compat: str = "none") -> tuple[Task, Protocol, list[Sample], list[GroundTruth]]:
    task = get_task(name)
    protocol = task.protocol(compat)
    samples = list(task.questions(read_samples([str(shards)]), protocol))
    return task, protocol, samples, [truth for sample in samples for truth in task.truths(sample, protocol)]


def perfect(sample: Sample, example: Example, shift: int = 0, status: str = "ok") -> Prediction:
    """The example's truth, its masks moved to the right by ``shift`` pixels."""
    medium = sample.medium
    size = medium.height, medium.width
    masks = {t: encode_mask(np.roll(decode_entry(entry, size), shift, axis=1)) for t, entry in evidence_union(example, medium).items()}
    return Prediction(example.example_id, medium.medium_id, status, reply="It is <|seg|>.", answer=example.answer or None, segments=example.segments,
                      size=size if masks else None, frame_times=medium.frame_times, masks=(masks,) if masks else ())


def all_perfect(samples: list[Sample], shift: int = 0) -> dict[str, Prediction]:
    return {example.example_id: perfect(sample, example, shift) for sample in samples for example in sample.examples}


class StubAdapter(Adapter):
    """Answers with the truth moved by ``shift`` pixels; ``act`` is called before each example and may raise, wait or kill."""

    name = "stub"

    def __init__(self, shift: int = 3, act: Callable[[Example, bool], None] = lambda example, careful: None):
        self.shift, self.act, self.asked = shift, act, []
        self.identity = {"adapter": self.name, "model": "stub", "shift": shift}

    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        for example in sample.examples:
            self.act(example, careful)
            self.asked.append(example.example_id)
            yield dataclasses.replace(perfect(sample, example, self.shift), seconds=time.perf_counter())
