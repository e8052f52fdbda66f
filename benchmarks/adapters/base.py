"""What every model is to a benchmark: it answers the questions about one medium, and says exactly what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

from benchmarks.protocol import Protocol
from benchmarks.task import Task
from unipixel.infer.predictions import Prediction
from unipixel.sample import Sample


class Adapter(ABC):
    """A model. Loaded once per worker, asked about many benchmarks.

    Attributes:
        name: on the command line.
        identity: what decides its predictions, as plain data: weights by content or revision, frames, decoding. Part of every plan and result.
    """

    name: str
    identity: Mapping[str, Any]

    def check(self, task: Task) -> None:  # noqa: B027 - most models can take part in everything
        """Raises :class:`ConfigError` when this model cannot take part in a benchmark."""

    @abstractmethod
    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        """One prediction per example of ``sample``, in order.

        Args:
            careful: a first try ran out of memory: use less, at the price of time.

        Raises:
            SampleError: this medium cannot be answered; its ``reason`` becomes the status of what is left.
        """

    def close(self) -> None:  # noqa: B027 - most models hold nothing open
        """Give back what was opened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()
