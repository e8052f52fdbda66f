"""COCO compressed RLE read with NumPy: strings to foreground runs, without expanding a mask.

Runs are positions in column-major order (``x * height + y``), as COCO defines them. Format: pycocotools ``maskApi.c``, ``rleFrString``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.errors import DataError

Counts = str | bytes
"""Compressed COCO ``counts``; an empty string is an empty mask."""
EMPTY = ""
_FIRST = np.uint8(ord("0"))


def parse_runs(masks: Sequence[Counts], size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """``counts`` of masks of ``size`` (height, width) -> (starts, ends) of each one's foreground runs, int64, ends exclusive.

    Runs are maximal: none is empty and no two touch. Raises :class:`DataError` when a string is damaged or is of another size.
    """
    return [_runs(values, size) for values in _read_numbers([_raw(counts) for counts in masks])]


def decode(counts: Counts, size: tuple[int, int]) -> np.ndarray:
    """``counts`` -> (height, width) bool."""
    height, width = size
    (starts, ends), = parse_runs([counts], size)
    toggles = np.zeros(height * width + 1, bool)
    toggles[starts] = toggles[ends] = True
    return np.logical_xor.accumulate(toggles)[:-1].reshape(width, height).T


def _raw(counts: Counts) -> bytes:
    if isinstance(counts, str):
        return counts.encode("ascii")
    if isinstance(counts, bytes):
        return counts
    raise DataError(f"mask entry {counts!r}: write an empty string for an empty mask, or the compressed COCO counts")


def _read_numbers(strings: list[bytes]) -> list[np.ndarray]:
    """The numbers in each string: 5 bits per character, lowest first; the 6th bit says that more follow; two's complement."""
    raw = b"".join(strings)
    codes = np.frombuffer(raw, np.uint8) - _FIRST
    if len(codes) and codes.max() > 63:
        raise DataError(f"RLE counts contain {chr(raw[codes.argmax()])!r}, which compressed COCO counts never do")
    last = np.flatnonzero(codes < 0x20)
    first = np.empty_like(last)
    first[:1], first[1:] = 0, last[:-1] + 1
    n_digits = last - first + 1
    digits = codes & 0x1F
    top = digits[last].astype(np.int64)
    values = (top - ((top & 0x10) << 1)) << (5 * (n_digits - 1))
    for digit in range(int(n_digits.max(initial=1)) - 1):
        longer = np.flatnonzero(n_digits > digit + 1)
        values[longer] += digits[first[longer] + digit].astype(np.int64) << (5 * digit)
    ends = np.cumsum([len(string) for string in strings])
    if any(string and (string[-1] - _FIRST) & 0x20 for string in strings):
        raise DataError("RLE counts end inside a number: the string is cut off")
    return np.split(values, np.searchsorted(last, ends[:-1]))


def _runs(values: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of one string -> runs. From the fourth number on they are differences to the length of the last run but one."""
    n_pixels = size[0] * size[1]
    if len(values) == 0:
        return values, values
    lengths = values.copy()
    np.cumsum(values[1::2], out=lengths[1::2])
    np.cumsum(values[2::2], out=lengths[2::2])
    positions = np.cumsum(lengths)
    if lengths.min() < 0 or positions[-1] != n_pixels:
        raise DataError(f"RLE describes {int(positions[-1])} pixels, but size={list(size)} has {n_pixels}: the counts are damaged or "
                        "belong to another size")
    if not lengths[1:].all():
        positions = _drop_empty(lengths)
    ends = positions[1::2]
    return positions[0::2][: len(ends)], ends


def _drop_empty(lengths: np.ndarray) -> np.ndarray:
    """Positions where background and foreground really change, with runs of length 0 removed and their neighbours joined."""
    foreground = np.arange(len(lengths)) % 2 == 1
    present = lengths > 0
    lengths, foreground = lengths[present], foreground[present]
    changes = np.flatnonzero(foreground[1:] != foreground[:-1])
    positions = np.concatenate([np.cumsum(lengths)[changes], [lengths.sum()]])
    return np.concatenate([[0], positions]) if foreground[0] else positions
