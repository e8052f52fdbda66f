"""Replies taken apart: the trained form, and what models make of it."""

import random
import string

import pytest

from unipixel.metrics import parse_reply

FORM = "Answer: On the right. Temporal Evidence: [[8.8, 9.5]]. Spatial Evidence: <|seg|>."


def test_the_trained_form():
    reply = parse_reply(FORM)
    assert (reply.answer, reply.segments, reply.n_masks, reply.problems) == ("On the right", [(8.8, 9.5)], 1, ())


@pytest.mark.parametrize("text, answer, segments, n_masks, problems", [
    ("Answer: B. Temporal Evidence: [[0.0, 1.0], [2.5, 3.0]]. Spatial Evidence: <|seg|> <|seg|>.", "B", [(0, 1), (2.5, 3)], 2, ()),
    ("answer: Mr. Smith leaves at 3.5 p.m. TEMPORAL EVIDENCE: [[1, 2]] spatial evidence: <|seg|>", "Mr. Smith leaves at 3.5 p.m", [(1, 2)],
     1, ()),
    ("Answer: It stops.. Temporal Evidence: [[1, 2]]. Spatial Evidence: <|seg|>.", "It stops.", [(1, 2)], 1, ()),
    ("Spatial Evidence: <|seg|>. Temporal Evidence: [[1, 2]]. Answer: On the left.", "On the left", [(1, 2)], 1, ()),
    ("**Answer:** Red\n**Temporal Evidence**: [[1, 2]]\n**Spatial Evidence:** <|seg|><|im_end|>", "Red", [(1, 2)], 1, ()),
    ("Answer: Red. Temporal Evidence: [[1, 2], [3, 4]], roughly. Spatial Evidence: the ball <|seg|>.", "Red", [(1, 2), (3, 4)], 1, ()),
    ("Answer: Red. Temporal Evidence: [1, 2], [3, 4]. Spatial Evidence: <|seg|>.", "Red", [(1, 2), (3, 4)], 1, ()),
    ("Answer: Red. Temporal Evidence: []. Spatial Evidence: <|seg|>.", "Red", [], 1, ("empty_segments",)),
    ("Answer: Red. Temporal Evidence: none. Spatial Evidence: <|seg|>.", "Red", None, 1, ("no_segments",)),
    ("Answer: Red. Temporal Evidence: [[1, 2], [3,", "Red", None, 0, ("malformed_segments", "no_mask_token")),
    ("Answer: Red. Temporal Evidence: [[1, 2], [4, 3]]. Spatial Evidence: <|seg|>.", "Red", [(1, 2)], 1, ("malformed_segments",)),
    ("Answer: Red. Temporal Evidence: [os.exit()]. Spatial Evidence: <|seg|>.", "Red", None, 1, ("malformed_segments",)),
    ("Answer: Red", "Red", None, 0, ("no_segments", "no_mask_token")),
    ("The cup is red.", "The cup is red", None, 0, ("no_answer_label", "no_segments", "no_mask_token")),
    ("Red [[1, 2]] <|seg|>", "Red", [(1, 2)], 1, ("no_answer_label", "no_temporal_label")),
    ("Answer: a [blurred] cup. [[1, 2]]. <|seg|>.", "a [blurred] cup", [(1, 2)], 1, ("no_temporal_label",)),
    ("Temporal Evidence: [[1, 2]].", None, [(1, 2)], 0, ("no_answer", "no_answer_label", "no_mask_token")),
    ("Answer: . Temporal Evidence: [[1, 2]]. Spatial Evidence: <|seg|>.", None, [(1, 2)], 1, ("no_answer",)),
    ("Answer: no answer: B. Temporal Evidence: [[1, 2]]. Spatial Evidence: <|seg|>.", "no answer: B", [(1, 2)], 1, ("repeated_label",)),
    ("", None, None, 0, ("no_reply",)), (" \n", None, None, 0, ("no_reply",)),
])
def test_variants(text, answer, segments, n_masks, problems):
    reply = parse_reply(text)
    assert (reply.answer, reply.segments, reply.n_masks, reply.problems) == (answer, segments, n_masks, problems)


def test_written_replies_are_read_back():
    rng = random.Random(7)
    for _ in range(200):
        words = ["".join(rng.choices(string.ascii_letters + ".,'()", k=rng.randint(1, 8))) for _ in range(rng.randint(1, 6))]
        answer = " ".join(words).strip(" .*_") or "x"
        segments = [(start, start + rng.randint(0, 50) / 10) for start in (rng.randint(0, 900) / 10 for _ in range(rng.randint(1, 3)))]
        text = f"Answer: {answer}. Temporal Evidence: {[list(segment) for segment in segments]}. Spatial Evidence: <|seg|>."
        assert parse_reply(text) == (type(parse_reply(FORM)))(answer, segments, 1, ())


def test_never_raises_on_noise():
    rng = random.Random(11)
    pieces = ["Answer:", "Temporal Evidence:", "Spatial Evidence:", "[", "]", "[[", "1.5", ",", "<|seg|>", "nan", "\x00", "(", "{", "é",
              ". ", "1e999", "-"]
    for _ in range(2000):
        reply = parse_reply("".join(rng.choices(pieces, k=rng.randint(0, 25))))
        assert all(start <= end for start, end in reply.segments or [])
