"""Helpers of the scoring tests: the real test clips as samples, small made-up samples, and predictions of a known quality."""

from __future__ import annotations

import ast
import csv
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.truth import evidence_union
from unipixel.data.targets import dense_targets, mask_runs
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, MaskTrack, Medium, Sample, SceneObject, decode_entry, encode_mask


def real_samples(mini_real: Path) -> list[Sample]:
    """The 14 test entries of the real clips, one sample each, with their 6-fps frames."""
    types = {row["entry_id"]: row["type"] for row in _rows(mini_real / "question_types.csv")}
    samples = []
    for row in _rows(mini_real / "st_evidence_gen.csv"):
        masks = json.loads((mini_real / "masks_rle" / f"{row['entry_id']}.json").read_text())
        times = tuple(t / masks["fps"] for t in range(masks["num_frames"]))
        objects = {}
        for number, raw in enumerate(masks["objects"]):
            entries = [raw["rles"].get(str(t), "") if t in raw["annotated_frames"] else None for t in range(len(times))]
            objects[f"o{number}"] = SceneObject(f"o{number}", raw["ref_expression"], MaskTrack(tuple(masks["size"]), tuple(entries)))
        height, width = masks["size"]
        medium = Medium(row["video_id"], "frames", width, height, times, len(times) / masks["fps"], objects)
        example = Example(row["entry_id"], "evidence", row["question"], tuple(ast.literal_eval(row["candidates"])), row["answer"],
                          tuple(map(tuple, ast.literal_eval(row["segment"]))), (tuple(objects),), types[row["entry_id"]])
        frames = [(mini_real / "frames_6fps" / row["video_id"] / f"frame_{t:04d}.jpg").read_bytes() for t in range(len(times))]
        samples.append(Sample(row["entry_id"], medium, (example,), frames, "mini_real", "test"))
    return samples


def small_sample(name: str, masks: np.ndarray, annotated: list[bool] | None = None, **changes) -> Sample:
    """A clip of 2 frames per second with one object; ``masks`` (T, H, W) bool."""
    n_frames, height, width = masks.shape
    medium = Medium(name, "frames", width, height, tuple(t / 2 for t in range(n_frames)), n_frames / 2,
                    {"a": SceneObject("a", "the disc", MaskTrack.from_masks(masks, annotated))})
    facts = {"question": "What moves?", "options": ("A disc", "A box", "Nothing at all"), "answer": "A disc", "segments": ((1.0, 3.0),),
             "targets": (("a",),), "question_type": "what"}
    return Sample(name, medium, (Example(name, "evidence", **(facts | changes)),),
                  [grey_jpeg(width, height, 40 * t) for t in range(n_frames)])


def discs(n_frames: int, size=(48, 64), radius=9) -> np.ndarray:
    """(T, H, W) bool: a disc that moves to the right."""
    yy, xx = np.mgrid[: size[0], : size[1]]
    return np.stack([(yy - 20) ** 2 + (xx - 15 - 3 * t) ** 2 <= radius**2 for t in range(n_frames)])


def grey_jpeg(width: int, height: int, level: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height), level % 256).save(out, "JPEG")
    return out.getvalue()


def predict(sample: Sample, *, answer: str | None = None, shift_px: int = 0, shift_s: float = 0.0, **changes) -> Prediction:
    """The truth of the sample's example as a prediction, moved to the right and later in time by the given amounts."""
    medium, example = sample.medium, sample.examples[0]
    size = (medium.height, medium.width)
    masks = {t: encode_mask(np.roll(decode_entry(entry, size), shift_px, axis=1)) for t, entry in evidence_union(example, medium).items()}
    segments = tuple((start + shift_s, end + shift_s) for start, end in example.segments)
    answer = example.answer if answer is None else answer
    reply = f"Answer: {answer}. Temporal Evidence: {[list(s) for s in segments]}. Spatial Evidence: <|seg|>."
    facts = {"reply": reply, "answer": answer, "segments": segments, "size": size, "frame_times": medium.frame_times, "masks": (masks,)}
    return Prediction(example.example_id, medium.medium_id, **(facts | changes))


def write_masks(folder: Path, masks: dict[int, np.ndarray]) -> None:
    """``%05d.png`` with 0 and 255."""
    folder.mkdir(parents=True)
    for frame, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{frame:05d}.png")


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def painted(dialogue, medium, size: int) -> torch.Tensor:
    """(O, T, size, size) bool targets of one encoded dialogue of ``medium``."""
    objects, frames = dialogue.annotated.shape
    runs = mask_runs({t * objects + o: counts for (o, t), counts in dialogue.masks.items()}, medium.size)
    return dense_targets([runs], (frames, objects), size).transpose(0, 1)
