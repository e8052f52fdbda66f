"""The grounded video-language model: a Qwen2.5-VL backbone whose ``<|seg|>`` states prompt SAM 2.

Owns the forward pass on packed batches (``unipixel.data.collate``) and nothing about trainers, files or wording. Legend: ``S`` tokens
of the row, ``L`` supervised tokens, ``D`` width of the language model, ``T`` frames, ``O`` objects, ``K`` prompts per object, ``C``
width of SAM 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sam2_ext import MaskOutput, SegSAM2
from sam2_ext.model import Prompting
from unipixel.data.media import Normalizer


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
    """Backbone + segmentation head + SAM 2.

    Args:
        backbone: a ``Qwen2_5_VLForConditionalGeneration``, possibly wrapped by PEFT.
        sam2: the mask decoder; its parameters stay float32 (its normalisations need it) and run under the caller's autocast.
        hidden_tokens: K, prompt embeddings per ``<|seg|>``.
        prompting: which frames see them, see :data:`sam2_ext.model.Prompting`.
    """

    def __init__(self, backbone: nn.Module, sam2: SegSAM2, *, hidden_tokens: int = 2, prompting: Prompting = "first"):
        super().__init__()
        self.backbone, self.sam2, self.prompting = backbone, sam2, prompting
        width = self.core.config.text_config.hidden_size
        self.hidden_tokens = hidden_tokens
        self.seg_head = nn.Sequential(nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(),
                                      nn.Linear(width, sam2.hidden_dim * hidden_tokens))
        for layer in self.seg_head:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.normalizer = Normalizer()
        self.touch_all = False
        """Run parts that a batch does not use once on zeros, with weight 0. ZeRO-3 and offloaded optimizers need it: a trained tensor
        without gradient in one step would be updated with the gradient that its buffer still holds from an earlier step."""
        self._before_norm: Tensor | None = None
        self.core.model.language_model.norm.register_forward_pre_hook(self._keep_before_norm)

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

    def gradient_checkpointing_disable(self) -> None:
        self.core.gradient_checkpointing_disable()

    def _keep_before_norm(self, _module, args) -> None:
        self._before_norm = args[0]

    def embed(self, batch: dict) -> Tensor:
        """(B, S, D) input embeddings with visual features in the visual rows. The vision tower runs once, on all media together."""
        embeds = self.core.get_input_embeddings()(batch["input_ids"])
        if "patches" not in batch:
            return embeds + 0 * self.blank_vision(embeds.device) if self.touch_all else embeds
        features = self.encode_vision(batch["patches"], batch["grids"])
        return self.insert_vision(embeds, features.index_select(0, batch["visual_index"]), batch["visual_rows"])

    def encode_vision(self, patches: Tensor, grids: Tensor) -> Tensor:
        """(N, 1176) uint8 patches -> (N / 4, D) features."""
        visual = self.core.model.visual
        return visual(self.normalizer.patches(patches).to(visual.dtype), grid_thw=grids).pooler_output

    @staticmethod
    def insert_vision(embeds: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Put (Nv, D) features at flat positions ``rows`` of (B, S, D) embeddings; out of place, so that both keep their gradients."""
        flat = embeds.flatten(0, 1)
        return flat.index_copy(0, rows, features.to(flat.dtype)).view_as(embeds)

    def hidden_states(self, embeds: Tensor, position_ids: Tensor, segment_lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """((S, D) after, (S, D) before the final norm) of one packed row."""
        if position_ids.shape[0] != 4:
            raise ValueError(f"packed rows need 4 rows of positions (text, time, row, column), got {tuple(position_ids.shape)}")
        # use_cache must be off: with a cache transformers drops the per-dialogue isolation of packed rows without a word.
        after = self.core.model.language_model(inputs_embeds=embeds, position_ids=position_ids, attention_mask=None, use_cache=False,
                                               segment_lengths=segment_lengths).last_hidden_state
        before, self._before_norm = self._before_norm, None
        return after[0], before[0]

    def forward(self, **batch) -> Grounding:
        """Packed batch of ``unipixel.data.collate`` -> logits of the supervised tokens and masks of every ``<|seg|>``."""
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
        grid = torch.tensor([[1, 2, 2]], device=device)
        return self.encode_vision(torch.zeros(4, 3 * 2 * 14 * 14, dtype=torch.uint8, device=device), grid).sum()

    def blank_masks(self, before: Tensor) -> Tensor:
        """Scalar from the segmentation head and SAM 2 on two blank frames, so that its memory is used too."""
        size = self.sam2.image_size
        frames = torch.zeros(2, 3, size, size, device=before.device)
        outputs = self.sam2(frames, self.seg_tokens(before[:1]), torch.zeros(1, dtype=torch.long, device=before.device), 2,
                            prompting=self.prompting)
        return torch.stack([x.sum() for x in outputs if x.is_floating_point()]).sum()
