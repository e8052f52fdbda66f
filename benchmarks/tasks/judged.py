"""Open answers that a text model judges: MSVD-QA, MSRVTT-QA, TGIF-QA, ActivityNet-QA, VideoRefer-Bench-D, and VideoPASTA's adversarial probe.

A missing or failed prediction is wrong without asking anyone. A reply whose verdict cannot be read stays unjudged, has no value, and
keeps the headline from being printed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from benchmarks.judge import CAPTION_DIMENSIONS, Case, Judgement
from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.task import Task, chosen_option
from benchmarks.tasks.choice import single_frame
from benchmarks.tasks.refer_video import REFERENCE_FRAMES
from benchmarks.truth import GroundTruth, truth_of
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample


class Judged(Task):
    """A task whose rows need verdicts; :meth:`with_judgement` gives a copy that has them."""

    answers = "text"
    rubric = "qa"
    protocols = {"none": Protocol(max_new_tokens=1024, averaging="mean over questions")}
    judgement: Judgement | None = None

    def with_judgement(self, judgement: Judgement) -> Self:
        task = copy.copy(self)
        task.judgement = judgement
        return task

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in sample.examples if example.task == "evidence" and not example.options]

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return [truth_of(example, sample.medium, facts={"question": example.question}) for example in sample.examples]

    def cases(self, truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction]) -> list[Case]:
        """What has to be judged: replies that were made."""
        out = []
        for truth in truths:
            prediction = predictions.get(truth.example_id)
            rubric = self.rubric_of(truth)
            if rubric and prediction is not None and not prediction.failed:
                reply = (prediction.answer or prediction.reply or "").strip()
                out.append(Case(truth.example_id, rubric, {"question": truth.facts["question"], "answer": truth.answer, "reply": reply}))
        return out

    def rubric_of(self, truth: GroundTruth) -> str:
        """Name of the rubric for one example; empty where no judge is needed."""
        return self.rubric

    def verdict(self, truth: GroundTruth, prediction: Prediction | None):
        """The verdict on a reply; ``None`` for a prediction that is missing, and for a reply that stayed unjudged (then also listed)."""
        return None if prediction is None or self.judgement is None else self.judgement.verdicts.get(truth.example_id)

    def trivial(self, truth: GroundTruth) -> Prediction:
        """Nothing: there is no reply that a judge would be asked about."""
        return Prediction(truth.example_id, truth.medium_id, "no_reply")


class OpenQA(Judged):
    """Right or wrong, and a score from 0 to 5, by the judge's prompt of Video-ChatGPT."""

    metrics = (Metric("accuracy", lambda row: row["correct"]), Metric("score", lambda row: row["score"], unit="score_0_5"))
    headline = ("accuracy", "score")
    source = "folder"

    def __init__(self, name: str, title: str):
        self.name, self.summary = name, f"{title}: open answers, judged"

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        if prediction is None:
            return {"correct": False, "score": 0.0}
        verdict = self.verdict(truth, prediction)
        return {"correct": None, "score": None} if verdict is None else {"correct": verdict.yes, "score": verdict.scores["score"]}


class VideoReferD(Judged):
    """Captions of one object, graded in four dimensions."""

    name, source, rubric = "videorefer-d", "videorefer_bench_d", "caption"
    summary = "VideoRefer-Bench-D: captions of an object shown by its masks, judged in four dimensions"
    metrics = (*(Metric(name, lambda row, name=name: row["grades"][name], unit="score_0_5") for name in CAPTION_DIMENSIONS),
               Metric("average", lambda row: row["average"], unit="score_0_5"))
    headline = ("average",)
    protocols = {"none": Protocol(averaging="mean over captions"),
                 "unipixel": Protocol("unipixel", averaging="mean over captions", **REFERENCE_FRAMES)}
    expected = {"test": (0, 400)}

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        if prediction is None:
            return {"grades": dict.fromkeys(CAPTION_DIMENSIONS, 0.0), "average": 0.0}
        verdict = self.verdict(truth, prediction)
        if verdict is None:
            return {"grades": dict.fromkeys(CAPTION_DIMENSIONS), "average": None}
        return {"grades": dict(verdict.scores), "average": sum(verdict.scores.values()) / len(verdict.scores)}


class VideoReferDSingle(VideoReferD):
    name = "videorefer-d-single"
    summary = "VideoRefer-Bench-D with the mask of one frame only"

    def view(self, sample: Sample, protocol: Protocol) -> Sample:
        return single_frame(sample)


PROBES = ("unanswerable", "none_of_the_above", "answerable")


class AdversarialProbe(Judged):
    """Per mode: unanswerable questions that are rejected, "none of the above" that is chosen; and answerable twins that are refused.

    Examples carry ``source["probe"]`` (one of ``PROBES``) and ``source["mode"]``: spatial, temporal or cross_frame.
    """

    name, source, rubric = "pasta-probe", "folder", "refusal"
    summary = "VideoPASTA's adversarial probe: unanswerable questions and 'none of the above', per failure mode"
    metrics = (Metric("unanswerable rejected", lambda row: row["refused"] if row["probe"] == "unanswerable" else None),
               Metric("none of the above chosen", lambda row: row["correct"] if row["probe"] == "none_of_the_above" else None),
               Metric("answerable refused", lambda row: row["refused"] if row["probe"] == "answerable" else None))
    headline = ("unanswerable rejected", "none of the above chosen", "answerable refused")
    groups = {"mode": "mode"}

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in sample.examples if example.source.get("probe") in PROBES]

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return [truth_of(example, sample.medium, facts={"question": example.question, "probe": example.source["probe"],
                                                        "mode": str(example.source.get("mode", "other"))}) for example in sample.examples]

    def rubric_of(self, truth: GroundTruth) -> str:
        return "" if truth.facts["probe"] == "none_of_the_above" else self.rubric

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        probe, refused, correct = truth.facts["probe"], None, None
        if probe == "none_of_the_above":
            index = None if prediction is None else chosen_option(truth, prediction.answer or prediction.reply)
            correct = index is not None and truth.options[index] == truth.answer
        elif prediction is None:
            refused = probe == "answerable"  # counts against the model either way
        else:
            verdict = self.verdict(truth, prediction)
            refused = None if verdict is None else verdict.yes
        return {"probe": probe, "mode": truth.facts["mode"], "refused": refused, "correct": correct}
