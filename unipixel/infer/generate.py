"""Batched replies with the state behind every ``<|seg|>``.

Prompts are left-padded; visual features, positions and embeddings come from the same code as in training, so the installed transformers
decides nothing about rotary positions. Several prompts about one medium share its visual features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from unipixel.data.encode import EncodedDialogue, EncodedMedium
from unipixel.data.template import SEG
from unipixel.data.visual_prompts import pack_prompts
from unipixel.model.backbones import DeepFeatures
from unipixel.model.grounded import GroundedVLM


@dataclass
class Reply:
    """Text of a reply (special tokens kept) and the prompt embeddings (O, K, C) of its ``<|seg|>`` tokens, in reading order."""

    text: str
    tokens: Tensor


@torch.inference_mode()
def generate(model: GroundedVLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[tuple[EncodedMedium, EncodedDialogue]], *,
             max_new_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0) -> list[Reply]:
    """Reply to each prompt (a dialogue that ends with the generation prompt); greedy unless ``temperature`` is above 0.

    Memory grows with the batch: the caller chooses how many prompts go in at once.
    """
    embeds, mask, positions = _left_padded(model, prompts)
    end, seg_id = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", SEG))
    ids, hidden = continue_rows(model, embeds, mask, positions, max_new_tokens=max_new_tokens, eos=end, pad=tokenizer.pad_token_id,
                                **({"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}))
    replies = []
    for row, states_of_row in zip(ids, hidden):
        length = int((row == end).nonzero()[0]) if (row == end).any() else len(row)
        at = (row[:length] == seg_id).nonzero().flatten()
        replies.append(Reply(tokenizer.decode(row[:length], skip_special_tokens=False).strip(), model.seg_tokens(states_of_row[at])))
    return replies


@torch.inference_mode()
def continue_rows(model: GroundedVLM, embeds: Tensor | DeepFeatures, mask: Tensor, positions: Tensor, *, max_new_tokens: int,
                  eos: int | list[int], pad: int, **sampling) -> tuple[Tensor, Tensor]:
    """Left-padded (B, S, D) embeddings, (B, S) mask, (4, B, S) positions -> new ids (B, n) and the state (B, n, D) that predicted each.

    Greedy unless ``sampling`` says otherwise; none of the checkpoint's own generation settings applies (Qwen2.5-VL ships a repetition
    penalty).
    """
    states: list[Tensor] = []

    def keep(_module, args):
        states.append(args[0][:, -1])

    def deepen(_module, args, kwargs):
        handles.pop().remove()  # only the first pass sees the prompt
        return args, kwargs | deep.arguments()

    config = GenerationConfig(**{"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": max_new_tokens, "eos_token_id": eos,
                                 "pad_token_id": pad} | sampling)
    language_model, deep = model.core.model.language_model, embeds if isinstance(embeds, DeepFeatures) else None
    handles = [language_model.norm.register_forward_pre_hook(keep)]
    if deep is not None:
        embeds = deep.embeds
        handles.append(language_model.register_forward_pre_hook(deepen, with_kwargs=True))
    try:
        ids = model.core.generate(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, generation_config=config)
    finally:
        for handle in handles:
            handle.remove()
    # Token i is predicted by the state that generation step i put in front of the final norm.
    return ids, torch.stack(states[:ids.shape[1]], dim=1)


def _left_padded(model: GroundedVLM, prompts) -> tuple[Tensor, Tensor, Tensor]:
    """((B, S, D) embeddings, (B, S) mask, (4, B, S) positions)."""
    device = model.device
    media = list({id(medium): medium for medium, _ in prompts}.values())
    seen = [m for m in media if m.patches is not None]
    first = dict(zip(map(id, seen), accumulate((m.visual_tokens for m in seen), initial=0)))
    longest = max(len(d.ids) for _, d in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.zeros(4, len(prompts), longest, dtype=torch.long)
    rows, visual, shown = [], [], []
    for i, (medium, dialogue) in enumerate(prompts):
        start = longest - len(dialogue.ids)
        ids[i, start:], mask[i, start:], positions[:, i, start:] = dialogue.ids, 1, dialogue.positions
        if medium.patches is not None:
            tokens = torch.arange(medium.visual_tokens)
            rows.append(dialogue.visual + i * longest + start)
            visual.append(tokens + first[id(medium)])
        shown.append((dialogue.prompts, i * longest + start, first.get(id(medium), 0)))
    batch = {"input_ids": ids, **pack_prompts(shown)}
    if rows:
        batch |= {"visual_rows": torch.cat(rows), "visual_index": torch.cat(visual), "patches": torch.cat([m.patches for m in seen]),
                  "grids": tuple(m.grid for m in seen)}
    embeds = model.embed({name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
    return embeds, mask.to(device), positions.to(device)
