"""Label pictures: PNG files whose pixel is the number of an object, as DAVIS, SA-V and their challenge servers exchange them.

A palette picture is read as its indices, never as its colours. The usual file (palette or 8-bit grey, not interlaced, rows unfiltered) is
inflated directly, which takes a fifth of Pillow's time; any other goes through Pillow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image, UnidentifiedImageError

from unipixel.errors import DataError

VOID = 255
"""Label of pixels that belong to no object and, in the semi-supervised task, to the background."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_BUFFER = 1 << 24
"""First guess of the inflated size, whatever a damaged header claims."""
_MODES = ("L", "P", "1")


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) uint8 labels. Raises :class:`DataError` when the file is missing, damaged, or a colour picture."""
    try:
        data = Path(path).read_bytes()
        labels = _plain(data)
        if labels is not None:
            return labels
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise DataError(f"{path} is a picture of mode {image.mode}: labels are palette or grey PNG files")
            return np.asarray(image, np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, struct.error, isal_zlib.error) as error:
        raise DataError(f"{path} is not a readable label picture: {error}") from error


def _plain(data: bytes) -> np.ndarray | None:
    """Labels of a palette or 8-bit grey file of unfiltered rows; ``None``: ask Pillow."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced or not (colour == _PALETTE or (colour, depth) == (_GREY, 8)):
        return None
    parts = b"".join(body for kind, body in _chunks(data) if kind == b"IDAT")
    if isal_zlib.decompressobj().decompress(parts, 1) != b"\0":  # the first row has a filter
        return None
    stride = 1 + (width * depth + 7) // 8
    raw = np.frombuffer(isal_zlib.decompress(parts, bufsize=min(max(1, height * stride), _BUFFER)), np.uint8)
    if raw.size != height * stride:
        return None
    rows = raw.reshape(height, stride)
    filters, labels = rows[:, 0], rows[:, 1:]
    if filters.any():
        return None
    if depth < 8:  # several pixels in a byte, the leftmost in the highest bits
        shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
        labels = (labels[:, :, None] >> shifts & (1 << depth) - 1).reshape(height, -1)[:, :width]
    return labels


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of every chunk; checks the checksums."""
    at = len(_SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if isal_zlib.crc32(data[at + 4:at + 8 + length]) != crc:
            raise OSError(f"checksum of the {kind!r} chunk is wrong")
        yield kind, body
        at += 12 + length
