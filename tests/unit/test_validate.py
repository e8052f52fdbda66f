"""``unipixel validate`` and ``unipixel data-stats`` on good and on damaged folders."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from data_tools import stats, validate
from tests.unit.test_shards import bundles, clip
from unipixel.data.index import read_excluded
from unipixel.data.tar import scan
from unipixel.data.writer import ShardWriter


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "d", dataset="toy", split="train", max_bundles=2) as writer:
        for bundle in bundles():
            writer.write(*bundle)
    return tmp_path / "d"


def findings(folder) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    return sorted((f["reason"], f["key"]) for e in entries for f in e["findings"])


def test_shards_are_checked_in_processes(folder):
    assert validate.main(["--folders", str(folder), "--workers", "2"]) == 0 and findings(folder) == []


def run(folder, *flags) -> int:
    return validate.main(["--folders", str(folder), "--workers", "1", *flags])


def test_good_data(folder, capsys):
    assert run(folder) == 0 and findings(folder) == []
    assert "0 problems in 2 shards" in capsys.readouterr().out


def test_an_interrupted_check_goes_on(folder, monkeypatch):
    assert run(folder) == 0
    report = folder / "validation.jsonl"
    first, second = report.read_text().splitlines()
    report.write_text(first + "\n")
    assert run(folder) == 0
    assert report.read_text().splitlines() == [first, second]
    monkeypatch.setattr(validate, "check_shard", None)  # nothing is left to check
    assert run(folder) == 0


def test_damage_is_found_named_and_excluded(folder):
    """A flipped bit in a picture, which decoders pass over, and one in the masks; the other samples stay good."""
    tar = folder / "shard-000001.tar"
    found = {b.key: b for b in scan(tar)[0]}
    raw = bytearray(tar.read_bytes())
    keys = list(found)
    frames, masks = found[keys[0]].members["frames.zip"], found[keys[1]].members["masks.json"]
    raw[frames[0] + 600] ^= 4
    raw[masks[0] + masks[1] // 2] ^= 4
    tar.write_bytes(raw)
    assert run(folder, "--exclude") == validate.EXIT_PROBLEMS
    assert findings(folder) == [("checksum", keys[0]), ("checksum", keys[1]), ("shard_checksum", "")]
    assert read_excluded(folder) == keys
    assert run(folder, "--exclude") == validate.EXIT_PROBLEMS and read_excluded(folder) == keys, "nothing is listed twice"


def test_a_picture_that_does_not_decode_is_found_though_its_checksum_is_right(tmp_path):
    medium, examples, frames = clip("bad", 1)
    half = frames[3][: len(frames[3]) // 2]
    with ShardWriter(tmp_path / "d", dataset="toy", split="train") as writer:
        writer.write(*clip("good", 2))
        key = writer.write(medium, examples, [*frames[:3], half, frames[4]])
    assert run(tmp_path / "d") == 1 and findings(tmp_path / "d") == [("unreadable_frame", key)]


def test_missing_and_truncated_shards(folder):
    (folder / "shard-000000.tar").unlink()
    os.truncate(folder / "shard-000001.tar", 4096)
    assert run(folder) == 1
    assert {reason for reason, _ in findings(folder)} >= {"shard_missing", "truncated_member", "index"}


def test_keys_in_two_shards(folder, capsys):
    manifest = json.loads((folder / "dataset.json").read_text())
    for suffix in (".tar", ".index.parquet"):
        (folder / f"shard-000001{suffix}").write_bytes((folder / f"shard-000000{suffix}").read_bytes())
    manifest["shards"][1] = manifest["shards"][0] | {"name": "shard-000001.tar"}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert run(folder) == 1 and "duplicate_key" in capsys.readouterr().out


def test_index_that_does_not_describe_its_samples(folder):
    """An index that was edited, with the manifest's checksums made to fit."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "shard-000000.index.parquet"
    table = pq.read_table(path)
    widths = pa.array([99] * len(table), pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("width"), "width", widths), path)
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["shards"][0]["index_file_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert run(folder) == 1 and {reason for reason, _ in findings(folder)} == {"index"}


def test_wrong_calls(tmp_path, capsys):
    assert validate.main([]) == 2 and validate.main(["--folders", str(tmp_path / "none")]) == 2
    assert "no dataset folder" in capsys.readouterr().err


def test_statistics_of_a_mixture(folder, tmp_path, capsys):
    with ShardWriter(tmp_path / "more", dataset="more", split="train") as writer:
        for i in range(3):
            writer.write(*clip(f"m{i}", i, n_examples=2))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"shards": ["d", "more=3"], "data_root": str(tmp_path), "examples_per_medium": 1, "learning_rate": 1.0}))
    assert stats.main(["--recipe", str(recipe), "--out", str(tmp_path / "stats.json")]) == 0
    result = json.loads((tmp_path / "stats.json").read_text())
    rows = {(r["dataset"], r["kind"]): r for r in result["sources"]}
    assert rows["more/train", "video"]["examples"] == 3 and rows["more/train", "video"]["media"] == 3
    assert rows["more/train", "video_masks"]["repeat"] == 3 and result["groups_per_epoch"] == 12 + 3 * 6
    assert sum(r["share"] for r in result["sources"]) == pytest.approx(1)
    assert rows["toy/train", "text"]["with_pairs"] == 1 and rows["toy/train", "text"]["n_frames"]["max"] == 0
    assert "toy/train" in capsys.readouterr().out
    assert stats.main(["--shards", str(tmp_path / "gone")]) == 2 and stats.main([]) == 2

