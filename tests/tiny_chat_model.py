"""Tiny random chat models of text and pictures in a folder, for tests of what speaks to models through transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from unipixel.model.tiny import TinySettings, tiny_backbone_config, train_tokenizer

TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == "text" %}{{ part.text }}\
{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
STOPS = 8
"""One token in this many ends a reply, so that replies of random weights are short and still differ."""


def write_chat_model(folder: Path, seed: int = 0) -> Path:
    """Qwen2.5-VL at toy widths with its processor and a chat template."""
    settings = TinySettings(width=64, layers=2, heads=4, kv_heads=2, vision_width=32, vision_layers=2, vision_heads=2, vocab=400, init_std=0.08)
    tokenizer = train_tokenizer(["The red cup is moved to the left and the small dog follows it."], settings.vocab)
    torch.manual_seed(seed)
    config = tiny_backbone_config(settings, tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(5, config.text_config.vocab_size, STOPS)]
    model.generation_config.update(pad_token_id=tokenizer.pad_token_id, do_sample=True)  # `transformers serve` draws only when told so here
    model.save_pretrained(folder)
    pixels = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
    Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template=TEMPLATE).save_pretrained(folder)
    return folder
