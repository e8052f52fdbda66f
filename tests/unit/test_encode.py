"""Samples as arrays: which tokens are labels, which frames and masks are targets, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evidence_samples import painted
from tests.tiny_run import HEIGHT, WIDTH, clip, questions, still, tiny_parts
from unipixel.data.encode import SampleEncoder, tokenize
from unipixel.data.media import FrameSettings
from unipixel.data.targets import resize_masks
from unipixel.data.template import Rendered, TemplateSettings
from unipixel.errors import SampleError
from unipixel.sample import Example, MaskTrack, Medium, Sample, SceneObject, Turn

PLAIN = TemplateSettings(paraphrase=False)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny_parts(tiny, deepspeed="")[1]


@pytest.fixture
def make(tokenizer):
    def encoder(frames: dict | None = None, text: TemplateSettings = PLAIN, **changes) -> SampleEncoder:
        settings = FrameSettings(**{"num_frames": 4, "frame_sampling": "uniform", "min_pixels": 784, "max_pixels": 3136} | (frames or {}))
        return SampleEncoder(tokenizer, settings, text, sam_size=64, **changes)
    return encoder


def sample(index: int = 0, examples: list[Example] | None = None) -> Sample:
    medium, frames, _ = clip(index)
    return Sample(f"k{index}", medium, tuple(examples or questions(index)), frames)


def labelled(tokenizer, dialogue) -> list[str]:
    """The text of each run of supervised tokens."""
    runs, at = [], None
    for i, on in enumerate([*dialogue.supervised.tolist(), False]):
        if on and at is None:
            at = i
        if not on and at is not None:
            runs.append(tokenizer.decode(dialogue.ids[at:i]))
            at = None
    return runs


# --- labels -----------------------------------------------------------------------------------------------------------------------------

def test_labels_are_the_replies_and_their_ends(make, tokenizer):
    question, refer, chat = make()(sample(2)).dialogues
    assert labelled(tokenizer, question) == ["Answer: A. Temporal Evidence: [[0.5, 2.0]]. Spatial Evidence: <|seg|>.<|im_end|>"]
    assert labelled(tokenizer, refer) == ["The target is <|seg|>.<|im_end|>"]
    assert labelled(tokenizer, chat) == ["A red box at height 2 and a blue box.<|im_end|>", "The blue one.<|im_end|>"]


def test_several_examples_in_one_dialogue_are_all_labelled(make, tokenizer):
    for epoch in range(5):
        (dialogue,) = make(max_turns=3)(sample(2), epoch).dialogues
        assert sorted(labelled(tokenizer, dialogue)) == sorted(
            ["Answer: A. Temporal Evidence: [[0.5, 2.0]]. Spatial Evidence: <|seg|>.<|im_end|>", "The target is <|seg|>.<|im_end|>",
             "A red box at height 2 and a blue box.<|im_end|>", "The blue one.<|im_end|>"])


def test_everything_is_in_the_dialogue_once(make, tokenizer):
    """Prompt and reply decode to the rendered text; the placeholder stands once per visual token."""
    encoded = make()(sample(1))
    assert encoded.grid == (2, 4, 4) and encoded.visual_tokens == 8
    text = tokenizer.decode(encoded.dialogues[0].ids)
    assert text.count("<|video_pad|>") == 8 and text.startswith("<|im_start|>system\n") and text.endswith("<|seg|>.<|im_end|>")
    assert encoded.dialogues[0].visual[0] == encoded.dialogues[0].ids.tolist().index(tokenizer.convert_tokens_to_ids("<|video_pad|>"))


@pytest.mark.parametrize("text", ["Größe — 你好 🙂", "a\n\n b ", " ", "x" * 50])
def test_any_reply_is_labelled_exactly(make, tokenizer, text):
    chat = Example("c", "chat", turns=(Turn("user", text), Turn("assistant", text), Turn("user", "And?"), Turn("assistant", text + ".")))
    (dialogue,) = make()(Sample("k", Medium("m", "none"), (chat,))).dialogues
    assert labelled(tokenizer, dialogue) == [f"{text}<|im_end|>", f"{text}.<|im_end|>"]


def test_a_token_across_a_border_is_refused():
    class Merging:
        """A tokenizer that joins two characters over the border of a span."""

        def __call__(self, text, **_):
            return {"input_ids": [1, 2, 3], "offset_mapping": [(0, 2), (2, 4), (4, 5)]}

        def convert_tokens_to_ids(self, token):
            return -1

    with pytest.raises(SampleError, match="token 'cd' crosses the border") as caught:
        tokenize(Rendered((("abc", False), ("de", True))), Merging(), 0, "key")
    assert caught.value.reason == "label_border" and caught.value.key == "key"
    _, supervised = tokenize(Rendered((("ab", False), ("cde", True))), Merging(), 0)
    assert supervised.tolist() == [False, True, True]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"question": "What is <|video_pad|>?"}, "visual_placeholder"), ({"question": "Is <|seg|> it?"}, "seg_count"),
])
def test_special_tokens_in_a_question_are_refused(make, changes, reason):
    example = Example("e", "evidence", **({"question": "What?", "answer": "This", "targets": (("red",),)} | changes))
    with pytest.raises(SampleError) as caught:
        make()(sample(0, [example]))
    assert caught.value.reason == reason


def test_long_dialogues_are_refused_not_cut(make):
    length = len(make()(sample(0)).dialogues[0].ids)
    make(max_tokens=length)(sample(0, questions(0)[:1]))
    with pytest.raises(SampleError, match=f"{length} tokens, max_tokens={length - 1}") as caught:
        make(max_tokens=length - 1)(sample(0, questions(0)[:1]))
    assert caught.value.reason == "too_long"


# --- positions --------------------------------------------------------------------------------------------------------------------------

def test_positions_follow_the_true_times(make):
    """6 frames at 2 per second, 4 of them uniformly: 0.0, 1.0, 1.5 and 2.5 s make cells at 0.0 and 1.5 s, 3 half-seconds apart."""
    encoded = make()(sample(0))
    dialogue = encoded.dialogues[0]
    start = int(dialogue.visual[0])
    assert dialogue.positions[0].tolist() == list(range(len(dialogue.ids)))
    assert dialogue.positions[1, start:start + 8].tolist() == [start] * 4 + [start + 3] * 4
    assert dialogue.positions[2, start:start + 8].tolist() == [start, start, start + 1, start + 1] * 2
    assert dialogue.positions[3, start:start + 8].tolist() == [start, start + 1] * 4
    assert dialogue.positions[1:, start + 8].tolist() == [start + 4] * 3


def test_text_has_no_visual_part(make):
    encoded = make()(Sample("k", Medium("m", "none"), (Example("e", "evidence", "How many?", answer="Two"),)))
    assert encoded.patches is None and encoded.frames is None and encoded.visual_tokens == 0
    assert encoded.dialogues[0].positions.unique(dim=0).shape[0] == 1


# --- frames -----------------------------------------------------------------------------------------------------------------------------

def test_short_clips_are_padded_for_sam2_and_the_copies_never_supervised(make):
    medium, frames, _ = clip(0, frames=3)
    encoded = make({"num_frames": 5})(Sample("k", medium, (questions(0)[1],), frames))
    assert encoded.frames.shape == (5, 3, 64, 64) and encoded.grid[0] == 2
    assert encoded.frames[3].equal(encoded.frames[2]) and encoded.frames[4].equal(encoded.frames[2])
    assert encoded.dialogues[0].annotated.tolist() == [[True, False, True, False, False]]


def test_an_image_is_one_frame(make):
    medium, examples, frames = still(0, with_mask=True)
    encoded = make()(Sample("k", medium, tuple(examples), frames))
    assert encoded.frames.shape == (1, 3, 64, 64) and encoded.grid == (1, 4, 4)
    assert list(encoded.dialogues[0].masks) == [(0, 0)] and encoded.dialogues[0].annotated.all()


def test_no_frames_for_sam2_without_masks(make):
    assert make()(sample(0, questions(0)[2:])).frames is None
    encoded = make()(sample(0), with_masks=False)
    assert encoded.frames is None and not encoded.dialogues[0].masks


def test_draws_depend_on_seed_key_and_epoch_only(make):
    encoder = make({"num_frames": 2, "frame_sampling": "random"}, TemplateSettings())

    def content(encoded):
        return encoded.patches.sum().item(), [d.ids.tolist() for d in encoded.dialogues]

    first = content(encoder(sample(0), 0))
    encoder(sample(1), 3)
    torch.manual_seed(5)
    np.random.seed(5)
    assert content(encoder(sample(0), 0)) == first
    assert len({str(content(encoder(sample(0), epoch))) for epoch in range(6)}) > 3


# --- masks ------------------------------------------------------------------------------------------------------------------------------

def half_resized(masks: np.ndarray, t: int) -> torch.Tensor:
    return resize_masks(torch.from_numpy(masks[t])[None], 64)[0]


def test_targets_are_masks_of_the_chosen_frames(make):
    """Frames 0, 2, 3, 5: the blue box is annotated on 0 and 2 only, the red one on all."""
    masks = clip(0)[2]
    encoded = make()(sample(0, questions(0)[:2]))
    red, blue = encoded.dialogues
    assert red.annotated.tolist() == [[True] * 4] and blue.annotated.tolist() == [[True, True, False, False]]
    for t, position in enumerate((0, 2, 3, 5)):
        assert painted(red, encoded, 64)[0, t].equal(half_resized(masks["red"], position))
    of_blue = painted(blue, encoded, 64)[0]
    assert of_blue[1].equal(half_resized(masks["blue"], 2)) and not of_blue[2:].any()


def test_unions_need_every_object_annotated(make):
    masks = clip(0)[2]
    both = Example("e", "evidence", "Which?", answer="Both", targets=(("red", "blue"),))
    encoded = make()(sample(0, [both]))
    (dialogue,) = encoded.dialogues
    assert dialogue.annotated.tolist() == [[True, True, False, False]]
    assert painted(dialogue, encoded, 64)[0, 0].equal(half_resized(masks["red"] | masks["blue"], 0))


def test_not_visible_is_a_target_too(make):
    """Annotated as absent: an empty mask that counts; a target without objects is absent everywhere."""
    medium, frames, masks = clip(0)
    track = MaskTrack.from_masks(masks["blue"])
    medium = Medium("m", "frames", WIDTH, HEIGHT, medium.frame_times, 3.0, {"blue": SceneObject("blue", "the box", track)})
    example = Example("e", "evidence", "Where?", answer="There", targets=(("blue",), ()))
    encoded = make()(Sample("k", medium, (example,), frames))
    (dialogue,) = encoded.dialogues
    assert dialogue.annotated.all() and painted(dialogue, encoded, 64).flatten(2).any(-1).tolist() == [[True, True, True, False], [False] * 4]


@pytest.mark.parametrize(("shape", "size"), [((480, 640), 16), ((100, 3000), 32), ((42, 56), 64)])
def test_tiny_masks_keep_a_pixel(shape, size):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[shape[0] // 3, shape[1] // 3] = True
    small = resize_masks(mask[None], size)
    assert small.any() and small.sum() <= max(4, size * size / (shape[0] * shape[1]) * 4)


def test_large_masks_keep_their_area():
    mask = torch.zeros(96, 128, dtype=torch.bool)
    mask[24:72, 32:96] = True
    assert abs(resize_masks(mask[None], 64).float().mean() - mask.float().mean()) < 0.01
    assert resize_masks(torch.ones(1, 9, 7, dtype=torch.bool), 64).all()


def test_max_objects_limits_the_masks_of_a_medium(make):
    """Drawn anew in each epoch; what is left out loses its mask but keeps its words."""
    kept = set()
    for epoch in range(12):
        dialogues = make(max_objects=1)(sample(0, questions(0)[:2]), epoch).dialogues
        counts = [len(d.seg) for d in dialogues]
        assert sorted(counts) == [0, 1]
        kept.add(counts.index(1))
        for dialogue in dialogues:
            assert len(dialogue.annotated) == len(dialogue.seg) and all(o < len(dialogue.seg) for o, _ in dialogue.masks)
        full = make()(sample(0, questions(0)[:2]), epoch).dialogues
        assert [d.ids.tolist() for d in dialogues] == [d.ids.tolist() for d in full]
    assert kept == {0, 1}


def test_masks_stay_with_their_seg_tokens_when_turns_are_shuffled(make, tokenizer):
    masks = clip(3)[2]
    seg = tokenizer.convert_tokens_to_ids("<|seg|>")
    orders = set()
    for epoch in range(8):
        encoded = make(max_turns=2)(sample(3, questions(3)[:2]), epoch)
        (dialogue,) = encoded.dialogues
        assert (dialogue.ids[dialogue.seg] == seg).all() and len(dialogue.seg) == 2
        text = tokenizer.decode(dialogue.ids)
        names = ["red", "blue"] if text.index("What does the red") < text.index("segment the blue") else ["blue", "red"]
        for o, name in enumerate(names):
            assert painted(dialogue, encoded, 64)[o, 0].equal(half_resized(masks[name], 0))
        orders.add(tuple(names))
    assert len(orders) == 2


def test_frames_that_are_annotated_are_drawn_first(make):
    """The blue box is annotated on even frames: each of the 3 stretches of 2 frames has one."""
    encoder = make({"num_frames": 3, "frame_sampling": "random"})
    for epoch in range(8):
        assert encoder(sample(0, questions(0)[1:2]), epoch).dialogues[0].annotated.all()


def test_unreadable_frames_name_the_sample(make):
    medium, frames, _ = clip(0)
    with pytest.raises(SampleError, match="k0, frame 2") as caught:
        make()(Sample("k0", medium, (questions(0)[0],), [*frames[:2], b"\xff\xd8\xff", *frames[3:]]))
    assert caught.value.reason == "unreadable_frame"
