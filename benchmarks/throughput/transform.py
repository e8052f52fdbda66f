"""The whole transform of a clip with masks, against decoding alone and against the usual recipe."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from pycocotools import mask as coco_mask
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from benchmarks.throughput import clips
from benchmarks.throughput.decoding import bare, consume
from benchmarks.throughput.timing import Check, Comparison, run
from unipixel.data.collate import collate
from unipixel.data.encode import SampleEncoder
from unipixel.data.media import Normalizer, resize_for_llm
from unipixel.data.shards import ShardDataset


class UsualRecipe:
    """``webdataset``, Pillow, the processor of Hugging Face, dense masks of ``pycocotools``: what such training code does by default.

    It does less than ours: the frames for SAM 2 and the dialogue are left out.
    """

    def __init__(self, encoder: SampleEncoder):
        settings = encoder.frame_settings
        budget = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
        # its budget is for the clip, ours for a frame
        self.processor = Qwen2VLVideoProcessor(size={k: v * clips.FRAMES for k, v in budget.items()})

    def __call__(self, bundle: dict) -> tuple[torch.Tensor, np.ndarray]:
        archive = zipfile.ZipFile(io.BytesIO(bundle["frames.zip"]))
        frames = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in archive.namelist()])
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)
        pixels = self.processor(videos=[video], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
        json.loads(bundle["meta.json"])
        tracks = json.loads(bundle["masks.json"])["tracks"].values()
        masks = np.stack([coco_mask.decode([{"size": track["size"], "counts": entry} for entry in track["entries"]]) for track in tracks])
        return pixels, masks


def largest_difference(encoder: SampleEncoder, frames: np.ndarray, patches: torch.Tensor) -> float:
    """Of our normalised patches to the processor's pixel values for the same resized frames."""
    resized = resize_for_llm(torch.from_numpy(frames).permute(0, 3, 1, 2), encoder.frame_settings)
    theirs = Qwen2VLVideoProcessor(do_resize=False)(videos=[resized], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    return float((Normalizer().patches(patches) - theirs).abs().max())


def transform(folder: Path) -> dict[str, Callable[[], None]]:
    """As in a loader worker, which does nothing else."""
    data, encoder = ShardDataset(folder / "shards"), clips.encoder()
    encoded = [list(data.sample(i).frames) for i in range(len(data))]
    return {"decode": lambda: consume(map(bare, encoded)), "transform": lambda: consume(encoder(data.sample(i)) for i in range(len(data)))}


def recipes(folder: Path) -> dict[str, Callable[[], None]]:
    data, encoder = ShardDataset(folder / "shards"), clips.encoder()
    usual = UsualRecipe(encoder)
    return {"transform": lambda: consume(encoder(data.sample(i)) for i in range(len(data))),
            "batch": lambda: consume(collate([encoder(data.sample(i))], "video_masks") for i in range(len(data))),
            "recipe": lambda: consume(map(usual, wds.WebDataset(data.shards, shardshuffle=False)))}


def measure(folder: Path, quick: bool = False) -> list[Check]:
    data, encoder = clips.write(folder / "shards", 2), clips.encoder()
    limit, other = (Comparison(alternatives, folder, quick) for alternatives in (transform, recipes))
    difference = largest_difference(encoder, bare(list(data.sample(0).frames)), encoder(data.sample(0)).patches)
    return [
        Check("JPEG decoding alone / whole transform (two resizes, patches, dialogue, masks)", limit.ratio("decode", "transform"), 0.4),
        Check("usual recipe (wds, Pillow, HF processor, dense masks; no SAM 2 frames) / whole transform", other.ratio("recipe", "transform"), 2),
        Check("batch of one clip, collated / whole transform", other.ratio("batch", "transform")),
        Check("largest difference of patches to the HF processor's pixel values", difference, 1e-5, at_least=False, unit=""),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure]))
