"""What a benchmark is: which examples belong to it, what the model is shown and asked, how a reply is read, what it scores.

A task is a short subclass of :class:`Task` in ``benchmarks.tasks``; running it is ``benchmarks.runner``, models are
``benchmarks.adapters``, averages and the result file ``benchmarks.result``. A task never touches a model, and a truth fixes every
denominator: a missing or failed prediction scores as wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from benchmarks.protocol import Protocol
from benchmarks.result import LISTED, Metric, build
from benchmarks.truth import GroundTruth, truth_of
from unipixel.data.template import TemplateSettings, question_text
from unipixel.errors import ConfigError, DataError, nearest
from unipixel.infer.predictions import Prediction, load_predictions
from unipixel.metrics import map_option
from unipixel.metrics.reply import NO_MASK_TOKEN, NO_REPLY
from unipixel.sample import Example, Sample

Answers = Literal["evidence", "masks", "choice", "text"]
FORM: dict[str, tuple[str, ...] | None] = {"evidence": None, "masks": (NO_REPLY, NO_MASK_TOKEN), "choice": (NO_REPLY,), "text": (NO_REPLY,)}
"""Problems with the form of a reply that mean something for what was asked; ``None``: all of them."""


class Task(ABC):
    """One benchmark.

    Attributes:
        name: on the command line and in results.
        summary: one line for ``unipixel bench --list``.
        answers: what a prediction must hold: ``evidence`` (answer, segments, masks), ``masks``, a ``choice`` or ``text``.
        source: the ``--source`` of ``unipixel pack`` that makes its shards.
        metrics, headline: all numbers, and the names of those that are reported first.
        groups: divisions of the result: name -> field of a row.
        protocols: compat switch -> protocol; ``none`` is the default.
        expected: split -> (media, examples) of the published set; another count is a warning.
        subtitles: whether general models read the medium's subtitles before the question.
        flow: ``ask`` each example, or ``locate`` the objects that it points at first and ask about the masks that were found.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    answers: ClassVar[Answers]
    source: ClassVar[str] = ""
    metrics: Sequence[Metric] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    groups: ClassVar[Mapping[str, str]] = {}
    protocols: ClassVar[Mapping[str, Protocol]] = {"none": Protocol()}
    expected: ClassVar[Mapping[str, tuple[int, int]]] = {}
    flow: ClassVar[Literal["ask", "locate"]] = "ask"
    subtitles: ClassVar[bool] = False

    def protocol(self, compat: str = "none") -> Protocol:
        """Raises :class:`ConfigError` naming the switches this task has."""
        if compat not in self.protocols:
            raise ConfigError(f"compat={compat!r}: {self.name} has {', '.join(self.protocols)}{nearest(compat, self.protocols)}")
        return self.protocols[compat]

    # --- what is asked ---

    @abstractmethod
    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        """Those examples of a medium that belong to the benchmark, in order."""

    def view(self, sample: Sample, protocol: Protocol) -> Sample:
        """The medium as the model is shown it; ``sample.examples`` are already this task's."""
        return sample

    def prompt(self, sample: Sample, example: Example, protocol: Protocol) -> str:
        """The user's text for a general model, which gets the frames beside it. Evidence is asked for by the tasks that score it."""
        bare = replace(example, segments=None, targets=())
        text = TemplateSettings(paraphrase=False, use_subtitles=self.subtitles)
        return protocol.prompt.format(question=question_text(bare, sample.medium.kind, sample.medium.subtitles, text))

    def read(self, example: Example, prediction: Prediction) -> Prediction:
        """A general model's reply with what it says taken apart; our own model's replies are parsed where they are made."""
        return prediction

    # --- what is true, and what a reply scores ---

    def truths(self, sample: Sample, protocol: Protocol) -> Iterable[GroundTruth]:
        """One truth per example of ``sample``."""
        return [truth_of(example, sample.medium) for example in sample.examples]

    @abstractmethod
    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        """Fields of the example's row that metrics and groups read; ``prediction`` is ``None`` when it is missing or failed."""

    def measure_all(self, truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol) -> list[dict[str, Any]]:
        """Rows of a whole benchmark, for tasks that cannot score one example alone."""
        return [self.row(truth, predictions.get(truth.example_id), protocol) for truth in truths]

    def row(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        failed = prediction is None or prediction.failed
        asked_for = FORM[self.answers]
        problems = [] if prediction is None else [p for p in prediction.problems if asked_for is None or p in asked_for]
        return {"status": "missing" if prediction is None else prediction.status, "question_type": truth.question_type, "resized": False,
                "problems": problems} | self.measure(truth, None if failed else prediction, protocol)

    def load(self, path: str, pred_masks: str) -> dict[str, Prediction]:
        """Predictions of a file, also in the published forms of this benchmark."""
        return load_predictions(path, pred_masks or None)

    def trivial(self, truth: GroundTruth) -> Prediction:
        """What can be predicted without looking."""
        return Prediction(truth.example_id, truth.medium_id, "no_mask")

    def chance(self, truths: Sequence[GroundTruth]) -> dict[str, float | None]:
        """Expected value of metrics under random choice, where that is not what :meth:`trivial` scores."""
        return {}

    # --- the whole benchmark ---

    def questions(self, samples: Iterable[Sample], protocol: Protocol) -> Iterable[Sample]:
        """Media with the examples of this task, as the model is shown them."""
        for sample in samples:
            examples = tuple(self.examples(sample, protocol))
            if examples:
                chosen = Sample(sample.key, sample.medium, examples, sample.frames, sample.dataset, sample.split)
                yield self.view(chosen, protocol)

    def score(self, truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol, *, split: str = "",
              bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Result of a whole benchmark as plain JSON data, without its card.

        Raises:
            DataError: no ground truth, repeated example ids, or a prediction that cannot be compared with its truth.
        """
        repeated = [example_id for example_id, n in Counter(truth.example_id for truth in truths).items() if n > 1]
        if repeated or not truths:
            raise DataError(f"example ids repeat in the ground truth: {repeated[:LISTED]}" if repeated else "the ground truth holds no example")
        rows = self.measure_all(truths, predictions, protocol)
        trivial = self.measure_all(truths, {truth.example_id: self.trivial(truth) for truth in truths}, self.protocol())
        ids = [truth.example_id for truth in truths]
        return build(benchmark=self.name, split=split, metrics=self.metrics, headline=self.headline, rows=dict(zip(ids, rows, strict=True)),
                     trivial_rows=trivial, chance=self.chance(truths), groups=self.groups,
                     missing=[i for i in ids if i not in predictions], unknown=sorted(set(predictions) - set(ids)), bootstrap=bootstrap, seed=seed)


def chosen_option(truth: GroundTruth, answer: str | None) -> int | None:
    """Index of the option that a reply names, or ``None``."""
    return None if answer is None else map_option(answer, truth.options)


def random_choice(truths: Sequence[GroundTruth]) -> float | None:
    """Expected share of right answers when an option is drawn."""
    shares = [1 / len(truth.options) for truth in truths if truth.options]
    return sum(shares) / len(shares) if shares else None
