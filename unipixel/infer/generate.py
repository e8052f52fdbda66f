"""Batched replies with the state behind every ``<|seg|>``.

Prompts are left-padded; visual features, positions and embeddings come from the same code as in training, so the installed transformers
decides nothing about rotary positions. Several prompts about one medium share its visual features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from unipixel.data.encode import EncodedDialogue, EncodedMedium
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
    states: list[Tensor] = []

    def keep(_module, args):
        states.append(args[0][:, -1])

    config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=temperature > 0, repetition_penalty=1.0,
                              eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"), pad_token_id=tokenizer.pad_token_id,
                              **({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}))
    handle = model.core.model.language_model.norm.register_forward_pre_hook(keep)
    try:
        ids = model.core.generate(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, generation_config=config)
    finally:
        handle.remove()
    # Token i is predicted by the state that generation step i put in front of the final norm.
    hidden = torch.stack(states[:ids.shape[1]], dim=1)
    seg_id, end = tokenizer.convert_tokens_to_ids("<|seg|>"), config.eos_token_id
    replies = []
    for row, states_of_row in zip(ids, hidden):
        length = int((row == end).nonzero()[0]) if (row == end).any() else len(row)
        at = (row[:length] == seg_id).nonzero().flatten()
        replies.append(Reply(tokenizer.decode(row[:length], skip_special_tokens=False).strip(), model.seg_tokens(states_of_row[at])))
    return replies


def _left_padded(model: GroundedVLM, prompts) -> tuple[Tensor, Tensor, Tensor]:
    """((B, S, D) embeddings, (B, S) mask, (4, B, S) positions)."""
    device = model.device
    media = list({id(medium): medium for medium, _ in prompts}.values())
    features = {}
    seen = [m for m in media if m.patches is not None]
    if seen:
        patches, grids = torch.cat([m.patches for m in seen]).to(device), torch.tensor([m.grid for m in seen], device=device)
        parts = model.encode_vision(patches, grids).split([m.visual_tokens for m in seen])
        features = {id(m): part for m, part in zip(seen, parts)}
    longest = max(len(d.ids) for _, d in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.zeros(4, len(prompts), longest, dtype=torch.long)
    rows, visual = [], []
    for i, (medium, dialogue) in enumerate(prompts):
        start = longest - len(dialogue.ids)
        ids[i, start:], mask[i, start:], positions[:, i, start:] = dialogue.ids, 1, dialogue.positions
        if medium.patches is not None:
            rows.append(torch.arange(medium.visual_tokens) + i * longest + start + dialogue.visual_start)
            visual.append(features[id(medium)])
    embeds = model.core.get_input_embeddings()(ids.to(device))
    if rows:
        embeds = model.insert_vision(embeds, torch.cat(visual), torch.cat(rows).to(device))
    return embeds, mask.to(device), positions.to(device)
