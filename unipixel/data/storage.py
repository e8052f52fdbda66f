"""Where shards are: a local or network folder, or an object store reached through fsspec, behind one call: read a range of bytes.

A local file is read with ``pread`` (no memory map: a truncated or replaced file must be an error, not a crash). A remote file is read by
ranged requests, or copied once per machine into a cache whose names hash the full URL and the version the server reports, so that two
files of one name, or a replaced file, never stand in for each other.
"""

from __future__ import annotations

import contextlib
import errno
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
MISSING, FORBIDDEN, BUSY = (404, 410), (401, 403), (408, 425, 429)
"""HTTP statuses: no such file, no right to read it, ask again later (as for all from 500 on)."""
VERSION_MARKS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "mtime", "LastModified", "Last-Modified", "created")
"""What file systems call that which changes with the contents, the best first."""


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

    def __del__(self):
        if getattr(self, "_pid", None) == os.getpid():
            self.close()

    def is_file(self, location: str) -> bool:
        if not is_remote(location):
            return Path(location).is_file()
        try:
            return _ask(location, "info")["type"] == "file"
        except FileNotFoundError:
            return False

    def size(self, location: str) -> int:
        """Bytes; ``FileNotFoundError`` when there is no such file."""
        return self._version(location)[1] if is_remote(location) else os.stat(location).st_size

    def read_all(self, location: str) -> bytes:
        """A small file: index or manifest."""
        return _ask(location, "cat_file") if is_remote(location) else Path(location).read_bytes()

    def read(self, location: str, offset: int, length: int) -> bytes:
        """Bytes ``offset`` … ``offset + length - 1``, fewer at the end of the file.

        Raises:
            OSError: the file is missing or unreadable, after ``ATTEMPTS`` tries of a remote one; or the server sends more than was asked for.
        """
        if self.cache or not is_remote(location):
            return os.pread(self._descriptor(location), length, offset)
        data = _ask(location, "cat_file", start=offset, end=offset + length)
        if len(data) > length:
            raise OSError(f"the server of {location} ignores ranges (sent {len(data)} bytes for {length}): set cache_dir to copy whole shards")
        return data

    def close(self) -> None:
        """Close the files this process has open; the next read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, location: str) -> int:
        """An open file: ``location`` itself, or its copy in the cache."""
        if self._pid != os.getpid():  # in a forked worker: it opens its own
            self.close()
            self._pid = os.getpid()
        if location in self._open:
            self._open.move_to_end(location)
        else:
            cached = self.cache and is_remote(location)
            self._open[location] = self.cache.open(location, *self._version(location)) if cached else os.open(location, os.O_RDONLY)
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        return self._open[location]

    def _version(self, location: str) -> tuple[str, int]:
        """(what the server says identifies the contents, size), asked once."""
        if location not in self._versions:
            info = _ask(location, "info")
            if info["size"] is None:
                raise DataError(f"the server does not say how large {location} is: copy the shards to a disk, or use another server")
            marks = [info[name] for name in VERSION_MARKS if info.get(name)]
            self._versions[location] = str(marks[0] if marks else ""), int(info["size"])
        return self._versions[location]


class ShardCache:
    """Whole remote shards on this machine, shared by its processes."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, location: str, version: str, size: int) -> int:
        """Descriptor of the copy, which is downloaded first when it is not there.

        A file appears under its name only when complete. A copy that is removed while a process has it open stays readable for it.

        Raises:
            OSError: the download came short, or the disk is full.
        """
        name = hashlib.sha256(f"{location}\n{version}\n{size}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}-{PurePosixPath(location).name}"
        try:
            return self._touch(path)
        except FileNotFoundError:
            with FileLock(f"{path}.lock"):
                if not path.is_file():  # else another process was faster
                    self._download(location, path, size)
                file = self._touch(path)
                self._evict(path)
                return file

    @staticmethod
    def _touch(path: Path) -> int:
        """Open; the time of change says when a copy was opened last, because file systems may not record the time of access."""
        file = os.open(path, os.O_RDONLY)
        os.utime(file)
        return file

    def _download(self, location: str, path: Path, size: int) -> None:
        temporary = path.with_name(path.name + ".tmp")
        _ask(location, "get_file", str(temporary))
        got = temporary.stat().st_size
        if got != size:
            temporary.unlink()
            raise OSError(f"download of {location} has {got} bytes, the server announced {size}")
        os.replace(temporary, path)

    def _evict(self, keep: Path) -> None:
        if not self.max_bytes:
            return
        copies = {}
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removes copies too
                if path.suffix not in (".lock", ".tmp"):
                    copies[path] = path.stat()
        total = sum(copy.st_size for copy in copies.values())
        for path, copy in sorted(copies.items(), key=lambda item: item[1].st_mtime_ns):
            if total <= self.max_bytes:
                break
            if path != keep:
                total -= copy.st_size
                path.unlink(missing_ok=True)


def _remote(location: str):
    try:
        return fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot read {location}: {error}") from error


def _typed(error: Exception) -> OSError:
    """An error of some client library as the ``OSError`` that it amounts to.

    ``fsspec`` reports every failure to ask about a file over HTTP as a missing file; what happened is in the cause.
    """
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    status = getattr(error, "status", None) or getattr(cause, "status", None)
    message = f"{type(cause or error).__name__}: {cause or error}"
    if status in MISSING:
        return FileNotFoundError(message)
    if status in FORBIDDEN:
        return PermissionError(message)
    if status and status < 500 and status not in BUSY:
        return OSError(errno.EINVAL, message)
    if cause is not None and (isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")):
        return ConnectionError(message)
    return error if isinstance(error, OSError) else ConnectionError(message)


def _passing(error: BaseException) -> bool:
    """Whether trying again may help."""
    final = isinstance(error, (FileNotFoundError, PermissionError)) or getattr(error, "errno", None) in (errno.EINVAL, errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and not final


@retry(retry=retry_if_exception(_passing), stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential_jitter(multiplier=0.1, max=10), reraise=True)
def _ask(location: str, method: str, *args, **kwargs) -> Any:
    """A method of the file system that ``location`` belongs to, called with its path there."""
    filesystem, path = _remote(location)
    try:
        return getattr(filesystem, method)(path, *args, **kwargs)
    except Exception as error:  # each client library has errors of its own
        raise _typed(error) from error
