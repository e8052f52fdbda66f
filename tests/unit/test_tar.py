"""Every way a tar can be damaged is found, named, and costs no sample but the damaged ones."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from data_tools import reindex
from tests.unit.test_shards import bundles, clip
from unipixel.data.index import MANIFEST
from unipixel.data.shards import ShardDataset
from unipixel.data.tar import scan
from unipixel.data.writer import ShardWriter
from unipixel.errors import DataError

TEXTS = ("meta.json", "masks.json")


@pytest.fixture
def tar(tmp_path):
    with ShardWriter(tmp_path / "d", dataset="toy", split="train") as writer:
        for bundle in bundles():
            writer.write(*bundle)
    return tmp_path / "d" / "shard-000000.tar"


def write_tar(path, members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            archive.addfile(info, io.BytesIO(data))
    return path


def reasons(path) -> list[str]:
    return [p.reason for p in scan(path)[1]]


def test_a_good_tar_has_no_problems(tar):
    found, problems = scan(tar)
    rows = ShardDataset(tar.parent).rows.to_pylist()
    assert not problems
    assert [(b.key, b.offset, b.length) for b in found] == list(dict.fromkeys((r["key"], r["offset"], r["length"]) for r in rows))
    assert all(tuple(b.members) == (*TEXTS, "frames.zip") for b in found)


@pytest.mark.parametrize(("where", "expected", "left"), [
    ("in_header", ["missing_member", "truncated_header"], 2),
    ("in_data", ["missing_member", "truncated_member"], 2),
    ("at_member", ["missing_member", "no_end"], 2),
    ("at_sample", ["no_end"], 3),
    ("at_end", ["no_end"], 4),
    ("empty", ["no_end"], 0),
])
def test_truncation_is_found_at_every_kind_of_boundary(tar, where, expected, left):
    last, third = scan(tar)[0][3], scan(tar)[0][2]
    masks = third.members["masks.json"][0]
    size = {"in_header": masks - 100, "in_data": masks + 3, "at_member": masks - 512, "at_sample": third.offset + third.length,
            "at_end": last.offset + last.length + 512, "empty": 0}[where]
    os.truncate(tar, size)
    found, problems = scan(tar)
    assert [p.reason for p in problems] == expected and len(found) == left


def test_junk_and_missing_end(tar):
    with open(tar, "ab") as file:
        file.write(b"more")
    assert reasons(tar) == ["junk"]


@pytest.mark.parametrize(("members", "expected"), [
    (["a.meta.json", "b.meta.json", "a.masks.json", "b.masks.json", "a.frames.zip", "b.frames.zip"], {"interleaved"}),
    (["clip.v0.meta.json", "clip.v0.masks.json", "clip.v0.frames.zip"], {"unknown_member"}),
    (["a.meta.json", "a.masks.json", "a.masks.json", "a.frames.zip"], {"duplicate_member"}),
    (["a.meta.json", "a.masks.json", "a.frames.zip"] * 2, {"duplicate_member"}),
    (["a.meta.json", "a.masks.json", "a.frames.zip", "b.meta.json", "b.masks.json", "b.frames.zip", "a.meta.json"], {"interleaved"}),
    (["a.meta.json", "a.frames.zip"], {"missing_member"}),
    (["a.masks.json", "a.meta.json", "a.frames.zip"], {"missing_member"}),
    (["a.meta.json", "a.masks.json", "a.frames.zip", "a.video.mp4"], {"missing_member"}),
    (["folder/a.meta.json"], {"bad_key"}), (["Ä.meta.json"], {"bad_key"}), (["A.meta.json"], {"bad_key"}),
    (["a" * 90 + ".json"], {"unknown_member"}), (["a.meta.json", "a.masks.json", "a.pkl"], {"unknown_member"}),
])
def test_keys_and_members(tmp_path, members, expected):
    path = write_tar(tmp_path / "x.tar", [(name, b"{}") for name in members])
    found, problems = scan(path)
    assert {p.reason for p in problems} == expected
    assert not {b.key for b in found} & {p.key for p in problems}


def test_other_entries_and_garbage(tmp_path):
    assert reasons(write_tar(tmp_path / "link.tar", [("a.meta.json", b"")], tarfile.SYMTYPE)) == ["member_type"]
    (tmp_path / "page.tar").write_bytes(b"<html>" * 2000)
    assert reasons(tmp_path / "page.tar") == ["tar_header"]


def test_index_from_tars_alone(tar):
    """Equal to the one the writer made; a damaged tar is refused and nothing is written."""
    folder = tar.parent
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for path in folder.glob("*.parquet"):
        path.unlink()
    (folder / MANIFEST).unlink()
    assert reindex.main(["--folder", str(folder)]) == 0
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert after == before
    assert reindex.main(["--folder", str(folder)]) == 2, "an existing index is not replaced unasked"

    os.truncate(tar, tar.stat().st_size - 1024 * 12)
    (folder / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar has \d problems: byte \d+"):
        reindex.reindex(folder)
    assert not (folder / MANIFEST).exists()


def test_index_refuses_mixed_folders(tmp_path):
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, dataset=name, split="s") as writer:
            writer.write(*clip("one", 1))
    both = tmp_path / "both"
    both.mkdir()
    for name in ("a", "b"):
        (both / f"{name}.tar").write_bytes((tmp_path / name / "shard-000000.tar").read_bytes())
    with pytest.raises(DataError, match="tars of 2 datasets"):
        reindex.reindex(both)
    (both / "b.tar").write_bytes((tmp_path / "a" / "shard-000000.tar").read_bytes())
    with pytest.raises(DataError, match="occurs in a.tar and in b.tar"):
        reindex.reindex(both)
