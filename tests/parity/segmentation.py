"""Masks of a recorded inference: SAM 2 prompted by the states in front of ``<|seg|>``, in float32 and under bfloat16 autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_ext import MaskOutput
from tests.parity.cases import Case
from tests.parity.report import ABSENT, EMBEDDINGS, MASK_LOGITS, SCORES, Result
from unipixel.model.grounded import GroundedVLM


@torch.no_grad()
def replay_masks(model: GroundedVLM, case: Case, states: list[Tensor], result: Result) -> None:
    """Compares prompt embeddings, features, scores, pointers, memory and masks of every sample."""
    samples = len(states)
    for b, rows in enumerate(states):
        recorded = of_sample(case.outputs, b, samples)
        tokens = model.seg_tokens(rows)
        if "seg_tokens" in recorded:
            result.close("seg_tokens", tokens, recorded["seg_tokens"].reshape(tokens.shape), EMBEDDINGS)
        frames = clip_of(case, b, samples, recorded)
        independent = model.prompting == "independent" if case.batch_mode is None else case.batch_mode
        compare_run(model, frames, tokens, independent, recorded, result)
        if "masks" in recorded:
            with torch.autocast("cpu", torch.bfloat16):
                masks = run(model, frames, tokens, independent)[0].masks.float()
            result.iou("masks (bf16 autocast)", upscaled(masks, recorded["masks"].shape[-2:]) > 0, as_tracks(recorded["masks"]))


def of_sample(outputs: dict[str, Tensor], b: int, samples: int) -> dict[str, Tensor]:
    prefix = f"s{b}."
    own = {name.removeprefix(prefix): tensor for name, tensor in outputs.items() if name.startswith(prefix)}
    return own or (outputs if samples == 1 else {})


def as_tracks(masks: Tensor) -> Tensor:
    """(O, T, H, W), or with the single batch dimension that the reference keeps per object."""
    return masks.squeeze(1) if masks.ndim == 5 else masks


def clip_of(case: Case, b: int, samples: int, recorded: dict[str, Tensor]) -> Tensor:
    """(T, 3, S, S): the case's own frames, or as many of the shared ones as it recorded masks for."""
    frames = case.get("frames", b, samples)
    if frames is not None:
        return frames
    masks = next(recorded[name] for name in ("masks", "mask_logits", "low_res_masks") if name in recorded)
    return case.common["out.frames"][:as_tracks(masks).shape[1]]


def run(model: GroundedVLM, frames: Tensor, tokens: Tensor, independent: bool) -> tuple[MaskOutput, list, list]:
    """(output, object pointers per frame, spatial memories per frame but the last); the last two are empty in batch mode."""
    sam2, memories = model.sam2, []
    features, video = sam2.encode(frames), torch.zeros(len(tokens), dtype=torch.long)
    if independent:
        return sam2.decode_independent(features, tokens, video, len(frames), True), [], []
    remember = sam2._remember

    def keep(*args):
        memory = remember(*args)
        memories.append(memory["maskmem_features"])  # the unroll lets go of old ones
        return memory

    sam2._remember = keep
    try:
        steps = list(sam2.track(lambda t: features.select(video + t), tokens, len(frames), "first", True))
    finally:
        del sam2._remember
    return MaskOutput(*(torch.stack([getattr(s, name) for s in steps]) for name in ("multimasks", "ious", "scores", "best"))), \
        [s.pointer for s in steps], memories


def upscaled(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, O, h, w) logits -> (O, T, H, W)."""
    return F.interpolate(masks, size=tuple(size), mode="bilinear", align_corners=False).transpose(0, 1)


def compare_run(model: GroundedVLM, frames: Tensor, tokens: Tensor, independent: bool, recorded: dict[str, Tensor], result: Result) -> None:
    features = model.sam2.encode(frames)
    for prefix, maps in (("fpn", features.maps), ("pos", features.positions)):
        for level, mine in enumerate(maps):
            if f"{prefix}{level}" in recorded:
                wanted = recorded[f"{prefix}{level}"]
                result.close(f"{prefix}{level}", mine[:len(wanted)], wanted, EMBEDDINGS)
    out, pointers, memories = run(model, frames, tokens, independent)
    for name, mine in (("ious", out.ious), ("object_score_logits", out.scores)):
        if name in recorded:
            result.close(name, mine.transpose(0, 1), recorded[name].reshape(mine.transpose(0, 1).shape), SCORES)
    for name, mine in (("low_res_multimasks", out.multimasks), ("low_res_masks", out.masks)):
        if name in recorded:
            wanted = recorded[name].reshape(mine.transpose(0, 1).shape)
            result.close(name, mine.transpose(0, 1), wanted, MASK_LOGITS, where=wanted > ABSENT)
    if "obj_ptrs" in recorded and pointers:
        result.close("obj_ptrs", torch.stack(pointers, 1), recorded["obj_ptrs"], EMBEDDINGS * 10)  # behind a decoder and an MLP
    if "maskmem_features" in recorded and memories:
        mine = torch.stack([m[0] for m in memories])  # of the first object
        result.close("maskmem_features", mine, recorded["maskmem_features"][:len(mine)], EMBEDDINGS * 10)
    if "mask_logits" in recorded:
        wanted = as_tracks(recorded["mask_logits"])
        mine = upscaled(out.masks, wanted.shape[-2:])
        result.close("mask_logits", mine, wanted, MASK_LOGITS, where=wanted > ABSENT)
        result.masks("mask_logits absent", mine < ABSENT, wanted < ABSENT)
    if "masks" in recorded:
        wanted = as_tracks(recorded["masks"])
        result.masks("masks", upscaled(out.masks, wanted.shape[-2:]) > 0, wanted)
