"""``unipixel validate``: check packed data completely, once, before it is trained on.

Every tar's structure, its checksum, its index against its contents, and every sample: the data contract, each frame decoded, each mask
expanded. Shards are checked in parallel; what is done is remembered in the report, so that an interrupted check goes on. With
``--exclude`` the bad samples are listed in ``excluded.jsonl``: training leaves them out from its next epoch on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from unipixel.config import parse, setting
from unipixel.data import index
from unipixel.data.media import decode_frames
from unipixel.data.shards import ShardDataset
from unipixel.data.tar import scan
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, SampleError, UniPixelError
from unipixel.metrics.rle import parse_runs
from unipixel.sample import Sample

EXIT_PROBLEMS = 1
FRAMES_AT_ONCE = 16
ROW_FIELDS = tuple(name for name in index.COLUMNS.names if name not in ("offset", "length", "crc32", "head", "tail", "crc32_ends"))


@dataclass(kw_only=True)
class ValidateSettings:
    """Settings of ``unipixel validate``."""

    folders: list[str] = setting([], "packed folders")
    report: str = setting("", "JSON Lines file, a line per checked shard; a check that was interrupted goes on from it. Default: validation.jsonl "
                              "in each folder")
    workers: int = setting(0, "processes; 0: one per core")
    exclude: bool = setting(False, "list the bad samples in excluded.jsonl of their folder")

    def __post_init__(self):
        if not self.folders:
            raise ConfigError("--folders is empty: name at least one packed folder")
        if self.report and len(self.folders) > 1:
            raise ConfigError("--report is one file: leave it out to check several folders")
        if self.workers < 0:
            raise ConfigError(f"--workers={self.workers} must not be negative")


@dataclass(frozen=True)
class Finding:
    """Something wrong in a shard; ``key`` is empty when it concerns no single sample."""

    offset: int
    key: str
    reason: str
    message: str


def check_sample(sample: Sample) -> None:
    """Decode every frame and every mask once; raises :class:`SampleError`."""
    medium = sample.medium
    size = (medium.height, medium.width)
    for first in range(0, len(sample.frames), FRAMES_AT_ONCE):
        decode_frames(sample.frames, range(first, min(first + FRAMES_AT_ONCE, len(sample.frames))), size, sample.key)
    for oid, obj in medium.objects.items():
        try:
            parse_runs([entry for entry in obj.track.entries if entry], size)
        except DataError as error:
            raise SampleError(f"masks of object {oid!r}: {error}", reason="bad_masks", key=sample.key) from error


def check_shard(folder: str, shard: dict[str, Any]) -> dict[str, Any]:
    """Report of one shard: ``findings``, and the keys it holds."""
    path = Path(folder) / shard["name"]
    findings: list[Finding] = []
    keys: list[str] = []
    if not path.is_file():
        findings.append(Finding(0, "", "shard_missing", f"{path} does not exist"))
    else:
        bundles, problems = scan(path)
        findings += [Finding(p.offset, p.key, p.reason, p.message) for p in problems]
        keys = [b.key for b in bundles]
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard["sha256"]:
            findings.append(Finding(0, "", "shard_checksum", f"SHA-256 {digest[:16]}, the manifest says {shard['sha256'][:16]}"))
        try:
            findings += check_samples(ShardDataset(folder, only=shard["name"]), {b.key: (b.offset, b.length) for b in bundles})
        except DataError as error:
            findings.append(Finding(0, "", "index", str(error)))
    return {"shard": shard["name"], "sha256": shard["sha256"], "keys": keys, "findings": [asdict(f) for f in findings]}


def check_samples(data: ShardDataset, found: dict[str, tuple[int, int]]) -> Iterator[Finding]:
    """Findings of the samples that the index lists. ``found``: key -> extent in the tar."""
    rows = data.rows.to_pylist()
    for group in bundles_of(data):
        row = rows[group[0]]
        key, place = row["key"], (row["offset"], row["length"])
        if found.pop(key, None) != place:
            yield Finding(place[0], key, "index", f"the index places it at {place}, the tar does not hold it there")
            continue
        try:
            sample = data.sample(group[0], group)
            check_sample(sample)
            for i in group:
                made = index.index_row(key, rows[i]["example"], sample.examples[group.index(i)], sample.medium)
                if any(made[name] != rows[i][name] for name in ROW_FIELDS):
                    yield Finding(place[0], key, "index", f"the index row of example {rows[i]['example_id']!r} does not describe it")
        except SampleError as error:
            yield Finding(place[0], key, error.reason, error.message)
    for key, (offset, _) in found.items():
        yield Finding(offset, key, "index", "the index does not list it")


def bundles_of(data: ShardDataset) -> Iterator[tuple[int, ...]]:
    """Rows of each bundle."""
    offsets = data.rows["offset"].to_numpy()
    for part in np.split(np.arange(len(data)), np.flatnonzero(offsets[1:] != offsets[:-1]) + 1):
        yield tuple(part.tolist())


def validate(folder: str, report: Path, workers: int) -> list[dict[str, Any]]:
    """Reports of all shards of a folder; shards that the report file already holds, unchanged, are not checked again."""
    shards = index.read_manifest(folder)["shards"]
    done = {}
    if report.is_file():
        for line in report.read_text().splitlines():
            entry = json.loads(line)
            done[entry["shard"], entry["sha256"]] = entry
    known = [done[s["name"], s["sha256"]] for s in shards if (s["name"], s["sha256"]) in done]
    waiting = [s for s in shards if (s["name"], s["sha256"]) not in done]
    with open(report, "a") as out, tqdm(total=len(shards), initial=len(known), desc=f"validate {folder}", unit="shard") as bar:
        for entry in check_all(folder, waiting, workers):
            known.append(entry)
            out.write(json.dumps(entry) + "\n")
            out.flush()
            bar.update()
    return sorted(known, key=lambda entry: entry["shard"]) + repeated_keys(known)


def check_all(folder: str, shards: Sequence[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Reports as they are ready, from several processes when there is more than one shard."""
    if min(workers, len(shards)) < 2:
        yield from (check_shard(folder, shard) for shard in shards)
        return
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(check_shard, folder, shard) for shard in shards]):
            yield future.result()


def repeated_keys(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A further report for keys that occur in more than one shard."""
    where: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        for key in entry["keys"]:
            where[key].append(entry["shard"])
    findings = [asdict(Finding(0, key, "duplicate_key", f"key occurs in {shards}")) for key, shards in where.items() if len(shards) > 1]
    return [{"shard": "all", "keys": [], "findings": findings}] if findings else []


def exclude(folder: Path, findings: Sequence[dict[str, Any]]) -> int:
    """Add the samples that findings name to the folder's list; returns how many are new."""
    known = set(index.read_excluded(folder))
    new = {f["key"]: f["reason"] for f in findings if f["key"] and f["key"] not in known}
    if new:
        path = folder / index.EXCLUDED
        before = path.read_bytes() if path.is_file() else b""
        lines = "".join(json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in new.items())
        index.replace_file(path, before + lines.encode())
    return len(new)


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel validate``: exit code 0 when everything is good, ``EXIT_PROBLEMS`` (1) when not, 2 for a wrong call."""
    try:
        (settings,) = parse([ValidateSettings], argv, prog="unipixel validate")
        bad = 0
        for folder in settings.folders:
            report = Path(settings.report or Path(folder) / "validation.jsonl")
            entries = validate(folder, report, settings.workers or os.cpu_count() or 1)
            findings = [finding | {"shard": entry["shard"]} for entry in entries for finding in entry["findings"]]
            bad += len(findings)
            counts = Counter(f["reason"] for f in findings)
            print(f"{folder}: {len(findings)} problems in {len(entries)} shards; all of them in {report}")
            if findings:
                first = {f["reason"]: f for f in reversed(findings)}
                print(tabulate([(reason, n, f"{first[reason]['shard']} {first[reason]['key']}", first[reason]["message"][:90])
                                for reason, n in counts.most_common()], headers=("reason", "count", "first", "what")))
            if settings.exclude:
                print(f"{exclude(Path(folder), findings)} samples newly listed in {Path(folder) / index.EXCLUDED}")
    except UniPixelError as error:
        print(f"unipixel validate: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_PROBLEMS if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
