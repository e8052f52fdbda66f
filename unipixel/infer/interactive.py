"""Questions about objects that someone points at: a point, a box or a mask on a frame, and objects the model then remembers.

Everything becomes a ``Sample`` with regions, so that a click goes the way of a training sample: a point is a mask of one pixel, a box a
filled one, and without random numbers the encoder shows exactly these. Coordinates are pixels of the input frame, (0, 0) its top left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from unipixel.errors import ConfigError
from unipixel.infer.predict import Predictor
from unipixel.infer.predictions import Prediction
from unipixel.infer.segment import segment_clip
from unipixel.sample import EMPTY, Example, MaskTrack, Region, Sample, SceneObject, encode_mask

Kind = Literal["point", "box", "mask"]


@dataclass(frozen=True)
class Pointed:
    """An object that the question calls ``[label]``: made by :func:`point`, :func:`box` or :func:`region`."""

    label: str
    kind: Kind
    masks: Mapping[int, np.ndarray]


def point(label: str, frame: int, x: int, y: int, sample: Sample) -> Pointed:
    """A click on pixel (x, y) of a frame."""
    return box(label, frame, (x, y, x, y), sample, kind="point")


def box(label: str, frame: int, corners: tuple[int, int, int, int], sample: Sample, *, kind: Kind = "box") -> Pointed:
    """A box by its first and last pixel (x0, y0, x1, y1), both inside it.

    Raises:
        ConfigError: the frame does not exist, or the corners are out of it or out of order.
    """
    x0, y0, x1, y1 = corners
    medium = sample.medium
    if not 0 <= frame < len(medium.frame_times):
        raise ConfigError(f"frame={frame}: {medium.medium_id} has frames 0 to {len(medium.frame_times) - 1}")
    if not (0 <= x0 <= x1 < medium.width and 0 <= y0 <= y1 < medium.height):
        raise ConfigError(f"{kind} {corners} is not inside a frame of {medium.width}x{medium.height} px, or its corners are out of order")
    mask = np.zeros((medium.height, medium.width), dtype=bool)
    mask[y0:y1 + 1, x0:x1 + 1] = True
    return Pointed(label, kind, {frame: mask})


def region(label: str, masks: Mapping[int, np.ndarray]) -> Pointed:
    """An object by its masks (H, W) bool on some frames."""
    return Pointed(label, "mask", masks)


def show(sample: Sample, question: str, objects: Sequence[Pointed], *, options: Sequence[str] = (), locate: bool = False) -> Sample:
    """``sample``'s medium with one question in which ``[label]`` means each of the objects.

    Args:
        locate: ask for the masks of the objects on all frames instead of an answer.

    Raises:
        ConfigError: no objects, or points, boxes and masks in one question.
        SampleError: an object is not mentioned as ``[label]``, or has no mask.
    """
    kinds = {o.kind for o in objects}
    if len(kinds) != 1:
        raise ConfigError(f"a question shows objects in one way, got {sorted(kinds) or 'none'}: ask once per way")
    medium = sample.medium
    size = medium.height, medium.width
    shown = {}
    for o in objects:
        entries = tuple(encode_mask(o.masks[t]) if t in o.masks else None for t in range(len(medium.frame_times)))
        shown[o.label] = SceneObject(o.label, o.label, MaskTrack(size, entries))
    example = Example("question", "locate" if locate else "evidence", question, tuple(options), options[0] if options else "",
                      segments=None, targets=tuple((o.label,) for o in objects) if locate else (), question_type="user",
                      regions=tuple(Region(o.label, o.label) for o in objects), visual_prompt=kinds.pop())
    return Sample(sample.key, replace(medium, objects=shown), (example,), sample.frames, sample.dataset, sample.split)


@torch.inference_mode()
def locate(predictor: Predictor, sample: Sample) -> dict[str, MaskTrack]:
    """Masks on all frames of the objects that a ``locate`` question points at, by label.

    The reply ``[1] <|seg|> [2] <|seg|>`` is given, not generated: one forward pass reads the prompt of each mask from it.
    """
    (example,) = sample.examples
    encoded, chosen = predictor.encode_medium(sample)
    encoded.dialogues = [predictor.encode_prompt(sample, 0, encoded, chosen, forced=True)]
    tokens = predictor.forced_tokens(encoded)
    medium = sample.medium
    size = medium.height, medium.width
    tracks = segment_clip(predictor.model, sample.frames, size, tokens, key=sample.key)
    return {r.label: MaskTrack(size, tuple(track)) for r, track in zip(example.regions, tracks, strict=True)}


def remember(sample: Sample, tracks: Mapping[str, MaskTrack], question: str, options: Sequence[str] = ()) -> Sample:
    """A question about objects by the masks that were found for them.

    An object that was found nowhere is shown as the whole of every frame, as the reference does: it must stand for something.
    """
    size = sample.medium.height, sample.medium.width
    everywhere = np.ones(size, dtype=bool)
    objects = []
    for label, track in tracks.items():
        seen = {t: track.decode([t])[0] for t, entry in enumerate(track.entries) if entry not in (None, EMPTY)}
        objects.append(region(label, seen or dict.fromkeys(range(len(track.entries)), everywhere)))
    return show(sample, question, objects, options=options)


def two_steps(predictor: Predictor, sample: Sample, question: str, objects: Sequence[Pointed], options: Sequence[str] = ()
              ) -> tuple[Prediction, dict[str, MaskTrack]]:
    """Points or boxes -> masks of the objects -> answer to the question about these masks (the PixelQA protocol)."""
    listed = "\n".join([question, "Options:", *options]) if options else question
    tracks = locate(predictor, show(sample, listed, objects, locate=True))
    (prediction,) = predictor.predict([remember(sample, tracks, question, options)])
    return prediction, tracks
