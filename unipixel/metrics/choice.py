"""Which option of a multiple-choice question a reply names; undecidable replies map to none of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TRAILING = " \t\r\n.,;:!?\"'`*_"
_LEADING = " \t\r\n\"'`*_"
_IS = r"(?:\s+(?:is|would be|should be)(?:\s+(?:the\s+)?(?:option|choice))?)?(?:\s*[:\-]\s*|\s+)"
_PREFIX = re.compile(r"^(?:so|thus|therefore|hence)?[,\s]*(?:the\s+)?(?:(?:correct|right|best|final|my)\s+)*"
                     rf"(?:answer|option|choice){_IS}", re.IGNORECASE)
_LETTER = re.compile(r"""^(?:\(\s*(?P<bracketed>[A-Za-z])\s*\)[.:,]?   # (B)  (B) text
                          |(?P<closed>[A-Za-z])\)                      # B)   b) text
                          |(?P<marked>[A-Z])[.:](?=\s|$)               # B.   B: text
                          |(?P<bare>[A-Z])(?=\s*$|,\s+[a-z])           # B    B, because
                          |(?P<reasoned>[A-Z])(?=\s+(?:because|since|as|is\s+correct)\b)
                        )\s*(?P<rest>.*)$""", re.VERBOSE | re.DOTALL)
_STATED = re.compile(rf"\b(?:answer|option|choice){_IS}\(?([A-Z])(?:\)|(?=[.,;:!?]?\s*$)|(?=[.,;]\s))", re.MULTILINE)
_UNDECIDED = re.compile(rf"\b(?:answer|option|choice){_IS}\(?[A-Z]\)?\s+(?:or|and)\b")
_OTHER_LETTER = re.compile(r"(?<!\w)\(?([A-Z])\)")


def map_option(reply_text: str, options: Sequence[str]) -> int | None:
    """Index of the option that ``reply_text`` names, or ``None``.

    Tried in this order: the text of one option (any case, outer punctuation ignored); a letter as in ``B``, ``(B)``, ``B) text``,
    ``B. text``; either of these after "The answer is"; one letter stated that way inside a sentence; one option of two words or more
    that the reply contains, or a reply of two words or more that one option contains. A lower-case letter needs its bracket, so the
    article "a" is never option A. A letter beside another letter in brackets, or beside the text of another option,
    contradicts itself and names none.
    """
    names = [_normalise(option) for option in options]
    text = reply_text.strip(_LEADING)
    for candidate in (text, _PREFIX.sub("", text, count=1).lstrip(_LEADING)):
        exact = _exact(candidate, names)
        if exact is not None:
            return exact
        head = _LETTER.match(candidate)
        if head:
            return _lettered(head, names)
    if _UNDECIDED.search(text):
        return None
    stated = set(_STATED.findall(text))
    if len(stated) == 1:
        index = ord(stated.pop()) - ord("A")
        return index if index < len(names) else None
    return None if stated else _contained(_normalise(text), names)


def same_text(text: str, other: str) -> bool:
    """Equal apart from case, blanks, and punctuation at the ends."""
    return _normalise(text) == _normalise(other)


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_TRAILING)


def _exact(text: str, names: Sequence[str]) -> int | None:
    """Index of the only option with this text; repeated options name nothing."""
    name = _normalise(text)
    return names.index(name) if name and names.count(name) == 1 else None


def _lettered(head: re.Match, names: Sequence[str]) -> int | None:
    letter = next(value for key, value in head.groupdict().items() if key != "rest" and value)
    index = ord(letter.upper()) - ord("A")
    if index >= len(names):
        return None
    if any(other != letter.upper() for other in _OTHER_LETTER.findall(head["rest"])):
        return None
    named = _exact(head["rest"], names)
    return index if named in (None, index) else None


def _contained(name: str, names: Sequence[str]) -> int | None:
    found = {index for index, option in enumerate(names)
             if _has_phrase(name, option) or _has_phrase(option, name)}
    return found.pop() if len(found) == 1 else None


def _has_phrase(text: str, phrase: str) -> bool:
    """Whole words only, and at least two of them: single words ("red", "no") occur by accident."""
    return len(phrase.split()) >= 2 and re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None
