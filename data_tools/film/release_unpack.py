"""``unipixel film release verify`` and ``unpack``: check a downloaded release, then put its folders of pictures where training reads them.

Nothing is written before every file was found to be what the manifest says. The manifest that POVQA published is read too; it has no
checksums, so sizes and counts are all that can be compared, and that is said.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data_tools.film.files import partial_folders
from data_tools.film.release import CARD, MANIFEST, Archive, Movie, Release, StagedFile, check_space, files_below, read_manifest, sha256_of
from data_tools.film.release_tar import check_tar, same_files, unpack_tar
from data_tools.preference.command import EXIT_FOUND, command
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.data.ledger import Skip, SkipLedger
from unipixel.errors import ConfigError, DataError, SampleError

HUB_FILES = (".gitattributes", ".cache", ".git", ".huggingface")
"""What download tools leave beside a release."""


@dataclass(kw_only=True)
class VerifySettings:
    """Settings of ``unipixel film release verify``."""

    input: str = setting("", "folder of a downloaded or packed release")

    def __post_init__(self):
        if not self.input or not Path(self.input).is_dir():
            raise ConfigError(f"--input {self.input!r} is not a folder")


@dataclass(kw_only=True)
class UnpackSettings(VerifySettings):
    """Settings of ``unipixel film release unpack``."""

    out: str = setting("", "folder for the films, e.g. data/out_preprocessed; may be the release itself")
    remove_archives: bool = setting(False, "delete each tar of the release once all of them are unpacked, which halves what is needed")
    force: bool = setting(False, "replace folders and files that are there with other contents")

    def __post_init__(self):
        super().__post_init__()
        if not self.out:
            raise ConfigError("--out is empty: name the folder for the films")


def verify_main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film release verify``: exit code 0, ``EXIT_FOUND`` (1) when something is wrong, 2 for a folder that is no release."""
    def run(settings: VerifySettings) -> int:
        folder = Path(settings.input)
        release = read_manifest(folder)
        found = problems_of(folder, release)
        for problem in found:
            print(f"{problem.key}: {problem.reason}: {problem.message}")
        _describe(release)
        return EXIT_FOUND if found else 0

    return command("film release verify", (VerifySettings,), run, argv)


def unpack_main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film release unpack``: exit code 0, or ``EXIT_USER_ERROR`` with everything that is wrong on stderr."""
    return command("film release unpack", (UnpackSettings,), unpack, argv)


def problems_of(folder: Path, release: Release, unpacked: Path | None = None) -> list[Skip]:
    """Everything in which ``folder`` differs from its manifest. Archives may be missing whose folder is in ``unpacked`` already."""
    ledger, listed = SkipLedger(), {MANIFEST, CARD}
    entries = [(movie, entry) for movie in release.movies for entry in movie.files]
    for movie, entry in tqdm(entries, desc="verify", unit="file"):
        name = f"{movie.movie}/{entry.name}"
        listed.add(name)
        with ledger.catching("release", name):
            _check(folder / name, entry, unpacked and unpacked / movie.movie)
    folders = {f"{m.movie}/{part}" for m in release.movies for a in m.archives for part in (a.folder, f".{a.folder}.part")} if unpacked else set()
    for name in files_below(folder):
        known = name in listed or name.split(os.sep)[0] in HUB_FILES
        if not known and str(Path(name).parent) not in folders:  # where a release is unpacked in place, they are what is made
            ledger.skip("release", name, "unexpected_file", "not listed in the manifest")
    return ledger.skips


def _check(path: Path, entry: StagedFile | Archive, unpacked: Path | None) -> None:
    if path.is_symlink() or not path.is_file():
        if unpacked is not None and isinstance(entry, Archive) and _is_unpacked(unpacked / entry.folder, entry):
            return
        raise SampleError("listed in the manifest and not there", reason="missing")
    if (size := path.stat().st_size) != entry.size_bytes:
        raise SampleError(f"{size} bytes, the manifest says {entry.size_bytes}", reason="size")
    if entry.sha256 is not None and (digest := sha256_of(path)) != entry.sha256:
        raise SampleError(f"SHA-256 {digest[:16]}, the manifest says {entry.sha256[:16]}", reason="sha256")
    if isinstance(entry, Archive):
        check_tar(path, entry)


def _is_unpacked(folder: Path, archive: Archive) -> bool:
    if not folder.is_dir():
        return False
    sizes = [p.stat().st_size for p in folder.iterdir()]
    return len(sizes) == archive.source_file_count and archive.source_bytes in (None, sum(sizes))


def unpack(settings: UnpackSettings) -> None:
    """
    Raises:
        DataError: the release is not what its manifest says, something else is in the way, or the disk is too small.
    """
    folder, out = Path(settings.input), Path(settings.out)
    release = read_manifest(folder)
    here = folder.resolve() == out.resolve()
    if found := problems_of(folder, release, out):
        raise DataError("\n".join(["nothing was unpacked:", *(f"  {s.key}: {s.reason}: {s.message}" for s in found)]))
    check_space(out, sum(entry.size_bytes for movie in release.movies for entry in movie.files
                         if not (out / movie.movie / (entry.folder if isinstance(entry, Archive) else entry.name)).exists()))
    made = kept = 0
    for movie in tqdm(release.movies, desc="film release unpack", unit="film"):
        (out / movie.movie).mkdir(parents=True, exist_ok=True)
        for fresh in _unpacked(movie, folder / movie.movie, out / movie.movie, settings.force):
            made, kept = made + fresh, kept + (not fresh)
    if settings.remove_archives:
        for movie in release.movies:
            for archive in movie.archives:
                (folder / movie.movie / archive.name).unlink(missing_ok=True)
    _describe(release)
    print(f"{made} files and folders unpacked, {kept} kept, in {out}" + (", in place" if here else ""))


def _unpacked(movie: Movie, source: Path, target: Path, force: bool) -> Iterator[bool]:
    """For each file and archive whether it was made now; what has its name is complete."""
    for entry in movie.metadata_files:
        path = target / entry.name
        data = (source / entry.name).read_bytes()
        fresh = not path.is_file() or path.read_bytes() != data
        if fresh:
            _make_room(path, force)
            replace_file(path, data)
        yield fresh
    for archive in movie.archives:
        path, tar = target / archive.folder, source / archive.name
        fresh = tar.is_file() and not (path.is_dir() and same_files(tar, archive, path))
        if fresh:
            _make_room(path, force)
            with partial_folders(target, [archive.folder]) as parts:
                unpack_tar(tar, archive, parts[archive.folder])
                if path.exists():
                    shutil.rmtree(path)
                os.replace(parts[archive.folder], path)
        yield fresh


def _make_room(path: Path, force: bool) -> None:
    if path.is_symlink() or (path.exists() and not force):
        raise DataError(f"{path} is there with other contents: name another --out, or set --force true (links are never followed)")


def _describe(release: Release) -> None:
    totals = release.totals
    print(f"{totals['movie_count']} films, {totals['staged_file_count']} files of {totals['staged_bytes'] / 2**20:.1f} MiB; licence: "
          f"{release.facts.get('licence', 'not stated')}")
    if any(entry.sha256 is None for movie in release.movies for entry in movie.files):
        print("note: this manifest has no checksums for all files: their sizes were compared, their contents were not")
