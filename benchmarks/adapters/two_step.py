"""Two steps: a general model names what proves its answer, a segmenter draws it.

The reply and what was read from it stay as the general model gave them; only the masks are added. A reply without expressions has no masks
(``no_mask``), which is counted, not repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.adapters.base import Adapter
from benchmarks.adapters.evidence_reply import reply_of
from benchmarks.adapters.segmenter import Segmenter
from benchmarks.protocol import Protocol
from benchmarks.task import Task
from unipixel.errors import ConfigError
from unipixel.infer.predictions import Prediction
from unipixel.sample import Sample


class TwoStep(Adapter):
    name = "two-step"

    def __init__(self, speaker: Adapter, segmenter: Segmenter):
        self.speaker, self.segmenter = speaker, segmenter
        self.identity = {**speaker.identity, "adapter": f"{speaker.name} + segmenter", "second_step": dict(segmenter.identity)}

    def check(self, task: Task) -> None:
        if task.answers != "evidence":
            raise ConfigError(f"{task.name} wants no referring expressions: run it without --segmenter")
        self.speaker.check(task)

    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        for said in self.speaker.answer(task, sample, protocol, careful=careful):
            expressions = None if said.failed else reply_of(said).expressions
            tracks = tuple(self.segmenter.segment(sample, expressions, careful=careful)) if expressions else ()
            medium = sample.medium
            yield replace(said, status="ok", masks=tracks, size=(medium.height, medium.width), frame_times=medium.frame_times) if tracks else said

    def close(self) -> None:
        self.speaker.close()
