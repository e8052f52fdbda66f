"""One row per pair computes exactly what separate rows compute: attention, log-probabilities, gradients, the reference."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.preference_samples import pair_parts, stir, write_pairs
from unipixel.data.collate import collate
from unipixel.data.pairs import PREFERENCE
from unipixel.model.attention import Segments, segment_attention, within_segments
from unipixel.model.backbones import DeepFeatures
from unipixel.model.prefix import SharedPrefix, token_scores
from unipixel.model.reference import add_reference_adapter, as_reference, check_reference, is_reference, weights_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 2, text=True)


@pytest.fixture
def parts(tiny, folder):
    return pair_parts(tiny, folder)


def packed(encoder, groups, numbers) -> dict:
    return collate([encoder(groups.sample(i)) for i in numbers], PREFERENCE)


def rows_of(batch: dict) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(positions in the packed row, label positions in it, labels) of every reply with its prompt: chosen, rejected, next pair."""
    found, at, label = [], 0, 0
    for (prompt, *replies), counts in zip(batch["branches"], batch["label_counts"], strict=True):
        start = at + prompt
        for length, count in zip(replies, counts, strict=True):
            rows = torch.cat([torch.arange(at, at + prompt), torch.arange(start, start + length)])
            found.append((rows, batch["label_rows"][label:label + count], batch["label_ids"][label:label + count]))
            start, label = start + length, label + count
        at = start
    return found


def naive(model, batch: dict) -> torch.Tensor:
    """(2B,) summed log-probabilities: every reply in a row of its own, with logits of all its tokens and the usual shift."""
    embeds, out = model.embed(batch), []
    for rows, _, labels in rows_of(batch):
        after, _ = model.hidden_states(part(embeds, rows), batch["position_ids"][:, :, rows], (len(rows),))
        logits = model.core.lm_head(after)[:-1]
        log_probs = F.log_softmax(logits, -1).gather(1, batch["input_ids"][0, rows][1:, None])[:, 0]
        out.append(log_probs[-len(labels):].sum())
    return torch.stack(out)


def part(embeds, rows: torch.Tensor):
    """The given rows of a batch of one row, with what deeper layers add to them."""
    if not isinstance(embeds, DeepFeatures):
        return embeds[:, rows]
    place = torch.full((embeds.embeds.shape[1],), -1).index_copy(0, rows, torch.arange(len(rows)))[embeds.rows]
    return DeepFeatures(embeds.embeds[:, rows], tuple(layer[place >= 0] for layer in embeds.layers), place[place >= 0])


def summed(scores, batch: dict) -> torch.Tensor:
    return torch.stack([part.sum() for part in scores.log_probs.split([n for counts in batch["label_counts"] for n in counts])])


def loss_of(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    ratios = policy - reference
    return -F.logsigmoid(0.3 * (ratios[0::2] - ratios[1::2])).mean()


def test_attention_is_that_of_separate_rows():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 21, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(1, 2, 21, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    shared = SharedPrefix.of_branches([(5, 3, 2, 4), (1, 2, 4)], query.device)
    assert shared.lengths == (8, 2, 4, 3, 4) and shared.keys.lengths == (8, 7, 9, 3, 5)
    out, _ = segment_attention(None, query, key, value, None, segments=shared)
    for rows in ([*range(8)], [*range(5), 8, 9], [*range(5), 10, 11, 12, 13], [14, 15, 16], [14, 17, 18, 19, 20]):
        alone = within_segments(*(x[:, :, rows] for x in (query, key, value)), Segments.of([len(rows)], query.device), scale=None, causal=True)
        assert torch.allclose(out[:, rows], alone, atol=1e-14, rtol=0)


def test_both_replies_start_at_the_same_position(parts):
    _, encoder, groups = parts
    dialogue = encoder(groups.sample(0)).dialogues[0]
    prompt, chosen, rejected = dialogue.branches
    assert dialogue.positions[:, prompt].equal(dialogue.positions[:, prompt + chosen])
    assert len(dialogue.ids) == prompt + chosen + rejected
    assert dialogue.label_counts == (chosen, rejected), "every token of a reply counts, its end too"
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert dialogue.ids[prompt + chosen - 1] == dialogue.ids[-1] == end
    assert dialogue.predictors[0] == dialogue.predictors[chosen] == prompt - 1


@pytest.mark.parametrize(("family", "scope"), [("tiny", "llm"), ("tiny", "all"), ("tiny_qwen3", "llm")])
def test_loss_and_gradients_are_those_of_four_passes(request, folder, family, scope):
    """Against a reference that is another model, videos and text in one batch; with LoRA in the vision tower its features are not shared."""
    model, encoder, groups = pair_parts(request.getfixturevalue(family), folder, lora_scope=scope)
    frozen = copy.deepcopy(model).requires_grad_(False)
    add_reference_adapter(model)
    model.pair_reference = "adapter"
    stir(model, seed=2)
    model.double()
    batch = packed(encoder, groups, [0, 4, len(groups) - 1])
    out = model(**batch)
    loss = loss_of(summed(out.policy, batch), summed(out.reference, batch))
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained)
    expected_loss = loss_of(naive(model, batch), naive(frozen, batch))
    expected = torch.autograd.grad(expected_loss, trained)
    assert abs(loss.item() - expected_loss.item()) < 1e-9
    assert abs(loss.item() - 0.693147) > 1e-3, "policy and reference differ"
    assert max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) < 1e-9
    assert max(g.abs().max().item() for g in found) > 1e-4


def test_separate_reference_model_gives_the_same_log_probabilities(parts):
    model, encoder, groups = parts
    batch = packed(encoder, groups, [1])
    expected = summed(model(**batch).policy, batch)
    add_reference_adapter(model)
    with torch.no_grad():
        base = copy.deepcopy(model)
        for name, parameter in base.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
        bare = summed(base(**batch).policy, batch)
    stir(model, seed=2)
    model.double()
    for reference, wanted in (("adapter", expected), ("base", bare)):
        model.pair_reference = reference
        out = model(**batch)
        assert torch.allclose(summed(out.reference, batch), wanted, atol=1e-12, rtol=0)
        assert not torch.allclose(summed(out.policy, batch), wanted, atol=1e-2, rtol=0)
        assert not out.reference.log_probs.requires_grad and out.policy.log_probs.requires_grad


def test_last_logit_row_changes_nothing(parts):
    """The shift: the state of the last token predicts nothing that counts, that of the last prompt token predicts both replies."""
    model, encoder, groups = parts
    batch = packed(encoder, groups, [0])
    prompt, chosen, rejected = batch["branches"][0]
    last = {prompt + chosen - 1, prompt + chosen + rejected - 1}
    assert not last & set(batch["label_rows"].tolist()) and (batch["label_rows"] == prompt - 1).sum() == 2
    before = summed(model(**batch).policy, batch)
    handle = model.core.model.language_model.norm.register_forward_hook(lambda m, a, out: out.index_fill(1, torch.tensor(sorted(last)), 7.0))
    assert summed(model(**batch).policy, batch).equal(before)
    handle.remove()
    handle = model.core.model.language_model.norm.register_forward_hook(lambda m, a, out: out.index_fill(1, torch.tensor([prompt - 1]), 7.0))
    assert (summed(model(**batch).policy, batch) != before).all()
    handle.remove()


def test_sam2_and_prompt_logits_are_never_computed(parts, monkeypatch):
    model, encoder, groups = parts
    batch = packed(encoder, groups, [0])
    monkeypatch.setattr(model.sam2, "forward", lambda *a, **k: pytest.fail("SAM 2 ran"))
    rows = []
    model.core.lm_head.register_forward_hook(lambda m, args, out: rows.append(len(args[0])))
    model(**batch)
    assert rows == [len(batch["label_ids"])]


@pytest.mark.parametrize(("scope", "passes"), [("llm", 1), ("all", 2)])
def test_vision_runs_once_unless_it_trains(tiny, folder, scope, passes):
    model, encoder, groups = pair_parts(tiny, folder, lora_scope=scope)
    add_reference_adapter(model.float())
    model.pair_reference = "adapter"
    calls = []
    model.core.model.visual.register_forward_hook(lambda *a: calls.append(1))
    model(**packed(encoder, groups, [0]))
    assert len(calls) == passes


def test_switching_leaves_the_model_as_it_was(parts):
    model, _, _ = parts
    add_reference_adapter(model)
    model.train()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with as_reference(model, "adapter"):
        assert not model.backbone.training and not torch.is_grad_enabled()
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert model.backbone.training and torch.is_grad_enabled()
    assert model.backbone.active_adapters == ["default"]
    assert not any(p.requires_grad for name, p in model.named_parameters() if is_reference(name))


def test_digest_sees_every_weight_it_stands_for(parts):
    model, _, _ = parts
    both, base = (weights_digest(model, adapters=adapters) for adapters in (True, False))
    assert both != base
    add_reference_adapter(model)
    assert weights_digest(model, adapters=True) == both, "the copy is not part of it"
    stir(model, seed=3)
    assert weights_digest(model, adapters=True) != both and weights_digest(model, adapters=False) == base


def test_reference_that_would_move_is_refused(tiny, folder):
    model, _, _ = pair_parts(tiny, folder, train=["embedding"])
    with pytest.raises(ValueError, match="1 trained tensors are not in the adapter"):
        check_reference(model)


def test_scores_of_tokens():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    scores = token_scores(logits, torch.tensor([0, 1]))
    probs = logits.softmax(-1)
    assert torch.allclose(scores.log_probs, probs[[0, 1], [0, 1]].log())
    assert torch.allclose(scores.entropy, -(probs * probs.log()).sum(-1))
    assert scores.is_top1.tolist() == [True, False] and scores.mean_logits.tolist() == [2 / 3, 4 / 3]
    assert torch.allclose(scores.log_sum_sq_probs, (probs**2).sum(-1).log())


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_reference_of_every_kind_of_adapter(tiny, folder, variant):
    """The frozen copy says what the policy says until the policy moves, and what it said before afterwards."""
    model, encoder, groups = pair_parts(tiny, folder, lora_variant=variant)
    add_reference_adapter(model)
    model.pair_reference = "adapter"
    batch = packed(encoder, groups, [0])
    with torch.no_grad():
        start = model.eval()(**batch)
        assert start.policy.log_probs.equal(start.reference.log_probs)
        stir(model, seed=5)
        moved = model(**batch)
    assert moved.reference.log_probs.equal(start.reference.log_probs)
    assert not moved.policy.log_probs.allclose(start.policy.log_probs, atol=1e-3)
