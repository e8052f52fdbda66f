"""Media inside a shard: images in a stored ZIP, or one video file; read whole, or only the frames that are asked for."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Sequence

from isal import isal_zlib

from unipixel.errors import SampleError

IMAGE_SUFFIX = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png"}
GAP = 64 << 10
"""Frames closer than this in the file are read in one go: a request costs more than the bytes between them."""
DIRECTORY_ENTRY = struct.Struct("<4s12xLLLHHH8xL")
"""ZIP central directory: signature, crc32, packed size, size, lengths of name, extra and comment, offset of the local header."""
LOCAL_HEADER = 30
"""Bytes of a ZIP local header before the name."""

Fetch = Callable[[int, int], bytes]
"""(first, last) -> bytes of the bundle's extent."""


def zip_frames(frames: Sequence[bytes], key: str) -> bytes:
    """Encoded images -> stored ZIP ``00000.jpg`` (or ``.png``) ..., bytes unchanged, no clock inside."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for t, frame in enumerate(frames):
            suffix = IMAGE_SUFFIX.get(bytes(frame[:3]))
            if suffix is None:
                raise SampleError(f"frame {t} is neither JPEG nor PNG (starts with {bytes(frame[:8])!r})", reason="frame_format", key=key)
            archive.writestr(zipfile.ZipInfo(f"{t:05d}{suffix}"), frame)
    return out.getvalue()


def directory_offset(archive: bytes) -> int:
    """Where the central directory of a ZIP without comment begins."""
    return int.from_bytes(archive[-6:-2], "little")


class StoredFrames(Sequence):
    """Encoded frames of a stored ZIP that lies at ``start`` of a bundle's extent.

    Args:
        directory: the ZIP's central directory, with anything behind it.
        start, end: where the ZIP and its directory begin in the extent.
        fetch: reads from the extent.
        check: verify each frame's own checksum (not needed when the whole extent was verified).

    Raises:
        SampleError: reading a frame: ``io``, or ``checksum`` when its bytes are not those that were packed.
    """

    def __init__(self, directory: bytes, start: int, end: int, fetch: Fetch, *, key: str, check: bool):
        self._fetch, self._key, self._check = fetch, key, check
        self._entries: list[tuple[int, int, int, int]] = []  # local header, bytes to skip behind it, size, crc32
        at = 0
        while directory[at:at + 4] == b"PK\x01\x02":
            _, crc, packed, size, name, extra, comment, header = DIRECTORY_ENTRY.unpack_from(directory, at)
            if packed != size:
                raise SampleError(f"frame {len(self._entries)} is compressed inside frames.zip: pack the dataset again", reason="contract", key=key)
            self._entries.append((start + header, name, size, crc))
            at += DIRECTORY_ENTRY.size + name + extra + comment
        # a local header may carry more than the directory says: its own length is read with it
        self._ends = [entry[0] for entry in self._entries[1:]] + [end]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, t):
        return self.read(range(len(self))[t]) if isinstance(t, slice) else self.read([range(len(self))[t]])[0]

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """Encoded bytes of some frames; neighbours are fetched together."""
        wanted = sorted(set(positions))
        found: dict[int, bytes] = {}
        while wanted:
            run = [wanted.pop(0)]
            while wanted and self._entries[wanted[0]][0] - self._ends[run[-1]] <= GAP:
                run.append(wanted.pop(0))
            first = self._entries[run[0]][0]
            data = self._fetch(first, self._ends[run[-1]])
            found |= {t: self._cut(data, first, t) for t in run}
        return [found[t] for t in positions]

    def _cut(self, data: bytes, first: int, t: int) -> bytes:
        header, name, size, crc = self._entries[t]
        extra = int.from_bytes(data[header - first + 28:header - first + 30], "little")
        begin = header - first + LOCAL_HEADER + name + extra
        frame = data[begin:begin + size]
        if self._check and (len(frame) != size or isal_zlib.crc32(frame) != crc):
            raise SampleError(f"frame {t}: {len(frame)} bytes with checksum {isal_zlib.crc32(frame):08x}, packed were {size} bytes with {crc:08x}: "
                              "restore the shard or pack the dataset again", reason="checksum", key=self._key)
        return frame
