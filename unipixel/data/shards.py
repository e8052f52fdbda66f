"""Reading packed shards by index. A bundle is one medium with all its examples.

A bundle is three tar members of one key, always in this order: ``meta.json``, ``masks.json``, and ``frames.zip`` (a stored ZIP of the
original image bytes, empty for text) or ``video.mp4`` (an encoded video). The tars are plain USTAR, written by
``unipixel.data.writer`` and readable by ``webdataset``. What is read is verified against checksums: the whole extent of a small bundle;
else its two ends, and then each frame that is used.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from isal import isal_zlib

from unipixel.data import index
from unipixel.data.frames import StoredFrames
from unipixel.data.storage import Storage, is_remote, join
from unipixel.data.stored_video import StoredVideo
from unipixel.data.writer import ShardWriter  # noqa: F401
from unipixel.errors import DataError, SampleError
from unipixel.sample import SCHEMA, Sample, example_from_json, medium_from_json

BLOCK = tarfile.BLOCKSIZE
VIDEO = index.MEDIA_MEMBERS[1]
WHOLE = 256 << 10
"""Bundles up to this many bytes are read in one go."""


@dataclass(frozen=True, eq=False)
class RowGroups(Sequence):
    """Row numbers in groups, as two flat arrays: nothing that forked workers would copy.

    Attributes:
        members: (rows,) int64 row numbers, group after group.
        starts: (groups + 1,) int64 where each group begins in ``members``.
    """

    members: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return tuple(self.members[self.starts[i]:self.starts[i + 1]].tolist())

    @property
    def first(self) -> np.ndarray:
        """(groups,) int64 first row of each group."""
        return self.members[self.starts[:-1]]


class ShardDataset:
    """Reads packed folders by example, in the order of the paths, their shards and their rows. ``len()`` counts examples.

    Cheap to pickle and to fork: a worker opens the shards it touches.

    Args:
        only: name of a single shard to read, of every folder; default: all that the manifests list.

    Attributes:
        rows: pyarrow table of all indexes (``unipixel.data.index.COLUMNS``) and a ``shard`` column (position in ``shards``).
        shards: path or URL of each tar.
        folder_of: (rows,) int32 position of each row's folder in ``paths``.
        fingerprint: hash of the contents and of the order of the folders.
        excluded: keys listed as excluded, per folder.

    Raises:
        DataError: a folder is no finished dataset, is listed twice, or its files are not the ones the manifest lists.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], storage: Storage | None = None, *, only: str | None = None):
        self.paths = [str(p) if is_remote(p) else Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        if not self.paths:
            raise DataError("empty list of dataset folders: name at least one")
        twice = sorted({str(p) for p in self.paths if self.paths.count(p) > 1})
        if twice:
            raise DataError(f"dataset folders are listed more than once: {twice}")
        self.storage = storage or Storage()
        self.manifests = [index.read_manifest(folder, self.storage) for folder in self.paths]
        self.excluded = [index.read_excluded(folder, self.storage) for folder in self.paths]
        self.shards: list[str] = []
        tables, folders = [], []
        for number, (folder, manifest) in enumerate(zip(self.paths, self.manifests, strict=True)):
            for shard in (s for s in manifest["shards"] if only in (None, s["name"])):
                table = index.read_index(folder, shard, self.storage)
                tables.append(table.append_column("shard", pa.repeat(pa.scalar(len(self.shards), pa.int32()), len(table))))
                folders.append(np.full(len(table), number, np.int32))
                self.shards.append(join(folder, shard["name"]))
        self.rows = pa.concat_tables(tables).combine_chunks()
        self.folder_of = np.concatenate(folders)
        prints = [m["fingerprint"] for m in self.manifests]
        self.fingerprint = prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()
        self._shard, self._offset, self._length, self._head, self._tail, self._crc32, self._crc32_ends, self._example = (
            self.rows[name].to_numpy() for name in ("shard", "offset", "length", "head", "tail", "crc32", "crc32_ends", "example"))

    def __len__(self) -> int:
        return len(self._offset)

    @property
    def kinds(self) -> tuple[list[str], np.ndarray]:
        """(names, (rows,) int64 place of each row's kind among them)."""
        codes = pc.dictionary_encode(self.rows["kind"].combine_chunks())
        return codes.dictionary.to_pylist(), codes.indices.to_numpy()

    def place(self, i: int) -> tuple[str, int, str]:
        """(shard, offset, key) of the bundle of row ``i``."""
        return str(self.shards[self._shard[i]]), int(self._offset[i]), self.rows["key"][int(i)].as_py()

    def groups(self, max_turns: int) -> RowGroups:
        """Rows in chunks of up to ``max_turns`` rows of the same bundle and kind, in the order of their first rows."""
        if max_turns < 1:
            raise ValueError(f"max_turns={max_turns} must be at least 1")
        rows = np.arange(len(self))
        kinds = self.kinds[1]
        order = np.lexsort((rows, kinds, self._offset, self._shard))  # rows of a bundle and kind, side by side
        same = [column[order] for column in (self._shard, self._offset, kinds)]
        new = np.ones(len(order), bool)
        new[1:] = np.any([column[1:] != column[:-1] for column in same], axis=0)
        begin = np.flatnonzero(new)
        within = rows - np.repeat(begin, np.diff(np.append(begin, len(order))))
        starts = np.flatnonzero(within % max_turns == 0)
        lengths = np.diff(np.append(starts, len(order)))
        by_first = np.argsort(order[starts], kind="stable")
        ends = np.cumsum(lengths[by_first])
        members = order[np.repeat(starts[by_first] - ends + lengths[by_first], lengths[by_first]) + rows]
        return RowGroups(members, np.concatenate([[0], ends]))

    def sample(self, i: int, examples: Sequence[int] | None = None) -> Sample:
        """The bundle of row ``i`` with that row's example, or with the rows ``examples`` of the same bundle.

        Frames of a large bundle are read when they are asked for.

        Raises:
            SampleError: the stored bytes are damaged (``reason="checksum"``) or do not hold a valid sample; also from its frames.
        """
        rows = [i] if examples is None else list(examples)
        for row in rows:
            if (self._shard[row], self._offset[row]) != (self._shard[i], self._offset[i]):
                raise ValueError(f"row {row} belongs to another bundle than row {i}")
        where, key = f"{self.shards[self._shard[i]]} at offset {self._offset[i]}", self.rows["key"][int(i)].as_py()
        head, tail, length = int(self._head[i]), int(self._tail[i]), int(self._length[i])
        if length <= WHOLE:
            buffer = self.extent(i)
            ends, fetch = (buffer[:head], buffer[tail:]), lambda first, last: buffer[first:last]
        else:
            def fetch(first: int, last: int) -> bytes:
                return self._read(i, first, last - first, key, where)

            ends = fetch(0, head), fetch(tail, length)
            self._verify(isal_zlib.crc32(ends[1], isal_zlib.crc32(ends[0])), self._crc32_ends[i], head + length - tail, key, where)
        try:
            meta, masks, media = _texts(ends[0], key, where)
            if media == VIDEO:
                def load() -> bytes:
                    data = fetch(head, tail)
                    self._verify(isal_zlib.crc32(ends[1], isal_zlib.crc32(data, isal_zlib.crc32(ends[0]))), self._crc32[i], length, key, where)
                    return data

                frames = StoredVideo(load, meta["medium"]["frame_times"], key)
            else:
                frames = StoredFrames(ends[1], head, tail, fetch, key=key, check=length > WHOLE)
            return _parse(meta, masks, frames, key, where, [int(self._example[row]) for row in rows])
        except (KeyError, IndexError, TypeError, struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SampleError(f"{where} does not hold a sample of schema {SCHEMA!r} ({error!r}): pack the dataset again",
                              reason="contract", key=key) from error

    def extent(self, i: int) -> bytes:
        """All bytes of the bundle of row ``i``, headers included, verified (:class:`SampleError`: ``io``, ``checksum``)."""
        where, key = f"{self.shards[self._shard[i]]} at offset {self._offset[i]}", self.rows["key"][int(i)].as_py()
        buffer = self._read(i, 0, int(self._length[i]), key, where)
        self._verify(isal_zlib.crc32(buffer), self._crc32[i], len(buffer), key, where)
        return buffer

    def close(self) -> None:
        """Close the files this process has open; the next read opens them again."""
        self.storage.close()

    def _read(self, i: int, offset: int, length: int, key: str, where: str) -> bytes:
        try:
            return self.storage.read(self.shards[self._shard[i]], int(self._offset[i]) + offset, length)
        except OSError as error:
            raise SampleError(f"cannot read {where}: {error}", reason="io", key=key) from error

    @staticmethod
    def _verify(got: int, packed: int, size: int, key: str, where: str) -> None:
        if got != packed:
            raise SampleError(f"{size} bytes read from {where} have checksum {got:08x}, the index says {int(packed):08x}: restore the shard or "
                              "pack the dataset again", reason="checksum", key=key)


def _texts(head: bytes, key: str, where: str) -> tuple[Any, Any, str]:
    """(meta, masks, name of the media member) from the beginning of an extent, whose last header is that of the media."""
    found, position = {}, 0
    while position < len(head):
        name, size = _header(head[position:position + BLOCK], f"no tar header {position} bytes into {where}", key)
        found[name] = head[position + BLOCK:position + BLOCK + size]
        position += BLOCK + -(-size // BLOCK) * BLOCK
        if len(found) == len(index.TEXT_MEMBERS) + 1:
            break
    texts = [f"{key}.{name}" for name in index.TEXT_MEMBERS]
    media = [f"{key}.{name}" for name in index.MEDIA_MEMBERS]
    if list(found)[:-1] != texts or list(found)[-1] not in media:
        raise SampleError(f"{where} holds the members {list(found)}, expected {texts} and one of {media}: pack the dataset again",
                          reason="missing_member", key=key)
    meta, masks, _ = found.values()
    return read_json(meta), read_json(masks), list(found)[-1].removeprefix(f"{key}.")


def read_json(data: bytes) -> Any:
    """Strictly: ``NaN`` and ``Infinity``, which Python would accept, are errors (``json.JSONDecodeError``), as they are in the format."""
    def refuse(constant: str):
        raise json.JSONDecodeError(f"{constant} is not JSON", constant, 0)

    return json.loads(data, parse_constant=refuse)


def _header(block: bytes, problem: str, key: str) -> tuple[str, int]:
    """(name, size) of a member: the two USTAR fields that reading needs. The checksum of the bundle has vouched for the others, and
    ``tarfile`` would take a fifth of the time that a whole sample takes to read."""
    try:
        if block[257:262] != b"ustar":
            raise ValueError("not USTAR")
        return block[:100].rstrip(b"\0").decode(), int(block[124:136].rstrip(b" \0"), 8)
    except ValueError as error:
        raise SampleError(f"{problem}: {error}", reason="tar_header", key=key) from error


def _parse(meta: Any, masks: Any, frames: StoredFrames | StoredVideo, key: str, where: str, positions: Sequence[int]) -> Sample:
    """Parsed members -> Sample with the examples at ``positions``."""
    schemas = meta["schema"], masks["schema"]
    if schemas != (SCHEMA, SCHEMA):
        raise SampleError(f"{where} has schema {schemas}, this version reads {SCHEMA!r}: pack the dataset again", reason="schema", key=key)
    medium = medium_from_json(meta["medium"], masks["tracks"])
    examples = tuple(example_from_json(meta["examples"][position]) for position in positions)
    return Sample(key, medium, examples, frames, meta["dataset"], meta["split"])
