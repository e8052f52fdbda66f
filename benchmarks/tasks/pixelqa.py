"""PixelQA: find the objects that a point or a box shows, then answer a question about them from the predicted masks.

Made from VideoRefer-Bench-Q. First the masks of the pointed-at objects are predicted; then they, and not the true masks, stand for the
objects in the question. ``J_vol`` and ``Dice_vol`` are IoU and pixel Dice over the whole volume of 16 frames: the published script calls the
latter "F", but it is no boundary measure and cannot be compared with J&F. An object that is empty in prediction and truth scores 1 (compat
``unipixel``: 0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.masks import predicted_evidence
from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.tasks.choice import ACCURACY, PROMPT, Choice
from benchmarks.tasks.refer_video import REFERENCE_FRAMES, select_frames
from benchmarks.truth import GroundTruth, tracks_union, truth_of
from unipixel.data.media import sample_frames, stable_rng
from unipixel.infer.predictions import Prediction
from unipixel.sample import EMPTY, Example, Sample, decode_entry

FRAMES = 16
AVERAGING = "accuracy: mean over questions; masks: mean over objects"


class PixelQA(Choice):
    """``kind``: point, box, or mix (half of each, by a hash of the example's id)."""

    flow = "locate"
    source = "videorefer_bench_q"
    metrics = (ACCURACY, Metric("J_vol", lambda row: row["j_vol"]), Metric("Dice_vol", lambda row: row["dice_vol"]))
    headline = ("accuracy", "J_vol", "Dice_vol")
    groups = {"question type": "question_type"}
    protocols = {"none": Protocol(prompt=PROMPT, averaging=AVERAGING),
                 "unipixel": Protocol("unipixel", prompt=PROMPT, averaging=AVERAGING, **REFERENCE_FRAMES)}
    expected = {"test": (0, 1000)}

    def __init__(self, kind: str):
        self.name, self.kind = f"pixelqa-{kind}", kind
        self.summary = f"PixelQA: questions about objects given by a {kind}, answered from predicted masks".replace("a mix", "a point or a box")

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in super().examples(sample, protocol) if example.regions]

    def prompt_kind(self, example: Example) -> str:
        return self.kind if self.kind != "mix" else ("point", "box")[int(stable_rng("pixelqa", example.example_id).integers(2))]

    def view(self, sample: Sample, protocol: Protocol) -> Sample:
        """16 frames spread over the medium; each prompt frame takes the place of the nearest other one."""
        prompts = sorted({int(example.source["prompt_frame"]) for example in sample.examples})
        chosen = [t for t in sample_frames(len(sample.frames), FRAMES) if t not in prompts]
        for t in prompts if len(chosen) + len(prompts) > FRAMES else ():
            if chosen:
                chosen.remove(min(chosen, key=lambda other: abs(other - t)))
        chosen = sorted({*chosen, *prompts})
        moved = tuple(dataclasses.replace(e, source={**e.source, "prompt_frame": chosen.index(int(e.source["prompt_frame"]))})
                      for e in sample.examples)
        return select_frames(dataclasses.replace(sample, examples=moved), chosen)

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        medium = sample.medium
        size = medium.height, medium.width
        return [truth_of(example, medium, size=size, facts={
            "objects": [tracks_union([medium.objects[region.oid].track], size) for region in example.regions]}) for example in sample.examples]

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        both_empty = 0.0 if protocol.compat == "unipixel" else 1.0
        ious, dices, resized = [], [], False
        for number, true in enumerate(truth.facts["objects"]):
            inter, total, changed = self._volume(dataclasses.replace(truth, evidence=true), prediction, number, protocol)
            resized |= changed
            union, failed = total - inter, prediction is None
            ious.append(0.0 if failed else inter / union if union else both_empty)
            dices.append(0.0 if failed else 2 * inter / total if total else both_empty)
        count = len(ious)
        return super().measure(truth, prediction, protocol) | {"j_vol": [sum(ious), count], "dice_vol": [sum(dices), count], "resized": resized}

    def _volume(self, truth: GroundTruth, prediction: Prediction | None, number: int, protocol: Protocol) -> tuple[int, int, bool]:
        """(pixels in both, pixels of either counted once each, resized) of the object of that number over its annotated frames."""
        track = prediction.masks[number] if prediction is not None and number < len(prediction.masks) else {}
        found, resized = {}, False
        if track:
            found, resized = predicted_evidence(dataclasses.replace(prediction, masks=(track,)), truth, protocol.on_size_mismatch)
        inter = total = 0
        for frame, entry in truth.evidence.items():
            pred, true = decode_entry(found.get(frame, EMPTY), truth.size), decode_entry(entry, truth.size)
            inter, total = inter + int((pred & true).sum()), total + int(pred.sum()) + int(true.sum())
        return inter, total, resized
