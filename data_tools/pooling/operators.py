"""The pooling operators, each defined once: as a sum of running averages that a single pass over the frames can keep.

A :class:`Term` weighs frame i of n by ``decay**(n-1-i) * (i+1)**power``, which needs no n while frames arrive. An operator says with which
coefficients its terms are added when the chunk is complete; both its weights and its streaming form follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from unipixel.errors import ConfigError, nearest


@dataclass(frozen=True)
class Term:
    """Running sum of frames: ``decay`` 1 keeps old frames, 0 keeps the newest alone; ``power`` 0 weighs all alike, 1 by their number."""

    decay: float = 1.0
    power: float = 0.0

    def weights(self, n: int) -> np.ndarray:
        """(n,) float64, not normalised, oldest frame first."""
        number = np.arange(1, n + 1, dtype=np.float64)
        return self.decay ** (n - number) * number ** self.power


Mix = dict[Term, float]


def _normalised(raw: Mapping[Term, float], n: int, share: float = 1.0) -> Mix:
    total = sum(factor * term.weights(n).sum() for term, factor in raw.items())
    return {term: share * factor / total for term, factor in raw.items()}


def _uniform(n: int) -> Mix:
    return _normalised({Term(): 1.0}, n)


def _exponential(n: int, gamma: float) -> Mix:
    return _normalised({Term(decay=gamma): 1.0}, n)


def _ramp(n: int, power: float) -> Mix:
    return _normalised({Term(power=power): 1.0}, n)


def _blend_with_last(n: int, gamma: float, blend: float) -> Mix:
    mix = _normalised({Term(decay=gamma): 1.0}, n, blend)
    last = Term(decay=0.0)
    mix[last] = mix.get(last, 0.0) + 1.0 - blend  # with gamma 0 they are one term
    return mix


def _rising(n: int, floor: float) -> Mix:
    """Weights that rise in equal steps from ``floor`` to 1: a constant and a multiple of the frame's number."""
    step = (1.0 - floor) / (n - 1) if n > 1 else 0.0
    return _normalised({Term(): floor - step, Term(power=1.0): step} if n > 1 else {Term(): 1.0}, n)


@dataclass(frozen=True)
class Operator:
    """``mix(n, **parameters)``: coefficients of the terms for a chunk of n frames; they make the weights sum to 1."""

    short: str
    summary: str
    mix: Callable[..., Mix]
    defaults: Mapping[str, float] = field(default_factory=dict)

    def bound(self, name: str, parameters: Mapping[str, float]) -> dict[str, float]:
        """Defaults with ``parameters`` over them; :class:`ConfigError` names what is unknown or out of range."""
        for key, value in parameters.items():
            if key not in self.defaults:
                raise ConfigError(f"pooling {name!r} has no parameter {key!r}; known: {sorted(self.defaults)}{nearest(key, self.defaults)}")
            low, high = RANGES[key]
            if not low <= value <= high:
                raise ConfigError(f"pooling {name!r}: {key}={value} must be in {low:g}..{high:g}")
        return {**self.defaults, **parameters}


RANGES = {"gamma": (0.0, 1.0), "power": (0.0, 16.0), "blend": (0.0, 1.0), "floor": (0.0, 1.0)}
GAMMA, BLEND = 0.85, 0.7
OPERATORS: dict[str, Operator] = {
    "weighted_average": Operator("WA", "mean of all frames", _uniform),
    "weighted_average_exponential": Operator("WAE", "frame i of n by gamma**(n-1-i)", _exponential, {"gamma": GAMMA}),
    "weighted_average_ramp": Operator("WAR", "frame i by (i+1)**power", _ramp, {"power": 1.0}),
    "blend_blur_with_last_frame": Operator("BBLF", "blend of the exponential average, the rest of the last frame", _blend_with_last,
                                           {"gamma": GAMMA, "blend": BLEND}),
    "seed_wa": Operator("seed_wa", "as published code has WA: rising in equal steps from floor to 1", _rising, {"floor": 0.1}),
    "seed_war": Operator("seed_war", "as published code has WAR: quadratic", _ramp, {"power": 2.0}),
}
"""By name; the first four are also the names of their folders (:data:`METHODS`)."""
METHODS = tuple(OPERATORS)[:4]
SHORT = {operator.short: name for name, operator in OPERATORS.items()}


def full_name(name: str) -> str:
    """Name in :data:`OPERATORS` of a full or short name, e.g. ``"BBLF"``; :class:`ConfigError` lists them."""
    if (full := SHORT.get(name, name)) not in OPERATORS:
        raise ConfigError(f"unknown pooling operator {name!r}; known: {list(OPERATORS)} or {list(SHORT)}{nearest(name, [*OPERATORS, *SHORT])}")
    return full


def mix(name: str, n: int, **parameters: float) -> Mix:
    """Coefficients of the terms of an operator for n frames.

    Raises:
        ConfigError: unknown operator or parameter, a parameter out of range, or n below 1.
    """
    if n < 1:
        raise ConfigError(f"pooling {name!r} of n={n} frames: at least 1 is needed")
    operator = OPERATORS[full_name(name)]
    return operator.mix(n, **operator.bound(name, parameters))


def weights(name: str, n: int, **parameters: float) -> np.ndarray:
    """Weights of the n frames of a chunk, oldest first, as (n,) float64 that sum to 1.

    The four operators of POVQA are defined as its text defines them; ``seed_wa`` and ``seed_war`` are what its published code computes.

    Args:
        name: a key of :data:`OPERATORS`, or its short name (WA, WAE, WAR, BBLF).
        parameters: of the operator; its ``defaults`` name them.

    Raises:
        ConfigError: unknown operator or parameter, a parameter out of range, or n below 1.
    """
    return np.sum([factor * term.weights(n) for term, factor in mix(name, n, **parameters).items()], axis=0)
