"""Tar shards: the writer and the indexed reader. A bundle is one medium with all its examples.

A bundle is three tar members of one key, always in this order: ``meta.json``, ``masks.json``, ``frames.zip`` (a stored ZIP of the
original image bytes, empty for text). The tars are plain USTAR, written with ``webdataset`` and readable by it. Training reads by
index: one ``pread`` of the bundle's extent, verified against its checksum. Index and manifest belong to ``unipixel.data.index``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import webdataset as wds

from unipixel.data import index
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import SCHEMA, Example, Medium, Sample, example_from_json, medium_from_json, to_json

MEMBERS = ("meta.json", "masks.json", "frames.zip")
IMAGE_SUFFIX = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png"}
MAX_OPEN_SHARDS = 64
BLOCK = tarfile.BLOCKSIZE


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


class StoredFrames(Sequence):
    """Encoded frames inside a stored ZIP at ``buffer[start:]``; only the frames that are asked for are copied out."""

    def __init__(self, buffer: bytes, start: int, size: int):
        with zipfile.ZipFile(io.BytesIO(memoryview(buffer)[start:start + size])) as archive:
            entries = archive.infolist()
        self._buffer = buffer
        self._extents = []
        for entry in entries:
            header = start + entry.header_offset
            name, extra = struct.unpack_from("<HH", buffer, header + 26)
            first = header + 30 + name + extra
            self._extents.append((first, first + entry.file_size))

    def __len__(self) -> int:
        return len(self._extents)

    def __getitem__(self, t):
        if isinstance(t, slice):
            return [self[i] for i in range(*t.indices(len(self)))]
        first, last = self._extents[t]
        return self._buffer[first:last]


class ShardWriter:
    """Writes one split of one dataset; use as a context manager.

    Shards get their names only when complete and the manifest comes last, so an interrupted run leaves no readable dataset; what
    such a run left behind is removed by the next writer of the same folder.

    Args:
        max_bytes: a shard is closed before it would exceed this size; a single larger bundle gets a shard of its own.
        max_bundles: and when it holds this many bundles.

    Raises:
        DataError: ``out_dir`` already holds a finished dataset.
    """

    def __init__(self, out_dir: str | Path, *, dataset: str, split: str, max_bytes: int = 512 << 20, max_bundles: int = 2000):
        self.folder = Path(out_dir)
        self.dataset, self.split = dataset, split
        self.max_bytes, self.max_bundles = max_bytes, max_bundles
        if (self.folder / index.MANIFEST).exists():
            raise DataError(f"{self.folder} already holds a packed dataset: choose another --out or delete that folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_shards()
        self._shards: list[dict[str, Any]] = []
        self._kinds: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._tar: wds.TarWriter | None = None
        self._rows: list[list[dict[str, Any]]] = []
        self._manifest: dict[str, Any] | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None and self._manifest is None:
            self.close()
        elif kind is not None:
            self.abort()

    def write(self, medium: Medium, examples: Sequence[Example], frames: Sequence[bytes]) -> str:
        """Append one bundle and return its key.

        Raises:
            SampleError: the bundle breaks the data contract, repeats a key or an example id, or a frame is no JPEG or PNG.
        """
        key = index.bundle_key(self.dataset, self.split, medium.medium_id)
        if key in self._keys:
            raise SampleError(f"medium {medium.medium_id!r} was already written", reason="duplicate_key", key=key)
        if not examples:
            raise SampleError("a bundle needs at least one example", reason="no_examples", key=key)
        repeated = [e for e, n in Counter(x.example_id for x in examples).items() if n > 1]
        if repeated:
            raise SampleError(f"example ids repeat: {repeated}", reason="duplicate_example", key=key)
        Sample(key, medium, tuple(examples), frames)  # checks the contract
        meta, masks = to_json(medium, examples, dataset=self.dataset, split=self.split)
        members = (_json_bytes(meta, key), _json_bytes(masks, key), zip_frames(frames, key))
        length = sum(BLOCK + -(-len(m) // BLOCK) * BLOCK for m in members)
        if self._tar is not None and (len(self._rows) >= self.max_bundles or self._tar.tarstream.offset + length > self.max_bytes):
            self._finish_shard()
        if self._tar is None:
            self._tar = wds.TarWriter(str(self._temporary()), encoder=False, mtime=0)
        offset = self._tar.tarstream.offset
        for name, data in zip(MEMBERS, members, strict=True):  # one by one: the writer would sort them by name
            self._tar.write({"__key__": key, name: data})
        assert self._tar.tarstream.offset == offset + length
        rows = [index.index_row(key, i, example, medium) for i, example in enumerate(examples)]
        self._rows.append([{**row, "offset": offset, "length": length} for row in rows])
        self._kinds.update(row["kind"] for row in rows)
        self._keys.add(key)
        return key

    def close(self, skipped: SkipLedger | None = None) -> dict[str, Any]:
        """Finish the last shard, write ``skipped.jsonl`` and then the manifest, which is returned.

        Raises:
            DataError: nothing was written.
        """
        skipped = skipped or SkipLedger()
        skipped.write(self.folder / index.SKIPPED)
        if not self._keys:
            raise DataError(f"empty dataset: nothing was packed into {self.folder}, {len(skipped)} items were skipped "
                            f"{skipped.counts or ''}; see {self.folder / index.SKIPPED}")
        self._finish_shard()
        self._manifest = {
            "schema": SCHEMA, "name": self.dataset, "split": self.split,
            "fingerprint": index.fingerprint(self.dataset, self.split, self._shards),
            "bundles": len(self._keys), "examples": sum(s["examples"] for s in self._shards),
            "kinds": dict(sorted(self._kinds.items())), "skipped": skipped.counts, "notes": dict(skipped.notes), "shards": self._shards,
        }
        index.replace_file(self.folder / index.MANIFEST, json.dumps(self._manifest, indent=1, ensure_ascii=False).encode() + b"\n")
        return self._manifest

    def abort(self) -> None:
        """Remove everything this writer wrote except ``skipped.jsonl``."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
        self._remove_shards()

    def _temporary(self) -> Path:
        return self.folder / (index.SHARD_PATTERN.format(len(self._shards)) + ".tmp")

    def _remove_shards(self) -> None:
        for pattern in ("shard-*.tar", "shard-*.tar.tmp", "shard-*.index.parquet", "shard-*.index.parquet.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _finish_shard(self) -> None:
        """Close the tar, take the checksums from what is on disk, rename it, write its index."""
        self._tar.close()
        self._tar = None
        temporary, digest = self._temporary(), hashlib.sha256()
        with open(temporary, "rb") as tar:
            for bundle in self._rows:
                extent = tar.read(bundle[0]["length"])
                digest.update(extent)
                for row in bundle:
                    row["crc32"] = zlib.crc32(extent)
            digest.update(tar.read())
            size = tar.tell()
            os.fsync(tar.fileno())
        rows = [row for bundle in self._rows for row in bundle]
        name = index.SHARD_PATTERN.format(len(self._shards))
        shard = {"name": name, "bytes": size, "sha256": digest.hexdigest(), "bundles": len(self._rows), "examples": len(rows)}
        os.replace(temporary, self.folder / name)
        index.write_index(self.folder, shard, rows)
        self._shards.append(shard)
        self._rows = []


class ShardDataset:
    """Reads packed folders by example, in the order of the paths, their shards and their rows. ``len()`` counts examples.

    Cheap to pickle and to fork: a worker opens the shards it touches, at most ``MAX_OPEN_SHARDS`` at a time.

    Attributes:
        rows: pyarrow table of all indexes (``unipixel.data.index.COLUMNS``) and a ``shard`` column (position in ``shards``).
        shards: path of each tar.
        fingerprint: hash of the contents and of the order of the folders.

    Raises:
        DataError: a folder is no finished dataset, or its files are not the ones the manifest lists.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]):
        self.paths = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        if not self.paths:
            raise DataError("empty list of dataset folders: name at least one")
        self.manifests = [index.read_manifest(folder) for folder in self.paths]
        self.shards: list[Path] = []
        tables = []
        for folder, manifest in zip(self.paths, self.manifests, strict=True):
            for shard in manifest["shards"]:
                table = index.read_index(folder, shard)
                tables.append(table.append_column("shard", pa.repeat(pa.scalar(len(self.shards), pa.int32()), len(table))))
                self.shards.append(folder / shard["name"])
        self.rows = pa.concat_tables(tables)
        prints = [m["fingerprint"] for m in self.manifests]
        self.fingerprint = prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()
        self._shard, self._offset, self._length, self._crc32, self._example = (
            self.rows[name].to_numpy() for name in ("shard", "offset", "length", "crc32", "example"))
        self._files: OrderedDict[int, io.FileIO] = OrderedDict()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self._offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_pid": None}

    def groups(self, max_turns: int) -> list[tuple[int, ...]]:
        """Row numbers in chunks of up to ``max_turns`` rows of the same bundle and kind, in order: one dialogue each."""
        if max_turns < 1:
            raise ValueError(f"max_turns={max_turns} must be at least 1")
        groups: list[list[int]] = []
        open_groups: dict[str, list[int]] = {}
        bundle = None
        for row, (shard, offset, kind) in enumerate(zip(self._shard, self._offset, self.rows["kind"].to_pylist(), strict=True)):
            if (shard, offset) != bundle:
                bundle, open_groups = (shard, offset), {}
            group = open_groups.get(kind)
            if group is None or len(group) == max_turns:
                group = open_groups[kind] = []
                groups.append(group)
            group.append(row)
        return [tuple(group) for group in groups]

    def sample(self, i: int, examples: Sequence[int] | None = None) -> Sample:
        """The bundle of row ``i`` with that row's example, or with the rows ``examples`` of the same bundle.

        Raises:
            SampleError: the stored bytes are damaged (``reason="checksum"``) or do not hold a valid sample.
            ValueError: ``examples`` names rows of another bundle.
        """
        rows = [i] if examples is None else list(examples)
        for row in rows:
            if (self._shard[row], self._offset[row]) != (self._shard[i], self._offset[i]):
                raise ValueError(f"row {row} belongs to another bundle than row {i}")
        where = f"{self.shards[self._shard[i]]} at offset {self._offset[i]}"
        key = self.rows["key"][int(i)].as_py()
        buffer = self._read(i, key, where)
        meta, masks, frames = _members(buffer, key, where)
        return _parse(buffer, key, where, meta, masks, frames, [int(self._example[row]) for row in rows])

    def close(self) -> None:
        """Close the shards this process has open; the next read opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def _file(self, shard: int) -> io.FileIO:
        if self._pid != os.getpid():  # in a forked worker: its own descriptors
            self._files, self._pid = OrderedDict(), os.getpid()
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            self._files[shard] = io.FileIO(self.shards[shard])
            if len(self._files) > MAX_OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
        return self._files[shard]

    def _read(self, i: int, key: str, where: str) -> bytes:
        try:
            buffer = os.pread(self._file(int(self._shard[i])).fileno(), int(self._length[i]), int(self._offset[i]))
        except OSError as error:
            raise SampleError(f"cannot read {where}: {error}", reason="io", key=key) from error
        if zlib.crc32(buffer) != self._crc32[i]:
            raise SampleError(f"{len(buffer)} bytes read from {where} have checksum {zlib.crc32(buffer):08x}, the index says "
                              f"{self._crc32[i]:08x} over {self._length[i]} bytes: restore the shard or pack the dataset again",
                              reason="checksum", key=key)
        return buffer


def _json_bytes(value: Any, key: str) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise SampleError(f"not representable as JSON: {error}", reason="not_json", key=key) from error


def _members(buffer: bytes, key: str, where: str) -> list[tuple[int, int]]:
    """(start, size) of each of ``MEMBERS`` in a bundle's extent, found by walking the tar headers."""
    found, position = {}, 0
    while position < len(buffer):
        try:
            header = tarfile.TarInfo.frombuf(buffer[position:position + BLOCK], "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise SampleError(f"no tar header {position} bytes into {where}: {error}", reason="tar_header", key=key) from error
        found[header.name] = (position + BLOCK, header.size)
        position += BLOCK + -(-header.size // BLOCK) * BLOCK
    expected = [f"{key}.{name}" for name in MEMBERS]
    if list(found) != expected:
        raise SampleError(f"{where} holds the members {list(found)}, expected {expected}: pack the dataset again",
                          reason="missing_member", key=key)
    return list(found.values())


def _parse(buffer: bytes, key: str, where: str, meta, masks, frames, positions: Sequence[int]) -> Sample:
    """Members -> Sample with the examples at ``positions``."""
    try:
        meta, masks = (json.loads(buffer[start:start + size]) for start, size in (meta, masks))
        schemas = meta["schema"], masks["schema"]
        if schemas != (SCHEMA, SCHEMA):
            raise SampleError(f"{where} has schema {schemas}, this version reads {SCHEMA!r}: pack the dataset again", reason="schema", key=key)
        medium = medium_from_json(meta["medium"], masks["tracks"])
        examples = tuple(example_from_json(meta["examples"][position]) for position in positions)
        stored = StoredFrames(buffer, *frames)
    except (KeyError, IndexError, TypeError, zipfile.BadZipFile, struct.error, json.JSONDecodeError) as error:
        raise SampleError(f"{where} does not hold a sample of schema {SCHEMA!r} ({error!r}): pack the dataset again",
                          reason="contract", key=key) from error
    return Sample(key, medium, examples, stored, meta["dataset"], meta["split"])
