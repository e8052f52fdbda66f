"""Mapping of replies to options: the accepted spellings, and what must stay unmapped."""

import pytest

from unipixel.metrics import map_option

OPTIONS = ["A red scarf", "Blue boots", "Nothing", "A man in a coat", "Two small dogs"]


@pytest.mark.parametrize("reply, letter", [
    ("B", "B"), ("(B)", "B"), (" b) ", "B"), ("B.", "B"), ("B) blue boots", "B"), ("B. Blue boots.", "B"), ("(e) two small dogs", "E"),
    ("**C**", "C"),
    ("B: Blue boots", "B"), ("B, because he wears them", "B"), ("The answer is C", "C"), ("The answer is C.", "C"), ("Answer: C", "C"),
    ("Answer:C", "C"), ("the correct answer is (D)", "D"), ("Option B is correct", "B"),
    ("I think the answer is C, since it is empty.", "C"),
    ("A man in a coat", "D"), ("a man in a coat.", "D"), ("The answer is A man in a coat", "D"), ("NOTHING!", "C"), ("'blue boots'", "B"),
    ("He is wearing blue boots today", "B"), ("red scarf", "A"), ("small dogs", "E"), ("A", "A"), ("(a)", "A"),
    ("E (Two small dogs)", "E"), ("A) Nothing", None), ("(A) A red scarf (B) Blue boots", None),
    ("a", None), ("a coat", "D"), ("The answer is a.", None), ("A dog", None), ("Answer: B or C", None), ("B, C", None), ("F", None),
    ("(Z)", None),
    ("boots", None), ("", None), ("blue boots and a red scarf", None), ("The answer is A or the answer is B.", None),
    ("The answer is B and C.", None), ("Bicycle", None),
    ("As if", None), ("bluer boots", None),
])
def test_map_option(reply, letter):
    index = map_option(reply, OPTIONS)
    assert (None if index is None else "ABCDE"[index]) == letter


def test_text_wins_over_the_article_in_every_position():
    for shift in range(len(OPTIONS)):
        options = OPTIONS[shift:] + OPTIONS[:shift]
        assert options[map_option("A man in a coat", options)] == "A man in a coat"


def test_repeated_options_are_not_mapped_by_text():
    assert map_option("one cup", ["one cup", "One cup."]) is None
    assert map_option("B", ["one cup", "One cup."]) == 1


def test_no_options():
    assert map_option("B", []) is None
