"""Referring video segmentation: ReVOS, MeViS, Ref-YouTube-VOS, Ref-DAVIS17, Ref-SAV, GroundMoRe.

One expression, one binary mask per listed frame, J and F over all frames of the truth (the arithmetic of DAVIS 2017), then the mean over
expressions. What differs between the sets is their averaging, what a frame without annotation means, and ReVOS' robustness. Compat
``unipixel`` repeats the published UniPixel scripts: of several predicted masks only the first counts, ReVOS rounds each expression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.masks import first_track, predicted_evidence, score_masks, true_entry
from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.task import Task
from benchmarks.truth import GroundTruth, truth_of
from unipixel.data.template import TemplateSettings, question_text
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction
from unipixel.metrics import jf_sequence_rle
from unipixel.sample import EMPTY, Example, MaskTrack, Sample, decode_entry

REFERENCE_FRAMES = {"frames": 16, "min_pixels": 128 * 28 * 28, "max_pixels": 256 * 28 * 28}
"""What released UniPixel weights are evaluated with."""
JF = (Metric("J", lambda row: row["j"]), Metric("F", lambda row: row["f"]), Metric("J&F", lambda row: row["jf"]))
FOREGROUND = "foreground"


def protocols(averaging: str, version: int = 1, **more: Any) -> dict[str, Protocol]:
    """The default, which shows frames as the model was trained with, and ``unipixel``, with the reference's."""
    return {"none": Protocol(averaging=averaging, version=version),
            "unipixel": Protocol("unipixel", averaging=averaging, version=version, **(REFERENCE_FRAMES | more))}


class ReferringVideo(Task):
    """An expression -> a mask on every listed frame."""

    answers = "masks"
    metrics = JF
    headline = ("J", "F", "J&F")
    protocols = protocols("mean over frames, then over expressions")

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in sample.examples if example.task == "refer"]

    def prompt(self, sample: Sample, example: Example, protocol: Protocol) -> str:
        """The expression itself: what a general model is asked is the segmenter's business."""
        return question_text(example, sample.medium.kind, (), TemplateSettings(paraphrase=False))

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        prediction = first_track(prediction) if protocol.compat == "unipixel" else prediction
        score = score_masks(truth, prediction, on_size_mismatch=protocol.on_size_mismatch, bound_th=protocol.bound_th)
        return {"j": score.j, "f": score.f, "jf": score.jf, "n_frames": score.n_frames, "resized": score.resized}


class MeViS(ReferringVideo):
    name, source = "mevis", "mevis"
    summary = "MeViS: motion expressions; valid_u is scored here, valid is exported for its server"
    expected = {"valid_u": (50, 793), "valid": (140, 2236), "test": (154, 2490)}


class RefYouTubeVOS(ReferringVideo):
    name, source = "ref-youtube-vos", "ref_youtube_vos"
    summary = "Ref-YouTube-VOS: expressions; valid is exported for its server"
    expected = {"valid": (202, 834)}


class RefSAV(ReferringVideo):
    name, source = "ref-sav", "ref_sav"
    summary = "Ref-SAV: long and short descriptions of objects"
    metrics = (*JF, Metric("J&F, mean of long and short", lambda row: row["jf"], by="question_type"))
    groups = {"description": "question_type"}


class RefDavis17(ReferringVideo):
    """Per expression; compat ``referformer``: per annotator, objects matched to proposals as in the unsupervised task of DAVIS 2017."""

    name, source = "ref-davis17", "ref_davis17"
    summary = "Ref-DAVIS17, per expression; compat referformer: Hungarian matching per annotator"
    expected = {"valid": (30, 244)}
    groups = {"annotator": "voice"}
    protocols = ReferringVideo.protocols | {
        "referformer": Protocol("referformer", averaging="Hungarian matching per video and annotator, mean over objects, then over annotators",
                                **REFERENCE_FRAMES)}

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        found = []
        for example in sample.examples:
            voice = f"{example.source.get('annotator')} {example.source.get('seen')}"
            found.append(truth_of(example, sample.medium, facts={"voice": voice}))
        return found

    def measure_all(self, truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol) -> list[dict[str, Any]]:
        rows = super().measure_all(truths, predictions, protocol)
        for truth, row in zip(truths, rows):
            row["voice"] = truth.facts["voice"]
        if protocol.compat == "referformer":
            together: dict[tuple[str, str], list[int]] = {}
            for i, truth in enumerate(truths):
                together.setdefault((truth.medium_id, truth.facts["voice"]), []).append(i)
            for indices in together.values():
                for i, (j, f) in zip(indices, match_proposals([truths[i] for i in indices], predictions, protocol)):
                    rows[i] |= {"j": j, "f": f, "jf": (j + f) / 2}
        return rows


def match_proposals(truths: Sequence[GroundTruth], predictions: Mapping[str, Prediction], protocol: Protocol) -> list[tuple[float, float]]:
    """(J, F) of each object of one video and annotator under the assignment of proposals that maximises the sum of J&F.

    Proposals are the masks of all expressions, a pixel going to the first that claims it: the published script breaks such ties by
    mask logits, which a prediction file does not hold.
    """
    size, frames = truths[0].size, sorted(set().union(*(truth.evidence for truth in truths)))
    taken = [np.zeros(size, bool) for _ in frames]
    proposals: list[list[str]] = []
    for truth in truths:
        prediction = predictions.get(truth.example_id)
        usable = prediction is not None and not prediction.failed and any(prediction.masks)
        masks = predicted_evidence(first_track(prediction), truth, protocol.on_size_mismatch)[0] if usable else {}
        track = []
        for t, frame in enumerate(frames):
            mask = decode_entry(masks.get(frame, EMPTY), size) & ~taken[t]
            taken[t] |= mask
            track.append(mask)
        proposals.append(list(MaskTrack.from_masks(np.stack(track)).entries))
    scores = np.zeros((2, len(truths), len(proposals)))
    for o, truth in enumerate(truths):
        wanted = [true_entry(truth, frame) for frame in frames]
        for p, proposal in enumerate(proposals):
            scores[:, o, p] = [values.mean() for values in jf_sequence_rle(proposal, wanted, size, protocol.bound_th)]
    _, chosen = linear_sum_assignment(scores.mean(axis=0), maximize=True)
    return [(float(scores[0, o, p]), float(scores[1, o, p])) for o, p in enumerate(chosen)]


class ReVOS(ReferringVideo):
    """J, F, and robustness R = max(0, 1 - false positives / foreground) per frame; the headline is the mean of the two groups' means."""

    name, source = "revos", "revos"
    summary = "ReVOS: referring and reasoning expressions, J, F and robustness"
    metrics = (*(dataclasses.replace(metric, by="question_type") for metric in JF),
               Metric("A", lambda row: row["a"], by="question_type"),
               Metric("R", lambda row: row["r"], by="question_type"),
               Metric("R_legacy255", lambda row: row["r_legacy255"], by="question_type"))
    headline = ("J", "F", "J&F", "R")
    groups = {"expression": "question_type"}
    protocols = protocols("mean over frames, expressions, then of referring and reasoning")

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        scene = sample.medium.objects.get(FOREGROUND)
        return [truth_of(example, sample.medium, facts={"foreground": scene and scene.track.entries}) for example in sample.examples]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        row = super().measure(truth, prediction, protocol)
        row |= dict.fromkeys(("a", "r", "r_legacy255"))
        if truth.evidence and truth.facts["foreground"]:
            row |= dict(zip(("a", "r", "r_legacy255"), self._robustness(truth, prediction, protocol)))
        if protocol.compat == "unipixel":
            for field in ("j", "f", "a", "r", "r_legacy255"):
                row[field] = None if row[field] is None else round(100 * row[field], 2) / 100
            row["jf"] = None if row["j"] is None else (row["j"] + row["f"]) / 2
        return row

    def _robustness(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> tuple[float, float, float]:
        """(A, R, R with predictions read as 0/255 against a truth of 0/1, as the published script has it), means over frames."""
        if prediction is None:
            return 0.0, 0.0, 0.0
        prediction = first_track(prediction) if protocol.compat == "unipixel" else prediction
        predicted, _ = predicted_evidence(prediction, truth, protocol.on_size_mismatch) if any(prediction.masks) else ({}, False)
        values = []
        for frame in truth.evidence:
            pred, true = decode_entry(predicted.get(frame, EMPTY), truth.size), decode_entry(true_entry(truth, frame), truth.size)
            entry = truth.facts["foreground"][frame]
            if entry is None:
                raise DataError(f"example {truth.example_id!r}: frame {frame} has no foreground; pack ReVOS with mask_dict_foreground.json")
            values.append(robustness(pred, true, decode_entry(entry, truth.size)))
        return tuple(np.mean(values, axis=0).tolist())


def robustness(pred: np.ndarray, true: np.ndarray, foreground: np.ndarray) -> tuple[float, float, float]:
    """(A, R, R_legacy255) of one frame, (H, W) bool each. A: share of equal pixels. R = max(0, 1 - |P and not G| / (|foreground| + 1e-6));
    the legacy form weighs every false positive 255 times."""
    false, area = float((pred & ~true).sum()), float(foreground.sum()) + 1e-6
    return float((pred == true).mean()), max(0.0, 1 - false / area), max(0.0, 1 - 255 * false / area)


class GroundMoRe(ReferringVideo):
    """20 frames spread over the clip; outside of the question's action the truth is empty, so predicting nothing there is right."""

    name, source = "groundmore", "groundmore"
    summary = "GroundMoRe: motion questions answered by masks, over 20 frames of each clip"
    groups = {"question type": "question_type"}
    frames = 20

    def view(self, sample: Sample, protocol: Protocol) -> Sample:
        return select_frames(sample, spread_truncated(len(sample.frames), self.frames))

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        found = []
        for example in sample.examples:
            truth, action = truth_of(example, sample.medium), example.source.get("action_s")
            evidence = {t: truth.evidence.get(t, EMPTY) if action is None or action[0] <= time < action[1] else EMPTY
                        for t, time in enumerate(sample.medium.frame_times)}
            found.append(dataclasses.replace(truth, evidence=evidence))
        return found


def spread_truncated(total: int, count: int) -> list[int]:
    """``count`` of ``total`` positions: an evenly spaced grid cut to whole numbers; 36 -> 0 1 3 5 7 9 11 12 14 … 35."""
    return list(range(total)) if total <= count else np.linspace(0, total - 1, count).astype(int).tolist()


class ChosenFrames(Sequence):
    """Some frames of a medium, read when they are used."""

    def __init__(self, frames: Sequence[bytes], positions: Sequence[int]):
        self._frames, self._positions = frames, list(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i):
        return [self[n] for n in range(*i.indices(len(self)))] if isinstance(i, slice) else self._frames[self._positions[i]]


def select_frames(sample: Sample, positions: Sequence[int]) -> Sample:
    """The sample with some of its frames; tracks and times follow."""
    medium = sample.medium
    objects = {oid: dataclasses.replace(obj, track=MaskTrack(obj.track.size, tuple(obj.track.entries[t] for t in positions)))
               for oid, obj in medium.objects.items()}
    times = tuple(medium.frame_times[t] for t in positions)
    return dataclasses.replace(sample, medium=dataclasses.replace(medium, frame_times=times, objects=objects),
                               frames=ChosenFrames(sample.frames, positions))
