"""SAM 2 prompted by embeddings: one batched, differentiable unroll over clips for training and for inference.

Shapes: ``V`` videos, ``T`` frames per video, ``O`` objects over all videos, ``K`` prompt embeddings per object, ``C`` width,
``S`` side of the square SAM 2 input, ``M`` candidate masks (3), ``h = w = S / 4``.

Objects never see each other in SAM 2, so all objects of all videos are tracked as one batch; only frames are sequential.
The unmodified ``sam2`` package supplies every layer; what is ours is the unroll and the extra prompt embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import Tensor

from sam2_ext.positions import exact_points

Prompting = Literal["first", "every", "independent"]
"""Which frames see the prompt embeddings.

``first``: frame 0 only, later frames rely on memory (UniPixel's propagation). ``every``: all frames, with memory; finds objects that
enter late. ``independent``: all frames, without memory (UniPixel's batch mode)."""


@dataclass
class MaskOutput:
    """Decoder output stacked over frames.

    Attributes:
        multimasks: (T, O, M, h, w) candidate mask logits.
        ious: (T, O, M) predicted IoU of each candidate.
        scores: (T, O) logit that the object is visible.
        best: (T, O) int64, candidate with the highest predicted IoU.
    """

    multimasks: Tensor
    ious: Tensor
    scores: Tensor
    best: Tensor

    def fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.multimasks, self.ious, self.scores, self.best

    def select(self, objects: slice) -> MaskOutput:
        return MaskOutput(*(x[:, objects] for x in self.fields()))

    @property
    def masks(self) -> Tensor:
        """(T, O, h, w) logits of the best candidate."""
        return self.multimasks.gather(2, self.best[:, :, None, None, None].expand(-1, -1, 1, *self.multimasks.shape[-2:])).squeeze(2)


@dataclass
class Features:
    """Image features of N frames: one (N, C_l, h_l, w_l) map per level, fine to coarse, and its positional encoding."""

    maps: list[Tensor]
    positions: list[Tensor]

    def select(self, rows: Tensor) -> Features:
        """Features of the given frames, (O,) int64, repeated where an index repeats."""
        return Features([m.index_select(0, rows) for m in self.maps], [p.index_select(0, rows) for p in self.positions])


class SegSAM2(SAM2Base):
    """SAM 2 whose prompts are embeddings; see :meth:`forward`."""

    def _build_sam_heads(self) -> None:
        super()._build_sam_heads()
        exact_points(self.sam_prompt_encoder)

    def encode(self, frames: Tensor, chunk: int | None = None) -> Features:
        """(N, 3, S, S) normalised frames -> features; ``chunk`` frames at a time bound the memory (inference)."""
        parts = [self.forward_image(part) for part in (frames.split(chunk) if chunk else (frames,))]
        levels = range(-self.num_feature_levels, 0)
        return Features([torch.cat([p["backbone_fpn"][i] for p in parts]) for i in levels],
                        [torch.cat([p["vision_pos_enc"][i] for p in parts]) for i in levels])

    def forward(self, frames: Tensor, tokens: Tensor, object_video: Tensor, num_frames: int, *, prompting: Prompting = "first",
                mask_absent: bool = False, frozen_tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the masks of every object on every frame of its video; the fields of :class:`MaskOutput` as a tuple.

        Everything runs inside this one call, and a plain tuple comes out, because ZeRO-3 gathers parameters per module call and finds
        the backward pass of a call through the tensors in its tuple, list or dict output only.

        Args:
            frames: (V * T, 3, S, S) float, video-major.
            tokens: (O, K, C) prompt embeddings.
            object_video: (O,) int64, the video each object belongs to.
            num_frames: T.
            mask_absent: set logits to -1024 where the object is judged invisible (inference); never in training.
            frozen_tokens: (O, K, C) other prompts of the same objects, for instance a reference model's; their masks are decoded without a
                graph from the same image features, and stand behind those of ``tokens``: the outputs have 2 O objects.
        """
        features = self.encode(frames)
        outputs = self.decode(features, tokens, object_video, num_frames, prompting, mask_absent)
        if frozen_tokens is not None:
            with torch.no_grad():
                frozen = self.decode(features, frozen_tokens, object_video, num_frames, prompting, mask_absent)
            outputs = MaskOutput(*(torch.cat(pair, 1) for pair in zip(outputs.fields(), frozen.fields())))
        return outputs.fields()

    def decode(self, features: Features, tokens: Tensor, object_video: Tensor, num_frames: int, prompting: Prompting,
               mask_absent: bool) -> MaskOutput:
        """All objects on all frames, from image features of all videos."""
        if prompting == "independent":
            return self.decode_independent(features, tokens, object_video, num_frames, mask_absent)
        return _stack(list(self.track(lambda t: features.select(object_video * num_frames + t), tokens, num_frames, prompting, mask_absent)))

    def decode_independent(self, features: Features, tokens: Tensor, object_video: Tensor, num_frames: int, mask_absent: bool) -> MaskOutput:
        """All frames of all objects as one batch of T * O first frames; no memory."""
        num_objects = len(tokens)
        rows = (torch.arange(num_frames, device=tokens.device)[:, None] + object_video[None] * num_frames).flatten()
        step = self._decode(self._first_frame(features.select(rows)), features.select(rows), tokens.repeat(num_frames, 1, 1), mask_absent)
        return MaskOutput(*(x.unflatten(0, (num_frames, num_objects)) for x in (step.multimasks, step.ious, step.scores, step.best)))

    def track(self, features_at, tokens: Tensor, num_frames: int, prompting: Prompting, mask_absent: bool,
              memory_device: torch.device | str | None = None) -> Iterator[MaskOutput]:
        """Unroll over frames; yields one :class:`MaskOutput` without the frame dimension per frame.

        ``features_at(t)`` gives the (O, …) features of frame t, so that inference can encode as it goes. Only the frames that later
        ones attend to are kept: memory stays flat however long the clip is. ``memory_device`` (``"cpu"``) keeps the spatial memories of
        these few frames there, for very many objects.
        """
        memory = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        recent = memory["non_cond_frame_outputs"]
        for t in range(num_frames):
            features = features_at(t)
            fused = self._first_frame(features) if t == 0 else self._attend_to_memory(t, features, memory, num_frames)
            step = self._decode(fused, features, tokens if t == 0 or prompting == "every" else None, mask_absent)
            if t + 1 < num_frames:
                kept = self._remember(features, step)
                if memory_device is not None:
                    kept["maskmem_features"] = kept["maskmem_features"].to(memory_device)
                    kept["maskmem_pos_enc"] = [p.to(memory_device) for p in kept["maskmem_pos_enc"]]
                (memory["cond_frame_outputs"] if t == 0 else recent)[t] = kept
            recent.pop(t - self.max_obj_ptrs_in_encoder, None)
            if t - self.num_maskmem in recent:
                recent[t - self.num_maskmem]["maskmem_features"] = None
            yield step

    def _first_frame(self, features: Features) -> Tensor:
        """(O, C, H, W) of frames without memory."""
        return features.maps[-1] + self.no_mem_embed.reshape(1, -1, 1, 1)

    def _attend_to_memory(self, t: int, features: Features, memory: dict, num_frames: int) -> Tensor:
        flat = features.maps[-1].flatten(2).permute(2, 0, 1)
        position = features.positions[-1].flatten(2).permute(2, 0, 1)
        return self._prepare_memory_conditioned_features(
            frame_idx=t, is_init_cond_frame=False, current_vision_feats=[flat], current_vision_pos_embeds=[position],
            feat_sizes=[features.maps[-1].shape[-2:]], output_dict=memory, num_frames=num_frames)

    def _decode(self, fused: Tensor, features: Features, tokens: Tensor | None, mask_absent: bool) -> _Step:
        """Prompt encoder and mask decoder on (O, C, H, W) features; ``tokens`` (O, K, C) join the sparse prompts."""
        batch, device = len(fused), fused.device
        point = torch.zeros(batch, 1, 2, device=device), -torch.ones(batch, 1, dtype=torch.int32, device=device)
        sparse, dense = self.sam_prompt_encoder(points=point, boxes=None, masks=None)
        if tokens is not None:
            sparse = torch.cat([sparse, tokens.to(sparse.dtype)], dim=1)
        multimasks, ious, sam_tokens, score = self.sam_mask_decoder(
            image_embeddings=fused, image_pe=self.sam_prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=True, repeat_image=False, high_res_features=features.maps[:-1])
        multimasks, visible = multimasks.float(), score > 0
        if mask_absent:
            multimasks = torch.where(visible[:, None, None], multimasks, NO_OBJ_SCORE)
        best = ious.argmax(-1)
        row = torch.arange(batch, device=device)
        pointer = self.obj_ptr_proj(sam_tokens[row, best] if sam_tokens.shape[1] > 1 else sam_tokens[:, 0])
        shown = visible.to(pointer.dtype)
        if self.fixed_no_obj_ptr:
            pointer = shown * pointer
        pointer = pointer + (1 - shown) * self.no_obj_ptr
        return _Step(multimasks, ious.float(), score.float().squeeze(-1), best, pointer)

    def _remember(self, features: Features, step: _Step) -> dict:
        """What later frames attend to: spatial memory of this frame under its predicted mask, and the object pointer."""
        mask = step.multimasks[torch.arange(len(step.best), device=step.best.device), step.best].unsqueeze(1)
        mask = F.interpolate(mask, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        encoded, position = self._encode_new_memory(
            current_vision_feats=[features.maps[-1].flatten(2).permute(2, 0, 1)], feat_sizes=[features.maps[-1].shape[-2:]],
            pred_masks_high_res=mask, object_score_logits=step.scores[:, None], is_mask_from_pts=False)
        return {"maskmem_features": encoded, "maskmem_pos_enc": position, "obj_ptr": step.pointer}


@dataclass
class _Step(MaskOutput):
    """One frame: the fields of :class:`MaskOutput` without T, and the (O, C) object pointer."""

    pointer: Tensor


def _stack(steps: list[_Step]) -> MaskOutput:
    return MaskOutput(*(torch.stack([getattr(s, name) for s in steps]) for name in ("multimasks", "ious", "scores", "best")))
