"""``unipixel pack``: its settings, its checks and its ledger, on clips in the toolkit's own form."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools import pack
from data_tools.convert import CONVERTERS
from data_tools.convert.base import left_out
from data_tools.convert.options import options_of
from tests.packing import H, W, jpeg, run, skipped
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError
from unipixel.sample import Example, MaskTrack, Medium, SceneObject, to_json


def synth_clip(root: Path, name: str, seed: int):
    track = MaskTrack.from_masks(np.random.default_rng(seed).random((3, H, W)) > 0.5)
    medium = Medium(name, "frames", W, H, (0.0, 0.25, 0.5), 0.75, {"o1": SceneObject("o1", "the red disc", track)})
    examples = [Example(f"{name}-0", "evidence", "What colour?", ("red", "blue"), "red", ((0.0, 0.5),), (("o1",),)),
                Example(f"{name}-1", "refer", "the red disc", targets=(("o1",),))]
    folder = root / "train" / name
    (folder / "frames").mkdir(parents=True)
    meta, masks = to_json(medium, examples, dataset="synth", split="train")
    (folder / "clip.json").write_text(json.dumps({"meta": meta, "masks": masks}))
    frames = [jpeg(seed * 10 + t) for t in range(3)]
    for t, frame in enumerate(frames):
        (folder / "frames" / f"{t:05d}.jpg").write_bytes(frame)
    return medium, examples, frames


def edit(path: Path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_synth_round_trip(tmp_path, capsys):
    clips = [synth_clip(tmp_path / "in", f"clip{i}", i) for i in range(2)]
    data = run("synth", tmp_path / "in", tmp_path / "out")
    assert len(data) == 4
    for i, (medium, examples, frames) in enumerate(clips):
        sample = data.sample(2 * i, (2 * i, 2 * i + 1))
        assert (sample.medium, list(sample.examples), list(sample.frames)) == (medium, examples, frames)
    assert skipped(tmp_path / "out") == {}
    assert "nothing skipped" in capsys.readouterr().out


def test_damaged_clips_are_listed_and_the_rest_is_packed(tmp_path, capsys):
    for i, name in enumerate(["good", "cut", "gone", "small", "badrow", "badref", "notjson", "nomask"]):
        synth_clip(tmp_path / "in", name, i)
    root = tmp_path / "in" / "train"
    cut = root / "cut" / "frames" / "00001.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (root / "gone" / "frames" / "00002.jpg").unlink()
    (root / "small" / "frames" / "00000.jpg").write_bytes(jpeg(1, (16, 16)))
    edit(root / "badrow" / "clip.json", lambda raw: raw["meta"]["examples"][0].update(answer="green"))
    edit(root / "badref" / "clip.json", lambda raw: raw["meta"]["examples"][1].update(targets=[["o9"]]))
    (root / "notjson" / "clip.json").write_text("{")
    edit(root / "nomask" / "clip.json", lambda raw: raw["masks"]["tracks"].clear())
    data = run("synth", tmp_path / "in", tmp_path / "out")
    assert skipped(tmp_path / "out") == {
        "cut": "frame_unreadable", "gone": "frame_missing", "small": "frame_size", "badrow-0": "answer_not_in_options",
        "badref-1": "unknown_object", "notjson": "bad_json", "nomask": "mask_missing"}
    assert data.rows["example_id"].to_pylist() == ["badref-0", "badrow-1", "good-0", "good-1"]
    assert data.manifests[0]["skipped"]["frame_unreadable"] == 1
    assert "frame_unreadable" in capsys.readouterr().out


def test_strict_and_empty(tmp_path):
    synth_clip(tmp_path / "in", "a", 1)
    synth_clip(tmp_path / "in", "b", 2)
    (tmp_path / "in" / "train" / "a" / "clip.json").write_text("{")
    with pytest.raises(DataError, match=r"--strict: 1 items were skipped \{'bad_json': 1\}"):
        run("synth", tmp_path / "in", tmp_path / "out", "--strict")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["skipped.jsonl"]
    (tmp_path / "in" / "train" / "b" / "clip.json").write_text("{")
    with pytest.raises(DataError, match="empty dataset.*2 items were skipped"):
        run("synth", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("more,message", [
    (["--source", "synht"], "not one of.*nearest: 'synth'"),
    (["--source", "synth", "--set", "fps=3"], "source 'synth' has no options"),
    (["--source", "rvos", "--set", "fsp=3"], r"--set fsp: source 'rvos' has the options .*nearest: 'fps'"),
    (["--source", "rvos", "--set", "fps"], "write name=value"),
    (["--source", "rvos", "--set", "fps=fast"], "--set fps=fast: expected float"),
    (["--source", "ref_davis17", "--set", "verify=maybe"], "expected true or false"),
    (["--source", "rvos", "--set", "fps=3", "--set", "fps=4"], "fps is given twice"),
    (["--source", "synth", "--fsp", "3"], "unknown flag '--fsp'"),
    ([], r"\['--source'\] must be set; `unipixel pack --list`"),
    (["--source", "synth", "--input", "/nowhere"], "is not a folder"),
    (["--source", "synth", "--workers", "0"], "must be at least 1"),
])
def test_unusable_settings(tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        pack.parse(["--input", str(tmp_path), "--out", str(tmp_path / "out"), *more])


def test_no_clips(tmp_path, capsys):
    with pytest.raises(DataError, match="no clip folders"):
        run("synth", tmp_path, tmp_path / "out", "--split", "val")
    argv = ["--source", "synth", "--input", str(tmp_path), "--out", str(tmp_path / "out")]
    assert pack.main(argv) == EXIT_USER_ERROR
    assert "unipixel pack: no clip folders" in capsys.readouterr().err


def test_repeated_example_and_clip_without_pictures(tmp_path):
    for i, name in enumerate(["a", "b"]):
        synth_clip(tmp_path / "in", name, i)
    edit(tmp_path / "in/train/a/clip.json", lambda raw: raw["meta"]["examples"][1].update(example_id="a-0"))
    shutil.rmtree(tmp_path / "in/train/b/frames")
    data = run("synth", tmp_path / "in", tmp_path / "out")
    assert data.rows["example_id"].to_pylist() == ["a-0"]
    assert skipped(tmp_path / "out") == {"a-0": "duplicate_example", "b": "no_frames"}


def test_options_come_from_the_signature_and_reach_the_converter(monkeypatch, tmp_path):
    def convert(folder: Path, *, split: str, ledger, count: int = 3, rate: float = 6.0, name: str | None = None, fast: bool = False):
        """Own.

        Args:
            count: how many
                of them
            rate: how often
        """
        seen.update(count=count, rate=rate, name=name, fast=fast)
        return iter(())

    seen = {}
    monkeypatch.setitem(CONVERTERS, "own", convert)
    assert {o.name: (o.kind, o.default, o.help) for o in options_of(convert).values()} == {
        "count": (int, 3, "how many of them"), "rate": (float, 6.0, "how often"), "name": (str, None, ""), "fast": (bool, False, "")}
    with pytest.raises(DataError, match="empty dataset"):
        run("own", tmp_path, tmp_path / "out", "--set", "rate=0.5", "name=a=b", "--set", "fast=true")
    assert seen == {"count": 3, "rate": 0.5, "name": "a=b", "fast": True}


def test_list_names_every_source_and_explains_every_option(capsys):
    assert pack.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name, convert in CONVERTERS.items():
        assert re.search(rf"^{re.escape(name)} +\S", listed, re.MULTILINE), f"{name} has no description"
        assert [o.name for o in options_of(convert).values() if not o.help] == [], name


def test_filters_are_listed_but_no_damage(tmp_path, monkeypatch, capsys):
    synth_clip(tmp_path / "in", "a", 1)

    def convert(folder: Path, *, split: str, ledger):
        with ledger.catching("own", "long"):
            raise left_out("frames", "9 frames are more than max_frames=3")
        yield from CONVERTERS["synth"](folder, split=split, ledger=ledger)

    monkeypatch.setitem(CONVERTERS, "own", convert)
    run("own", tmp_path / "in", tmp_path / "out", "--strict")
    assert skipped(tmp_path / "out") == {"long": "filter_frames"}
    assert "filter_frames" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pack_reads_one_medium_at_a_time_and_leaves_nothing_readable(tmp_path, monkeypatch, stop):
    """Every medium is written before the next one is read, and what was written is gone when the run stops."""
    for i in range(3):
        synth_clip(tmp_path / "in", f"clip{i}", i)
    written, found = [], []

    def convert(folder: Path, *, split: str, ledger):
        for bundle in CONVERTERS["synth"](folder, split=split, ledger=ledger):
            found.append((len(written), bundle.medium.medium_id))
            if len(found) == 3:
                assert list((tmp_path / "out").glob("shard-*")) != []
                raise stop
            yield bundle

    write = ShardWriter.write
    monkeypatch.setattr(ShardWriter, "write", lambda self, medium, *rest: (written.append(medium.medium_id), write(self, medium, *rest)))
    monkeypatch.setitem(CONVERTERS, "own", convert)
    with pytest.raises(stop):
        run("own", tmp_path / "in", tmp_path / "out", "--max_shard_bundles", "1")
    assert found == [(0, "clip0"), (1, "clip1"), (2, "clip2")]
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(DataError, match=r"no dataset\.json"):
        ShardDataset(tmp_path / "out")
