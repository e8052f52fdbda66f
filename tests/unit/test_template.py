"""Wording of prompts and replies, and which spans of a dialogue are supervised."""

from __future__ import annotations

import numpy as np
import pytest

from unipixel.data.template import (
    EVIDENCE_REQUESTS,
    LOCATE_REQUESTS,
    REFER_REPLIES,
    REFER_REQUESTS,
    REQUESTS,
    SYSTEM,
    TemplateSettings,
    format_segments,
    normalise_query,
    question_text,
    render,
    render_prompt,
    render_turns,
    reply_text,
    turns_of,
)
from unipixel.errors import ConfigError
from unipixel.sample import Example, MaskTrack, Medium, Region, Sample, SceneObject, Subtitle, Turn

PLAIN = TemplateSettings(paraphrase=False)
START = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"


def ask(**changes) -> Example:
    facts = {"question": "Who falls?", "options": ("The man", "The dog."), "answer": "The dog.", "segments": ((0.5, 2.25), (5.0, 7.85))}
    return Example("e", "evidence", **(facts | changes))


def no_medium(*examples: Example) -> Sample:
    return Sample("k", Medium("m", "none"), examples)


@pytest.mark.parametrize(("segments", "text"), [
    ((), "[]"), (((0.0, 1.0),), "[[0.0, 1.0]]"), (((0.5, 2.25), (5.05, 7.85)), "[[0.5, 2.3], [5.1, 7.9]]"),
    (((9.45, 5.45),), "[[9.5, 5.5]]"),  # neither number is exact in binary
])
def test_segments_round_half_up_to_tenths(segments, text):
    assert format_segments(segments) == text


@pytest.mark.parametrize(("expression", "query"), [
    ("The man in red.", "man in red"), ("a dog", "dog"), ("An apple", "apple"), ("theatre", "theatre"), ("the", "the"),
])
def test_query_without_article(expression, query):
    assert normalise_query(expression) == query


def test_question_lists_options_and_asks_for_evidence():
    text = question_text(ask(), "frames", (), PLAIN)
    assert text == f"Who falls?\nOptions:\n(A) The man\n(B) The dog.\n{EVIDENCE_REQUESTS[0]}"
    assert question_text(ask(segments=None, options=(), answer="x"), "frames", (), PLAIN) == "Who falls?"
    assert question_text(ask(), "frames", (), TemplateSettings(answer_style="text", show_options=False)) == f"Who falls?\n{EVIDENCE_REQUESTS[0]}"


def test_subtitles_come_first_with_their_times():
    subtitles = (Subtitle(0.0, 1.24, "Help!"), Subtitle(2.0, 3.0, "Wait."))
    text = question_text(ask(segments=None), "frames", subtitles, TemplateSettings(use_subtitles=True))
    assert text.startswith("[0.0 - 1.2] Help!\n[2.0 - 3.0] Wait.\nWho falls?\n")
    assert "Help" not in question_text(ask(), "frames", subtitles, PLAIN)


@pytest.mark.parametrize(("changes", "style", "reply"), [
    ({}, "letter", "Answer: B. Temporal Evidence: [[0.5, 2.3], [5.0, 7.9]]."),
    ({}, "text", "Answer: The dog. Temporal Evidence: [[0.5, 2.3], [5.0, 7.9]]."),
    ({"segments": ()}, "letter", "Answer: B. Temporal Evidence: []."),
    ({"segments": None}, "letter", "Answer: B."),
    ({"segments": None, "targets": (("a",), ("b", "c"))}, "letter", "Answer: B. Spatial Evidence: <|seg|>, <|seg|>."),
    ({"options": (), "answer": "Nobody"}, "letter", "Answer: Nobody. Temporal Evidence: [[0.5, 2.3], [5.0, 7.9]]."),
])
def test_reply_says_what_was_annotated(changes, style, reply):
    assert reply_text(ask(**changes), TemplateSettings(answer_style=style)) == reply


def test_referring_expressions():
    example = Example("e", "refer", "The red car.", targets=(("a",),))
    assert question_text(example, "image", (), PLAIN) == "Please segment the red car in this image."
    assert "video" in question_text(example, "frames", (), PLAIN, wording=1)
    assert reply_text(example, PLAIN) == "The target is <|seg|>."
    assert {reply_text(example, PLAIN, n) for n in range(20)} == {r.format(seg="<|seg|>") for r in REFER_REPLIES}
    assert len({question_text(example, "frames", (), PLAIN, n) for n in range(20)}) == len(REFER_REQUESTS)


@pytest.mark.parametrize(("form", "question", "prompt"), [
    ("query", "The red car.", "Please segment the red car in this image."),
    ("sentence", "Which car is red?", "Which car is red? Please provide the segmentation mask."),
    ("explanatory", "Which car is red?", "Which car is red? Please provide the segmentation mask and explain why."),
    ("question", "Which car is red", "Which car is red? Please answer the question and provide the segmentation mask."),
    ("description", "A red car.", "Please segment the object according to the description: A red car."),
])
def test_evaluation_wording_by_form(form, question, prompt):
    """To the byte: released weights know these."""
    example = Example("e", "refer", question, targets=(("a",),), form=form, answer="It is red.")
    assert question_text(example, "image", (), PLAIN) == prompt
    assert {question_text(example, "image", (), PLAIN, n) for n in range(len(REQUESTS[form]))} >= {prompt}
    assert all(question.strip(".").removeprefix("The ") in question_text(example, "frames", (), PLAIN, n) for n in range(10))


@pytest.mark.parametrize(("form", "reply"), [
    ("query", "The target is <|seg|>."), ("sentence", "The target is <|seg|>."), ("description", "The target is <|seg|>."),
    ("explanatory", "The target is <|seg|>. It is red."), ("question", "It is red <|seg|>."),
])
def test_reply_by_form(form, reply):
    assert reply_text(Example("e", "refer", "x", targets=(("a",),), form=form, answer="It is red."), PLAIN) == reply


def test_objects_are_located_by_their_ids():
    example = Example("e", "locate", "Who hits [1] with [2]?", targets=(("a",), ("b",)), regions=(Region("1", "a"), Region("2", "b")),
                      visual_prompt="point")
    assert question_text(example, "frames", (), PLAIN) == "Who hits [1] with [2]?. Please localize the relevant objects with IDs."
    assert {reply_text(example, PLAIN, n) for n in range(6)} == {"[1] <|seg|> [2] <|seg|>"}
    assert len({question_text(example, "frames", (), PLAIN, n) for n in range(20)}) == len(LOCATE_REQUESTS) == 6


def test_a_mention_is_marked_once_where_the_user_makes_it():
    track = MaskTrack.from_masks(np.ones((1, 2, 2), dtype=bool))
    medium = Medium("m", "frames", 2, 2, (0.0,), 1.0, {"a": SceneObject("a", "it", track)})
    turns = (Turn("user", "Look."), Turn("assistant", "At [7]?"), Turn("user", "Yes, [7]. Is [7] big?"), Turn("assistant", "Yes, [7] is."))
    sample = Sample("k", medium, (Example("c", "chat", turns=turns, regions=(Region("7", "a"),), visual_prompt="box"),), (b"",))
    text = render(sample, PLAIN).text
    assert "Yes, [7] <|ref|>. Is [7] big?" in text and text.count("<|ref|>") == 1 and "At [7]?<|im_end|>" in text


def test_rendered_dialogue_is_chatml_with_supervised_replies():
    rendered = render_turns([("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you")], has_video=True)
    assert rendered.text == (START + "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Hi<|im_end|>\n<|im_start|>assistant\n"
                             "Hello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you<|im_end|>")
    assert [text for text, supervised in rendered.spans if supervised] == ["Hello<|im_end|>", "See you<|im_end|>"]


def test_examples_become_turns_of_one_dialogue():
    sample = no_medium(ask(), Example("c", "chat", turns=(Turn("user", "Why?"), Turn("assistant", "So."))), ask(answer="The man"))
    rendered = render(sample, PLAIN, (1, 2), (0, 0))
    assert [text for text, supervised in rendered.spans if supervised][0] == "So.<|im_end|>"
    assert rendered.text.count("<|im_start|>user\n") == 2 and "Answer: A." in rendered.text and "<|video_pad|>" not in rendered.text
    with pytest.raises(ValueError, match="zip"):
        render(sample, PLAIN, (0, 1), (0,))


def test_prompt_ends_where_the_reply_begins():
    sample = no_medium(ask())
    prompt = render_prompt(sample, PLAIN)
    assert prompt.text.endswith("<|im_end|>\n<|im_start|>assistant\n") and not any(supervised for _, supervised in prompt.spans)
    assert render(sample, PLAIN).text.startswith(prompt.text), "training and prediction must agree on the prompt"


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match="a letter means nothing without the list"):
        TemplateSettings(answer_style="letter", show_options=False)
    with pytest.raises(ConfigError, match="must be one of"):
        TemplateSettings(answer_style="number")


def test_a_bare_region_gets_a_request():
    """Captions of regions come without a question; the first wording is the one of the benchmark."""
    track = MaskTrack.from_masks(np.ones((1, 4, 4), bool))
    medium = Medium("m", "image", 4, 4, (0.0,), objects={"o": SceneObject("o", "", track)})
    turns = (Turn("user", "[3]"), Turn("assistant", "A cup."))

    def first(question_type: str, wording: int = 0) -> str:
        example = Example("e", "chat", turns=turns, regions=(Region("3", "o"),), visual_prompt="mask", question_type=question_type)
        return turns_of(example, Sample("k", medium, (example,), [b""]), TemplateSettings(), wording)[0][1].splitlines()[-1]

    assert first("region_description") == "Please give a detailed description of the highlighted object [3] in the image."
    assert first("region_short") == "Briefly describe [3]." and first("other") == "[3]"
    assert len({first("region_short", wording) for wording in range(6)}) == 6
