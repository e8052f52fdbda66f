"""The sidecar index and the manifest of packed data: names, columns, fingerprints, and their checks.

A dataset folder holds ``shard-000000.tar`` ..., one ``shard-000000.index.parquet`` beside each (one row per example), and
``dataset.json``, which is written last: a folder without it is an interrupted pack. ``excluded.jsonl``, when present, lists samples that
training leaves out from its next epoch on. The tars are read by ``unipixel.data.shards``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unipixel.data.ledger import SkipLedger
from unipixel.data.storage import Storage, is_remote, join
from unipixel.errors import DataError
from unipixel.sample import SCHEMA, Example, Medium, example_kind

MANIFEST = "dataset.json"
SKIPPED, EXCLUDED = "skipped.jsonl", "excluded.jsonl"
TEXT_MEMBERS = ("meta.json", "masks.json")
MEDIA_MEMBERS = ("frames.zip", "video.mp4")
"""Members of a bundle, in this order: both texts, then one of the media."""
SHARD_PATTERN = "shard-{:06d}.tar"
MANIFEST_FIELDS = ("schema", "name", "split", "fingerprint", "bundles", "examples", "kinds", "skipped", "notes", "shards")
SHARD_FIELDS = ("name", "bytes", "sha256", "bundles", "examples", "index_sha256", "index_file_sha256")
MAX_KEY = 88
"""Longest bundle key in characters: a USTAR name holds 100, ``.frames.zip`` and one spare are taken off."""

COLUMNS = pa.schema([
    ("key", pa.string()),
    ("example_id", pa.string()),
    ("example", pa.int32()),        # position of the example in its bundle
    ("kind", pa.string()),          # unipixel.sample.example_kind
    ("offset", pa.int64()),         # extent of the whole bundle in the tar, headers included
    ("length", pa.int64()),
    ("crc32", pa.uint32()),         # of that extent
    ("head", pa.int32()),           # bytes of the extent before the media: headers, meta.json, masks.json
    ("tail", pa.int64()),           # where the table of the media begins in the extent (the directory of frames.zip)
    ("crc32_ends", pa.uint32()),    # of head and tail together: what is read when only some frames are wanted
    ("n_frames", pa.int32()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("duration_s", pa.float64()),
    ("n_objects", pa.int32()),      # distinct evidence objects of the example
    ("n_words", pa.int32()),        # question + options + answer (all turns of a chat)
    ("n_text_tokens", pa.int32()),  # estimate: a token per four bytes of UTF-8
    ("has_pairs", pa.bool_()),
])


def bundle_key(dataset: str, split: str, raw_id: str) -> str:
    """``<dataset>-<split>-<id>`` in ``[a-z0-9_+-]``; every other byte of the UTF-8 text becomes ``~HH``, so case and dots survive.

    A key over ``MAX_KEY`` characters keeps its beginning and ends in ``~~`` and 16 hex digits of the SHA-256 of the full key.
    """
    raw = f"{dataset}-{split}-{raw_id}".encode()
    key = "".join(chr(b) if re.match(rb"[a-z0-9_+-]", bytes([b])) else f"~{b:02x}" for b in raw)
    return key if len(key) <= MAX_KEY else f"{key[:MAX_KEY - 18]}~~{hashlib.sha256(raw).hexdigest()[:16]}"


def index_name(shard: str) -> str:
    return shard.removesuffix(".tar") + ".index.parquet"


def index_row(key: str, position: int, example: Example, medium: Medium) -> dict[str, Any]:
    """The columns that follow from the example and its medium; the writer adds offset, length and crc32."""
    texts = [t.text for t in example.turns] or [example.question, *example.options, example.answer]
    return {
        "key": key, "example_id": example.example_id, "example": position, "kind": example_kind(example, medium),
        "n_frames": len(medium.frame_times), "width": medium.width, "height": medium.height, "duration_s": medium.duration_s,
        "n_objects": len({oid for target in example.targets for oid in target}),
        "n_words": sum(len(text.split()) for text in texts),
        "n_text_tokens": -(-sum(len(text.encode()) for text in texts) // 4), "has_pairs": bool(example.pairs),
    }


def index_digest(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of the rows' values, independent of the parquet version that stores them."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row[name] for name in COLUMNS.names], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def fingerprint(name: str, split: str, shards: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over the index contents of all shards, in order."""
    return hashlib.sha256("\n".join([SCHEMA, name, split, *(s["index_sha256"] for s in shards)]).encode()).hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name, flush it to disk, rename it to ``path``."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def write_index(folder: Path, shard: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Parquet beside the tar; adds ``index_sha256`` (contents) and ``index_file_sha256`` (bytes) to the manifest entry ``shard``."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=COLUMNS), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    shard |= {"index_sha256": index_digest(rows), "index_file_sha256": hashlib.sha256(data).hexdigest()}
    replace_file(folder / index_name(shard["name"]), data)


def write_manifest(folder: Path, name: str, split: str, shards: Sequence[dict[str, Any]], kinds: Mapping[str, int],
                   skipped: SkipLedger | None = None) -> dict[str, Any]:
    """Write ``dataset.json``, which makes the folder a dataset; returns it."""
    skipped = SkipLedger() if skipped is None else skipped
    manifest = {
        "schema": SCHEMA, "name": name, "split": split, "fingerprint": fingerprint(name, split, shards),
        "bundles": sum(s["bundles"] for s in shards), "examples": sum(s["examples"] for s in shards), "kinds": dict(sorted(kinds.items())),
        "skipped": skipped.counts, "notes": dict(skipped.notes), "shards": list(shards)}
    replace_file(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
    return manifest


def is_dataset(folder: str | Path) -> bool:
    """Whether a packed dataset is there; a broken one counts."""
    return Storage().is_file(join(folder, MANIFEST))


def read_excluded(folder: str | Path, storage: Storage | None = None) -> list[str]:
    """Keys of the samples that are listed as excluded, in order.

    Raises:
        DataError: a line that is no JSON object with a ``key``.
    """
    storage, path = storage or Storage(), join(folder, EXCLUDED)
    if not storage.is_file(path):
        return []
    keys = []
    for number, line in enumerate(storage.read_all(path).decode().splitlines(), 1):
        try:
            keys.append(json.loads(line)["key"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number} is not an object with a key: {line[:80]!r}") from error
    return keys


def read_manifest(folder: str | Path, storage: Storage | None = None) -> dict[str, Any]:
    """``dataset.json`` of a packed folder.

    Raises:
        DataError: the folder or the manifest is missing, unreadable, of another schema, or lists no examples.
    """
    storage, path = storage or Storage(), join(folder, MANIFEST)
    if is_remote(folder):
        if not storage.is_file(path):
            raise DataError(f"no packed dataset at {folder}: {path} does not exist")
    elif not Path(folder).is_dir():
        raise DataError(f"no dataset folder {folder}: pack one with `unipixel pack --source ... --input DIR --out {folder}`")
    elif not Path(path).is_file():
        folder = Path(folder)
        state = "an interrupted pack" if any(folder.glob("shard-*")) else "not a packed dataset"
        nested = sorted(str(p.parent) for p in folder.glob(f"*/{MANIFEST}"))
        hint = f"name one of {nested}" if nested else f"run `unipixel pack --source ... --input DIR --out {folder}` (again)"
        raise DataError(f"{folder} has no {MANIFEST} ({state}): {hint}")
    try:
        manifest = json.loads(storage.read_all(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): pack the dataset again") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}: pack the dataset again")
    absent = [name for name in MANIFEST_FIELDS if name not in manifest]
    absent += sorted({name for shard in manifest.get("shards", ()) for name in SHARD_FIELDS if name not in shard})
    if absent:
        raise DataError(f"{path} lacks {absent}: pack the dataset again")
    if not manifest["examples"]:
        raise DataError(f"{path} lists no examples (empty dataset): see {join(folder, SKIPPED)}, then pack it again")
    return manifest


def read_index(folder: str | Path, shard: dict[str, Any], storage: Storage | None = None) -> pa.Table:
    """Index of one shard listed in the manifest, after checking that the tar and the index are the ones that were written.

    Raises:
        DataError: the tar or index is missing, the tar has another size, or the index is damaged or belongs to another shard.
    """
    again, storage = "restore the file or pack the dataset again", storage or Storage()
    tar, path = join(folder, shard["name"]), join(folder, index_name(shard["name"]))
    try:
        size = storage.size(tar)
    except FileNotFoundError:
        raise DataError(f"shard {tar} is listed in {MANIFEST} but missing: {again}") from None
    if size != shard["bytes"]:
        raise DataError(f"shard {tar} has {size} bytes, {MANIFEST} says {shard['bytes']} (truncated or replaced): {again}")
    if not storage.is_file(path):
        raise DataError(f"index {path} is missing: {again}, or make it anew from the tars with `unipixel index {folder}`")
    data = storage.read_all(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != shard["index_file_sha256"]:
        raise DataError(f"index {path} has SHA-256 {digest[:16]}, {MANIFEST} says {shard['index_file_sha256'][:16]} (damaged, or the index of "
                        f"another shard): {again}")
    table = pq.read_table(pa.BufferReader(data))
    if not table.schema.equals(COLUMNS) or table.num_rows != shard["examples"]:
        raise DataError(f"index {path} has {table.num_rows} rows of {table.schema.names}, expected {shard['examples']} rows of "
                        f"{COLUMNS.names}: {again}")
    return table
