"""What tells chosen and rejected replies apart besides being right: length, refusals, markup, overlap. Pairs that differ in style teach style.

All of it is computed from words; no model is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from data_tools.preference.questions import Question
from data_tools.preference.textual import NearDuplicates, jaccard, shingles, words

_REFUSAL = re.compile(r"\b(?:i(?:'m| am) sorry|i (?:can(?:no|')t|am unable|do not have|don't have)|as an ai|cannot be determined"
                      r"|it is not possible to (?:tell|say|determine)|unable to (?:tell|determine|answer))\b", re.IGNORECASE)
_MARKUP = re.compile(r"^\s{0,3}(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|```)|\*\*|__|\|.*\|", re.MULTILINE)
Sides = tuple[str, str]


def is_refusal(text: str) -> bool:
    return bool(_REFUSAL.search(text.replace("’", "'")))


def has_markup(text: str) -> bool:
    """Markdown: headings, lists, code, bold, tables."""
    return bool(_MARKUP.search(text))


def compare(sides: Sequence[Sides]) -> dict[str, Any]:
    """Statistics over (chosen, rejected) texts.

    ``chosen_longer``: share of pairs whose chosen side has more words, ties as a half; a judge that looks at nothing but length would be right
    that often, so 0.5 is best. ``overlap``: mean Jaccard similarity of the sides' runs of three words.
    """
    lengths = np.array([[len(words(text)) for text in pair] for pair in sides], float).reshape(-1, 2)
    longer = (lengths[:, 0] > lengths[:, 1]) + 0.5 * (lengths[:, 0] == lengths[:, 1])
    ratio = np.maximum(lengths[:, 0], 1) / np.maximum(lengths[:, 1], 1)
    result: dict[str, Any] = {"pairs": len(sides), "chosen_words": float(np.median(lengths[:, 0])), "rejected_words": float(np.median(lengths[:, 1])),
                              "length_ratio": float(np.exp(np.log(ratio).mean())), "chosen_longer": float(longer.mean()),
                              "overlap": float(np.mean([jaccard(shingles(c), shingles(r)) for c, r in sides]))}
    for name, test in (("refusals", is_refusal), ("markup", has_markup)):
        for side, number in (("chosen", 0), ("rejected", 1)):
            result[f"{side}_{name}"] = float(np.mean([test(pair[number]) for pair in sides]))
    return result


def by_role(questions: Iterable[Question]) -> dict[str, dict[str, Any]]:
    """:func:`compare` of the preferred reply with every reply of each other role: what of the difference comes with the instruction
    (``control_instruction``), what with the frames (``control_sampling``), and what with both (``adversarial``)."""
    sides: dict[str, list[Sides]] = {}
    for question in questions:
        for preferred in question.of("preferred"):
            for candidate in question.candidates:
                if candidate.role != "preferred":
                    sides.setdefault(candidate.role, []).append((preferred.text, candidate.text))
    return {role: compare(pairs) for role, pairs in sides.items()}


def repeated(texts: Iterable[tuple[str, str]], similarity: float) -> list[tuple[str, str, float]]:
    """(name, earlier name, similarity) of each (name, text) that resembles an earlier one which is itself no repetition."""
    known, found = NearDuplicates(similarity), []
    for name, text in texts:
        near = known.find(text)
        if near is None:
            known.add(name, text)
        else:
            found.append((name, *near))
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows by mode or role, for a terminal."""
    columns = list(next(iter(rows.values()))) if rows else []
    return tabulate([[name, *(f"{row[c]:.3g}" if isinstance(row[c], float) else row[c] for c in columns)] for name, row in rows.items()],
                    headers=["", *(c.replace("_", " ") for c in columns)])
