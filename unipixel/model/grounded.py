"""The grounded video-language model: a backbone (``unipixel.model.backbones``) that is shown objects and whose ``<|seg|>`` states prompt SAM 2.

Owns the forward pass on packed batches (``unipixel.data.collate``) and nothing about trainers, files or wording. Legend: ``S`` tokens
of the row, ``L`` supervised tokens, ``D`` width of the language model, ``T`` frames, ``O`` objects, ``K`` prompts per object, ``C``
width of SAM 2, ``R`` points and boxes (``<|ref|>``), ``M`` region tokens (``<|mem|>``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sam2_ext import MaskOutput, SegSAM2
from sam2_ext.model import Prompting
from unipixel.data.media import Normalizer
from unipixel.model.attention import Segments
from unipixel.model.backbones import DeepFeatures, family_of, vision_grids
from unipixel.model.prefix import PairScores, score_pairs
from unipixel.model.prompts import PointPrompts, build_region_projection, region_means, window_order, xavier_
from unipixel.model.reference import Reference

MemOrder = Literal["raster", "window"]
"""How a region picks its patches. ``raster``: those that it covers. ``window``: as the UniPixel family was trained, whose vision tower
hands its patches over in window order while the region counts in raster order; they agree only on grids of up to 4 x 4 tokens."""


@dataclass
class Grounding:
    """Result of a packed forward pass.

    Attributes:
        logits: (L, V) float32 logits of the supervised tokens only.
        masks: SAM 2's output for every ``<|seg|>``, or ``None`` when the batch has no masks.
        anchor: scalar 0 that ties parts this batch does not use into the graph (see ``touch_all``); ``None`` when there are none.
    """

    logits: Tensor
    masks: MaskOutput | None
    anchor: Tensor | None = None


class GroundedVLM(nn.Module):
    """Backbone + visual prompts + segmentation head + SAM 2.

    Args:
        backbone: a model of one of ``unipixel.model.backbones.FAMILIES``, possibly wrapped by PEFT.
        sam2: the mask decoder; its parameters stay float32 (its normalisations need it) and run under the caller's autocast.
        hidden_tokens: K, prompt embeddings per ``<|seg|>``.
        prompting: which frames see them, see :data:`sam2_ext.model.Prompting`.
        mem_order: see :data:`MemOrder`.
    """

    def __init__(self, backbone: nn.Module, sam2: SegSAM2, *, hidden_tokens: int = 2, prompting: Prompting = "first",
                 mem_order: MemOrder = "raster"):
        super().__init__()
        self.backbone, self.sam2, self.prompting, self.mem_order = backbone, sam2, prompting, mem_order
        self.family = family_of(self.core.config)
        self.family.prepare(self.core)
        width = self.core.config.text_config.hidden_size
        self.hidden_tokens = hidden_tokens
        self.seg_head = nn.Sequential(nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(),
                                      nn.Linear(width, sam2.hidden_dim * hidden_tokens))
        for layer in self.seg_head:
            if isinstance(layer, nn.Linear):
                xavier_(layer)
        self._add_visual_prompts(width)
        self.normalizer = Normalizer(self.family.layout)
        self.new_tokens: tuple[int, ...] = ()
        """Ids of ``<|ref|>``, ``<|seg|>``, ``<|mem|>`` in its tokenizer; known where one was built with it."""
        self.touch_all = False
        """Run parts that a batch does not use once on zeros, with weight 0. ZeRO-3 and offloaded optimizers need it: a trained tensor
        without gradient in one step would be updated with the gradient that its buffer still holds from an earlier step."""
        self.pair_reference: Reference = "none"
        """What else scores the tokens of preference pairs, in the same forward pass."""
        self._before_norm: Tensor | None = None
        self._patch_state: Tensor | None = None
        self.core.model.language_model.norm.register_forward_pre_hook(self._keep_before_norm)
        self.family.merger(self.core.model.visual)[0].register_forward_pre_hook(self._keep_patch_state)

    def _add_visual_prompts(self, width: int) -> None:
        """Untrained: the encoder of points is SAM 2's own, the projection of regions is the vision tower's merger."""
        first, second = self.family.merger(self.core.model.visual)
        with torch.random.fork_rng(devices=[]):  # a model that never meets a prompt starts from the same random numbers as one without them
            self.point_prompts = PointPrompts(width, self.sam2.hidden_dim, self.sam2.image_size)
            self.msk_proj = build_region_projection(first.in_features, width)
        self.msk_proj[0].load_state_dict(first.state_dict())
        self.msk_proj[2].load_state_dict(second.state_dict())
        own = dict(self.sam2.sam_prompt_encoder.named_parameters())
        for name, parameter in self.point_prompts.ref_encoder.named_parameters():
            parameter.data.copy_(own[name])

    @property
    def core(self) -> PreTrainedModel:
        """The backbone without its PEFT wrapper (adapters live inside its layers)."""
        return self.backbone.get_base_model() if hasattr(self.backbone, "get_base_model") else self.backbone

    @property
    def config(self):
        return self.core.config

    @property
    def device(self) -> torch.device:
        return self.seg_head[1].weight.device

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **more) -> None:
        """Non-reentrant only: the reentrant kind silently gives no gradient to adapters of the vision tower, whose input needs none.

        ``more`` is what newer versions of transformers' trainer pass on to its models, such as ``every_n_layers``.
        """
        kwargs = gradient_checkpointing_kwargs or {"use_reentrant": False}
        if kwargs.get("use_reentrant", True):
            raise ValueError("gradient checkpointing must be non-reentrant: set gradient_checkpointing_kwargs={'use_reentrant': False}")
        self.core.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs, **more)
        self.core.disable_input_require_grads()  # only the reentrant kind needs them: a frozen vision tower would get a backward pass

    def gradient_checkpointing_disable(self) -> None:
        self.core.gradient_checkpointing_disable()

    def _keep_before_norm(self, _module, args) -> None:
        self._before_norm = args[0]

    def _keep_patch_state(self, _module, args) -> None:
        self._patch_state = args[0]

    def embed(self, batch: dict) -> Tensor | DeepFeatures:
        """(B, S, D) input embeddings with visual features and visual prompts in their rows, and what goes to deeper layers of backbones
        that have such features. The vision tower runs once, on all media."""
        embeds, state, deep = self.core.get_input_embeddings()(batch["input_ids"]), None, []
        if "patches" in batch:
            features, state, deep = self.encode_vision(batch["patches"], batch["grids"])
            embeds = self.insert_rows(embeds, features.index_select(0, batch["visual_index"]), batch["visual_rows"])
        elif self.touch_all:
            embeds = embeds + 0 * self.blank_vision(embeds.device)
        embeds = self.insert_prompts(embeds, batch, state)
        if not deep:
            return embeds
        return DeepFeatures(embeds, tuple(layer.index_select(0, batch["visual_index"]) for layer in deep), batch["visual_rows"])

    def insert_prompts(self, embeds: Tensor, batch: dict, state: Tensor | None) -> Tensor:
        """``<|ref|>`` and ``<|mem|>`` rows of a batch put into (B, S, D) embeddings; ``state`` is what :meth:`encode_vision` gave."""
        if "ref_rows" in batch:
            points = self.point_prompts(batch["ref_coords"], batch["ref_labels"], batch["ref_times"])
            embeds = self.insert_rows(embeds, points, batch["ref_rows"])
        elif self.touch_all and _trains(self.point_prompts):
            device = embeds.device
            points = self.point_prompts(torch.zeros(2, 2, 2, device=device), torch.tensor([[1, -1], [2, 3]], device=device),
                                        torch.zeros(2, device=device))
            embeds = embeds + 0 * points.sum()
        if "mem_rows" in batch:
            embeds = self.insert_rows(embeds, self.region_tokens(state, batch), batch["mem_rows"])
        elif self.touch_all and _trains(self.msk_proj):
            embeds = embeds + 0 * self.msk_proj(torch.zeros(1, self.msk_proj[0].in_features, device=embeds.device)).sum()
        return embeds

    def region_tokens(self, state: Tensor, batch: dict) -> Tensor:
        """(N, E) patches in window order -> (M, D) embeddings of the batch's regions."""
        cells = batch["mem_cells"]
        side = self.family.window_side(self.config)
        if self.mem_order == "raster" and side:
            merge = self.config.vision_config.spatial_merge_size
            grids = vision_grids(batch["grids"]) // torch.tensor([1, merge, merge])
            cells = window_order(grids, side).argsort().to(cells.device)[cells]
        return self.msk_proj(region_means(state, cells, batch["mem_owner"], len(batch["mem_rows"])))

    def encode_vision(self, patches: Tensor, grids: Tensor | Sequence) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(N, P) uint8 patches -> features of the visual tokens.

        Args:
            grids: (media, 3) patches per side, as plain integers where the device should not be waited for.

        Returns:
            (N / 4, D) features in raster order; (N / 4, E) patches before the merger's layers, in window order where the tower has windows;
            one (N / 4, D) tensor per layer of the language model that gets features of its own.
        """
        visual, grids = self.core.model.visual, vision_grids(grids)
        out = visual(self.normalizer.patches(patches).to(visual.dtype), grid_thw=grids,
                     **self.family.vision_inputs(visual.config, grids, patches.device))
        state, self._patch_state = self._patch_state, None
        return out.pooler_output, state, list(getattr(out, "deepstack_features", None) or ())

    @staticmethod
    def insert_rows(embeds: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Put (n, D) features at flat positions ``rows`` of (B, S, D) embeddings; out of place, so that both keep their gradients."""
        flat = embeds.flatten(0, 1)
        return flat.index_copy(0, rows, features.to(flat.dtype)).view_as(embeds)

    def hidden_states(self, embeds: Tensor | DeepFeatures, position_ids: Tensor,
                      segment_lengths: Sequence[int] | Segments) -> tuple[Tensor, Tensor]:
        """((S, D) after, (S, D) before the final norm) of one packed row; see :class:`Segments` for what else its parts may attend to."""
        deep = {}
        if isinstance(embeds, DeepFeatures):
            embeds, deep = embeds.embeds, embeds.arguments()
        if position_ids.shape[0] != 4:
            raise ValueError(f"packed rows need 4 rows of positions (text, time, row, column), got {tuple(position_ids.shape)}")
        segments = segment_lengths if isinstance(segment_lengths, Segments) else Segments.of(segment_lengths, embeds.device)
        # use_cache must be off: with a cache transformers drops the per-dialogue isolation of packed rows without a word.
        after = self.core.model.language_model(inputs_embeds=embeds, position_ids=position_ids, attention_mask=None, use_cache=False,
                                               segments=segments, **deep).last_hidden_state
        before, self._before_norm = self._before_norm, None
        return after[0], before[0]

    def forward(self, **batch) -> Grounding | PairScores:
        """Packed batch of ``unipixel.data.collate`` -> logits of the supervised tokens and masks of every ``<|seg|>``; of preference pairs:
        the scores of their tokens."""
        if "branches" in batch:
            return score_pairs(self, batch, self.pair_reference)
        after, before = self.hidden_states(self.embed(batch), batch["position_ids"], batch["segment_lengths"])
        logits = self.core.lm_head(after.index_select(0, batch["label_rows"])).float()
        if "sam_frames" not in batch:
            return Grounding(logits, None, self.no_masks_anchor(before, logits))
        num_frames = batch["mask_valid"].shape[0]
        tokens = self.seg_tokens(before.index_select(0, batch["object_rows"]))
        frames = self.normalizer.frames(batch["sam_frames"])
        masks = self.sam2(frames, tokens, batch["object_video"], num_frames, prompting=self.prompting)
        # A single image does not use SAM 2's memory.
        return Grounding(logits, MaskOutput(*masks), 0 * self.blank_masks(before) if self.touch_all and num_frames == 1 else None)

    def seg_tokens(self, hidden: Tensor) -> Tensor:
        """(O, D) states that predict ``<|seg|>``, before the final norm -> (O, K, C) prompt embeddings.

        The states of a bfloat16 backbone are cast: without autocast (inference) the float32 head would refuse them.
        """
        return self.seg_head(hidden.to(self.seg_head[1].weight.dtype)).unflatten(-1, (self.hidden_tokens, self.sam2.hidden_dim))

    def no_masks_anchor(self, before: Tensor, logits: Tensor) -> Tensor | None:
        """See :attr:`touch_all`. Without it only a batch that uses no trained part at all needs an anchor, or there is no backward pass."""
        if self.touch_all:
            return 0 * self.blank_masks(before)
        trained = [p for p in self.parameters() if p.requires_grad] if torch.is_grad_enabled() and not logits.requires_grad else []
        return 0 * torch.stack([p.sum() for p in trained]).sum() if trained else None

    def blank_vision(self, device: torch.device) -> Tensor:
        """Scalar from the vision tower on one grey token."""
        patches = torch.zeros(4, self.family.layout.patch_values, dtype=torch.uint8, device=device)
        features, _, deep = self.encode_vision(patches, [[1, 2, 2]])
        return torch.stack([x.sum() for x in (features, *deep)]).sum()

    def blank_masks(self, before: Tensor) -> Tensor:
        """Scalar from the segmentation head and SAM 2 on two blank frames, so that its memory is used too."""
        size = self.sam2.image_size
        frames = torch.zeros(2, 3, size, size, device=before.device)
        outputs = self.sam2(frames, self.seg_tokens(before[:1]), torch.zeros(1, dtype=torch.long, device=before.device), 2,
                            prompting=self.prompting)
        return torch.stack([x.sum() for x in outputs if x.is_floating_point()]).sum()


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
