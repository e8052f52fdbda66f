"""Pooling frames that arrive one by one: several operators in one pass, with one accumulator per term whatever the length of the chunk.

Frames are gathered into small blocks and added to the accumulators by one matrix product in float64, tile by tile so that the product
stays in the cache. NumPy arrays and torch tensors (on any device that knows float64) take the same path and give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from data_tools.pooling.operators import OPERATORS, full_name, mix
from unipixel.errors import ConfigError, SampleError

BLOCK, TILE = 32, 4096
"""Frames gathered before they are added; values per matrix product."""
TIE = 1e-7


class Pooler:
    """Pools chunk after chunk: :meth:`add` frames, then :meth:`finish` the chunk.

    Args:
        operators: name (full or short) -> its parameters, e.g. ``{"WA": {}, "BBLF": {"blend": 0.6}}``.

    Raises:
        ConfigError: unknown operator or parameter.
    """

    def __init__(self, operators: Mapping[str, Mapping[str, float]]):
        if not operators:
            raise ConfigError(f"no pooling operator given; known: {list(OPERATORS)}")
        self.operators = {full_name(name): dict(parameters) for name, parameters in operators.items()}
        self.terms = list(dict.fromkeys(term for name, given in self.operators.items() for term in mix(name, 2, **given)))
        self._kind = self._block = self._sums = None
        self._reset()

    def _reset(self) -> None:
        self.count = self._filled = 0
        self._started = False

    def add(self, frame) -> None:
        """One frame, (H, W, C) array or tensor of any number type; it is copied.

        Raises:
            SampleError: ``frame_size``: it differs in shape or type from the frames before it.
        """
        kind = tuple(frame.shape), frame.dtype
        if not self.count and kind != self._kind:
            self._kind = kind
            make = np.empty if isinstance(frame, np.ndarray) else frame.new_empty
            self._block = make((BLOCK, math.prod(frame.shape)), dtype=frame.dtype)  # used again for every chunk: fresh memory costs more than sums
            self._sums = make((len(self.terms), self._block.shape[1]), dtype=_double(frame))
        elif kind != self._kind:
            raise SampleError(f"frame {self.count} of shape and type {kind} among frames of {self._kind}", reason="frame_size")
        self._block[self._filled] = frame.reshape(-1)
        self._filled += 1
        self.count += 1
        if self._filled == BLOCK:
            self._flush()

    def finish(self, *, rounded: bool = False) -> dict[str, np.ndarray]:
        """Operator -> (H, W, C) float64, or uint8 by :func:`to_uint8` if ``rounded`` (tensors where the frames were); begins a new chunk.

        Raises:
            SampleError: ``no_frames``: nothing was added.
        """
        if not self.count:
            raise SampleError("a chunk without frames cannot be pooled", reason="no_frames")
        self._flush()
        factors = np.zeros((len(self.operators), len(self.terms)))
        for row, (name, parameters) in zip(factors, self.operators.items()):
            for term, factor in mix(name, self.count, **parameters).items():
                row[self.terms.index(term)] = factor
        pooled = dict(zip(self.operators, self._mixed(factors, rounded)))
        self._reset()
        return pooled

    def _mixed(self, factors: np.ndarray, rounded: bool):
        finish = to_uint8 if rounded else lambda values: values
        if not isinstance(self._sums, np.ndarray):
            return finish(self._sums.new_tensor(factors) @ self._sums).reshape(-1, *self._kind[0])
        out = np.empty((len(factors), self._sums.shape[1]), np.uint8 if rounded else np.float64)
        for at in range(0, out.shape[1], TILE):
            out[:, at:at + TILE] = finish(factors @ self._sums[:, at:at + TILE])
        return out.reshape(-1, *self._kind[0])

    def _flush(self) -> None:
        size, self._filled = self._filled, 0
        if not size:
            return
        basis = np.stack([term.weights(self.count)[-size:] for term in self.terms])
        decay = np.array([[term.decay ** size] for term in self.terms])
        block, sums = self._block[:size], self._sums
        if isinstance(sums, np.ndarray):
            for at in range(0, sums.shape[1], TILE):
                new = basis @ block[:, at:at + TILE].astype(np.float64)
                sums[:, at:at + TILE] = sums[:, at:at + TILE] * decay + new if self._started else new
        else:
            new = sums.new_tensor(basis) @ block.double()
            self._sums = sums * sums.new_tensor(decay) + new if self._started else new
        self._started = True


def _double(frame):
    if isinstance(frame, np.ndarray):
        return np.float64
    import torch  # noqa: PLC0415  (preparing films needs NumPy alone)

    return torch.float64


def pool(frames, name: str, **parameters: float):
    """All frames (n, H, W, C), an array or a tensor, pooled into one picture (H, W, C) of float64; see :func:`to_uint8`.

    Raises:
        ConfigError: unknown operator or parameter.
        SampleError: ``no_frames``.
    """
    pooler = Pooler({name: parameters})
    for frame in frames:
        pooler.add(frame)
    return pooler.finish()[full_name(name)]


def to_uint8(picture):
    """Grey levels rounded half up, so that frames that are all alike give themselves back. A guard far below a grey level keeps the two
    sides of a tie together, whatever the order of the additions."""
    rounded = (picture + 0.5 + TIE).clip(0, 255)
    if isinstance(picture, np.ndarray):
        return rounded.astype(np.uint8)
    import torch  # noqa: PLC0415

    return rounded.to(torch.uint8)
