"""Where shards are: a local or network folder, or an object store reached through fsspec, behind one call: read a range of bytes.

A local file is read with ``pread`` (no memory map: a truncated or replaced file must be an error, not a crash). A remote file is read by
ranged requests, or copied once per machine into a cache whose names hash the full URL and the version the server reports, so that two
files of one name, or a replaced file, never stand in for each other.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from filelock import FileLock
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from unipixel.errors import DataError

MAX_OPEN_FILES = 64
ATTEMPTS = 5
"""Tries of one remote request before its sample is given up."""


def is_remote(location: str | Path) -> bool:
    return "://" in str(location)


def join(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


class Storage:
    """Reads files by name and range; cheap to pickle and to fork: each process opens what it touches.

    Args:
        cache_dir: folder on this machine that keeps whole remote shards; empty: ranged requests only.
        cache_bytes: the least recently used shards are removed beyond this size; 0: never.

    Raises:
        DataError: a protocol whose package is not installed (from :meth:`size` and the reads).
    """

    def __init__(self, cache_dir: str = "", cache_bytes: int = 0):
        self.cache = ShardCache(Path(cache_dir), cache_bytes) if cache_dir else None
        self._open: OrderedDict[str, int] = OrderedDict()
        self._versions: dict[str, tuple[str, int]] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_pid": None}

    def is_file(self, location: str) -> bool:
        if not is_remote(location):
            return Path(location).is_file()
        filesystem, path = _remote(location)
        return filesystem.isfile(path)

    def size(self, location: str) -> int:
        """Bytes; ``FileNotFoundError`` when there is no such file."""
        return self._version(location)[1] if is_remote(location) else os.stat(location).st_size

    def read_all(self, location: str) -> bytes:
        """A small file: index or manifest."""
        return _fetch(location) if is_remote(location) else Path(location).read_bytes()

    def read(self, location: str, offset: int, length: int) -> bytes:
        """Bytes ``offset`` … ``offset + length - 1``, fewer at the end of the file.

        Raises:
            OSError: the file is missing or unreadable, after ``ATTEMPTS`` tries of a remote one.
        """
        if not is_remote(location):
            return os.pread(self._descriptor(location), length, offset)
        if self.cache:
            return os.pread(self._descriptor(str(self.cache.local(location, *self._version(location)))), length, offset)
        return _fetch(location, offset, offset + length)

    def close(self) -> None:
        """Close the files this process has open; the next read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, path: str) -> int:
        if self._pid != os.getpid():  # in a forked worker: its own descriptors
            self._open, self._pid = OrderedDict(), os.getpid()
        if path in self._open:
            self._open.move_to_end(path)
        else:
            self._open[path] = os.open(path, os.O_RDONLY)
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        return self._open[path]

    def _version(self, location: str) -> tuple[str, int]:
        """(what the server says identifies the contents, size), asked once."""
        if location not in self._versions:
            info = _info(location)
            marks = [info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if info.get(name)]
            self._versions[location] = str(marks[0] if marks else ""), int(info["size"])
        return self._versions[location]


class ShardCache:
    """Whole remote shards on this machine, shared by its processes."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def local(self, location: str, version: str, size: int) -> Path:
        """Path of the copy, downloaded first when it is not there.

        A file appears under its name only when complete. A copy that is removed while a process reads it stays readable for that process.

        Raises:
            OSError: the download came short, or the disk is full.
        """
        name = hashlib.sha256(f"{location}\n{version}\n{size}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}-{PurePosixPath(location).name}"
        if not path.is_file():
            with FileLock(f"{path}.lock"):
                if not path.is_file():  # another process was faster
                    self._download(location, path, size)
                    self._evict(path)
        return path

    def _download(self, location: str, path: Path, size: int) -> None:
        temporary = path.with_name(path.name + ".tmp")
        filesystem, source = _remote(location)
        _retrying(filesystem.get_file)(source, str(temporary))
        got = temporary.stat().st_size
        if got != size:
            temporary.unlink()
            raise OSError(f"download of {location} has {got} bytes, the server announced {size}")
        os.replace(temporary, path)

    def _evict(self, keep: Path) -> None:
        if not self.max_bytes:
            return
        copies = [p for p in self.folder.iterdir() if p.suffix not in (".lock", ".tmp")]
        total = sum(p.stat().st_size for p in copies)
        for path in sorted(copies, key=lambda p: p.stat().st_atime):
            if total <= self.max_bytes:
                break
            if path != keep:
                total -= path.stat().st_size
                path.unlink()


def _remote(location: str):
    try:
        return fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot read {location}: {error}") from error


def _passing(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, PermissionError))


_retrying = retry(retry=retry_if_exception(_passing), stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential_jitter(multiplier=0.1, max=10),
                  reraise=True)


@_retrying
def _fetch(location: str, start: int | None = None, end: int | None = None) -> bytes:
    filesystem, path = _remote(location)
    return filesystem.cat_file(path, start=start, end=end)


@_retrying
def _info(location: str) -> dict[str, Any]:
    filesystem, path = _remote(location)
    return filesystem.info(path)
