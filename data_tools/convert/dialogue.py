"""Dialogues as public instruction sets store them (``[{"from", "value"}]``) -> turns, and the tags that mark pictures and regions.

Placeholders such as ``<image>`` say where a picture stood in the prompt of another model. Here the medium is shown once, before the
first turn, so a placeholder at either end of a text is cut off; one in the middle of a text cannot be kept and is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data_tools.convert.base import field
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import Turn

ROLES = {"human": "user", "gpt": "assistant"}
PLACEHOLDER = re.compile(r"<(?:image|video)>")
AT_ENDS = re.compile(r"^(?:\s*<(?:image|video)>\s*)+|(?:\s*<(?:image|video)>\s*)+$")
REGION_TAG = re.compile(r"<\s*(?:of\s+)?reg(?:io|i|oi)n\s*(?:of\s+)?(\d+)(?:\s*>)?", re.IGNORECASE)
CANONICAL = re.compile(r"<region[1-9]\d*>")
BEGINS_LIKE_A_TAG = re.compile(r"<[^a-z]*(?:of\s+)?reg", re.IGNORECASE)


def without_placeholders(text: str) -> str:
    """Text without ``<image>`` and ``<video>`` at its ends (``placeholder`` when one is left inside)."""
    text = AT_ENDS.sub("", text)
    if PLACEHOLDER.search(text):
        raise SampleError(f"a picture is placed inside the text {text[:80]!r}", reason="placeholder")
    return text


def read_turns(raw: Sequence[Any], ledger: SkipLedger) -> tuple[Turn, ...]:
    """Turns that alternate and end with a reply. A reply without question before it and a last question without reply are cut, and noted.

    Raises:
        SampleError: ``roles``, ``empty_turn``, ``placeholder`` or ``bad_record``.
    """
    turns = []
    for item in raw:
        speaker = field(item, "from", str)
        if speaker not in ROLES:
            raise SampleError(f"turn of {speaker!r}, expected one of {list(ROLES)}", reason="roles")
        turns.append(Turn(ROLES[speaker], without_placeholders(field(item, "value", str))))
    if turns and turns[0].role == "assistant":
        ledger.note("first turns cut: a reply without a question")
        turns = turns[1:]
    if turns and turns[-1].role == "user":
        ledger.note("last turns cut: a question without a reply")
        turns = turns[:-1]
    if not turns or [t.role for t in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise SampleError(f"turns of {[t.role for t in turns]} do not alternate", reason="roles")
    if not all(turn.text.strip() for turn in turns):
        raise SampleError("a turn has no text", reason="empty_turn")
    return tuple(turns)


def read_regions(text: str, count: int, ledger: SkipLedger) -> tuple[str, list[int]]:
    """``<region3>`` -> ``[3]``, and the numbers in the order of their mention. Known misspellings of the tag are repaired and noted.

    A tag that is not closed ends after its digits; nothing beside the tag is changed.

    Raises:
        SampleError: ``region_tag``: something begins like a tag and is none; ``region_range``: its number is not in 1..``count``.
    """
    numbers: list[int] = []
    repaired: list[str] = []

    def mention(match: re.Match) -> str:
        if not CANONICAL.fullmatch(match[0]):
            repaired.append(match[0])
        numbers.append(int(match[1]))
        return f"[{numbers[-1]}]"

    text = REGION_TAG.sub(mention, text)
    left = BEGINS_LIKE_A_TAG.search(text)
    if left:
        raise SampleError(f"no region tag: {text[left.start():left.start() + 20]!r}", reason="region_tag")
    wrong = [n for n in numbers if not 1 <= n <= count]
    if wrong:
        raise SampleError(f"regions {wrong} of {count}", reason="region_range")
    if repaired:
        ledger.note("region tags repaired", len(repaired))
    return text, list(dict.fromkeys(numbers))
