"""Which pictures a panel shows: the key frame with its neighbours, and the rest of the scene evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 8
"""Pictures before and after the key frame."""


def choose(times_s: Sequence[float], moment_s: float | None, limit: int) -> list[int]:
    """Positions of exactly ``limit`` pictures in order of time, of all where there are no more.

    The last :data:`NEIGHBOURS` before the moment and as many from it on (half of ``limit`` each where that is less); the others evenly from
    the remaining ones. Without a moment all are even.

    Args:
        times_s: increasing.
    """
    n = len(times_s)
    if n <= limit:
        return list(range(n))
    near: list[int] = []
    if moment_s is not None:
        each, at = min(NEIGHBOURS, limit // 2), int(np.searchsorted(times_s, moment_s))
        near = [*range(max(0, at - each), at), *range(at, min(n, at + each))]
    others = sorted(set(range(n)) - set(near))
    spread = np.linspace(0, len(others) - 1, limit - len(near)).round().astype(int)
    return sorted([*near, *(others[i] for i in spread)])


def clock(seconds: float) -> str:
    """``mm:ss``; minutes go on counting after an hour."""
    whole = int(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}"
