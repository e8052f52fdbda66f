"""Our own model, and released UniPixel weights: answers with masks of its own.

Frames and pixels are the checkpoint's, unless the protocol of a benchmark fixes them. Greedy, all questions of a medium together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters.base import Adapter
from benchmarks.card import file_hash
from benchmarks.protocol import Protocol, content_hash
from benchmarks.task import Task
from unipixel.errors import ConfigError, SampleError
from unipixel.infer import interactive
from unipixel.infer.predict import Predictor, load_predictor
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample

WEIGHTS = ("*.safetensors", "*.json", "*.pt", "*.yaml")


class GroundedAdapter(Adapter):
    """
    Args:
        predictor: a loaded model.
        checkpoint: what to call it, and its content.
    """

    name = "grounded"

    def __init__(self, predictor: Predictor, checkpoint: Mapping[str, Any]):
        self.predictor = predictor
        frames = predictor.encoder.frame_settings
        self.identity = {"adapter": self.name, "model": checkpoint.get("folder", "in memory"), "checkpoint": checkpoint.get("content"),
                         "frames": dataclasses.asdict(frames), "template": dataclasses.asdict(predictor.text), "decoding": {"temperature": 0},
                         "dtype": str(next(predictor.model.parameters()).dtype)}

    def check(self, task: Task) -> None:
        if "space" in getattr(task, "parts", ()):
            raise ConfigError(f"{task.name} shows pictures beside the video, which this model does not take: run st-evidence-mcq-qa and "
                              "st-evidence-mcq-time")

    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        predictor = self.predictor_for(sample, protocol, careful)
        if task.flow == "locate":
            for example in sample.examples:
                yield self.located(predictor, sample, example, task.prompt_kind(example))
        else:
            yield from predictor.predict([sample])

    def predictor_for(self, sample: Sample, protocol: Protocol, careful: bool = False) -> Predictor:
        """The loaded model with the frames that the protocol asks for; ``careful``: one question at a time, memory of past frames on the host."""
        ours = self.predictor
        settings = ours.encoder.frame_settings
        changes = {"num_frames": frame_count(sample, protocol), "min_pixels": protocol.min_pixels, "max_pixels": protocol.max_pixels}
        frames = dataclasses.replace(settings, **{name: value for name, value in changes.items() if value})
        return Predictor(ours.model, ours.tokenizer, frames, ours.text, max_new_tokens=protocol.max_new_tokens,
                         batch_size=1 if careful else ours.batch_size, offload_memory=careful or ours.offload_memory)

    def located(self, predictor: Predictor, sample: Sample, example: Example, kind: str) -> Prediction:
        """Masks of the objects that a point or box shows, then the answer to the question about them."""
        pointed = [pointer(sample, example, region.label, region.oid, kind) for region in example.regions]
        try:
            tracks = interactive.locate(predictor, interactive.show(sample, example.question, pointed, options=example.options, locate=True))
            asked = interactive.remember(sample, tracks, example.question, example.options)
            (reply,) = predictor.predict([asked])
        except SampleError as error:
            return Prediction(example.example_id, sample.medium.medium_id, error.reason, error=str(error))
        masks = tuple({t: entry for t, entry in enumerate(tracks[region.label].entries) if entry is not None} for region in example.regions)
        return dataclasses.replace(reply, example_id=example.example_id, status="ok" if reply.status == "no_mask" else reply.status, masks=masks,
                                   size=(sample.medium.height, sample.medium.width))


def frame_count(sample: Sample, protocol: Protocol) -> int:
    """Frames of a medium that the language model sees; 0: as the model was trained."""
    if protocol.fps and sample.medium.duration_s:
        count = max(1, math.ceil(sample.medium.duration_s * protocol.fps))
        return min(count, protocol.frames) if protocol.frames else count
    return protocol.frames


def pointer(sample: Sample, example: Example, label: str, oid: str, kind: str) -> interactive.Pointed:
    """A point in the middle of an object's mask, or its exact box, on the prompt frame (else on the first frame that shows it).

    The middle is the pixel of the mask nearest to its centre of mass, so that it lies on the object whatever its shape.
    """
    track = sample.medium.objects[oid].track
    frame = int(example.source["prompt_frame"])
    if not track.visible[frame]:
        frame = int(track.visible.nonzero()[0][0])
    rows, columns = np.nonzero(track.decode([frame])[0])
    if kind == "box":
        return interactive.box(label, frame, (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())), sample)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return interactive.point(label, frame, int(columns[nearest]), int(rows[nearest]), sample)


def open_grounded(checkpoint: str, *, batch_size: int = 8, device: str = "auto", **options: Any) -> GroundedAdapter:
    """A checkpoint folder. Raises :class:`ConfigError` when it is none."""
    if not Path(checkpoint).is_dir():
        raise ConfigError(f"--model {checkpoint!r} is neither a checkpoint folder nor a known model")
    predictor = load_predictor(checkpoint, batch_size=batch_size, device=device, **options)
    return GroundedAdapter(predictor, checkpoint_card(checkpoint))


def checkpoint_card(folder: str | Path) -> dict[str, str]:
    """Name of a checkpoint folder and a hash of its weights and settings; optimizer states are not part of the model."""
    folder = Path(folder)
    files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    return {"folder": folder.resolve().name, "content": content_hash([[path.name, file_hash(path)] for path in files])}
