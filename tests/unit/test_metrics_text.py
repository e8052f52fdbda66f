"""Text metrics: the golden pairs of their definition, empty texts, and their limits."""

import math

import pytest

from unipixel.metrics import bleu1, bleu4, exact_match, rouge_l, token_f1

ALL = (exact_match, token_f1, bleu1, bleu4, rouge_l)


@pytest.mark.parametrize("text, reference, values", [
    ("the cat sat on the mat", "the cat sat on the red mat today", (0, 0.857143, 1, 0.4 ** 0.25 * math.exp(-1 / 3), 0.857143)),
    ("The man hides the gold, under a grave.", "the man buries the gold under the grave", (0, 0.75, 0.75, 0, 0.75)),
    ("He opens the old safe!", "he opens  the old safe", (1, 1, 1, 1, 1)),
    ("a safe", "a safe", (1, 1, 1, 0, 1)),
    ("", "", (1, 1, 1, 1, 1)), ("", "a safe", (0, 0, 0, 0, 0)), ("a safe", "...", (0, 0, 0, 0, 0)),
])
def test_values(text, reference, values):
    assert [measure(text, reference) for measure in ALL] == pytest.approx(list(values), abs=1e-6)


def test_repetition_is_clipped():
    assert bleu1("the the the the", "the cat") == 0.25 and token_f1("the the the the", "the cat") == pytest.approx(1 / 3)


def test_brevity_and_order():
    """Half of the reference: all precisions 1, penalty exp(1 - 8/4). Order counts for ROUGE-L, not for F1."""
    reference = "one two three four five six seven eight"
    assert bleu4("one two three four", reference) == pytest.approx(0.367879, abs=1e-6)
    assert bleu4(reference + " nine", reference) < 1
    assert token_f1("b a", "a b") == 1 and rouge_l("b a", "a b") == 0.5
