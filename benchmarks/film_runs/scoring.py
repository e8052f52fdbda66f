"""Replies -> the metrics of POVQA per question, by the names that its summaries use.

ReasonVQA compares the final answer with the true one, TVQA the option that was chosen; a reply that failed, or is missing, scores 0 in
everything. Meaning (EmbedCos) needs a sentence encoder: without one it is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.protocol import Protocol
from benchmarks.task import Task
from benchmarks.tasks.povqa import TwoLines, read_reply, text_scores
from benchmarks.truth import GroundTruth
from unipixel.infer.predictions import Prediction
from unipixel.metrics import map_option, rouge_l
from unipixel.metrics.embedding import Encoder, cosines

NAMES = {"em": "EM", "f1": "F1", "bleu1": "BLEU1", "bleu4": "BLEU4_BP", "rouge_l": "ROUGE_L", "embed_cos": "EmbedCos",
         "rouge_l_reasoning": "ROUGE_L_Reasoning", "embed_cos_reasoning": "EmbedCos_Reasoning", "accuracy": "Accuracy"}
"""Field of a line -> metric of a summary."""


@dataclass(frozen=True)
class Scored:
    """One question with what was said.

    Attributes:
        said: the two lines as they were read; ``None`` when there is no reply.
        chosen: position of the option; ``None`` for open questions and for replies that name none.
        values: a key of :data:`NAMES` -> number, or ``None`` where the truth or the encoder is missing.
    """

    truth: GroundTruth
    prediction: Prediction | None
    said: TwoLines | None
    chosen: int | None
    values: Mapping[str, float | None]


def metric_names(task: Task) -> list[str]:
    return [name for name in NAMES if name != "accuracy" or task.name == "tvqa"]


def score(task: Task, protocol: Protocol, truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction],
          encoder: Encoder | None = None) -> list[Scored]:
    """One entry per truth, in order."""
    found = [_read(task, protocol, truth, predictions.get(truth.example_id)) for truth in truths]
    answers = [(_compared(one), one.truth.answer) for one in found]
    reasons = [(one.said.reasoning or "" if one.said else "", one.truth.facts.get("rationale") or "") for one in found]
    near = dict.fromkeys(("embed_cos", "embed_cos_reasoning"), [None] * len(found))
    if encoder is not None:
        near = {"embed_cos": cosines(encoder, answers), "embed_cos_reasoning": cosines(encoder, reasons)}
    out = []
    for i, (one, (answer, true), (why, rationale)) in enumerate(zip(found, answers, reasons, strict=True)):
        reasoned = bool(rationale)
        values = {name: value if one.said else 0.0 for name, value in text_scores(answer, true).items()}
        values |= {"embed_cos": near["embed_cos"][i], "rouge_l_reasoning": rouge_l(why, rationale) if reasoned else None,
                   "embed_cos_reasoning": near["embed_cos_reasoning"][i] if reasoned else None}
        if task.name == "tvqa":
            values["accuracy"] = float(one.chosen is not None and one.truth.options[one.chosen] == true)
        out.append(Scored(one.truth, one.prediction, one.said, one.chosen, values))
    return out


def means(scored: Sequence[Scored], task: Task) -> dict[str, float | None]:
    """Metric -> mean over the questions that have it."""
    values = {name: [one.values[name] for one in scored if one.values[name] is not None] for name in metric_names(task)}
    return {NAMES[name]: fmean(found) if found else None for name, found in values.items()}


def _read(task: Task, protocol: Protocol, truth: GroundTruth, prediction: Prediction | None) -> Scored:
    if prediction is None or prediction.failed:
        return Scored(truth, prediction, None, None, {})
    said = read_reply(prediction, protocol.compat)
    return Scored(truth, prediction, said, map_option(said.answer, truth.options) if task.name == "tvqa" else None, {})


def _compared(one: Scored) -> str:
    """The text that stands against the true answer."""
    if one.said is None or not one.truth.options:
        return one.said.answer if one.said else ""
    return "" if one.chosen is None else one.truth.options[one.chosen]
