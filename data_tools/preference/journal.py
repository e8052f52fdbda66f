"""The journal of replies: JSON Lines that only grow, one line per answered request under the request's hash.

A line is written at once when a reply arrives, so a killed process loses what was under way and nothing else; a last line that was cut is
removed at the next start. One process writes at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Self

from filelock import FileLock, Timeout

from unipixel.errors import ConfigError, DataError


class Journal:
    """Records by key, in memory and on disk. Use as a context manager, or :meth:`close` it.

    Args:
        writable: False reads a recording: no lock is taken and the file must exist.

    Raises:
        ConfigError: another process is writing to the file.
        DataError: a line that is no record, or a key that occurs twice.
    """

    def __init__(self, path: str | Path, *, writable: bool = True):
        self.path = Path(path)
        self._mutex, self._file, self._lock = Lock(), None, None
        if not writable:
            if not self.path.is_file():
                raise DataError(f"no recorded replies at {self.path}")
            self._records = _read(self.path.read_bytes(), self.path)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{self.path} is being written by another process: wait for it, or name another file of replies") from None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            raw = self.path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            if whole < len(raw):
                os.ftruncate(self._file, whole)
            self._records = _read(raw[:whole], self.path)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self._records.get(key)

    def append(self, key: str, record: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """Store one record. ``request`` goes to the file only: it is for people, and large."""
        line = json.dumps({"key": key, "record": record, "request": request}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._mutex:
            assert self._file is not None, "the journal is closed, or a recording"
            assert key not in self._records, f"request {key} was answered twice"
            while line:  # a full disk may take a part of it; the rest then raises
                line = line[os.write(self._file, line):]
            self._records[key] = record

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            self._lock.release()


def _read(raw: bytes, path: Path) -> dict[str, Mapping[str, Any]]:
    records: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            entry = json.loads(line)
            key, record = entry["key"], entry["record"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is not a stored reply ({error!r}): remove the line, and its request is asked again") from error
        if key in records:
            raise DataError(f"{path}, line {number} answers {key} a second time: remove one of both lines")
        records[key] = record
    return records
