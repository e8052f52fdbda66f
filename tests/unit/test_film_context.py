"""Film scenes as the model sees them: which pictures, which words beside them, one prompt for training and evaluation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.film_scenes import ASKED, SIZE, scene
from tests.tiny_run import tiny_parts
from unipixel.data import film_context, template
from unipixel.data.choose import choose_frames
from unipixel.data.collate import collate
from unipixel.data.encode import SampleEncoder
from unipixel.data.film_context import NO_SPEECH, cards, seed_beside, segments_of
from unipixel.data.media import FrameSettings, patchify
from unipixel.data.pairs import PairEncoder, PairSettings
from unipixel.data.template import TemplateSettings
from unipixel.errors import ConfigError, SampleError
from unipixel.infer.predict import Predictor
from unipixel.infer.predictions import from_record, to_record
from unipixel.infer.settings import evaluation_settings, read_changes
from unipixel.model.grounded import GroundedVLM
from unipixel.sample import Example, MaskTrack, PreferencePair, SceneObject, Subtitle

FILM = TemplateSettings(prompt="film_interleaved", answer_style="rationale", use_subtitles=True, paraphrase=False)


def frames(**changes) -> FrameSettings:
    return FrameSettings(**{"num_frames": 4, "frame_sampling": "uniform", "min_pixels": 784, "max_pixels": 784, "key_frame": True} | changes)


@pytest.fixture(scope="module")
def parts(tiny):
    return tiny_parts(tiny, max_turns=1, num_frames=4)


@pytest.fixture
def make(parts):
    def encoder(text: TemplateSettings = FILM, cls=SampleEncoder, max_tokens: int = 40_960, more: dict | None = None, **changes) -> SampleEncoder:
        return cls(parts[1], frames(**changes), text, sam_size=64, max_tokens=max_tokens, layout=parts[0].family.layout, **(more or {}))
    return encoder


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- which pictures ---------------------------------------------------------------------------------------------------------------------

def test_pictures_of_the_whole_window():
    """Oracles of POVQA's rule round(k (N - 1) / (M - 1)); the key frame is none of the candidates and is shown last, once."""
    assert choose_frames(scene(6, None), frames(), rng()) == [0, 2, 3, 5]
    wanted = [0, 8, 16, 24, 32, 40, 48, 56, 63, 71, 79, 87, 95, 103, 111, 119]
    long = scene(120, None)
    assert choose_frames(long, frames(num_frames=16), rng()) == wanted
    assert choose_frames(long, frames(num_frames=1), rng()) == [60]
    assert choose_frames(scene(8), frames(num_frames=59), rng()) == [0, 1, 2, 3, 4, 5, 7, 8, 6], "at most 59 and the key frame"
    assert choose_frames(scene(8), frames(key_frame=False, num_frames=59), rng()) == [0, 1, 2, 3, 4, 5, 7, 8]


def test_pictures_around_the_pause():
    assert choose_frames(scene(8), frames(frame_sampling="near_ts", num_frames=3), rng()) == [4, 5, 7, 6]
    assert choose_frames(scene(8), frames(frame_sampling="near_ts", num_frames=2), rng()) == [4, 5, 6], "of two equally near the earlier"
    assert choose_frames(scene(8), frames(frame_sampling="all", num_frames=3), rng()) == [0, 1, 2, 6]
    nowhere = scene(8)
    nowhere = dataclasses.replace(nowhere, medium=dataclasses.replace(nowhere.medium, source={}))
    with pytest.raises(SampleError, match="no time of a pause") as error:
        choose_frames(nowhere, frames(frame_sampling="near_ts"), rng())
    assert error.value.reason == "no_pause"


def test_what_ablations_leave():
    assert choose_frames(scene(8), frames(show_frames="key_frame"), rng()) == [6]
    assert choose_frames(scene(8, None), frames(show_frames="key_frame"), rng()) == [5], "without one the picture nearest to the pause"
    assert choose_frames(scene(8), frames(show_frames="none"), rng()) == []


def test_random_frames_leave_the_key_frame_out():
    drawn = {t for n in range(40) for t in choose_frames(scene(8), frames(frame_sampling="random", key_frame=False), np.random.default_rng(n))}
    assert drawn == {0, 1, 2, 3, 4, 5, 7, 8}


# --- which words ------------------------------------------------------------------------------------------------------------------------

def texts(shown) -> list[list[str]]:
    return [[s.text for s in card.segments] for card in shown]


def test_silences_are_segments():
    assert [(s.start_s, s.end_s, s.text) for s in segments_of(scene().medium, 99)] == [
        (0.0, 1.0, ""), (1.0, 3.5, "Give me the key."), (3.0, 4.0, "Never!"), (4.0, 7.2, ""), (7.2, 7.9, "So be it."), (7.9, 8.0, "")]
    assert [s.text for s in segments_of(scene().medium, 3)] == ["", "Give me the key.", ""], "the first ones and the last"
    assert segments_of(scene(said=()).medium, 99) == [Subtitle(0.0, 8.0, "")]


def test_no_second_of_speech_is_called_silent_and_no_word_is_lost():
    """Whichever pictures are shown; the seed's rule looks at the start of a second only and misses what begins inside it."""
    random = np.random.default_rng(3)
    for _ in range(50):
        starts = np.sort(random.uniform(0, 7.5, 6))
        said = tuple(Subtitle(float(s), float(s + random.uniform(0.1, 0.9)), f"w{i}") for i, s in enumerate(starts))
        medium = scene(said=said).medium
        shown = sorted(random.choice([0, 1, 2, 3, 4, 5, 7, 8], random.integers(1, 8), replace=False).tolist())
        found = cards(medium, shown, use_subtitles=True, max_segments=99, align="interval")
        edges = [0.0, *[medium.frame_times[t] for t in shown][1:], 8.0]
        for card, start, end in zip(found, edges, edges[1:]):
            spoken = [s.text for s in said if s.start_s < end and s.end_s > start]
            assert [s.text for s in card.segments] == (spoken or [NO_SPEECH])
        assert {t for card in texts(found) for t in card} >= {s.text for s in said}


def test_times_are_those_of_the_film():
    every = cards(scene().medium, [0, 1, 2, 3, 4, 5, 7, 8, 6], use_subtitles=True, max_segments=99, align="interval")
    assert [c.time_s for c in every] == [100, 101, 102, 103, 104, 105, 106, 107, 105.001] and [c.key for c in every] == [False] * 8 + [True]
    assert texts(every) == [[NO_SPEECH], ["Give me the key."], ["Give me the key."], ["Give me the key.", "Never!"], [NO_SPEECH], [NO_SPEECH],
                            [NO_SPEECH], ["So be it."], [NO_SPEECH]]
    assert (every[1].segments[0].start_s, every[1].segments[0].end_s) == (101.0, 103.5)


def test_seed_alignment():
    """Holding the time with the nearest middle; else a middle within two seconds; else nothing."""
    found = cards(scene().medium, [0, 3, 4, 7], use_subtitles=True, max_segments=99, align="seed")
    assert texts(found) == [[NO_SPEECH], ["Never!"], ["Never!"], [NO_SPEECH]]
    cut = cards(scene(said=(Subtitle(1.0, 1.2, "a"),)).medium, [0, 4], use_subtitles=True, max_segments=2, align="seed")
    assert texts(cut) == [[NO_SPEECH], [NO_SPEECH]]
    assert seed_beside([Subtitle(0.0, 1.0, "a")], [4.0]) == [()], "no segment within two seconds"


# --- the prompt -------------------------------------------------------------------------------------------------------------------------

def test_an_interleaved_prompt_word_for_word():
    rendered = template.render(scene(), FILM, frames=[0, 3, 6], form=template.ChatForm(placed=True))
    assert rendered.text == """<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
You see a scene of a film as 3 pictures in order of time, each with what is said meanwhile. A picture may blend the frames of one second.
The viewer paused the film at t=105.0s; picture #3 shows that moment unblended.
Answer the question.
Question: What does he want?
Reply in exactly two lines:
Reasoning: <the pictures and segments that show it, and what follows from them>
Final Answer: <a short answer>
Rules:
1. Use only what is shown and said here, no knowledge of the film.
2. Name the numbers of pictures or the times of segments that you rely on.
3. Actions and objects: trust the pictures first.
4. Dialogue: trust the words first.
5. If the evidence is not enough, say so, and answer with what is most likely.
<|vision_start|><|video_pad|><|vision_end|>
Picture #1 (t=100.0s)
Segment (101.0-103.5s): Give me the key.
<|vision_start|><|video_pad|><|vision_end|>
Picture #2 (t=103.0s)
Segment (101.0-103.5s): Give me the key.
Segment (103.0-104.0s): Never!
Segment (107.2-107.9s): So be it.
<|vision_start|><|video_pad|><|vision_end|>
Picture #3 (t=105.0s)
Segment (104.0-107.2s): [No speech]<|im_end|>
<|im_start|>assistant
Reasoning: Picture #2 shows his hand. He asks for it.
Final Answer: The key to the tower.<|im_end|>"""


@pytest.mark.parametrize("prompt", ["film_interleaved", "film_classic"])
def test_placeholders_are_as_many_as_pictures(prompt):
    text = dataclasses.replace(FILM, prompt=prompt)
    for shown in ([], [6], [0, 1, 2, 3, 6]):
        said = film_context.user_text(ASKED, scene().medium, shown, text, template.PICTURE)
        assert said.count(template.PICTURE) == len(shown) == said.count("Picture #") and ("paused" in said) == (6 in shown)
        assert "So be it." in said and "{" not in said and "\n\n" not in said
    assert "paused" not in film_context.user_text(ASKED, scene().medium, [6], dataclasses.replace(text, key_frame_hint=False), "#")
    silent = film_context.user_text(ASKED, scene().medium, [0, 6], dataclasses.replace(text, use_subtitles=False), "#")
    assert "So be it." not in silent and "Segment" not in silent.partition("Rules")[0].partition("Reply")[0] and "speech" not in silent


def test_options_are_answered_by_letter():
    asked = Example("q", "evidence", "Who?", ("He", "She"), "She", rationale="She nods.", segments=((0.0, 1.0),))
    said = film_context.user_text(asked, scene().medium, [0], FILM, "#")
    assert "A) He\nB) She\n" in said and "the letter of the option" in said
    assert template.reply_text(asked, FILM) == "Reasoning: She nods.\nFinal Answer: B"
    assert template.reply_text(dataclasses.replace(asked, rationale=""), FILM) == "Final Answer: B", "nothing is invented"
    plain = TemplateSettings(answer_style="rationale")
    assert template.reply_text(asked, plain) == "Reasoning: She nods.\nFinal Answer: B\nTemporal Evidence: [[0.0, 1.0]]."
    hidden = dataclasses.replace(plain, show_options=False)
    assert "Final Answer: She" in template.reply_text(asked, hidden)


def test_prompts_are_named_by_their_wording():
    ours, classic = film_context.prompt_card("film_interleaved"), film_context.prompt_card("film_classic")
    assert ours["version"] == classic["version"] == "1" and len(ours["sha256"]) == 64 and ours["sha256"] != classic["sha256"]
    record = film_context.record(scene().medium, [0, 3, 6], FILM)
    assert record["frames_used"] == 3 and record["frame_times"] == [100.0, 103.0, 105.001] and record["prompt"] == ours
    assert record["subtitle_segments"][1] == {"start": 101.0, "end": 103.5, "text": "Give me the key."}
    assert film_context.record(scene().medium, [0], dataclasses.replace(FILM, use_subtitles=False, prompt="plain"))["subtitle_segments"] == []
    json.dumps(record)


# --- what the model gets ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt", ["film_interleaved", "film_classic"])
@torch.no_grad()
def test_logits_are_those_of_transformers_with_pictures(parts, make, prompt):
    """Every picture an image of its own: their processor's image path, their own positions."""
    model: GroundedVLM = parts[0].eval()
    encoder = make(dataclasses.replace(FILM, prompt=prompt), max_pixels=3136)
    media = [encoder(scene(8)), encoder(scene(7, None, said=()))]
    mine = model(**collate(media, "video")).logits
    theirs = []
    for medium in media:
        (dialogue,) = medium.dialogues
        assert medium.separate and medium.grid[0] == len(medium.shown) > 3 and len(dialogue.visual) == medium.visual_tokens
        ids = dialogue.ids[None].clone()
        ids[ids == model.config.video_token_id] = model.config.image_token_id
        grids = torch.tensor([(1, *medium.grid[1:])] * medium.grid[0])
        kinds = (ids == model.config.image_token_id).int()
        positions, _ = model.core.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=torch.ones_like(ids))
        assert positions[:, 0].equal(dialogue.positions[1:]), "rotary positions of separate images"
        logits = model.core(input_ids=ids, pixel_values=model.normalizer.patches(medium.patches), image_grid_thw=grids, mm_token_type_ids=kinds,
                            attention_mask=torch.ones_like(ids), position_ids=dialogue.positions[:, None]).logits[0]
        theirs.append(logits[dialogue.supervised.nonzero().flatten() - 1])
    torch.testing.assert_close(mine, torch.cat(theirs), atol=1e-5, rtol=0)


def test_only_the_two_lines_are_supervised(parts, make):
    (dialogue,) = make()(scene()).dialogues
    said = parts[1].decode(dialogue.ids[dialogue.supervised])
    assert said == "Reasoning: Picture #2 shows his hand. He asks for it.\nFinal Answer: The key to the tower.<|im_end|>"


def test_pictures_give_way_to_the_token_budget(make):
    whole = make(num_frames=8)(scene())
    length = len(whole.dialogues[0].ids) - int(whole.dialogues[0].supervised.sum())
    assert make(num_frames=8, prompt_tokens=length + 10)(scene()).shown == whole.shown
    sizes = []
    for budget in range(length - 1, length - 200, -40):
        fewer = make(num_frames=8, prompt_tokens=budget)(scene())
        prompt = len(fewer.dialogues[0].ids) - int(fewer.dialogues[0].supervised.sum())
        sizes.append(len(fewer.shown))
        assert prompt <= budget and fewer.shown[-1] == 6, "the key frame stays"
    assert sizes == sorted(sizes, reverse=True) and 1 < sizes[-1] < sizes[0] < 9
    with pytest.raises(SampleError, match="without any pooled picture"):
        make(num_frames=8, prompt_tokens=50)(scene())
    with pytest.raises(ConfigError, match="prompt_tokens=9 limits"):
        make(TemplateSettings(), prompt_tokens=9)


def test_the_budget_holds_whatever_is_said(make):
    """Long words over the border of two pictures stand beside both, so that more pictures can have fewer words."""
    random = np.random.default_rng(5)
    kept = []
    for _ in range(3):
        starts = np.sort(random.uniform(0, 7, 3))
        told = scene(said=tuple(Subtitle(float(s), float(s + random.uniform(0.2, 1.0)), "word " * int(random.integers(5, 60))) for s in starts))
        free = make(num_frames=8)
        lengths = [free.prompt_length(told, choose_frames(told, free.frame_settings, rng(), count)) for count in range(9)]
        for budget in range(lengths[0], max(lengths), 40):
            shown = make(num_frames=8, prompt_tokens=budget).choose_frames(told, rng())
            assert free.prompt_length(told, shown) <= budget
            kept.append(len(shown) - 1 - max(count for count in range(9) if lengths[count] <= budget))
    assert min(kept) >= -3 and np.mean(kept) > -0.5, "close to the most that fit"


def test_pictures_are_cells_of_their_own():
    pixels = torch.randint(0, 255, (3, 3, 28, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches, grid = patchify(pixels, separate=True)
    alone = [patchify(frame[None]) for frame in pixels]
    assert grid == (3, 2, 4) and all(g == (1, 2, 4) for _, g in alone) and patches.equal(torch.cat([p for p, _ in alone]))


def test_a_video_keeps_the_order_of_time(make):
    plain = make(TemplateSettings(paraphrase=False))(scene())
    assert plain.shown == tuple(sorted(plain.shown)) and 6 in plain.shown and not plain.separate and plain.grid[0] == 3


def test_questions_of_one_scene_have_dialogues_of_their_own(make):
    two = scene(examples=(ASKED, dataclasses.replace(ASKED, example_id="r", question="Who is he?")))
    encoded = make(more={"max_turns": 3})(two)
    assert [len(d.visual) for d in encoded.dialogues] == [encoded.visual_tokens] * 2


def test_what_film_prompts_do_not_ask(make):
    """Masks and free dialogues are refused, not left out."""
    with pytest.raises(SampleError, match="answered in words") as error:
        make()(scene(examples=(dataclasses.replace(ASKED, task="refer"),)))
    assert error.value.reason == "film_task"
    track = MaskTrack((SIZE, SIZE), ("",) * 9)
    medium = dataclasses.replace(scene().medium, objects={"o": SceneObject("o", "a key", track)})
    masked = dataclasses.replace(scene(), medium=medium, examples=(dataclasses.replace(ASKED, targets=(("o",),)),))
    with pytest.raises(SampleError, match="1 masks"):
        make()(masked)
    with pytest.raises(SampleError, match="hides what masks"):
        make(TemplateSettings(paraphrase=False), show_frames="none")(masked)


def test_a_subtitle_cannot_pose_as_a_picture(make):
    with pytest.raises(SampleError, match="must not occur in the texts"):
        make()(scene(said=(Subtitle(0.0, 1.0, "<|video_pad|>"),)))


def test_without_pictures_the_words_remain(parts, make):
    encoded = make(show_frames="none")(scene())
    assert encoded.grid is None and "So be it." in parts[1].decode(encoded.dialogues[0].ids)
    assert torch.isfinite(parts[0].eval()(**collate([encoded], "video")).logits).all()


def test_pairs_share_one_interleaved_prompt(parts, make):
    pair = PreferencePair("p", "Reasoning: a\nFinal Answer: The key", "Reasoning: a\nFinal Answer: The dog", "correctness")
    encoder = make(cls=PairEncoder, more={"pairs": PairSettings(supervise="answer")})
    encoded = encoder(scene(examples=(dataclasses.replace(ASKED, pairs=(pair,)),)))
    (row,) = encoded.dialogues
    assert len(row.visual) == encoded.visual_tokens and row.visual.max() < row.branches[0]
    assert parts[1].decode(row.ids[row.supervised]) == " The key<|im_end|> The dog<|im_end|>"


def test_prediction_and_training_see_the_same(parts, make):
    """The evaluation prompt is the training dialogue up to the reply; the record says which frames were shown."""
    predictor = Predictor(parts[0].eval(), parts[1], frames(), FILM, max_new_tokens=2)
    encoded, chosen = predictor.encode_medium(scene())
    asked = predictor.encode_prompt(scene(), 0, encoded, chosen)
    trained = make()(scene())
    length = len(asked.ids)
    assert trained.shown == encoded.shown == tuple(chosen) and encoded.patches.equal(trained.patches)
    assert asked.ids.equal(trained.dialogues[0].ids[:length]) and asked.positions.equal(trained.dialogues[0].positions[:, :length])
    assert trained.dialogues[0].supervised.nonzero()[0].item() == length
    (prediction,) = predictor.predict([scene()])
    assert prediction.shown == encoded.shown and from_record(json.loads(json.dumps(to_record(prediction)))).shown == prediction.shown
    old = to_record(prediction)
    del old["shown"]
    assert from_record(json.loads(json.dumps(old))).shown is None


def test_settings_may_differ_from_training():
    stored = {"frames": {"num_frames": 16, "frame_sampling": "random", "key_frame": True}, "template": {"prompt": "film_interleaved"}}
    found, text = evaluation_settings(stored, read_changes(["num_frames=59", "use_subtitles=true", "show_frames=none", "prompt=film_classic"]))
    assert (found.num_frames, found.frame_sampling, found.key_frame, found.show_frames) == (59, "uniform", True, "none")
    assert text.use_subtitles and text.prompt == "film_classic" and not text.paraphrase
    assert evaluation_settings({"frames": {"frame_sampling": "near_ts"}})[0].frame_sampling == "near_ts"
    for words, message in ((["frames=2"], "num_frames"), (["num_frames=many"], "must be int"), (["prompt"], "name=value"), (["prompt=poem"], "poem")):
        with pytest.raises(ConfigError, match=message):
            evaluation_settings(stored, read_changes(words))
