"""Shards: what is written is what is read, by index and by a plain stream, and every kind of damage is a typed error."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zlib
from multiprocessing import get_context

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from unipixel.data import frames as frames_module
from unipixel.data import index, shards, storage
from unipixel.data import writer as writer_module
from unipixel.data.frames import zip_frames
from unipixel.data.index import MANIFEST, MAX_KEY, MEDIA_MEMBERS, TEXT_MEMBERS, bundle_key, index_name
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardDataset
from unipixel.data.writer import ShardWriter
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, MaskTrack, Medium, PreferencePair, SceneObject, Turn

W, H = 32, 24
MEMBERS = (*TEXT_MEMBERS, "frames.zip")


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)).save(out, "JPEG", quality=80)
    return out.getvalue()


def clip(name: str, seed: int, n_frames: int = 5, n_examples: int = 5):
    """A clip with one object; examples alternate between masks (even) and none (odd)."""
    masks = np.random.default_rng(seed).random((n_frames, H, W)) > 0.7
    masks[1] = False
    track = MaskTrack.from_masks(masks, annotated=[t != 2 for t in range(n_frames)])
    medium = Medium(name, "frames", W, H, tuple(t / 6 for t in range(n_frames)), n_frames / 6, {"a": SceneObject("a", "the cup", track)})
    examples = [Example(f"{name}/{i}", "evidence", f"Which one is it, {i}?", ("red cup", "blue"), "blue", ((0.0, 0.5),),
                        (("a",),) if i % 2 == 0 else ()) for i in range(n_examples)]
    return medium, examples, [jpeg(seed * 100 + t) for t in range(n_frames)]


def text(name: str):
    pair = PreferencePair(f"{name}-p", "yes", "no", "correctness")
    return Medium(name, "none"), [Example(f"{name}/0", "chat", turns=(Turn("user", "is it"), Turn("assistant", "yes")), pairs=(pair,))], []


def bundles():
    return [clip("Clip.v0", 1), text("talk"), clip("clip.v1", 2, n_frames=3, n_examples=1), clip("Ünï~/x", 3)]


@pytest.fixture
def packed(tmp_path):
    with ShardWriter(tmp_path / "d", dataset="toy", split="train", max_bundles=3) as writer:
        for bundle in bundles():
            writer.write(*bundle)
    return tmp_path / "d"


def test_samples_come_back_as_written(packed):
    data = ShardDataset(packed)
    expected = [(medium, example, frames) for medium, examples, frames in bundles() for example in examples]
    assert len(data) == len(expected) == 12
    for i, (medium, example, frames) in enumerate(expected):
        sample = data.sample(i)
        assert (sample.medium, sample.examples, list(sample.frames)) == (medium, (example,), frames)
        assert sample.frames[1:] == frames[1:] and (sample.dataset, sample.split) == ("toy", "train")
        assert sample.kind == data.rows["kind"][i].as_py()
    assert data.manifests[0]["kinds"] == {"text": 1, "video": 4, "video_masks": 7}
    assert [s["bundles"] for s in data.manifests[0]["shards"]] == [3, 1]


def test_index_columns(packed):
    rows = ShardDataset(packed).rows.to_pylist()
    places = dict.fromkeys(("offset", "length", "crc32", "head", "tail", "crc32_ends"), 0)
    assert rows[0] | places == places | {
        "key": "toy-train-~43lip~2ev0", "example_id": "Clip.v0/0", "example": 0, "kind": "video_masks", "n_text_tokens": 9,
        "n_frames": 5, "width": W, "height": H, "duration_s": 5 / 6, "n_objects": 1, "n_words": 9, "has_pairs": False, "shard": 0}
    assert (rows[5]["kind"], rows[5]["n_words"], rows[5]["has_pairs"], rows[5]["n_frames"]) == ("text", 3, True, 0)
    for row in rows:
        tar = (packed / f"shard-{row['shard']:06d}.tar").read_bytes()
        extent = tar[row["offset"]:row["offset"] + row["length"]]
        assert zlib.crc32(extent) == row["crc32"] and zlib.crc32(extent[:row["head"]] + extent[row["tail"]:]) == row["crc32_ends"]
        assert tar[row["offset"]:].startswith(f"{row['key']}.meta.json".encode())


def test_plain_webdataset_reads_the_same_keys_and_bytes(packed, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    stream = [s for tar in sorted(packed.glob("*.tar")) for s in wds.WebDataset(str(tar), shardshuffle=False)]
    data = ShardDataset(packed)
    assert [s["__key__"] for s in stream] == list(dict.fromkeys(data.rows["key"].to_pylist()))
    firsts = [i for i, example in enumerate(data.rows["example"].to_pylist()) if example == 0]
    for raw, i in zip(stream, firsts, strict=True):
        assert [k for k in raw if not k.startswith("__")] == list(MEMBERS)
        sample = data.sample(i)
        assert json.loads(raw["meta.json"])["medium"]["medium_id"] == sample.medium.medium_id
        extent = data.extent(i)
        for name in MEMBERS:
            assert raw[name] in extent
        assert raw["frames.zip"] == zip_frames(sample.frames, "")


def test_hugging_face_datasets_reads_the_shards(packed, tmp_path):
    """Every member has one type in every sample, which its loader insists on."""
    from datasets import load_dataset

    loaded = load_dataset("webdataset", data_files={"train": [str(p) for p in sorted(packed.glob("*.tar"))]}, split="train",
                          cache_dir=str(tmp_path / "cache"))
    data = ShardDataset(packed)
    assert loaded["__key__"][:] == list(dict.fromkeys(data.rows["key"].to_pylist()))
    frames = [row["frames.zip"] for row in loaded]
    assert zip_frames(data.sample(0).frames, "") == (frames[0] if isinstance(frames[0], bytes) else frames[0]["bytes"])


@pytest.fixture
def large(packed, monkeypatch):
    """The same shards, every bundle too large to be read in one go; ``reads`` lists (offset, length) of what is read."""
    monkeypatch.setattr(shards, "WHOLE", 0)
    monkeypatch.setattr(frames_module, "GAP", 0)
    data = ShardDataset(packed)
    reads, read = [], data.storage.read
    monkeypatch.setattr(data.storage, "read", lambda path, offset, length: reads.append((offset, length)) or read(path, offset, length))
    return data, reads


def test_large_bundles_are_read_by_frame(large):
    data, reads = large
    for i, (medium, example, frames) in enumerate((m, e, f) for m, examples, f in bundles() for e in examples):
        sample = data.sample(i)
        assert (sample.medium, sample.examples, list(sample.frames)) == (medium, (example,), frames)
    sample = data.sample(0)
    reads.clear()
    assert sample.frames.read([4, 1, 2, 1]) == [bundles()[0][2][t] for t in (4, 1, 2, 1)]
    assert len(reads) == 2, "frames 1 and 2 are neighbours"
    assert sum(length for _, length in reads) < sum(map(len, bundles()[0][2]))


@pytest.mark.parametrize("part", ["head", "tail", "frame"])
def test_one_flipped_bit_is_found_by_frame_too(large, packed, part):
    data, reads = large
    row = data.rows.to_pylist()[6]
    frame = len(data.sample(6).frames) and reads[-1]  # the last read was the directory
    position = {"head": row["offset"] + 700, "tail": frame[0] + 3, "frame": row["offset"] + row["head"] + 60}[part]
    raw = bytearray((packed / "shard-000000.tar").read_bytes())
    raw[position] ^= 1
    (packed / "shard-000000.tar").write_bytes(raw)
    with pytest.raises(SampleError) as caught:
        list(data.sample(6).frames)
    assert caught.value.reason == "checksum" and caught.value.key == "toy-train-clip~2ev1"
    if part == "frame":
        assert data.sample(6).frames[1] == bundles()[2][2][1], "the other frames are still good"


def test_packing_twice_gives_the_same_bytes(packed, tmp_path):
    with ShardWriter(tmp_path / "again", dataset="toy", split="train", max_bundles=3) as writer:
        for bundle in bundles():
            writer.write(*bundle)
    for tar in packed.glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "again" / tar.name).read_bytes()
    assert ShardDataset(packed).fingerprint == ShardDataset(tmp_path / "again").fingerprint


def test_fingerprint_follows_content_and_order_of_folders(packed, tmp_path):
    with ShardWriter(tmp_path / "other", dataset="toy", split="train", max_bundles=3) as writer:
        for medium, examples, frames in bundles():
            writer.write(medium, examples, [jpeg(7), *frames[1:]] if frames else frames)
    one, other = ShardDataset(packed), ShardDataset(tmp_path / "other")
    assert one.fingerprint != other.fingerprint
    both, swapped = ShardDataset([packed, tmp_path / "other"]), ShardDataset([tmp_path / "other", packed])
    assert len(both) == 24 and both.fingerprint != swapped.fingerprint
    assert both.sample(12).frames[0] == jpeg(7) and both.sample(0).frames[0] != jpeg(7)


def test_groups_hold_one_bundle_and_one_kind(packed):
    data = ShardDataset(packed)
    assert list(data.groups(2)) == [(0, 2), (1, 3), (4,), (5,), (6,), (7, 9), (8, 10), (11,)]
    assert list(data.groups(1)) == [(i,) for i in sorted(range(12))]
    sample = data.sample(0, (0, 2, 4))
    assert [e.example_id for e in sample.examples] == ["Clip.v0/0", "Clip.v0/2", "Clip.v0/4"]
    with pytest.raises(ValueError, match="row 7 belongs to another bundle"):
        data.sample(0, (0, 7))


def test_size_limit_starts_a_new_shard(tmp_path):
    with ShardWriter(tmp_path, dataset="d", split="s", max_bytes=20_000) as writer:
        for i in range(6):
            writer.write(*clip(f"c{i}", i))
    data = ShardDataset(tmp_path)
    assert len(data.shards) > 1 and all(os.path.getsize(p) <= 20_000 + 10_240 for p in data.shards)
    assert [data.sample(i).medium.medium_id for i in range(0, 30, 5)] == [f"c{i}" for i in range(6)]


def test_keys_are_plain_and_unique():
    raw = ["a", "A", "a.b", "a_b", "a/b", "a~2eb", "ä", "x" * 200, "x" * 199 + "y", "x" * 199 + "Y"]
    keys = [bundle_key("D.1", "train", r) for r in raw]
    assert len({k.lower() for k in keys}) == len(raw)
    assert all(k == k.lower() and "." not in k and "/" not in k and len(k) <= MAX_KEY for k in keys)
    assert keys[2] == "~44~2e1-train-a~2eb" and keys[5] == "~44~2e1-train-a~7e2eb"


@pytest.mark.parametrize("spoil,reason", [
    (lambda m, e, f: (m, e, f[1:]), "frame_count"),
    (lambda m, e, f: (m, e, [b"GIF89a" + f[0], *f[1:]]), "frame_format"),
    (lambda m, e, f: (m, [], f), "no_examples"),
    (lambda m, e, f: (m, [e[0], e[0]], f), "duplicate_example"),
    (lambda m, e, f: (m, [Example("q", "refer", "the dog", targets=(("b",),))], f), "unknown_object"),
    (lambda m, e, f: (m, [Example("q", "refer", "the dog", source={"x": float("nan")})], f), "not_json"),
])
def test_writer_refuses_broken_bundles_and_goes_on(tmp_path, spoil, reason):
    with ShardWriter(tmp_path, dataset="d", split="s") as writer:
        writer.write(*clip("before", 1))
        with pytest.raises(SampleError) as caught:
            writer.write(*spoil(*clip("bad", 2)))
        assert caught.value.reason == reason
        writer.write(*clip("after", 3))
    assert [ShardDataset(tmp_path).sample(i).medium.medium_id for i in (0, 5)] == ["before", "after"]


def test_repeated_medium_is_refused(tmp_path):
    with ShardWriter(tmp_path, dataset="d", split="s") as writer:
        writer.write(*clip("one", 1))
        with pytest.raises(SampleError) as caught:
            writer.write(*clip("one", 2))
    assert caught.value.reason == "duplicate_key"


def test_interrupted_pack_leaves_no_dataset(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "d", dataset="d", split="s", max_bundles=1) as writer:
        for i in range(3):
            writer.write(*clip(f"c{i}", i))
        raise KeyboardInterrupt
    assert not list((tmp_path / "d").iterdir())
    killed = ShardWriter(tmp_path / "d", dataset="d", split="s", max_bundles=1)  # as after SIGKILL: nothing is cleaned up
    for i in range(3):
        killed.write(*clip(f"c{i}", i))
    with pytest.raises(DataError, match=r"no dataset\.json \(an interrupted pack\).*unipixel pack"):
        ShardDataset(tmp_path / "d")
    with ShardWriter(tmp_path / "d", dataset="d", split="s") as writer:
        writer.write(*clip("c0", 0))
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "dataset.json", "shard-000000.index.parquet", "shard-000000.tar", "skipped.jsonl"]
    with pytest.raises(DataError, match="already holds a packed dataset"):
        ShardWriter(tmp_path / "d", dataset="d", split="s")


def test_manifest_lists_what_was_skipped(tmp_path):
    ledger = SkipLedger()
    ledger.skip("toy", "x1", "no_frames", "no frames", examples=4)
    with ledger.catching("toy", "x2"):
        raise SampleError("bad", reason="mask_size")
    with ShardWriter(tmp_path, dataset="d", split="s") as writer:
        writer.write(*clip("c", 1))
        manifest = writer.close(ledger)
    assert manifest["skipped"] == {"no_frames": 1, "mask_size": 1}
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(s["key"], s["reason"], s["examples"]) for s in listed] == [("x1", "no_frames", 4), ("x2", "mask_size", 1)]
    assert "(4 examples)" in ledger.summary()[0]


def test_nothing_packed_is_an_error(tmp_path):
    with pytest.raises(DataError, match="empty dataset"), ShardWriter(tmp_path, dataset="d", split="s"):
        pass
    with pytest.raises(DataError, match="listed more than once"):
        ShardDataset([tmp_path, tmp_path])
    with pytest.raises(DataError, match="no dataset folder"):
        ShardDataset(tmp_path / "nowhere")


@pytest.mark.parametrize("where", [0, 600, 3000, -1])
def test_one_flipped_bit_is_found(packed, where):
    data = ShardDataset(packed)
    start, length = data.rows["offset"][6].as_py(), data.rows["length"][6].as_py()
    position = start + (where if where >= 0 else length + where)
    tar = packed / "shard-000000.tar"
    raw = bytearray(tar.read_bytes())
    raw[position] ^= 1
    tar.write_bytes(raw)
    with pytest.raises(SampleError) as caught:
        data.sample(6)
    assert caught.value.reason == "checksum" and caught.value.key == "toy-train-clip~2ev1"
    assert "shard-000000.tar" in str(caught.value) and f"offset {start}" in str(caught.value)
    assert data.sample(0).medium.medium_id == "Clip.v0" and data.sample(11).medium.medium_id == "Ünï~/x"


def test_file_that_vanishes_or_shrinks_while_open(packed):
    data = ShardDataset(packed)
    os.truncate(packed / "shard-000000.tar", 5000)
    with pytest.raises(SampleError) as caught:
        data.sample(4)
    assert caught.value.reason == "checksum"
    data.close()
    (packed / "shard-000000.tar").unlink()
    with pytest.raises(SampleError) as caught:
        data.sample(4)
    assert caught.value.reason == "io"


def _damage(folder, how):
    tar, index = folder / "shard-000000.tar", folder / index_name("shard-000000.tar")
    manifest = folder / MANIFEST
    if how == "truncated":
        os.truncate(tar, tar.stat().st_size - 512)
    elif how == "no shard":
        tar.unlink()
    elif how == "no index":
        index.unlink()
    elif how == "foreign index":
        index.write_bytes((folder / index_name("shard-000001.tar")).read_bytes())
    elif how == "damaged index":
        raw = bytearray(index.read_bytes())
        raw[200] ^= 0xFF
        index.write_bytes(raw)
    elif how == "other columns":
        pq.write_table(pq.read_table(index)[:0], index)
        raw = json.loads(manifest.read_text())
        raw["shards"][0]["index_file_sha256"] = hashlib.sha256(index.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(raw))
    elif how == "no manifest":
        manifest.unlink()
    elif how == "half manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif how == "other schema":
        manifest.write_text(manifest.read_text().replace("unipixel/1", "unipixel/0"))
    elif how == "no field":
        manifest.write_text(manifest.read_text().replace('"bytes"', '"size"'))
    elif how == "empty":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"examples": 0}))


@pytest.mark.parametrize("how,message", [
    ("truncated", r"shard-000000\.tar has \d+ bytes, dataset\.json says \d+ \(truncated or replaced\)"),
    ("no shard", r"shard-000000\.tar is listed in dataset\.json but missing"),
    ("no index", r"shard-000000\.index\.parquet is missing"),
    ("foreign index", r"shard-000000\.index\.parquet has SHA-256 \w+, dataset\.json says \w+ \(damaged, or the index of another shard\)"),
    ("damaged index", r"shard-000000\.index\.parquet has SHA-256"),
    ("other columns", r"has 0 rows of \['key'"),
    ("no manifest", r"has no dataset\.json"),
    ("half manifest", r"is not JSON"),
    ("other schema", r"has schema 'unipixel/0', this version reads 'unipixel/1'"),
    ("no field", r"dataset\.json lacks \['bytes'\]"),
    ("empty", r"empty dataset"),
])
def test_damaged_folder_is_refused_with_a_reason(packed, how, message):
    _damage(packed, how)
    with pytest.raises(DataError, match=message):
        ShardDataset(packed)


def test_missing_member_and_foreign_schema(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MEDIA_MEMBERS", ("frames.tgz",))
    with ShardWriter(tmp_path / "m", dataset="d", split="s") as writer:
        writer.write(*clip("c", 1))
    monkeypatch.setattr(index, "MEDIA_MEMBERS", MEDIA_MEMBERS)
    with pytest.raises(SampleError) as caught:
        ShardDataset(tmp_path / "m").sample(0)
    assert caught.value.reason == "missing_member" and "d-s-c.frames.tgz" in str(caught.value)

    real = writer_module.to_json
    monkeypatch.setattr(writer_module, "to_json", lambda *a, **k: [part | {"schema": "unipixel/7"} for part in real(*a, **k)])
    with ShardWriter(tmp_path / "s", dataset="d", split="s") as writer:
        writer.write(*clip("c", 1))
    with pytest.raises(SampleError) as caught:
        ShardDataset(tmp_path / "s").sample(0)
    assert caught.value.reason == "schema"

    monkeypatch.setattr(writer_module, "to_json", lambda *a, **k: [real(*a, **k)[0] | {"medium": {"medium_id": "c"}}, real(*a, **k)[1]])
    with ShardWriter(tmp_path / "c", dataset="d", split="s") as writer:
        writer.write(*clip("c", 1))
    with pytest.raises(SampleError) as caught:
        ShardDataset(tmp_path / "c").sample(0)
    assert caught.value.reason == "contract"


def _child_reads(data, i, inherited, queue):
    sample = data.sample(i)
    queue.put((sample.medium.medium_id, sample.frames[0], list(data.storage._open.values()), inherited))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_open_their_own_files(packed, start):
    data = ShardDataset(packed)
    data.sample(0)
    assert len(data.storage._open) == 1 and not pickle.loads(pickle.dumps(data)).storage._open
    context = get_context(start)
    queue = context.Queue()
    child = context.Process(target=_child_reads, args=(data, 7, list(data.storage._open.values()), queue))
    child.start()
    name, frame, own, inherited = queue.get(timeout=60)
    child.join()
    assert (name, frame) == ("Ünï~/x", data.sample(7).frames[0]) and len(own) == 1
    assert data._shard[7] != data._shard[0] and len(inherited) == 1  # a descriptor of the parent would make two


def test_open_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAX_OPEN_FILES", 2)
    with ShardWriter(tmp_path, dataset="d", split="s", max_bundles=1) as writer:
        for i in range(4):
            writer.write(*clip(f"c{i}", i, n_examples=1))
    data = ShardDataset(tmp_path)
    for i in (0, 1, 2, 3, 0):
        assert data.sample(i).medium.medium_id == f"c{i}"
        assert len(data.storage._open) <= 2
