"""Strict reading of a tar's structure: every member in its place, or the reason why not, with its position.

Streaming readers accept truncated archives, merge keys that contain dots and split samples whose members interleave, all without a
word. This scan reads headers only and reports each such case; it is what an index is rebuilt from and what validation begins with.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unipixel.data.index import MAX_KEY, MEDIA_MEMBERS, TEXT_MEMBERS

BLOCK = tarfile.BLOCKSIZE
KEY = re.compile(r"[a-z0-9_+~-]+")


@dataclass(frozen=True)
class Problem:
    """Something wrong at a byte ``offset`` of a tar; ``reason`` is a slug."""

    offset: int
    reason: str
    message: str
    key: str = ""

    def __str__(self) -> str:
        return f"byte {self.offset}: {self.message}"


@dataclass
class TarBundle:
    """Members of one key that stand together: name -> (offset of the data, size); the extent includes headers and padding."""

    key: str
    offset: int
    length: int = 0
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def scan(path: str | Path) -> tuple[list[TarBundle], list[Problem]]:
    """(bundles, problems) of a tar. A bundle that a problem concerns is not among the bundles."""
    bundles: list[TarBundle] = []
    problems: list[Problem] = []
    with open(path, "rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        ended = False
        while at < size:
            file.seek(at)
            block = file.read(BLOCK)
            if len(block) < BLOCK:
                problems.append(Problem(at, "truncated_header", f"the file ends {len(block)} bytes into a header"))
                break
            if not any(block):
                problems += _check_end(file, at, size)
                ended = True
                break
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                problems.append(Problem(at, "tar_header", f"no tar header: {error}"))
                break
            end = at + BLOCK + -(-header.size // BLOCK) * BLOCK
            if end > size:
                problems.append(Problem(at, "truncated_member", f"{header.name!r} announces {header.size} bytes, the file ends after "
                                                               f"{max(0, size - at - BLOCK)} of them (padding included)"))
                break
            _add(header, at, end, bundles, problems)
            at = end
    if not ended and not any(p.reason.startswith(("truncated", "tar_header")) for p in problems):
        problems.append(Problem(size, "no_end", "the archive lacks its end marker (two empty blocks): it was cut between members"))
    return _complete(bundles, problems)


def _add(header: tarfile.TarInfo, at: int, end: int, bundles: list[TarBundle], problems: list[Problem]) -> None:
    if not header.isreg():
        problems.append(Problem(at, "member_type", f"{header.name!r} is no regular file (type {header.type!r}): write plain USTAR archives"))
        return
    key, _, member = header.name.partition(".")
    if member not in (*TEXT_MEMBERS, *MEDIA_MEMBERS):
        problems.append(Problem(at, "unknown_member", f"{header.name!r}: {member!r} is none of {[*TEXT_MEMBERS, *MEDIA_MEMBERS]}; a key must not "
                                                      "contain dots", key))
    elif not KEY.fullmatch(key) or len(key) > MAX_KEY:
        problems.append(Problem(at, "bad_key", f"key {key!r} must be at most {MAX_KEY} characters of [a-z0-9_+~-]", key))
    if not bundles or bundles[-1].key != key:
        bundles.append(TarBundle(key, at))
    if member in bundles[-1].members:
        problems.append(Problem(at, "duplicate_member", f"{header.name!r} occurs twice", key))
    bundles[-1].members[member] = (at + BLOCK, header.size)
    bundles[-1].length = end - bundles[-1].offset


def _check_end(file, at: int, size: int) -> list[Problem]:
    """After the first empty block only empty blocks may follow, at least one."""
    file.seek(at)
    if size - at < 2 * BLOCK:
        return [Problem(at, "no_end", "the end marker is cut short: one empty block of two")]
    while chunk := file.read(1 << 20):
        if any(chunk):
            return [Problem(at, "junk", f"data follows the end marker ({size - at - 2 * BLOCK} bytes behind it)")]
    return []


def _complete(bundles: Sequence[TarBundle], problems: list[Problem]) -> tuple[list[TarBundle], list[Problem]]:
    seen: dict[str, int] = {}
    for bundle in bundles:
        if bundle.key in seen:
            problems.append(Problem(bundle.offset, "interleaved", f"members of key {bundle.key!r} continue after other keys", bundle.key))
        seen.setdefault(bundle.key, bundle.offset)
    spoilt = {p.key for p in problems if p.key}
    cut = next((p.offset for p in problems if p.reason == "truncated_member"), None)
    for bundle in bundles:
        if bundle.key in spoilt:
            continue
        names = list(bundle.members)
        if names[:-1] != list(TEXT_MEMBERS) or names[-1] not in MEDIA_MEMBERS:
            why = " (the archive is cut behind them)" if cut == bundle.offset + bundle.length else ""
            problems.append(Problem(bundle.offset, "missing_member", f"key {bundle.key!r} holds {names}{why}, expected {[*TEXT_MEMBERS]} and one of "
                                                                     f"{[*MEDIA_MEMBERS]}, in this order", bundle.key))
            spoilt.add(bundle.key)
    return [b for b in bundles if b.key not in spoilt], sorted(problems, key=lambda p: p.offset)
