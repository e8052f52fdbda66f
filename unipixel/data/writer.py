"""The shard writer: bundles of one split into USTAR files with an index beside each, and the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import webdataset as wds
from isal import isal_zlib

from unipixel.data import index
from unipixel.data.frames import directory_offset, zip_frames
from unipixel.data.ledger import SkipLedger
from unipixel.data.stored_video import StoredVideo
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, Medium, Sample, to_json

BLOCK = tarfile.BLOCKSIZE


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
        """Append one bundle and return its key. ``frames``: encoded images, or a ``StoredVideo`` that is kept as it is.

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
        if isinstance(frames, StoredVideo):
            names, media = (*index.TEXT_MEMBERS, index.MEDIA_MEMBERS[1]), frames.data
            table = len(media)
        else:
            names, media = (*index.TEXT_MEMBERS, index.MEDIA_MEMBERS[0]), zip_frames(frames, key)
            table = directory_offset(media)
        members = (_json_bytes(meta, key), _json_bytes(masks, key), media)
        sizes = [BLOCK + -(-len(m) // BLOCK) * BLOCK for m in members]
        length, head = sum(sizes), sizes[0] + sizes[1] + BLOCK
        if self._tar is not None and (len(self._rows) >= self.max_bundles or self._tar.tarstream.offset + length > self.max_bytes):
            self._finish_shard()
        if self._tar is None:
            self._tar = wds.TarWriter(str(self._temporary()), encoder=False, mtime=0)
        offset = self._tar.tarstream.offset
        for name, data in zip(names, members, strict=True):  # one by one: the writer would sort them by name
            self._tar.write({"__key__": key, name: data})
        assert self._tar.tarstream.offset == offset + length
        rows = [index.index_row(key, i, example, medium) for i, example in enumerate(examples)]
        place = {"offset": offset, "length": length, "head": head, "tail": head + table}
        self._rows.append([row | place for row in rows])
        self._kinds.update(row["kind"] for row in rows)
        self._keys.add(key)
        return key

    def close(self, skipped: SkipLedger | None = None) -> dict[str, Any]:
        """Finish the last shard, write ``skipped.jsonl`` and then the manifest, which is returned.

        Raises:
            DataError: nothing was written.
        """
        skipped = SkipLedger() if skipped is None else skipped
        skipped.write(self.folder / index.SKIPPED)
        if not self._keys:
            raise DataError(f"empty dataset: nothing was packed into {self.folder}, {len(skipped)} items were skipped "
                            f"{skipped.counts or ''}; see {self.folder / index.SKIPPED}")
        self._finish_shard()
        self._manifest = index.write_manifest(self.folder, self.dataset, self.split, self._shards, self._kinds, skipped)
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
                head, tail = bundle[0]["head"], bundle[0]["tail"]
                for row in bundle:
                    row |= {"crc32": isal_zlib.crc32(extent), "crc32_ends": isal_zlib.crc32(extent[tail:], isal_zlib.crc32(extent[:head]))}
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


def _json_bytes(value: Any, key: str) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise SampleError(f"not representable as JSON: {error}", reason="not_json", key=key) from error
