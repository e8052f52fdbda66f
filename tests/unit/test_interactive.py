"""Clicks and boxes in pixels of the frame, objects by their masks, and the two-step answer about what was pointed at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny_run import HEIGHT, WIDTH, clip, tiny_parts
from unipixel.data.media import FrameSettings
from unipixel.data.template import TemplateSettings
from unipixel.errors import ConfigError, SampleError
from unipixel.infer.interactive import box, locate, point, region, remember, show, two_steps
from unipixel.infer.predict import Predictor
from unipixel.sample import EMPTY, MaskTrack, Sample

FRAMES = FrameSettings(num_frames=4, frame_sampling="uniform", min_pixels=112 * 84, max_pixels=112 * 84)


@pytest.fixture(scope="module")
def predictor(tiny) -> Predictor:
    model, tokenizer, *_ = tiny_parts(tiny, lora_layers="none", train=["ref"])
    return Predictor(model.eval(), tokenizer, FRAMES, TemplateSettings(paraphrase=False), max_new_tokens=4)


@pytest.fixture
def video() -> Sample:
    medium, frames, _ = clip(0)
    return Sample("k", medium, (), frames)


def test_a_click_is_shown_where_it_was_made(predictor, video):
    """On frame 4, which uniform sampling would not take."""
    sample = show(video, "What is [1]?", [point("1", 4, 20, 30, video)])
    encoded, chosen = predictor.encode_medium(sample)
    dialogue = predictor.encode_prompt(sample, 0, encoded, chosen)
    assert 4 in chosen and len(chosen) == 4
    (pointer,) = dialogue.prompts.pointers
    assert chosen[pointer.frame] == 4 and not pointer.box
    assert np.allclose(pointer.corners[0], ((20 + 0.5) * 64 / WIDTH - 0.5, (30 + 0.5) * 64 / HEIGHT - 0.5))
    assert "What is [1] <|ref|>?" in predictor.tokenizer.decode(dialogue.ids)


def test_a_box_is_shown_by_its_pixels(predictor, video):
    sample = show(video, "Is [a] above [b]?", [box("a", 0, (2, 3, 10, 12), video), box("b", 0, (20, 20, 55, 41), video)])
    encoded, chosen = predictor.encode_medium(sample)
    first, second = predictor.encode_prompt(sample, 0, encoded, chosen).prompts.pointers
    assert first.box and np.allclose(second.corners[1], ((55 + 0.5) * 64 / WIDTH - 0.5, (41 + 0.5) * 64 / HEIGHT - 0.5))


def test_a_click_changes_the_reply(predictor, video):
    """Of a model whose weights are random: the prompt reaches it."""
    states = []
    for x in (5, 50):
        sample = show(video, "Where is [1]?", [point("1", 0, x, 20, video)], locate=True)
        encoded, chosen = predictor.encode_medium(sample)
        encoded.dialogues = [predictor.encode_prompt(sample, 0, encoded, chosen, forced=True)]
        states.append(predictor.forced_tokens(encoded))
    assert states[0].shape == (1, 2, 32) and (states[0] - states[1]).abs().max() > 1e-5


def test_located_objects_have_masks_on_all_frames(predictor, video):
    tracks = locate(predictor, show(video, "Show [2] and [1]", [point("1", 0, 5, 8, video), point("2", 2, 40, 30, video)], locate=True))
    assert list(tracks) == ["1", "2"] and all(len(t.entries) == 6 and None not in t.entries for t in tracks.values())
    assert tracks["1"].size == (HEIGHT, WIDTH)


def test_two_steps_answer_about_the_masks(predictor, video):
    prediction, tracks = two_steps(predictor, video, "What does [1] do?", [box("1", 0, (4, 5, 17, 19), video)], ("It moves", "It stays"))
    assert prediction.status in ("ok", "no_mask") and prediction.medium_id == "clip0" and set(tracks) == {"1"}


def test_an_object_found_nowhere_is_everything(predictor, video):
    sample = remember(video, {"1": MaskTrack((HEIGHT, WIDTH), (EMPTY,) * 6)}, "What is [1]?")
    encoded, chosen = predictor.encode_medium(sample)
    cells = predictor.encode_prompt(sample, 0, encoded, chosen).prompts.cells
    assert torch.cat(cells).tolist() == list(range(encoded.visual_tokens))


def test_points_that_are_not_there(video):
    with pytest.raises(ConfigError, match="frame=6: clip0 has frames 0 to 5"):
        point("1", 6, 0, 0, video)
    with pytest.raises(ConfigError, match="is not inside a frame of 56x42 px"):
        point("1", 0, 56, 0, video)
    with pytest.raises(ConfigError, match="corners are out of order"):
        box("1", 0, (9, 0, 3, 4), video)
    with pytest.raises(ConfigError, match="shows objects in one way, got"):
        show(video, "[1] [2]", [point("1", 0, 1, 1, video), box("2", 0, (1, 1, 2, 2), video)])
    with pytest.raises(SampleError, match="not mentioned"):
        show(video, "What?", [point("1", 0, 1, 1, video)])
    with pytest.raises(SampleError, match="visible in no annotated frame"):
        show(video, "[1]", [region("1", {0: np.zeros((HEIGHT, WIDTH), dtype=bool)})])
