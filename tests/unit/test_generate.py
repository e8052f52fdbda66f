"""Replies: a left-padded batch gives what one by one gives, and the states of ``<|seg|>`` are those of training's forward pass."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_run import clip, questions, tiny_parts
from unipixel.data.collate import collate
from unipixel.data.template import Rendered, TemplateSettings, render_prompt
from unipixel.infer.generate import generate
from unipixel.sample import Example, Medium, Sample

PLAIN = TemplateSettings(paraphrase=False)


@pytest.fixture(scope="module")
def parts(tiny):
    """(model, tokenizer, encoder); the output head knows four digits, ``<|seg|>`` and the end of a reply, and chooses at random."""
    model, tokenizer, encoder, _ = tiny_parts(tiny, num_frames=4)
    words = tokenizer.convert_tokens_to_ids([*"0123", "<|seg|>", "<|im_end|>"])
    torch.manual_seed(15)
    head = torch.zeros_like(model.core.lm_head.weight)
    head[words] = torch.randn(len(words), head.shape[1])
    model.core.lm_head.weight = torch.nn.Parameter(head)
    for layer in model.core.model.language_model.layers:
        layer.mlp.down_proj.weight.data *= 4  # else each token would repeat itself
    return model.eval(), tokenizer, encoder


@pytest.fixture(scope="module")
def prompts(parts):
    """Two questions about one clip, one about another, one without a medium: three lengths."""
    _, _, encoder = parts
    out = []
    text_only = Sample("t", Medium("t", "none"), (Example("t", "evidence", "How much is one and one, and how much is it twice?", answer="2"),))
    for sample, count in ((Sample("a", clip(0)[0], tuple(questions(0)[:2]), clip(0)[1]), 2),
                          (Sample("b", clip(5)[0], tuple(questions(5)[1:2]), clip(5)[1]), 1), (text_only, 1)):
        encoded = encoder(sample, with_masks=False)
        times = [sample.medium.frame_times[t] for t in (0, 2, 3, 5)] if sample.frames else []
        out += [(encoded, encoder.encode_dialogue(render_prompt(sample, PLAIN, i), encoded, times, "k")) for i in range(count)]
    assert len({len(dialogue.ids) for _, dialogue in out}) == 3
    return out


def test_batched_replies_equal_single_ones(parts, prompts):
    model, tokenizer, _ = parts
    together = generate(model, tokenizer, prompts, max_new_tokens=24)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=24)[0] for prompt in prompts]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len({reply.text for reply in alone}) > 2 and any(len(reply.tokens) for reply in alone)
    for mine, reference in zip(together, alone):
        torch.testing.assert_close(mine.tokens, reference.tokens, atol=1e-4, rtol=1e-4)


def test_seg_states_equal_those_of_the_training_forward(parts, prompts):
    """The reply, appended to its prompt and packed, gives the same prompt embeddings, so training and prediction mean the same."""
    model, tokenizer, encoder = parts
    replies = generate(model, tokenizer, prompts, max_new_tokens=24)
    compared = 0
    for (encoded, prompt), reply in zip(prompts, replies):
        assert reply.text.count("<|seg|>") == len(reply.tokens)
        text = tokenizer.decode(prompt.ids).replace("<|video_pad|>" * encoded.visual_tokens, "<|video_pad|>") if encoded.visual_tokens else \
            tokenizer.decode(prompt.ids)
        times = [0.0, 1.0, 1.5, 2.5] if encoded.visual_tokens else []
        whole = encoder.encode_dialogue(Rendered(((text, False), (reply.text + "<|im_end|>", True))), encoded, times, "k")
        assert whole.ids[:len(prompt.ids)].equal(prompt.ids)
        encoded.dialogues, whole.masks = [whole], torch.zeros(0)
        batch = collate([encoded], "video")
        with torch.no_grad():
            _, before = model.hidden_states(model.embed(batch), batch["position_ids"], batch["segment_lengths"])
            expected = model.seg_tokens(before[whole.seg - 1])
        torch.testing.assert_close(reply.tokens, expected, atol=1e-4, rtol=1e-4)
        compared += len(expected)
    assert compared >= 3


def test_reply_ends_at_its_end_token(parts, prompts):
    model, tokenizer, _ = parts
    short = generate(model, tokenizer, prompts, max_new_tokens=3)
    long = generate(model, tokenizer, prompts, max_new_tokens=24)
    lengths = [len(tokenizer(reply.text)["input_ids"]) for reply in long]
    assert min(lengths) < 24 == max(lengths)
    for a, b in zip(short, long):
        assert "<|im_end|>" not in a.text + b.text and "<|endoftext|>" not in b.text
        assert b.text.startswith(a.text)


def test_sampling_is_seeded_and_differs_from_greedy(parts, prompts):
    model, tokenizer, _ = parts
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append([r.text for r in generate(model, tokenizer, prompts[:2], max_new_tokens=16, temperature=2.0, top_p=0.95)])
    assert draws[0] == draws[1] != draws[2]


def test_a_half_precision_backbone_can_reply(tiny, prompts):
    model, tokenizer, *_ = tiny_parts(tiny, model_dtype="bfloat16", lora_layers="none", train=["seg"])
    replies = generate(model.eval(), tokenizer, prompts, max_new_tokens=2)
    assert len(replies) == 4 and all(reply.tokens.dtype == torch.float32 for reply in replies)
