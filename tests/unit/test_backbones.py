"""Both families of backbones: this package's inputs and packed forward pass against the family's own processor and forward pass."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from tests import tiny_run
from tests.tiny_run import Ranks, recipe, steps, tiny_parts
from unipixel.data import media, template
from unipixel.data.collate import collate
from unipixel.data.encode import spoken_times
from unipixel.data.layout import QWEN3_VL
from unipixel.data.media import FrameSettings, Normalizer
from unipixel.errors import ConfigError
from unipixel.infer.generate import generate
from unipixel.model import backbones
from unipixel.model.adapters import LoraSettings, lora_targets
from unipixel.model.backbones import FAMILIES, add_rows, backbone_config, family_of, released_names
from unipixel.model.build import ModelSettings, build_model
from unipixel.model.meta import meta_model
from unipixel.model.tiny import TinySettings


@pytest.fixture(scope="module", params=list(FAMILIES))
def parts(request, tiny, tiny_qwen3):
    """(model, tokenizer, encoder, groups) of each family, without dropout."""
    model, *rest = tiny_parts(tiny_qwen3 if request.param == "qwen3_vl" else tiny, max_turns=1, num_frames=4)
    assert model.family.name == request.param
    return model.eval(), *rest


def encoded(parts, kind="video_masks", count=2):
    _, _, encoder, groups = parts
    chosen = [i for i, k in enumerate(groups.kind_of) if groups.kinds[k] == kind][:count]
    return [encoder(groups.sample(i)) for i in chosen]


def their_logits(model, medium, dialogue) -> torch.Tensor:
    """transformers' own forward pass of one dialogue, positions from its own rule for Qwen3-VL (its rule for Qwen2.5-VL differs on purpose)."""
    ids = dialogue.ids[None]
    kinds = 2 * (ids == model.config.video_token_id).int()
    grid = torch.tensor([medium.grid])
    positions = {} if model.family.name == "qwen3_vl" else {"position_ids": dialogue.positions[:, None]}
    model.core.model.language_model.__dict__.pop("_deepstack_process", None)
    try:
        return model.core(input_ids=ids, pixel_values_videos=model.normalizer.patches(medium.patches), video_grid_thw=grid, mm_token_type_ids=kinds,
                          attention_mask=torch.ones_like(ids), **positions).logits[0]
    finally:
        model.family.prepare(model.core)


@torch.no_grad()
def test_packed_logits_equal_the_familys_own_forward(parts):
    model = parts[0]
    batch = collate(encoded(parts), "video_masks")
    mine = model(**batch).logits
    theirs = torch.cat([their_logits(model, m, d)[d.supervised.nonzero().flatten() - 1] for m in encoded(parts) for d in m.dialogues])
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_features_of_deeper_layers_reach_the_logits(tiny_qwen3):
    """Without them the model says something else; and none is kept from one pass to the next."""
    parts = tiny_parts(tiny_qwen3, max_turns=1, num_frames=4)
    model = parts[0].eval()
    batch = collate(encoded(parts), "video_masks")
    with torch.no_grad():
        embeds = model.embed(batch)
        assert isinstance(embeds, backbones.DeepFeatures) and len(embeds.layers) == 2
        deep, _ = model.hidden_states(embeds, batch["position_ids"], batch["segment_lengths"])
        flat, _ = model.hidden_states(embeds.embeds, batch["position_ids"], batch["segment_lengths"])
        again, _ = model.hidden_states(embeds, batch["position_ids"], batch["segment_lengths"])
    assert (deep - flat).abs().max() > 1e-3 and deep.equal(again)


def test_rows_are_added_where_they_belong():
    hidden = torch.zeros(2, 3, 4, requires_grad=True)
    out = add_rows(hidden, torch.tensor([1, 5]), torch.tensor([[1.0], [2.0]]).expand(2, 4))
    assert out[0, 1].tolist() == [1] * 4 and out[1, 2].tolist() == [2] * 4 and out.sum() == 12
    out.sum().backward()
    assert (hidden.grad == 1).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_trained_tensor_has_a_gradient(parts, checkpointing):
    model = parts[0].train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    out = model(**collate(encoded(parts), "video_masks"))
    (out.logits.logsumexp(-1).sum() + sum(x.sum() for x in out.masks.fields()[:3])).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any()) and not n.startswith("sam2.")]
    model.zero_grad()
    model.gradient_checkpointing_disable()
    assert idle == []


@torch.no_grad()
def test_generation_equals_a_loop_without_a_cache(parts):
    """Greedy tokens of the batched, left-padded path against the packed forward pass, one token at a time."""
    model, tokenizer, encoder, groups = parts
    model.eval()
    pairs = []
    for index in [i for i, k in enumerate(groups.kind_of) if groups.kinds[k] == "video_masks"][:2]:
        sample = groups.sample(index)
        medium = encoder(sample)
        chosen = encoder.choose_frames(sample, np.random.default_rng(0))
        times = [sample.medium.frame_times[t] for t in chosen]
        encoder.add_frames(medium, sample, chosen, masks_wanted=False)
        rendered = template.render_prompt(sample, encoder.text, 0, chosen, encoder.chat_form(sample, chosen))
        medium.dialogues = [encoder.encode_dialogue(rendered, medium, times, "x")]
        pairs.append((medium, medium.dialogues[0]))
    replies = generate(model, tokenizer, pairs, max_new_tokens=4)
    for (medium, dialogue), reply in zip(pairs, replies):
        start = len(dialogue.ids)
        for _ in range(4):
            batch = collate([medium], "video")
            after, _ = model.hidden_states(model.embed(batch), batch["position_ids"], batch["segment_lengths"])
            token = int(model.core.lm_head(after[-1]).argmax())
            if token == tokenizer.convert_tokens_to_ids("<|im_end|>"):
                break
            dialogue.ids = torch.cat([dialogue.ids, torch.tensor([token])])
            dialogue.supervised = torch.cat([dialogue.supervised, torch.tensor([False])])
            dialogue.positions = torch.cat([dialogue.positions, dialogue.positions[:, -1:] + 1], 1)
        assert reply.text and tokenizer.decode(dialogue.ids[start:]).strip() == reply.text


# --- what the processor of Qwen3-VL makes of the same frames ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def processor(tiny_qwen3):
    tokenizer = tiny_parts(tiny_qwen3)[1]
    for name, token in (("image_token", "<|image_pad|>"), ("video_token", template.VIDEO_PAD), ("vision_start_token", template.VISION_START),
                        ("vision_end_token", template.VISION_END)):
        setattr(tokenizer, name, token)
    return Qwen3VLProcessor(Qwen2VLImageProcessor(patch_size=16), tokenizer, Qwen3VLVideoProcessor())


@pytest.mark.parametrize("count", [4, 5])
def test_pixels_and_timestamps_of_the_processor(processor, count):
    """Frames that need no resize; 12 frames per second."""
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, 64, 96), dtype=np.uint8))
    metadata = VideoMetadata(total_num_frames=count, fps=12.0, frames_indices=list(range(0, 5 * count, 5)))
    theirs = processor.video_processor([frames], do_sample_frames=False, do_resize=False, video_metadata=[metadata], return_tensors="pt")
    patches, grid = media.patchify(frames, QWEN3_VL)
    assert theirs["video_grid_thw"].tolist() == [list(grid)]
    torch.testing.assert_close(Normalizer(QWEN3_VL).patches(patches), theirs["pixel_values_videos"], atol=1e-5, rtol=0)
    tokens = grid[1] * grid[2] // 4
    text = processor.replace_video_token(dict(theirs) | {"video_metadata": [metadata]}, 0)
    mine = template.ChatForm(False, spoken_times([5 * i / 12 for i in range(count)])).visual
    assert mine.replace(template.VIDEO_PAD, template.VIDEO_PAD * tokens) == text


def test_positions_of_the_familys_own_rule(tiny_qwen3):
    parts = tiny_parts(tiny_qwen3, max_turns=1, num_frames=5)
    model = parts[0]
    for medium in encoded(parts):
        for dialogue in medium.dialogues:
            ids = dialogue.ids[None]
            theirs, _ = model.core.model.get_rope_index(ids, mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
                                                        video_grid_thw=torch.tensor([medium.grid]))
            assert dialogue.positions[1:].equal(theirs[:, 0])


@pytest.mark.parametrize(("reference", "spoken"), [(False, ("0.5", "2.5")), (True, ("0.2", "1.0"))])
def test_times_are_the_true_ones_unless_the_references_are_asked_for(tiny_qwen3, reference, spoken):
    """Three of six frames at 2 per second stand at 0, 1 and 2.5 s; the reference says 0, 0.5 and 1 s whatever their times."""
    _, tokenizer, encoder, groups = tiny_parts(tiny_qwen3, num_frames=3, frame_sampling="uniform", reference_times=reference)
    text = tokenizer.decode(encoder(groups.sample(0)).dialogues[0].ids)
    assert re.findall(r"<([0-9.]+) seconds>", text) == list(spoken) and text.startswith("<|im_start|>user\n<")


def test_an_image_has_no_time(tiny_qwen3, tmp_path):
    shards = tiny_run.write_kinds(tmp_path / "shards", 1, ("image",))
    _, tokenizer, encoder, groups = tiny_parts(tiny_qwen3, shards=[str(shards)])
    medium = encoder(groups.sample(0))
    assert "seconds>" not in tokenizer.decode(medium.dialogues[0].ids) and medium.grid[0] == 1


def test_sides_are_multiples_of_32():
    settings = FrameSettings(min_pixels=32 * 32, max_pixels=64 * 96)
    assert media.llm_size(480, 854, settings, QWEN3_VL) == (32, 96) and media.llm_size(480, 854, settings) == (56, 84)


# --- the interface itself ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("layers", "scope", "count"), [("qkvo", "llm", 8), ("qkvo", "visual", 4), ("linear", "visual", 14), ("linear", "all", 28)])
def test_lora_rules_of_qwen3(tiny_qwen3, layers, scope, count):
    """Per layer as in Qwen2.5-VL, but two linear layers in the tower's MLP, and three mergers of two: 2 x 4 + 3 x 2."""
    settings = {k: v for k, v in recipe(tiny_qwen3).items() if k in ModelSettings.__dataclass_fields__}
    model, _ = build_model(ModelSettings(**settings))
    assert len(lora_targets(model.backbone, LoraSettings(lora_layers=layers, lora_scope=scope))) == count


def test_unknown_families_and_names():
    with pytest.raises(ConfigError, match="model_type 'llava' is no backbone of this package; known: qwen2_5_vl, qwen3_vl"):
        family_of({"model_type": "llava"})
    with pytest.raises(ConfigError, match="family='qwen3' must be one of.*nearest: 'qwen3_vl'"):
        TinySettings(family="qwen3")
    with pytest.raises(ConfigError, match="nearest: 'Qwen/Qwen3-VL-4B-Instruct'"):
        backbone_config("Qwen/Qwen3-VL-4B-Instruc")


@pytest.mark.parametrize("name", sorted(released_names()))
def test_shipped_configurations(name):
    config = backbone_config(name)
    assert config.vision_config.patch_size == family_of(config).layout.patch
    assert config.vision_config.out_hidden_size == config.text_config.hidden_size


@pytest.mark.parametrize(("name", "billions"), [("Qwen/Qwen3-VL-4B-Instruct", 4.44), ("Qwen/Qwen3-VL-8B-Instruct", 8.77)])
def test_sizes_of_qwen3(name, billions):
    model, report = meta_model(ModelSettings(backbone=name), LoraSettings(), ["seg"])
    count = sum(p.numel() for n, p in model.core.named_parameters() if "lora_" not in n)
    assert round(count / 1e9, 2) == billions and report.counts["lora"][1] == 2 * len(report.lora_modules)


def test_training_with_zero3_and_checkpointing(tiny_qwen3, tmp_path):
    """Two ranks, features of deeper layers included; a step changes the loss."""
    settings = recipe(tiny_qwen3, deepspeed=tiny_run.engine("zero3", tmp_path), gradient_checkpointing=True, max_steps=3)
    out = Ranks(settings, tmp_path / "run").finish(timeout=200)
    losses = [line["loss"] for line in steps(out)]
    assert len(losses) == 3 and all(np.isfinite(losses))
