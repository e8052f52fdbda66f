"""Which division of the films a run belongs to, so that numbers of different divisions are never set side by side by mistake."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from unipixel.errors import DataError
from unipixel.sample import Sample

HASH_DIGITS = 16


def split_of(samples: Sequence[Sample]) -> dict[str, str]:
    """``split`` and ``split_hash``: of the division that the media were packed with, else of the media that were asked about.

    Raises:
        DataError: the media are of several divisions.
    """
    stored = {sample.medium.source.get("split_hash") for sample in samples}
    if len(stored) > 1:
        raise DataError(f"the questions are of {len(stored)} divisions of the films (split_hash {sorted(map(str, stored))}): pack them together")
    names = "\n".join(sorted({sample.medium.medium_id for sample in samples}))
    return {"split": "+".join(dict.fromkeys(sample.split for sample in samples)),
            "split_hash": stored.pop() or hashlib.sha256(names.encode()).hexdigest()[:HASH_DIGITS]}
