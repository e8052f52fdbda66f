"""Objects shown to the model: where they are drawn, which tokens they cover, and that wording, numbers and model agree about them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny_run import clip, tiny_parts
from unipixel.data.collate import collate
from unipixel.data.encode import SampleEncoder
from unipixel.data.media import FrameSettings, stable_rng
from unipixel.data.template import TemplateSettings, render
from unipixel.data.visual_prompts import (
    BOX_JITTER,
    Pointer,
    VisualPrompts,
    clip_time,
    draw_pointer,
    pack_prompts,
    refer_cells,
    region_cells,
)
from unipixel.errors import SampleError
from unipixel.sample import Example, MaskTrack, Region, Sample, Turn

PLAIN = TemplateSettings(paraphrase=False)
RED, BLUE = Region("1", "red"), Region("2", "blue")
LOCATE = Example("l", "locate", "Does [2] touch [1]", targets=(("red",), ("blue",)), regions=(RED, BLUE), visual_prompt="point_or_box")
CHAT = Example("c", "chat", turns=(Turn("user", "What is [1]?"), Turn("assistant", "A red box."), Turn("user", "And [2], beside [1]?"),
                                   Turn("assistant", "Blue.")), regions=(RED, BLUE), visual_prompt="mask")


@pytest.fixture(scope="module")
def parts(tiny):
    """(model, tokenizer) with random weights everywhere."""
    model, tokenizer, *_ = tiny_parts(tiny, lora_layers="none", train=["ref", "ref_encoder", "mem", "seg", "sam2_decoder"])
    return model.eval(), tokenizer


def encoder(tokenizer, **changes) -> SampleEncoder:
    frames = FrameSettings(**{"num_frames": 6, "frame_sampling": "uniform", "min_pixels": 112 * 84, "max_pixels": 112 * 84} | changes)
    return SampleEncoder(tokenizer, frames, PLAIN, sam_size=64)


def sample(*examples: Example, index: int = 0) -> Sample:
    medium, frames, _ = clip(index)
    return Sample("k", medium, examples, frames, dataset="d")


def track(*boxes: tuple[int, int, int, int] | None, size=(40, 60)) -> MaskTrack:
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for t, box in enumerate(boxes):
        if box:
            masks[t, box[1]:box[3] + 1, box[0]:box[2] + 1] = True
    return MaskTrack.from_masks(masks)


# --- numbers ----------------------------------------------------------------------------------------------------------------------------

def test_cells_are_pairs_of_frames_and_whole_tokens():
    masks = torch.zeros(3, 1, 84, 112, dtype=torch.bool)
    masks[1, 0, 30:40, 60:70] = True  # in the second token row, third column
    masks[2, 0, 0, 0] = True
    cells = refer_cells(masks, (2, 3, 4))
    assert cells.shape == (2, 1, 3, 4)
    assert cells[0, 0].nonzero().tolist() == [[1, 2]] and cells[1, 0].nonzero().tolist() == [[0, 0]]


def test_region_cells_count_visual_tokens():
    cells = region_cells(track(None, (0, 0, 5, 5), None, None, (50, 30, 59, 39), size=(56, 84)), [0, 1, 2, 3, 4], (3, 2, 3), "k")
    assert [c.tolist() for c in cells] == [[0], [16, 17]]
    with pytest.raises(SampleError) as caught:
        region_cells(track(None, (0, 0, 5, 5)), [0], (1, 2, 3), "k")
    assert caught.value.reason == "region_unseen"


def test_point_without_noise_is_the_pixel_at_the_centre():
    """In pixels of the square frame, whose encoder adds half a pixel: the middle of pixel 10 of 60 is at 10.5 / 60 of any width."""
    pointer = draw_pointer(track(None, (8, 4, 12, 6)), [0, 1], "point", 120, None, "k")
    assert (pointer.frame, pointer.box) == (1, False)
    assert np.allclose(pointer.corners[0], ((10 + 0.5) * 2 - 0.5, (5 + 0.5) * 3 - 0.5))
    ring = np.ones((1, 9, 9), dtype=bool)
    ring[0, 1:8, 1:8] = False
    x, y = draw_pointer(MaskTrack.from_masks(ring), [0], "point", 9, None, "k").corners[0]
    assert ring[0, int(y), int(x)], "a point is on the object even where its centre is not"


def test_box_without_noise_is_tight():
    box = draw_pointer(track((8, 4, 12, 6)), [0], "box", 60, None, "k")
    assert box.box and np.allclose(box.corners, ((8, (4 + 0.5) * 1.5 - 0.5), (12, (6 + 0.5) * 1.5 - 0.5)))


def test_drawn_prompts():
    """On frames where the object is, on its pixels, boxes off by a tenth at most; the same numbers give the same prompt."""
    seen = track((8, 4, 27, 23), None, (10, 4, 29, 23))
    drawn = [draw_pointer(seen, [0, 1, 2], "point_or_box", 60, stable_rng("d", "e", epoch), "k") for epoch in range(60)]
    assert drawn == [draw_pointer(seen, [0, 1, 2], "point_or_box", 60, stable_rng("d", "e", epoch), "k") for epoch in range(60)]
    assert {p.frame for p in drawn} == {0, 2} and {p.box for p in drawn} == {True, False} and len({p.corners for p in drawn}) > 40
    for pointer in drawn:
        left = 8 if pointer.frame == 0 else 10
        (x0, y0), (x1, y1) = pointer.corners
        if pointer.box:
            assert abs(x0 - left) <= 19 * BOX_JITTER and abs(x1 - left - 19) <= 19 * BOX_JITTER
        else:
            assert left <= x0 <= left + 19 and (x0, y0) == (x1, y1)


def test_times_count_the_copy_of_an_odd_frame():
    assert [clip_time(f, 2) for f in (0, 1, 3)] == [0, 1 / 3, 1] and clip_time(0, 1) == 0


def test_packed_prompts_keep_their_rows_and_tokens():
    first = VisualPrompts([Pointer(0, ((1, 2), (3, 4)), True)], [0.5], [], torch.tensor([7]), torch.tensor([], dtype=torch.long))
    second = VisualPrompts([], [], [torch.tensor([1, 2]), torch.tensor([4])], torch.tensor([], dtype=torch.long), torch.tensor([3, 5]))
    packed = pack_prompts([(first, 0, 0), (second, 10, 100)])
    assert packed["ref_rows"].tolist() == [7] and packed["ref_labels"].tolist() == [[2, 3]] and packed["ref_times"].tolist() == [0.5]
    assert packed["mem_rows"].tolist() == [13, 15] and packed["mem_cells"].tolist() == [101, 102, 104] and packed["mem_owner"].tolist() == [0, 0, 1]
    assert pack_prompts([(VisualPrompts(), 0, 0)]) == {}


# --- through the encoder ----------------------------------------------------------------------------------------------------------------

def test_pointed_regions_in_order_of_mention(parts):
    """``[2]`` is mentioned first: its point stands behind the first ``<|ref|>``; the reply keeps the order of the regions."""
    tokenizer = parts[1]
    encoded = encoder(tokenizer)(sample(dataclasses.replace(LOCATE, visual_prompt="point")))
    (dialogue,) = encoded.dialogues
    text = tokenizer.decode(dialogue.ids)
    assert "Does [2] <|ref|> touch [1] <|ref|>. Please localize the relevant objects with IDs.<|im_end|>" in text
    assert text.endswith("[1] <|seg|> [2] <|seg|><|im_end|>")
    blue, red = (p.corners[0][0] for p in dialogue.prompts.pointers)
    medium = sample(LOCATE).medium
    for x, (oid, pointer) in zip((blue, red), zip(("blue", "red"), dialogue.prompts.pointers)):
        mask = medium.objects[oid].track.decode([pointer.frame])[0]
        assert mask[:, int((x + 0.5) * 56 / 64)].any()
    assert [int(dialogue.ids[row]) for row in dialogue.prompts.ref_rows] == [tokenizer.convert_tokens_to_ids("<|ref|>")] * 2


def test_regions_as_masks_get_a_prefix_and_tokens(parts):
    """The blue box is annotated on even frames and gone on the last two: cells 1 and 2 of three."""
    tokenizer = parts[1]
    encoded = encoder(tokenizer)(sample(CHAT))
    (dialogue,) = encoded.dialogues
    text = tokenizer.decode(dialogue.ids)
    assert ("<|vision_end|>Here is a video with 6 frames denoted as <1> to <6>. The highlighted regions are as follows:\n"
            "[1]: <1>-<2> <|mem|> <3>-<4> <|mem|> <5>-<6> <|mem|>\n[2]: <1>-<2> <|mem|> <3>-<4> <|mem|>\nWhat is [1]?<|im_end|>") in text
    assert text.count("Here is a video") == 1 and "<|ref|>" not in text
    cells = dialogue.prompts.cells
    assert len(cells) == 5 == len(dialogue.prompts.mem_rows) and encoded.token_grid == (3, 3, 4)
    assert [int(c.min()) // 12 for c in cells] == [int(c.max()) // 12 for c in cells] == [0, 1, 2, 0, 1]


def test_frames_give_way_to_one_that_shows_the_region(parts):
    """Two of six frames, first and last; the blue box is on neither of those that are left to it after frame 3."""
    medium, frames, masks = clip(0)
    late = MaskTrack.from_masks(masks["red"], [t == 3 for t in range(6)])
    objects = dict(medium.objects) | {"red": dataclasses.replace(medium.objects["red"], track=late)}
    example = dataclasses.replace(CHAT, regions=(RED,))
    shown = Sample("k", dataclasses.replace(medium, objects=objects), (example,), frames)
    make = encoder(parts[1], num_frames=2)
    assert make.choose_frames(shown, np.random.default_rng(0)) == [0, 3]
    assert len(make(shown).dialogues[0].prompts.cells) == 1


def test_image_prefix(parts):
    medium, frames, masks = clip(0, frames=1)
    image = dataclasses.replace(medium, kind="image")
    text = render(Sample("k", image, (dataclasses.replace(CHAT, regions=(RED,)),), frames), PLAIN).text
    assert "<|vision_end|>Here is an image with the following highlighted regions:\n[1]: <|mem|>\nWhat is [1]?<|im_end|>" in text


def test_a_text_with_a_prompt_token_is_refused(parts):
    with pytest.raises(SampleError) as caught:
        encoder(parts[1])(sample(dataclasses.replace(CHAT, turns=(Turn("user", "[1] [2] <|mem|>"), Turn("assistant", "x")))))
    assert caught.value.reason == "prompt_count"
    with pytest.raises(SampleError) as caught:
        turns = (Turn("user", "What is [1]?"), Turn("assistant", "Beside [2]."))
        encoder(parts[1])(sample(dataclasses.replace(CHAT, turns=turns, visual_prompt="box")))
    assert caught.value.reason == "region_unmentioned"


def test_epochs_draw_other_prompts_and_repeat_themselves(parts):
    make = encoder(parts[1])
    draws = [[p.corners for p in make(sample(LOCATE), epoch).dialogues[0].prompts.pointers] for epoch in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_fixed_rate_of_the_reference(parts):
    """Frames at half a second: true times advance one index per cell, the reference's two."""
    true, fixed = (encoder(parts[1], reference_times=on)(sample(LOCATE)) for on in (False, True))
    rows = slice(int(true.dialogues[0].visual[0]), int(true.dialogues[0].visual[0]) + 36, 12)
    start = int(true.dialogues[0].visual[0])
    assert (true.dialogues[0].positions[1, rows] - start).tolist() == [0, 2, 4], "cells start at 0, 1 and 2 s"
    slow = dataclasses.replace(sample(LOCATE).medium, frame_times=tuple(range(6)))
    slow_true, slow_fixed = (encoder(parts[1], reference_times=on)(Sample("k", slow, (LOCATE,), sample(LOCATE).frames)) for on in (False, True))
    assert (slow_true.dialogues[0].positions[1, rows] - start).tolist() == [0, 4, 8]
    assert (slow_fixed.dialogues[0].positions[1, rows] - start).tolist() == (fixed.dialogues[0].positions[1, rows] - start).tolist() == [0, 2, 4]


# --- through the model ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("example", [LOCATE, CHAT], ids=["points", "regions"])
def test_packing_does_not_change_a_prompt(parts, example):
    """Two media in one row give the logits of each alone, and the prompts reach them."""
    model, tokenizer = parts
    kind = "video_prompts_masks" if example is LOCATE else "video_regions"
    media = [encoder(tokenizer)(sample(example, index=i)) for i in (0, 3)]
    with torch.no_grad():
        together = model(**collate(media, kind)).logits
        alone = torch.cat([model(**collate([m], kind)).logits for m in media])
        batch = collate(media, kind)
        name = "ref_coords" if example is LOCATE else "mem_cells"
        batch[name] = batch[name].flip(0)
        moved = model(**batch).logits
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    assert (moved - together).abs().max() > 1e-4


@pytest.mark.parametrize(("example", "parts_used"), [(LOCATE, {"ref", "ref_encoder"}), (CHAT, {"mem"})], ids=["points", "regions"])
def test_prompts_train_their_parts(tiny, example, parts_used):
    from unipixel.model.adapters import part_of

    model, tokenizer, *_ = tiny_parts(tiny, lora_layers="none", train=["ref", "ref_encoder", "mem"])
    out = model(**collate([encoder(tokenizer)(sample(example))], "video_prompts" if example is LOCATE else "video_regions"))
    out.logits.square().mean().backward()
    learned = {part_of(n) for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learned == parts_used
    silent = {n for n, p in model.named_parameters() if p.requires_grad and part_of(n) in parts_used and p.grad is None}
    assert silent == set(), "what never learns is not listed as trained"


def test_regions_pick_the_patches_that_they_cover(parts):
    """A raster cell is the same patch whatever the windows are; the released order differs on grids beyond 4 x 4."""
    from unipixel.model.prompts import window_order

    model, tokenizer = parts
    assert window_order(torch.tensor([[2, 3, 4]]), 4).tolist() == list(range(24))
    order = window_order(torch.tensor([[1, 5, 6], [1, 2, 2]]), 4)
    assert order[:8].tolist() == [0, 1, 2, 3, 6, 7, 8, 9] and order[16:20].tolist() == [4, 5, 10, 11] and order[30:].tolist() == [30, 31, 32, 33]
    state = torch.randn(34, 4 * 32)
    batch = {"mem_cells": torch.tensor([4, 33]), "mem_owner": torch.tensor([0, 1]), "mem_rows": torch.tensor([0, 1]),
             "grids": torch.tensor([[1, 10, 12], [1, 4, 4]])}
    in_windows = state[order]
    assert model.mem_order == "raster"
    torch.testing.assert_close(model.region_tokens(in_windows, batch), model.msk_proj(state[[4, 33]]))
    model.mem_order = "window"
    try:
        torch.testing.assert_close(model.region_tokens(in_windows, batch), model.msk_proj(in_windows[[4, 33]]))
    finally:
        model.mem_order = "raster"


def test_examples_with_regions_never_share_a_dialogue(tiny):
    """Their labels are their own: two examples may both call their object [1]."""
    from tests.tiny_run import clip, tiny_parts
    from unipixel.sample import Example, Region, Sample, Turn

    _, _, encoder, _ = tiny_parts(tiny, deepspeed="", max_turns=3)
    medium, frames, _ = clip(0)
    examples = tuple(Example(f"e{n}", "chat", turns=(Turn("user", "What is [1]?"), Turn("assistant", name)), regions=(Region("1", name),),
                             visual_prompt="mask") for n, name in enumerate(("red", "blue")))
    assert len(encoder(Sample("k", medium, examples, frames)).dialogues) == 2
