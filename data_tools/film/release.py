"""A release of prepared films: its layout, its manifest, and what may stand in both.

``<out>/manifest.json``, ``README.md``, ``<film>/*.json`` as prepared, and ``<film>/<folder>.tar`` for every folder of pictures. Names come from
a downloaded file, so each is checked before it becomes a path. ``release_pack`` writes a release, ``release_unpack`` checks and unpacks one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unipixel.data.index import replace_file
from unipixel.errors import DataError

SCHEMA = "unipixel-film-release/1"
MANIFEST, CARD, UNFINISHED = "manifest.json", "README.md", ".unfinished"
KEYS = "KEY_FRAMES"
TOTALS = ("movie_count", "pooling_variant_count", "source_file_count", "source_bytes", "staged_file_count", "staged_bytes")
BLOCK = 1 << 20


@dataclass(frozen=True)
class StagedFile:
    """A file that is in the release as it was. ``sha256`` is None in a manifest without checksums."""

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Archive:
    """A folder as a tar.

    Attributes:
        name: ``<folder>.tar``; the folder is also the root of its members.
        source_dir: name of the folder.
        source_file_count, source_bytes: of the files inside; the latter is None in a manifest without it.
        size_bytes, sha256: of the tar.
    """

    name: str
    source_dir: str
    source_file_count: int
    size_bytes: int
    source_bytes: int | None = None
    sha256: str | None = None

    @property
    def folder(self) -> str:
        return self.name.removesuffix(".tar")


@dataclass(frozen=True)
class Movie:
    movie: str
    metadata_files: tuple[StagedFile, ...]
    archives: tuple[Archive, ...]

    @property
    def files(self) -> tuple[StagedFile | Archive, ...]:
        return self.metadata_files + self.archives


@dataclass(frozen=True)
class Release:
    """``facts``: everything of the manifest beside the films."""

    movies: tuple[Movie, ...]
    facts: Mapping[str, Any]

    @property
    def own(self) -> bool:
        """Written by this program; other manifests of the layout lack checksums, and count what they like."""
        return self.facts.get("schema") == SCHEMA

    @property
    def totals(self) -> dict[str, int]:
        """What the manifest counts: films and their files, without manifest and card. A source file is one inside an archive, or beside."""
        archives = [a for m in self.movies for a in m.archives]
        beside = [f for m in self.movies for f in m.metadata_files]
        return dict(zip(TOTALS, (
            len(self.movies), len({a.folder for a in archives} - {KEYS}), len(beside) + sum(a.source_file_count for a in archives),
            sum(f.size_bytes for f in beside) + sum(a.source_bytes or 0 for a in archives), len(beside) + len(archives),
            sum(f.size_bytes for f in (*beside, *archives))), strict=True))

    def write(self, folder: Path) -> None:
        content = {**self.facts, **self.totals, "movies": [asdict(movie) for movie in self.movies]}
        replace_file(folder / MANIFEST, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def plain_name(name: Any, what: str) -> str:
    """``name`` where it is one path component that is safe everywhere; :class:`DataError` otherwise."""
    if not isinstance(name, str) or not name or name.startswith(".") or any(c in name for c in "/\\:\0\n") or name != name.strip():
        raise DataError(f"{what} {name!r} must be a plain name: no path, no colon, not hidden, no space around it")
    return name


def clashes(names: Iterable[str]) -> list[str]:
    """Names that differ from an earlier one in capitals only, or not at all: on many file systems they are one file."""
    seen: set[str] = set()
    return [name for name in names if name.casefold() in seen or seen.add(name.casefold())]


def read_manifest(folder: Path) -> Release:
    """The manifest of a release; also the published one of POVQA, which has no checksums.

    Raises:
        DataError: it is missing, damaged, or names something that cannot be a file of the release.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"no {MANIFEST} in {folder}: not a release, or one that was not packed to its end")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        movies = tuple(_movie(m) for m in raw.pop("movies"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not the manifest of a release: {type(error).__name__}: {error}") from error
    if raw.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"{path} has schema {raw['schema']!r}, this version reads {SCHEMA!r} and manifests without one")
    for what, names in (("film", [m.movie for m in movies]), *((m.movie, [*(f.name for f in m.files), *(a.folder for a in m.archives)])
                                                               for m in movies)):
        if twice := clashes(names):
            raise DataError(f"{path}: {what} {twice} would be the same file as another one")
    release = Release(movies, raw)
    if release.own and (wrong := {name: raw.get(name) for name, count in release.totals.items() if raw.get(name) != count}):
        raise DataError(f"{path}: {wrong} do not agree with the files it lists, which make {release.totals}")
    return release


def _movie(raw: Mapping[str, Any]) -> Movie:
    files = tuple(StagedFile(plain_name(f["name"], "metadata file"), _count(f, "size_bytes"), f.get("sha256")) for f in raw["metadata_files"])
    archives = tuple(Archive(plain_name(a["name"], "archive"), str(a["source_dir"]), _count(a, "source_file_count"), _count(a, "size_bytes"),
                             _count(a, "source_bytes") if "source_bytes" in a else None, a.get("sha256")) for a in raw["archives"])
    if wrong := [a.name for a in archives if not a.name.endswith(".tar") or not a.folder]:
        raise DataError(f"archives {wrong} are not called <folder>.tar")
    return Movie(plain_name(raw["movie"], "film"), files, archives)


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    return value


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_space(folder: Path, needed: int) -> None:
    """:class:`DataError` where the disk of ``folder`` has less than ``needed`` bytes and 1 % left."""
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free
    if free < 1.01 * needed:
        raise DataError(f"{folder} needs {needed / 2**20:.0f} MiB, its disk has {free / 2**20:.0f} MiB left: free some, or choose another folder")


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below, relative to it, in order; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (str((Path(root) / name).relative_to(folder)) for name in sorted(names))
