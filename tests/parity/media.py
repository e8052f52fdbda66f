"""Recorded preparation of pixels and masks: resizes, patches, regions, and which frames of a clip are taken."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.parity.cases import Case
from tests.parity.report import Result
from unipixel.data.media import FrameSettings, Normalizer, patchify, resize_for_llm, resize_for_sam2, sample_frames
from unipixel.data.visual_prompts import refer_cells

ONE_LEVEL = 1 / 255 / 0.225
"""Of 256, in normalised units: frames stay 8-bit here until they are on the device, where the reference resizes in floating point."""


BUDGET = {"min_pixels": 28 * 28 * 28, "max_pixels": 64 * 28 * 28}
"""Pixels of a frame for the language model in recordings of this step."""


def replay_media(case: Case, result: Result) -> None:
    outputs = case.outputs
    if "in.raw_frames" in case.tensors:
        frames = case.tensors["in.raw_frames"].permute(0, 3, 1, 2)
        if "frames" in outputs:
            mine = Normalizer().frames(resize_for_sam2(frames, outputs["frames"].shape[-1]))
            result.close("frames", mine, outputs["frames"], 2 * ONE_LEVEL)
        if "pixel_values_videos" in outputs:
            cells = int(outputs["video_grid_thw"][0, 0])
            patches, grid = patchify(resize_for_llm(frames[:2 * cells], FrameSettings(**BUDGET)))
            result.close("video_grid_thw", torch.tensor([grid]), outputs["video_grid_thw"], 0)
            result.close("pixel_values_videos", Normalizer().patches(patches), outputs["pixel_values_videos"], 2 * ONE_LEVEL)
    if "in.raw_masks" in case.tensors and "refer_mask" in outputs:
        wanted = outputs["refer_mask"]
        result.close("refer_mask", refer_cells(case.tensors["in.raw_masks"] > 0, (len(wanted), *wanted.shape[-2:])), wanted, 0)
    result.left |= {name: "computed differently by design, or not at all" for name in outputs if name not in {q.name for q in result.quantities}}


def replay_sampling(file: Path) -> Result:
    """``"frames,wanted" -> positions`` of the uniform sampler."""
    result = Result(file.stem, "media")
    for key, wanted in json.loads(file.read_text()).items():
        total, count = map(int, key.split(","))
        result.close(key, torch.tensor(sample_frames(total, count)), torch.tensor(wanted), 0)
    return result


