"""One folder of pictures as a tar: written so that equal folders give equal bytes, read so that a hostile one does no harm.

Nothing of this machine goes in: members are sorted, belong to nobody and have no date. On the way out only plain files directly in the one
expected folder are accepted, no more of them and no larger than the manifest says.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.film.release import Archive, plain_name
from unipixel.errors import DataError, SampleError

Contents = Mapping[str, Path | bytes]
"""File name -> where its bytes are, or the bytes."""


class _Sink:
    """Counts and hashes what passes; ``file`` None only hashes."""

    def __init__(self, file: IO[bytes] | None):
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        if self.file is not None:
            self.file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes


def write_tar(folder: str, contents: Contents, file: IO[bytes] | None) -> tuple[int, str]:
    """(bytes, SHA-256) of the tar of ``folder``, which is written to ``file`` where there is one.

    Raises:
        DataError: a file shrinks while it is read, or its name is too long for the format.
    """
    sink = _Sink(file)
    try:
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            root = tarfile.TarInfo(folder)
            root.type, root.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(root)
            for name in sorted(contents):
                with _opened(contents[name]) as (size, source):
                    member = tarfile.TarInfo(f"{folder}/{name}")
                    member.size = size
                    tar.addfile(member, source)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot archive {folder}: {error}") from error
    return sink.bytes, sink.digest.hexdigest()


@contextmanager
def _opened(content: Path | bytes) -> Iterator[tuple[int, IO[bytes]]]:
    if isinstance(content, bytes):
        yield len(content), io.BytesIO(content)
    else:
        with open(content, "rb") as source:
            yield content.stat().st_size, source


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def tar_size(contents: Contents) -> int:
    """Bytes of the tar, known before it is written: a header of a block per member, contents in whole blocks, all in whole records."""
    block = tarfile.BLOCKSIZE
    total = 3 * block + sum(block + -(-size_of(c) // block) * block for c in contents.values())
    return -(-total // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def check_tar(path: Path, archive: Archive) -> None:
    """Read all headers.

    Raises:
        SampleError: ``not_a_tar``, ``unsafe_member``, ``too_many_files``, ``too_many_bytes`` or ``file_count``.
    """
    for _ in _members(path, archive):
        pass


def unpack_tar(path: Path, archive: Archive, folder: Path) -> None:
    """The members into ``folder``, which exists and is empty. Raises as :func:`check_tar`; members before a bad one are there."""
    for tar, member in _members(path, archive):
        try:
            safe = tarfile.data_filter(member, str(folder.parent))  # a second opinion on the rules of _safe_name
            with open(folder / _safe_name(safe, archive), "xb") as out:
                shutil.copyfileobj(tar.extractfile(member), out)
        except (tarfile.TarError, FileExistsError) as error:
            raise SampleError(f"{member.name!r}: {error}", reason="unsafe_member") from error


def same_files(path: Path, archive: Archive, folder: Path) -> bool:
    """Whether ``folder`` holds exactly the files of the tar, byte for byte."""
    present = {p.name for p in folder.iterdir()}
    for tar, member in _members(path, archive):
        own = folder / _safe_name(member, archive)
        if own.name not in present or own.is_symlink() or not own.is_file() or own.stat().st_size != member.size:
            return False
        with open(own, "rb") as mine:
            if hashlib.file_digest(mine, "sha256").digest() != _digest(tar.extractfile(member)):
                return False
        present.discard(own.name)
    return not present


def _digest(source: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
    return digest.digest()


def _members(path: Path, archive: Archive) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files of a tar, in order, each checked before it is handed out; at the end that none is missing."""
    names: set[str] = set()
    count = total = 0
    limit = archive.size_bytes if archive.source_bytes is None else archive.source_bytes  # without compression nothing is larger than the tar
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isdir() and member.name.rstrip("/") == archive.folder:
                    continue
                name = unicodedata.normalize("NFC", _safe_name(member, archive)).casefold()
                if name in names:
                    raise SampleError(f"{member.name!r} occurs twice, or differs from another member in capitals only", reason="unsafe_member")
                names.add(name)
                count, total = count + 1, total + member.size
                if count > archive.source_file_count:
                    raise SampleError(f"more than the {archive.source_file_count} files that the manifest lists", reason="too_many_files")
                if total > limit:
                    raise SampleError(f"more than the {limit} bytes that the manifest allows", reason="too_many_bytes")
                yield tar, member
    except (tarfile.TarError, OSError) as error:
        raise SampleError(f"cannot be read as an uncompressed tar: {error}", reason="not_a_tar") from error
    if count != archive.source_file_count or archive.source_bytes not in (None, total):
        raise SampleError(f"{count} files of {total} bytes, the manifest says {archive.source_file_count} of {archive.source_bytes}",
                          reason="file_count")


def _safe_name(member: tarfile.TarInfo, archive: Archive) -> str:
    """Name of a member inside the archive's folder (``unsafe_member`` where it is anything but a plain file directly in it)."""
    if not member.isreg() or member.issparse():
        raise SampleError(f"{member.name!r} is no plain file (type {member.type!r}): links, devices and sparse files are not unpacked",
                          reason="unsafe_member")
    root, slash, name = member.name.partition("/")
    try:
        if root != archive.folder or not slash:
            raise DataError(f"it is not in the folder {archive.folder!r}")
        return plain_name(name, "file")
    except DataError as error:
        raise SampleError(f"{member.name!r}: {error}", reason="unsafe_member") from error
