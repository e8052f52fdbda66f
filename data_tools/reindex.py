"""``unipixel index``: index and manifest of a folder of tars, from the tars alone.

For shards that were written elsewhere in this layout, or whose index files are lost. The structure is checked strictly; a tar with any
problem is refused, nothing is left out silently.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import isal_zlib
from tqdm import tqdm

from unipixel.config import parse, setting
from unipixel.data import index
from unipixel.data.frames import directory_offset
from unipixel.data.tar import TarBundle, scan
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, SampleError, UniPixelError
from unipixel.sample import SCHEMA, Sample, example_from_json, medium_from_json


@dataclass(kw_only=True)
class IndexSettings:
    """Settings of ``unipixel index``."""

    folder: str = setting("", "folder that holds the tars")
    replace: bool = setting(False, "replace an index and manifest that exist")

    def __post_init__(self):
        if not Path(self.folder).is_dir():
            raise ConfigError(f"--folder {self.folder!r} is not a folder")
        if (Path(self.folder) / index.MANIFEST).exists() and not self.replace:
            raise ConfigError(f"{self.folder} has a {index.MANIFEST}: set --replace to make it anew from the tars")


def bundle_rows(data: bytes, bundle: TarBundle, at: int) -> tuple[list[dict[str, Any]], tuple[str, str]]:
    """(index rows, (dataset, split)) of a bundle whose extent is ``data``, at ``at`` in the tar.

    Raises:
        SampleError: the members do not hold a valid sample.
    """
    def member(name: str) -> bytes:
        start, size = bundle.members[name]
        return data[start - at:start - at + size]

    media = next(name for name in bundle.members if name in index.MEDIA_MEMBERS)
    try:
        meta, masks = (json.loads(member(name)) for name in index.TEXT_MEMBERS)
        if (meta["schema"], masks["schema"]) != (SCHEMA, SCHEMA):
            raise SampleError(f"schema {meta['schema']!r}, this version reads {SCHEMA!r}", reason="schema", key=bundle.key)
        medium = medium_from_json(meta["medium"], masks["tracks"])
        examples = [example_from_json(raw) for raw in meta["examples"]]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"not a sample of schema {SCHEMA!r}: {error!r}", reason="contract", key=bundle.key) from error
    Sample(bundle.key, medium, tuple(examples), range(len(medium.frame_times)))  # checks examples against the medium
    head = bundle.members[media][0] - at
    tail = head + (directory_offset(member(media)) if media == index.MEDIA_MEMBERS[0] else bundle.members[media][1])
    place = {"offset": at, "length": len(data), "crc32": isal_zlib.crc32(data), "head": head, "tail": tail,
             "crc32_ends": isal_zlib.crc32(data[tail:], isal_zlib.crc32(data[:head]))}
    return ([index.index_row(bundle.key, i, example, medium) | place for i, example in enumerate(examples)], (meta["dataset"], meta["split"]))


def reindex(folder: Path) -> dict[str, Any]:
    """Write the index of every tar, then the manifest, which is returned.

    Raises:
        DataError: no tars, a structural problem, an invalid sample, a key in two tars, or tars of different datasets. Nothing is written
            then, and all problems of the first bad tar are named.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder} holds no .tar")
    shards, tables, seen, origins, kinds = [], [], {}, Counter(), Counter()
    for path in tqdm(tars, desc="index", unit="tar"):
        bundles, problems = scan(path)
        if problems:
            raise DataError(f"{path} has {len(problems)} problems: " + "; ".join(map(str, problems[:5])))
        rows: list[dict[str, Any]] = []
        with open(path, "rb") as file:
            for bundle in bundles:
                if bundle.key in seen:
                    raise DataError(f"key {bundle.key!r} occurs in {seen[bundle.key]} and in {path.name}")
                seen[bundle.key] = path.name
                file.seek(bundle.offset)
                try:
                    made, origin = bundle_rows(file.read(bundle.length), bundle, bundle.offset)
                except SampleError as error:
                    raise DataError(f"{path} at byte {bundle.offset}: {error}") from error
                rows += made
                origins[origin] += 1
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kinds.update(row["kind"] for row in rows)
        shards.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "bundles": len(bundles), "examples": len(rows)})
        tables.append(rows)
    if len(origins) != 1:
        raise DataError(f"{folder} holds tars of {len(origins)} datasets or splits: {sorted(origins)}; put each in a folder of its own")
    for shard, rows in zip(shards, tables):
        index.write_index(folder, shard, rows)
    return index.write_manifest(folder, *next(iter(origins)), shards, kinds)


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel index``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (settings,) = parse([IndexSettings], argv, prog="unipixel index")
        manifest = reindex(Path(settings.folder))
    except UniPixelError as error:
        print(f"unipixel index: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"{settings.folder}: {manifest['examples']} examples of {manifest['bundles']} media in {len(manifest['shards'])} shards: "
          f"{manifest['kinds']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
