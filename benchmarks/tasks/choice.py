"""Multiple choice: MVBench, VideoMME, VideoRefer-Bench-Q, and what all such sets share.

A reply names an option by letter or by text (``unipixel.metrics.map_option``); one that names none, or more than one, is wrong and
counted as ``unmapped``. Beside accuracy stand the chance level and how often each letter was chosen and was right: a model that likes a
letter shows there. Compat ``unipixel`` reads the first character of the first word, as its script does; an empty reply, on which that
script stops, is wrong.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.task import Task, chosen_option, random_choice
from benchmarks.tasks.refer_video import REFERENCE_FRAMES
from benchmarks.truth import GroundTruth, truth_of
from unipixel.data.template import letter
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample

PROMPT = "{question}\nAnswer with the letter of the right option alone."
ACCURACY = Metric("accuracy", lambda row: row["correct"])
ANSWERED = Metric("answered", lambda row: row["chosen"] != "–")
_BRACKETED, _CLOSED = re.compile(r"\(([A-Za-z])\)"), re.compile(r"\b([A-Za-z])\)")


class Choice(Task):
    """A question with options."""

    answers = "choice"
    metrics = (ACCURACY, ANSWERED)
    headline = ("accuracy",)
    groups = {"question type": "question_type", "true letter": "true", "chosen letter": "chosen"}
    protocols = {"none": Protocol(prompt=PROMPT, max_new_tokens=256, averaging="mean over questions"),
                 "unipixel": Protocol("unipixel", prompt=PROMPT, max_new_tokens=256, averaging="mean over questions",
                                      **REFERENCE_FRAMES)}

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in sample.examples if example.task == "evidence" and example.options]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        said = None if prediction is None else prediction.answer or prediction.reply
        chosen = None if said is None else self.choose(truth, said, protocol)
        right = truth.options.index(truth.answer)
        unmapped = {"problems": ["unmapped"]} if prediction is not None and chosen is None else {}
        return {"correct": chosen == right, "true": letter(right), "chosen": "–" if chosen is None else letter(chosen)} | unmapped

    def choose(self, truth: GroundTruth, said: str, protocol: Protocol) -> int | None:
        if protocol.compat == "unipixel":
            return first_character(said, len(truth.options))
        if protocol.compat == "videorefer":
            return videorefer_letter(said, len(truth.options))
        return chosen_option(truth, said)

    def chance(self, truths: Sequence[GroundTruth]) -> dict[str, float | None]:
        return {"accuracy": random_choice(truths), "answered": None}


def first_character(said: str, count: int) -> int | None:
    """The published UniPixel parser: first word in lower case without ``( ) .``, then its first character."""
    word = re.sub(r"[().]", "", said.lower().split(" ")[0]) if said else ""
    return _index(word[:1], count)


def videorefer_letter(said: str, count: int) -> int | None:
    """The official parser of VideoRefer-Bench-Q: ``(X)``, else ``X)``, else the first character."""
    match = _BRACKETED.search(said) or _CLOSED.search(said)
    return _index(match[1] if match else said.strip()[:1], count)


def _index(character: str, count: int) -> int | None:
    index = ord(character.upper()) - ord("A") if character.isascii() and character.isalpha() else -1
    return index if 0 <= index < count else None


class MVBench(Choice):
    name, source = "mvbench", "mvbench"
    summary = "MVBench: 20 tasks of 200 questions"
    groups = {"task": "question_type", "true letter": "true", "chosen letter": "chosen"}
    expected = {"test": (0, 4000)}


class VideoMME(Choice):
    name, source = "videomme", "videomme"
    summary = "VideoMME: questions about short, medium and long videos"
    groups = Choice.groups | {"duration": "duration", "domain": "domain"}
    expected = {"test": (900, 2700)}

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return [truth_of(example, sample.medium, facts={name: str(example.source.get(name, "unknown")) for name in ("duration", "domain")})
                for example in sample.examples]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        return super().measure(truth, prediction, protocol) | dict(truth.facts)


class VideoReferQ(Choice):
    """Questions about objects shown by their masks, on all annotated frames."""

    name, source = "videorefer-q", "videorefer_bench_q"
    summary = "VideoRefer-Bench-Q: questions about objects shown by their masks on all annotated frames"
    expected = {"test": (0, 1000)}
    protocols = Choice.protocols | {
        compat: Protocol(compat, prompt=PROMPT, max_new_tokens=256, averaging="mean over questions", frames=16, min_pixels=100 * 28 * 28,
                         max_pixels=144 * 28 * 28) for compat in ("unipixel", "videorefer")}


class VideoReferQSingle(VideoReferQ):
    name = "videorefer-q-single"
    summary = "VideoRefer-Bench-Q with the mask of one frame only"

    def view(self, sample: Sample, protocol: Protocol) -> Sample:
        return single_frame(sample)


def single_frame(sample: Sample) -> Sample:
    """Only the masks on each example's prompt frame, ``source["prompt_frame"]`` (a position); objects become one per example."""
    objects, examples = {}, []
    for example in sample.examples:
        frame, renamed = int(example.source["prompt_frame"]), []
        for region in example.regions:
            obj = sample.medium.objects[region.oid]
            oid = f"{region.oid}@{frame}"
            entries = tuple(entry if t == frame else None for t, entry in enumerate(obj.track.entries))
            objects[oid] = dataclasses.replace(obj, oid=oid, track=dataclasses.replace(obj.track, entries=entries))
            renamed.append(dataclasses.replace(region, oid=oid))
        examples.append(dataclasses.replace(example, regions=tuple(renamed)))
    return dataclasses.replace(sample, medium=dataclasses.replace(sample.medium, objects=objects), examples=tuple(examples))
