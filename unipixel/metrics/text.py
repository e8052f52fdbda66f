"""Agreement of a free answer with a reference: exact match, token F1, BLEU and ROUGE-L, on normalised words, per pair of texts.

Normalised: lower case, only letters, digits, underscores and blanks, split at blanks. Two empty texts agree fully, one empty text not at
all. BLEU is the plain sentence score of the POVQA evaluation, without smoothing: it is not comparable with corpus BLEU.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_OTHER = re.compile(r"[^\w\s]")
MAX_ORDER = 4


def words(text: str) -> list[str]:
    return _OTHER.sub("", text.lower()).split()


def exact_match(text: str, reference: str) -> float:
    """1 when the normalised words are the same, else 0."""
    return float(words(text) == words(reference))


def token_f1(text: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words, counted with repetition (SQuAD, without removing articles)."""
    said, true = words(text), words(reference)
    if not said or not true:
        return float(said == true)
    return 2 * _common(said, true, 1) / (len(said) + len(true))


def bleu1(text: str, reference: str) -> float:
    """Clipped share of the words that occur in the reference; no brevity penalty."""
    said, true = words(text), words(reference)
    if not said or not true:
        return float(said == true)
    return _common(said, true, 1) / len(said)


def bleu4(text: str, reference: str) -> float:
    """Geometric mean of the clipped precisions of 1 to 4 words times the brevity penalty (Papineni et al., 2002); 0 when one of them is 0
    or a text has fewer than 4 words."""
    said, true = words(text), words(reference)
    if not said and not true:
        return 1.0
    if min(len(said), len(true)) < MAX_ORDER:
        return 0.0
    precisions = [_common(said, true, n) / (len(said) - n + 1) for n in range(1, MAX_ORDER + 1)]
    if min(precisions) == 0:
        return 0.0
    penalty = min(1.0, math.exp(1 - len(true) / len(said)))
    return penalty * math.exp(sum(map(math.log, precisions)) / MAX_ORDER)


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin, 2004, with beta = 1)."""
    said, true = words(text), words(reference)
    if not said or not true:
        return float(said == true)
    row = [0] * (len(true) + 1)
    for word in said:
        diagonal = 0
        for at, other in enumerate(true, 1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return 2 * row[-1] / (len(said) + len(true))


def _common(said: Sequence[str], true: Sequence[str], n: int) -> int:
    """Runs of ``n`` words in both, each counted as often as in the side that has it less."""
    counts = [Counter(zip(*(side[k:] for k in range(n)))) for side in (said, true)]
    return (counts[0] & counts[1]).total()
