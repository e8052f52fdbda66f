"""``unipixel film release``: what a release holds, that it comes back byte for byte, and what a hostile or damaged one cannot do."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_tools.film import release, release_pack
from data_tools.film.release_pack import main as pack
from data_tools.film.release_pack import scrub
from data_tools.film.release_tar import tar_size, write_tar
from data_tools.film.release_unpack import unpack_main as unpack
from data_tools.film.release_unpack import verify_main as verify
from data_tools.preference.command import EXIT_FOUND
from tests.dataset_fixtures.common import write
from tests.packing import jpeg
from unipixel.errors import EXIT_USER_ERROR, DataError

METHODS = ("blend_blur_with_last_frame", "weighted_average")
TERMS = ["--licence", "cc-by-nc-4.0", "--provenance", "Made for this test."]


def prepared(root: Path) -> Path:
    """Two films as ``film prepare`` leaves them, and its list of problems."""
    for number, film in enumerate(("hero", "the_matrix")):
        for method in METHODS:
            for n in range(1, 4 + number):
                write(root / film / method / f"frame{n:05d}.jpg", jpeg(10 * number + n))
            write(root / film / method / "chunks.json", {"made_by": {"video": f"{film}.mp4"}, "chunks": []})
        (root / film / "KEY_FRAMES").mkdir()
        write(root / film / "metadata_text_centric.json", [{"text": "/ sings /", "text_start_time_sec": 0.0, "text_end_time_sec": 1.0}])
        write(root / film / "run_summary.json", {"movie": film, "video_path": f"{film}.mp4", "output_dir": f"{film}/{METHODS[0]}"})
    write(root / "the_matrix/KEY_FRAMES/KEY_00-00-01_0000.jpg", jpeg(99))
    write(root / "skipped.jsonl", b"")
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def packed(tmp_path: Path) -> Path:
    assert pack(["--input", str(prepared(tmp_path / "out_preprocessed")), "--out", str(tmp_path / "release"), *TERMS]) == 0
    return tmp_path / "release"


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_round_trip_is_byte_identical(tmp_path, capsys):
    folder = packed(tmp_path)
    assert "['skipped.jsonl']" in capsys.readouterr().out
    assert verify(["--input", str(folder)]) == 0
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == 0
    assert tree(tmp_path / "back") == {k: v for k, v in tree(tmp_path / "out_preprocessed").items() if k != "skipped.jsonl"}
    assert (tmp_path / "back/hero/KEY_FRAMES").is_dir(), "a folder without pictures is a folder too"


def test_layout_and_true_counts(tmp_path):
    folder = packed(tmp_path)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {"README.md", "manifest.json"} | {
        f"{film}/{name}" for film in ("hero", "the_matrix")
        for name in ("metadata_text_centric.json", "run_summary.json", "KEY_FRAMES.tar", *(f"{m}.tar" for m in METHODS))}
    made, source = manifest_of(folder), tree(tmp_path / "out_preprocessed")
    del source["skipped.jsonl"]
    staged = {k: v for k, v in tree(folder).items() if "/" in k}
    assert {key: made[key] for key in release.TOTALS} == {
        "movie_count": 2, "pooling_variant_count": 2, "source_file_count": len(source), "source_bytes": sum(map(len, source.values())),
        "staged_file_count": 10, "staged_bytes": sum(map(len, staged.values()))}
    assert made["source_dir"] == "out_preprocessed" and made["left_out"] == ["skipped.jsonl"] and made["licence"] == "cc-by-nc-4.0"
    first = made["movies"][0]
    assert first["movie"] == "hero" and [a["name"] for a in first["archives"]] == ["KEY_FRAMES.tar", *(f"{m}.tar" for m in METHODS)]
    assert first["archives"][1]["source_dir"] == METHODS[0] and first["archives"][1]["source_file_count"] == 4  # 3 pictures, chunks.json
    with tarfile.open(folder / f"hero/{METHODS[0]}.tar", "r:") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [METHODS[0], *(f"{METHODS[0]}/{n}" for n in ("chunks.json", *(f"frame{n:05d}.jpg" for n in (1, 2, 3))))]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    card = (folder / "README.md").read_text()
    assert "the_matrix | blend_blur_with_last_frame 5, weighted_average 5" in card and "Made for this test." in card
    assert str(tmp_path).encode() not in b"".join(tree(folder).values())


def test_the_same_films_give_the_same_bytes(tmp_path):
    first = tree(packed(tmp_path))
    for n, path in enumerate(sorted(tmp_path.glob("out_preprocessed/*/*/*"))):
        os.utime(path, (n, n))
        path.chmod(0o600)
    assert pack(["--input", str(tmp_path / "out_preprocessed"), "--out", str(tmp_path / "again"), *TERMS]) == 0
    assert tree(tmp_path / "again") == first


def test_the_order_in_which_files_are_found_does_not_matter():
    contents = {f"{n}.jpg": bytes(600 * n) for n in range(3)}
    assert write_tar("x", contents, None) == write_tar("x", dict(reversed(contents.items())), None)
    assert write_tar("x", contents, None)[0] == tar_size(contents)


def test_a_finished_release_is_not_overwritten_unless_forced(tmp_path, capsys):
    folder = packed(tmp_path)
    args = ["--input", str(tmp_path / "out_preprocessed"), "--out", str(folder), *TERMS]
    assert pack(args) == EXIT_USER_ERROR and "holds a finished release" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out_preprocessed/hero")
    write(tmp_path / "out_preprocessed/the_matrix/KEY_FRAMES/KEY_00-00-02_0001.jpg", jpeg(5))
    (folder / "NOTES.txt").write_text("not of the release")
    before = (folder / "the_matrix/weighted_average.tar").stat().st_mtime_ns
    assert pack([*args, "--force", "true"]) == 0 and manifest_of(folder)["movie_count"] == 1
    assert not list((folder / "hero").iterdir()) and (folder / "the_matrix/weighted_average.tar").stat().st_mtime_ns == before
    assert verify(["--input", str(folder)]) == EXIT_FOUND and "NOTES.txt: unexpected_file" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x").write_text("")
    assert pack([*args[:2], "--out", str(tmp_path / "other"), *TERMS]) == EXIT_USER_ERROR and "is not empty" in capsys.readouterr().err


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    prepared(tmp_path / "out_preprocessed")
    args, original, count = ["--input", str(tmp_path / "out_preprocessed"), "--out", str(tmp_path / "release"), *TERMS], release_pack.write_tar, [0]

    def stopping(folder, contents, file):
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return original(folder, contents, file)

    monkeypatch.setattr(release_pack, "write_tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        pack(args)
    monkeypatch.undo()
    done, damaged = tmp_path / f"release/hero/{METHODS[0]}.tar", tmp_path / "release/hero/KEY_FRAMES.tar"
    assert not (tmp_path / "release/manifest.json").exists() and verify(["--input", str(tmp_path / "release")]) == EXIT_USER_ERROR
    before, _ = done.stat().st_mtime_ns, damaged.write_bytes(b"x" * damaged.stat().st_size)
    assert pack(args) == 0 and done.stat().st_mtime_ns == before and not list((tmp_path / "release").rglob(".*"))
    assert tree(tmp_path / "release") == tree(packed(tmp_path / "whole")), "a damaged tar of the right size was written anew"


def test_paths_of_this_machine_are_cut(tmp_path):
    root = prepared(tmp_path / "out_preprocessed")
    write(root / "hero/run_summary.json", {"movie": "hero", "video_path": "/home/someone/My Films/hero.mp4", "output_dir": "../data/hero",
                                           "annotation_file": "C:\\data\\hero.json", "note": "and/or", "made_by": {"video": "/data/hero.mkv"}})
    write(root / "hero/weighted_average/chunks.json", {"made_by": {"video": "/films/hero.mp4"}})
    assert pack(["--input", str(root), "--out", str(tmp_path / "release"), *TERMS]) == 0
    assert manifest_of(tmp_path / "release")["scrubbed"] == [
        {"file": "hero/run_summary.json", "fields": ["annotation_file", "output_dir", "video", "video_path"]},
        {"file": "hero/weighted_average/chunks.json", "fields": ["video"]}]
    assert json.loads((tmp_path / "release/hero/run_summary.json").read_text()) == {
        "movie": "hero", "video_path": "hero.mp4", "output_dir": "hero", "annotation_file": "hero.json", "note": "and/or",
        "made_by": {"video": "hero.mkv"}}
    assert b"/films/" not in b"".join(tree(tmp_path / "release").values()) and verify(["--input", str(tmp_path / "release")]) == 0
    same = b'{"output_dir": "hero/weighted_average",  "text": "/etc/passwd"}'
    assert scrub(same, "hero") == (same, [])


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda root: (root / "hero/weighted_average/frame00009.jpg").symlink_to("/etc/passwd"), "not_a_file"),
    (lambda root: write(root / "hero/weighted_average/more/frame00001.jpg", b"x"), "nested_folder"),
    (lambda root: write(root / "hero/.weighted_average.part/frame00001.jpg", b"x"), "unfinished"),
    (lambda root: write(root / "hero/run_summary.json", b"{oops"), "bad_json"),
    (lambda root: write(root / "hero/weighted_average/FRAME00001.jpg", b"x"), "name_clash"),
    (lambda root: write(root / "hero/weighted_average.tar", b"x"), "name_clash"),
    (lambda root: write(root / "hero/a:b.json", {}), "bad_name"),
    (lambda root: write(root / "empty/run_summary.json", {}), "no_pictures"),
    (lambda root: shutil.copytree(root / "hero", root / "HERO"), "name_clash"),
])
def test_what_cannot_be_released_is_named_and_nothing_is_packed(tmp_path, capsys, damage, reason):
    root = prepared(tmp_path / "out_preprocessed")
    damage(root)
    assert pack(["--input", str(root), "--out", str(tmp_path / "release"), *TERMS]) == EXIT_USER_ERROR
    assert f": {reason}: " in capsys.readouterr().err and not (tmp_path / "release").exists()


@pytest.mark.parametrize(("more", "message"), [
    (["--licence", " "], "--licence"), (["--provenance", ""], "--provenance"), (["--input", "nowhere"], "'nowhere' is not a folder"),
    (["--out", "films/release"], "must not lie in"), ([], "no film in")])
def test_wrong_calls(tmp_path, capsys, monkeypatch, more, message):
    (tmp_path / "films").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pack(["--input", "films", "--out", "release", *TERMS, *more]) == EXIT_USER_ERROR and message in capsys.readouterr().err
    assert unpack(["--input", "films", "--out", "x"]) == EXIT_USER_ERROR and "not a release" in capsys.readouterr().err
    assert unpack(["--input", "films"]) == EXIT_USER_ERROR and verify([]) == EXIT_USER_ERROR


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda f: (f / "hero/weighted_average.tar").unlink(), "hero/weighted_average.tar: missing"),
    (lambda f: (f / "hero/run_summary.json").write_text("{}"), "hero/run_summary.json: size"),
    (lambda f: write(f / "hero/run_summary.json", (f / "hero/run_summary.json").read_bytes().replace(b"hero", b"hera")),
     "hero/run_summary.json: sha256"),
    (lambda f: (f / "hero/more.tar").write_bytes(b""), "hero/more.tar: unexpected_file"),
])
def test_damage_is_found_and_nothing_is_unpacked(tmp_path, capsys, damage, reason):
    folder = packed(tmp_path)
    damage(folder)
    capsys.readouterr()
    assert verify(["--input", str(folder)]) == EXIT_FOUND and reason in capsys.readouterr().out
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == EXIT_USER_ERROR
    assert reason in capsys.readouterr().err and not (tmp_path / "back").exists()


def member(name: str, data: bytes = b"x", **more) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data) if more.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else 0
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


GOOD = member("weighted_average/a.jpg")
EVIL = {
    "up": [member("../x")], "up inside": [member("weighted_average/../../x")], "absolute": [member("/tmp/x")], "elsewhere": [member("hero/x")],
    "deeper": [member("weighted_average/b/x")], "backslash": [member("weighted_average/..\\x")], "hidden": [member("weighted_average/.x")],
    "link": [member("weighted_average/x", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [GOOD, member("weighted_average/x", type=tarfile.LNKTYPE, linkname="weighted_average/a.jpg")],
    "device": [member("weighted_average/x", type=tarfile.CHRTYPE)], "pipe": [member("weighted_average/x", type=tarfile.FIFOTYPE)],
    "sparse": [member("weighted_average/x", type=tarfile.GNUTYPE_SPARSE)], "folder": [member("weighted_average/b", type=tarfile.DIRTYPE)],
    "twice": [GOOD, GOOD], "capitals": [GOOD, member("weighted_average/A.JPG")],
    "accents": [member("weighted_average/\u00e9.jpg"), member("weighted_average/e\u0301.jpg")],
}


def hostile(folder: Path, members, **changes) -> None:
    """Replaces a tar of the release and makes the manifest agree with it, as someone who publishes one could."""
    path = folder / "hero/weighted_average.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.size else None)
    made = manifest_of(folder)
    entry = next(a for a in made["movies"][0]["archives"] if a["name"] == path.name)
    entry |= {"source_file_count": len(members), "source_bytes": sum(info.size for info, _ in members), "size_bytes": path.stat().st_size,
              "sha256": release.sha256_of(path)} | changes
    write_manifest(folder, made)


def write_manifest(folder: Path, made: dict) -> None:
    movies = tuple(release._movie(m) for m in made.pop("movies"))
    release.Release(movies, made).write(folder)


@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL)
def test_a_hostile_archive_is_refused_before_anything_is_written(tmp_path, capsys, members):
    folder = packed(tmp_path)
    hostile(folder, members)
    before = tree(tmp_path)
    assert verify(["--input", str(folder)]) == EXIT_FOUND and "weighted_average.tar: unsafe_member" in capsys.readouterr().out
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == EXIT_USER_ERROR and tree(tmp_path) == before


@pytest.mark.parametrize(("changes", "reason"), [({"source_file_count": 1}, "too_many_files"), ({"source_bytes": 1}, "too_many_bytes"),
                                                 ({"source_file_count": 3}, "file_count")])
def test_an_archive_with_more_or_less_than_listed_is_refused(tmp_path, capsys, changes, reason):
    folder = packed(tmp_path)
    hostile(folder, [GOOD, member("weighted_average/b.jpg")], **changes)
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == EXIT_USER_ERROR and reason in capsys.readouterr().err


def test_a_compressed_archive_is_refused(tmp_path, capsys):
    folder = packed(tmp_path)
    hostile(folder, [GOOD])
    path, made = folder / "hero/weighted_average.tar", manifest_of(folder)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(GOOD[0], io.BytesIO(GOOD[1]))
    made["movies"][0]["archives"][2] |= {"size_bytes": path.stat().st_size, "sha256": release.sha256_of(path)}
    write_manifest(folder, made)
    assert verify(["--input", str(folder)]) == EXIT_FOUND and "not_a_tar" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m["movies"][0].update(movie="../hero"), "film '../hero' must be a plain name"),
    (lambda m: m["movies"][0]["archives"][0].update(name="/x.tar"), "archive '/x.tar'"),
    (lambda m: m["movies"][0]["archives"][0].update(name="x.zip"), "not called <folder>.tar"),
    (lambda m: m["movies"][0]["metadata_files"][0].update(name="weighted_average"), "would be the same file"),
    (lambda m: m["movies"][1].update(movie="HERO"), "would be the same file"),
    (lambda m: m["movies"][0]["archives"][0].update(size_bytes=-1), "size_bytes is -1"),
    (lambda m: m.update(movie_count=3), "'movie_count': 3"),
    (lambda m: m.update(schema="unipixel-film-release/9"), "has schema"), (lambda m: m.pop("movies"), "KeyError"),
])
def test_a_hostile_manifest_is_refused(tmp_path, change, message):
    folder = packed(tmp_path)
    made = manifest_of(folder)
    change(made)
    (folder / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(DataError, match=message.replace("/", ".")):
        release.read_manifest(folder)


def test_the_published_manifest_is_read(tmp_path, capsys):
    """POVQA's has neither checksums nor the bytes inside of an archive, counts four methods always, and names a folder of its machine."""
    folder = packed(tmp_path)
    made = manifest_of(folder)
    for movie in made["movies"]:
        for entry in (*movie["metadata_files"], *movie["archives"]):
            entry.pop("sha256")
            entry.pop("source_bytes", None)
    kept = {key: made[key] for key in ("movies", *release.TOTALS)} | {"pooling_variant_count": 4, "source_dir": "/home/x/out_preprocessed"}
    (folder / "manifest.json").write_text(json.dumps(kept))
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == 0 and "no checksums" in capsys.readouterr().out
    assert tree(tmp_path / "back/hero") == tree(tmp_path / "out_preprocessed/hero")


def test_unpacking_in_place_again_and_without_archives(tmp_path, capsys):
    folder = packed(tmp_path)
    place = ["--input", str(folder), "--out", str(folder)]
    assert unpack(place) == 0 and "6 files and folders unpacked, 4 kept" in capsys.readouterr().out
    assert unpack([*place, "--remove_archives", "true"]) == 0 and "0 files and folders unpacked, 10 kept" in capsys.readouterr().out
    assert not list(folder.rglob("*.tar")) and unpack(place) == 0, "a second run finds everything unpacked"
    assert {k: v for k, v in tree(folder).items() if "/" in k} == {k: v for k, v in tree(tmp_path / "out_preprocessed").items() if "/" in k}
    shutil.rmtree(folder / "hero/weighted_average")
    assert unpack(place) == EXIT_USER_ERROR and "hero/weighted_average.tar: missing" in capsys.readouterr().err


def test_other_contents_are_replaced_only_by_force(tmp_path, capsys):
    folder = packed(tmp_path)
    args = ["--input", str(folder), "--out", str(tmp_path / "back")]
    assert unpack(args) == 0
    (tmp_path / "back/hero/weighted_average/frame00001.jpg").write_bytes(b"changed")
    (tmp_path / "back/the_matrix/KEY_FRAMES/more.jpg").write_bytes(b"added")
    (tmp_path / "back/the_matrix/run_summary.json").write_text("{}")
    assert unpack(args) == EXIT_USER_ERROR and "other contents" in capsys.readouterr().err
    assert unpack([*args, "--force", "true"]) == 0 and "3 files and folders unpacked, 7 kept" in capsys.readouterr().out
    assert tree(tmp_path / "back/the_matrix") == tree(tmp_path / "out_preprocessed/the_matrix")


def test_a_full_disk_is_noticed_before(tmp_path, capsys, monkeypatch):
    folder = packed(tmp_path)
    monkeypatch.setattr(release.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert unpack(["--input", str(folder), "--out", str(tmp_path / "back")]) == EXIT_USER_ERROR
    assert "its disk has 0 MiB left" in capsys.readouterr().err and not (tmp_path / "back").exists()
    assert pack(["--input", str(tmp_path / "out_preprocessed"), "--out", str(tmp_path / "other"), *TERMS]) == EXIT_USER_ERROR
