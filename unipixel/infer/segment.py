"""Masks over every frame of a clip in bounded memory: encode a few frames, track all objects through them, keep only run lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ext.model import Features
from unipixel.data.media import decode_frames, resize_for_sam2
from unipixel.model.grounded import GroundedVLM
from unipixel.sample import Entry, encode_mask


@torch.inference_mode()
def segment_clip(model: GroundedVLM, frames: Sequence[bytes], size: tuple[int, int], tokens: Tensor, *, key: str = "", chunk: int = 8,
                 offload_memory: bool = False) -> list[list[Entry]]:
    """Masks of all objects on all frames of one clip.

    Args:
        frames: encoded images, decoded ``chunk`` at a time.
        size: (H, W) of the frames in pixels; masks come back at this size.
        tokens: (O, K, C) prompt embeddings.
        offload_memory: keep SAM 2's memory of past frames on the host, for hundreds of objects at once.

    Returns:
        per object, per frame: compressed COCO counts, or the empty entry where nothing is visible.
    """
    sam2, total, objects = model.sam2, len(frames), len(tokens)
    cache: dict[int, Features] = {}

    def features_at(t: int) -> Features:
        start = t - t % chunk
        if start not in cache:
            cache.clear()
            decoded = decode_frames(frames, range(start, min(start + chunk, total)), size, key)
            cache[start] = sam2.encode(model.normalizer.frames(resize_for_sam2(decoded, sam2.image_size).to(tokens.device)))
        return cache[start].select(torch.full((objects,), t - start, dtype=torch.long, device=tokens.device))

    out: list[list[Entry]] = [[] for _ in range(objects)]
    if model.prompting == "independent":
        zeros = torch.zeros(objects, dtype=torch.long, device=tokens.device)
        steps = (sam2.decode_independent(features_at(t), tokens, zeros + torch.arange(objects, device=tokens.device), 1, True)
                 for t in range(total))
        masks = (step.masks[0] for step in steps)
    else:
        steps = sam2.track(features_at, tokens, total, model.prompting, True, "cpu" if offload_memory else None)
        rows = torch.arange(objects, device=tokens.device)
        masks = (step.multimasks[rows, step.best] for step in steps)
    for logits in masks:
        resized = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0
        for o, mask in enumerate(resized.cpu().numpy()):
            out[o].append(encode_mask(mask))
    return out
