"""What can be scored without looking, and what no model can exceed: the numbers that every other one is to be read against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.task import Task
from benchmarks.truth import GroundTruth, read_samples
from unipixel.data.template import letter, two_lines
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction
from unipixel.metrics import token_f1
from unipixel.metrics.text import words
from unipixel.sample import Example


def train_examples(shards: Sequence[str], task: Task) -> list[Example]:
    """Questions of training data with their answers.

    Raises:
        DataError: the data hold no question of the task, or are not for training.
    """
    found = []
    for sample in read_samples(shards) if shards else ():
        if sample.split != "train":
            raise DataError(f"{list(shards)} are of the split {sample.split!r}: answers of another split than train are no baseline")
        found += task.examples(sample, task.protocol())
    if shards and not found:
        raise DataError(f"{list(shards)} hold no example of {task.name}")
    return found


def trivial_answers(task: Task, truths: Sequence[GroundTruth], train: Sequence[Example] = ()) -> dict[str, dict[str, str]]:
    """Baseline -> example id -> final answer.

    Open questions: the question said back; with training data also their most common answer, and the answer to the training question with
    the most similar words. Options: the longest one, and the one that shares most words with the question (the first of equals).
    """
    if task.name == "tvqa":
        def best(truth: GroundTruth, value) -> str:
            return letter(max(range(len(truth.options)), key=lambda i: value(truth.options[i])))

        return {"longest_option": {t.example_id: best(t, lambda option: len(words(option))) for t in truths},
                "most_like_question": {t.example_id: best(t, lambda option, t=t: token_f1(option, t.facts["question"])) for t in truths}}
    found = {"question": {t.example_id: t.facts["question"] for t in truths}}
    if train:
        common = Counter(e.answer.strip() for e in train).most_common(1)[0][0]
        found["most_common_train_answer"] = {t.example_id: common for t in truths}
        found["nearest_train_question"] = {t.example_id: max(train, key=lambda e, t=t: token_f1(e.question, t.facts["question"])).answer
                                           for t in truths}
    return found


def perfect(truths: Sequence[GroundTruth]) -> dict[str, Prediction]:
    """The truth, said in two lines: what the protocol leaves of it is the ceiling."""
    return said({t.example_id: two_lines(t.facts.get("rationale") or "", letter(t.options.index(t.answer)) if t.options else t.answer)
                 for t in truths})


def as_replies(answers: dict[str, str]) -> dict[str, Prediction]:
    """Final answers without reasoning."""
    return said({example_id: two_lines("", answer) for example_id, answer in answers.items()})


def said(replies: dict[str, str]) -> dict[str, Prediction]:
    return {example_id: Prediction(example_id, "none", reply=reply) for example_id, reply in replies.items()}
