"""``unipixel film release pack``: prepared films -> a folder that can be published, one tar per folder of pictures.

The same films give the same bytes. A stopped run is continued by the same command: tars that are right are kept. Paths of this machine in
JSON files are cut to file names, and the manifest says where; everything else is the same byte for byte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
from tqdm import tqdm

from data_tools.film.release import (
    CARD,
    KEYS,
    MANIFEST,
    SCHEMA,
    UNFINISHED,
    Archive,
    Movie,
    Release,
    StagedFile,
    check_space,
    clashes,
    plain_name,
    read_manifest,
    sha256_of,
)
from data_tools.film.release_tar import Contents, size_of, tar_size, write_tar
from data_tools.preference.command import command
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError, SampleError

TEMPLATE = Path(__file__).parents[1] / "templates" / "film_release.md.j2"
PATHS = ("video_path", "output_dir", "annotation_file")
"""Keys of a run summary whose value is a path; kept where it begins with the film's own folder."""
ABSOLUTE = re.compile(r"(?:/|~|[A-Za-z]:[\\/]|\\\\|file:)\S*")


@dataclass(kw_only=True)
class PackSettings:
    """Settings of ``unipixel film release pack``."""

    input: str = setting("", "folder of prepared films, e.g. data/out_preprocessed")
    out: str = setting("", "folder for the release")
    licence: str = setting("", "under which terms the release may be used, e.g. cc-by-nc-4.0; required")
    provenance: str = setting("", "where films, subtitles and questions come from, in words; required")
    title: str = setting("Prepared films", "headline of the card")
    force: bool = setting(False, "write into a folder that is not empty, and over a finished release")

    def __post_init__(self):
        if missing := [f"--{name}" for name in ("input", "out", "licence", "provenance") if not getattr(self, name).strip()]:
            raise ConfigError(f"{missing} must be set: a release says what it is made of and what may be done with it")
        if not Path(self.input).is_dir():
            raise ConfigError(f"--input {self.input!r} is not a folder")
        if Path(self.input).resolve() in (Path(self.out).resolve(), *Path(self.out).resolve().parents):
            raise ConfigError(f"--out {self.out!r} must not lie in --input")


@dataclass(frozen=True)
class Film:
    """What one film contributes: files beside the folders, and per folder its files; both as paths, or as bytes where they were changed."""

    name: str
    beside: Contents
    folders: Mapping[str, Contents]
    scrubbed: Mapping[str, Sequence[str]]

    @property
    def staged_bytes(self) -> int:
        return sum(map(size_of, self.beside.values())) + sum(map(tar_size, self.folders.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film release pack``: exit code 0, or ``EXIT_USER_ERROR`` with everything that is wrong on stderr."""
    return command("film release pack", (PackSettings,), pack, argv)


def pack(settings: PackSettings) -> None:
    """
    Raises:
        DataError: something in the input cannot be released, the target is taken, or the disk is too small.
    """
    source, out, ledger = Path(settings.input), Path(settings.out), SkipLedger()
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    films = [film for folder in folders if (film := _film(folder, ledger)) is not None]
    if twice := clashes(film.name for film in films):
        ledger.skip(source.name, source.name, "name_clash", f"films {twice} differ from others in capitals only")
    if len(ledger) or not films:
        lines = [f"  {skip.key}: {skip.reason}: {skip.message}" for skip in ledger.skips] or [f"  no film in {source}"]
        raise DataError("\n".join(["nothing was packed:", *lines]))
    stale = _claim(out, settings.force)
    check_space(out, sum(film.staged_bytes for film in films) - sum(p.stat().st_size for p in out.glob("*/*") if p.is_file()))
    movies = []
    with tqdm(total=sum(film.staged_bytes for film in films), desc="film release pack", unit="B", unit_scale=True) as progress:
        for film in films:
            movies.append(_stage(film, out / film.name, progress))
    left_out = sorted(p.name for p in source.iterdir() if p.is_file())
    scrubbed = [{"file": f"{film.name}/{name}", "fields": list(fields)} for film in films for name, fields in sorted(film.scrubbed.items())]
    release = Release(tuple(movies), {"schema": SCHEMA, "title": settings.title, "licence": settings.licence, "provenance": settings.provenance,
                                      "source_dir": source.resolve().name, "scrubbed": scrubbed, "left_out": left_out})
    kept = {str(Path(m.movie) / f.name) for m in movies for f in m.files}
    for path in stale - kept:
        (out / path).unlink(missing_ok=True)
    replace_file(out / CARD, _card(release).encode())
    release.write(out)
    (out / UNFINISHED).unlink()
    totals = release.totals
    print(f"{totals['source_file_count']} files of {totals['movie_count']} films are {totals['staged_file_count']} files of "
          f"{totals['staged_bytes'] / 2**20:.1f} MiB in {out}; paths were cut in {len(scrubbed)} files, {len(left_out)} files beside the films "
          f"were left out {left_out or ''}")


def _claim(out: Path, force: bool) -> set[str]:
    """Make the target ours until it is finished; returns the files of the release that it held."""
    marker, stale = out / UNFINISHED, set()
    if out.is_dir() and any(out.iterdir()):
        if not force and not marker.is_file():
            what = "holds a finished release" if (out / MANIFEST).is_file() else "is not empty"
            raise DataError(f"--out {out} {what}: name another folder, or set --force true")
        if (out / MANIFEST).is_file():
            stale = {str(Path(m.movie) / f.name) for m in read_manifest(out).movies for f in m.files}
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    (out / MANIFEST).unlink(missing_ok=True)
    return stale


def _film(folder: Path, ledger: SkipLedger) -> Film | None:
    """The film in ``folder``; None where something in it cannot be released, which is listed."""
    listed, scrubbed = len(ledger), {}
    beside = _contents(folder, folder, scrubbed, ledger)
    folders = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if path.name.startswith("."):
            ledger.skip(folder.name, f"{folder.name}/{path.name}", "unfinished", "left by an interrupted run: prepare the film again, or delete it")
        else:
            folders[path.name] = _contents(path, folder, scrubbed, ledger)
            for inner in (p for p in path.iterdir() if p.is_dir()):
                ledger.skip(folder.name, f"{folder.name}/{path.name}/{inner.name}", "nested_folder", "pictures lie directly in their folder")
    names = [*beside, *folders, *(f"{name}.tar" for name in folders)]
    if twice := clashes(names):
        ledger.skip(folder.name, folder.name, "name_clash", f"{twice} would be the same file as another one on some file systems")
    if not folders:
        ledger.skip(folder.name, folder.name, "no_pictures", f"{folder} holds no folder of pictures")
    return Film(folder.name, beside, folders, scrubbed) if len(ledger) == listed else None


def _contents(folder: Path, film: Path, scrubbed: dict[str, Sequence[str]], ledger: SkipLedger) -> dict[str, Path | bytes]:
    """Files of a folder; JSON files that hold paths of this machine as bytes without them."""
    found: dict[str, Path | bytes] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_symlink() or not p.is_dir()):
        name = str(path.relative_to(film))
        with ledger.catching(film.name, f"{film.name}/{name}"):
            if path.is_symlink() or not path.is_file():
                raise SampleError("neither a file nor a folder: links and the like are not released", reason="not_a_file")
            try:
                plain_name(path.name, "file")
            except DataError as error:
                raise SampleError(str(error), reason="bad_name") from error
            found[path.name] = path
            if path.suffix == ".json":
                data, fields = scrub(path.read_bytes(), film.name)
                if fields:
                    found[path.name], scrubbed[name] = data, fields
    if twice := clashes(found):
        ledger.skip(film.name, str(folder.relative_to(film.parent)), "name_clash", f"files {twice[:3]} differ from others in capitals only")
    return found


def scrub(data: bytes, film: str) -> tuple[bytes, list[str]]:
    """(JSON without paths of this machine, keys that were changed); the same bytes where there are none.

    Absolute paths become file names wherever they are, save in what is said in the film (``text``); the paths of a run summary also when
    they are relative, unless they begin with the film's folder.

    Raises:
        SampleError: ``bad_json``.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise SampleError(f"not JSON: {error}", reason="bad_json") from error
    fields: list[str] = []

    def cut(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: cut(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [cut(inner, key) for inner in value]
        if not isinstance(value, str) or key == "text" or not _leads_out(value, key, film):
            return value
        fields.append(key)
        return PureWindowsPath(value).name  # knows both separators

    content = cut(content, "")
    fields = sorted(set(fields))
    return ((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode() if fields else data), fields


def _leads_out(value: str, key: str, film: str) -> bool:
    parts = re.split(r"[\\/]", value)
    return len(parts) > 1 and (ABSOLUTE.fullmatch(value) is not None or ".." in parts or (key in PATHS and parts[0] != film))


def _stage(film: Film, folder: Path, progress: tqdm) -> Movie:
    """Write what is missing of one film."""
    folder.mkdir(exist_ok=True)
    files = []
    for name, content in film.beside.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            replace_file(folder / name, data)
        files.append(StagedFile(name, len(data), sha256_of(folder / name)))
        progress.update(len(data))
    archives = []
    for name, contents in film.folders.items():
        path = folder / f"{name}.tar"
        size, digest = tar_size(contents), None
        if path.is_file() and path.stat().st_size == size:
            _, digest = write_tar(name, contents, None)
            digest = digest if digest == sha256_of(path) else None
        if digest is None:
            part = path.with_name(f".{path.name}.part")
            with open(part, "wb") as file:
                size, digest = write_tar(name, contents, file)
            os.replace(part, path)
        archives.append(Archive(path.name, name, len(contents), size, sum(map(size_of, contents.values())), digest))
        progress.update(size)
    return Movie(film.name, tuple(files), tuple(archives))


def _card(release: Release) -> str:
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(  # noqa: S701 - Markdown
        TEMPLATE.read_text(encoding="utf-8"))
    return template.render(release=release, facts=release.facts, totals=release.totals, keys=KEYS,
                           quoted=lambda text: json.dumps(text, ensure_ascii=False)) + "\n"
