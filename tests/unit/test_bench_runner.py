"""The runner: any number of workers give the same file, whoever dies, and nothing foreign or damaged is ever merged."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.runner.export import write_release, write_server_zip
from benchmarks.runner.merge import merge
from benchmarks.runner.plan import Job, Plan, load_plan, make_plan
from benchmarks.runner.units import Units, from_line, to_line
from benchmarks.runner.worker import HOPELESS, run_worker
from tests.bench_samples import StubAdapter, all_perfect, packed, questions_of
from tests.dataset_fixtures import video
from tests.dataset_fixtures.common import frames
from tests.evidence_samples import discs, predict, small_sample
from unipixel.data.shards import ShardWriter
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.infer.predictions import Prediction, load_predictions, read_predictions
from unipixel.sample import Example, decode_entry, encode_mask

CLIPS = (3, 9, 6, 4, 5, 8)
"""Frames of the test's clips."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Clips of different lengths with two expressions each."""
    folder = tmp_path_factory.mktemp("bench") / "shards"
    with ShardWriter(folder, dataset="made", split="valid_u") as writer:
        for n, frames in enumerate(CLIPS):
            sample = small_sample(f"clip{n}", discs(frames))
            examples = [Example(f"clip{n}_{k}", "refer", "the disc", targets=(("a",),)) for k in range(2)]
            writer.write(sample.medium, examples, sample.frames)
    return folder


def plan_of(shards, lease_s: float = 60.0, shift: int = 3, **more) -> Plan:
    return make_plan([Job("mevis", (str(shards),))], StubAdapter(shift).identity, lease_s=lease_s, **more)


def finished(folder, plan, shift: int = 3, **adapter):
    run_worker(folder, plan, StubAdapter(shift, **adapter))
    return merge(folder, plan)["mevis"].path


def ids_of(plan):
    return [i for unit in plan.units for i in unit.example_ids]


# --- plan ------------------------------------------------------------------------------------------------------------------------

def test_a_unit_is_a_medium_with_all_its_questions(shards):
    plan = plan_of(shards)
    assert [(u.medium_id, u.example_ids, u.cost, u.n_frames, u.size) for u in plan.units] == [
        (f"clip{n}", (f"clip{n}_0", f"clip{n}_1"), 2 * frames, frames, (48, 64)) for n, frames in enumerate(CLIPS)]
    assert plan_of(shards).fingerprint == plan.fingerprint != plan_of(shards, shift=4).fingerprint
    assert ids_of(plan_of(shards, limit=3)) == ["clip0_0", "clip0_1", "clip1_0"]


def test_the_folder_keeps_its_plan(shards, tmp_path):
    plan = plan_of(shards).save(tmp_path)
    assert plan_of(shards).save(tmp_path) == plan == load_plan(tmp_path)
    with pytest.raises(ConfigError, match="another run"):
        plan_of(shards, shift=4).save(tmp_path)
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace("clip3_1", "clip3_x"))
    with pytest.raises(DataError, match="fingerprint"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_text(text[:50])
    with pytest.raises(DataError, match="no plan"):
        load_plan(tmp_path)
    with pytest.raises(DataError, match="no example of mvbench; pack them with --source mvbench"):
        make_plan([Job("mvbench", (str(shards),))], {})


# --- work ------------------------------------------------------------------------------------------------------------------------

def test_longest_first_and_the_file_in_order(shards, tmp_path):
    plan = plan_of(shards).save(tmp_path)
    adapter = StubAdapter()
    assert run_worker(tmp_path, plan, adapter) == {"ok": 12}
    assert [i.split("_")[0] for i in adapter.asked[::2]] == [f"clip{n}" for n in sorted(range(6), key=lambda n: -CLIPS[n])]
    path = merge(tmp_path, plan)["mevis"].path
    assert list(read_predictions(path)) == ids_of(plan)
    card = json.loads((tmp_path / "predictions/mevis.jsonl.run.json").read_text())
    assert card["plan"] == plan.fingerprint and card["model"]["shift"] == 3 and card["protocol"]["hash"]
    assert run_worker(tmp_path, plan, StubAdapter()) == {}, "nothing is done twice"
    assert not list((tmp_path / "units").glob("*.part")) and not list((tmp_path / "units").glob("*.lease"))


def _work(folder, shards, kill_at: str, pid_file: str) -> None:
    """A worker process; kills itself hard before it answers the example ``kill_at``."""
    def act(example, careful):
        time.sleep(0.02)
        if example.example_id == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(folder / "asked.txt", "a") as file:
            file.write(f"{example.example_id}\n")

    run_worker(folder, plan_of(shards, lease_s=1.0).save(folder), StubAdapter(act=act), name=pid_file)


def test_two_workers_one_killed_and_restarted_give_the_file_of_one(shards, tmp_path):
    """The killed worker dies in the middle of a medium, after its first question; its lease runs out and what it wrote is kept."""
    alone = finished(tmp_path / "one", plan_of(shards, lease_s=1.0).save(tmp_path / "one"))
    context = multiprocessing.get_context("fork")
    folder = tmp_path / "two"
    first = context.Process(target=_work, args=(folder, shards, "clip1_1", "first"))
    first.start()
    first.join(30)
    assert first.exitcode == -signal.SIGKILL
    part = list((folder / "units").glob("*.part"))
    assert len(part) == 1 and len(part[0].read_text().splitlines()) == 1, "one question of the longest medium was answered"
    with part[0].open("a") as file:
        file.write('{"plan": "cut off')
    others = [context.Process(target=_work, args=(folder, shards, "", name)) for name in ("second", "first")]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    together = merge(folder, load_plan(folder))["mevis"].path
    assert together.read_bytes() == alone.read_bytes()
    assert sorted((folder / "asked.txt").read_text().split()) == sorted(ids_of(load_plan(folder))), "no question was asked twice"
    assert not list((folder / "units").glob("*.part"))


def test_a_silent_worker_loses_its_medium(shards, tmp_path):
    """It is stopped, not dead: nothing but its silence tells. When it wakes up, it can no longer change what others have finished."""
    alone = finished(tmp_path / "one", plan_of(shards, lease_s=1.0).save(tmp_path / "one"))
    folder = tmp_path / "two"
    process = multiprocessing.get_context("fork").Process(target=_work, args=(folder, shards, "", "sleeper"))
    process.start()
    deadline = time.monotonic() + 30
    while not list(folder.glob("units/*.part")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        run_worker(folder, load_plan(folder), StubAdapter(), name="other")
        assert merge(folder, load_plan(folder))["mevis"].path.read_bytes() == alone.read_bytes()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.join(30)
    assert process.exitcode == 0 and merge(folder, load_plan(folder))["mevis"].path.read_bytes() == alone.read_bytes()


def test_what_goes_wrong_is_a_status(shards, tmp_path):
    def act(example, careful):
        if example.example_id == "clip2_1":
            raise SampleError("unreadable frame", reason="decode_error")
        if example.example_id == "clip4_0" or (example.example_id == "clip3_0" and not careful):
            raise torch.OutOfMemoryError("CUDA out of memory.\nlong text")
        if example.example_id == "clip5_0":
            raise RuntimeError("something else")

    plan = plan_of(shards).save(tmp_path)
    run_worker(tmp_path, plan, StubAdapter(act=act))
    merged = merge(tmp_path, plan)["mevis"]
    found = read_predictions(merged.path)
    assert {i: p.status for i, p in found.items() if p.failed} == {
        "clip2_1": "decode_error", "clip4_0": "oom", "clip4_1": "oom", "clip5_0": "error", "clip5_1": "error"}
    assert found["clip3_0"].status == "ok", "a second, careful try"
    assert found["clip4_0"].error == "CUDA out of memory." and "something else" in found["clip5_0"].error
    assert "5 failed" in merged.summary() and "oom: clip4_0, clip4_1" in merged.summary()
    task, protocol, _, truths = questions_of("mevis", shards)
    assert task.score(truths, found, protocol, bootstrap=0)["metrics"]["J"]["value"] < 7 / 12
    units = Units(tmp_path, plan, "retry")
    assert sum(units.reopen(unit) for unit in plan.units) == 5
    again = StubAdapter()
    run_worker(tmp_path, plan, again)
    assert sorted(again.asked) == ["clip2_1", "clip4_0", "clip4_1", "clip5_0", "clip5_1"], "answers are kept"
    assert not any(p.failed for p in read_predictions(merge(tmp_path, plan)["mevis"].path).values())


def test_a_broken_model_ends_the_worker(shards, tmp_path):
    def act(example, careful):
        raise RuntimeError("no kernel image")

    with pytest.raises(DataError, match=f"{HOPELESS} media in a row"):
        run_worker(tmp_path, plan_of(shards).save(tmp_path), StubAdapter(act=act))


def test_masks_of_another_size_are_never_stored(shards, tmp_path):
    class Wrong(StubAdapter):
        def answer(self, *args, **more):
            for prediction in super().answer(*args, **more):
                yield dataclasses.replace(prediction, size=(24, 32), masks=({0: encode_mask(np.ones((24, 32), bool))},))

    plan = plan_of(shards).save(tmp_path)
    with pytest.raises(DataError, match="wrong_masks"):
        run_worker(tmp_path, plan, Wrong())


# --- merging ---------------------------------------------------------------------------------------------------------------------

def test_unfinished_runs_are_named(shards, tmp_path):
    plan = plan_of(shards).save(tmp_path)
    finished(tmp_path, plan)
    Units(tmp_path, plan, "x").final(plan.units[2]).unlink()
    with pytest.raises(DataError, match="1 of 6 media are not finished.*clip2"):
        merge(tmp_path, plan)
    merged = merge(tmp_path, plan, allow_missing=True)["mevis"]
    assert merged.missing == ["clip2_0", "clip2_1"] and len(read_predictions(merged.path)) == 10


@pytest.mark.parametrize("damage, message", [
    (lambda lines, old: lines + lines[:1], "twice"), (lambda lines, old: lines[:1], "other examples"), (lambda lines, old: old, "another run"),
    (lambda lines, old: [lines[0].replace("It is", "It was"), lines[1]], "checksum"),
    (lambda lines, old: [lines[0], lines[1][:60] + "\n"], "not a stored")])
def test_foreign_and_damaged_units_are_caught(shards, tmp_path, damage, message):
    plan = plan_of(shards).save(tmp_path / "new")
    finished(tmp_path / "new", plan)
    earlier = plan_of(shards, shift=5).save(tmp_path / "old")
    finished(tmp_path / "old", earlier, shift=5)
    path = Units(tmp_path / "new", plan, "x").final(plan.units[0])
    old = Units(tmp_path / "old", earlier, "x").final(earlier.units[0]).read_text().splitlines(keepends=True)
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True), old)))
    with pytest.raises(DataError, match=f"000000.jsonl.*{message}"):
        merge(tmp_path / "new", plan)


def test_wrong_masks_are_caught_again_when_merging(shards, tmp_path):
    plan = plan_of(shards).save(tmp_path)
    finished(tmp_path, plan)
    path = Units(tmp_path, plan, "x").final(plan.units[0])
    first, second = (from_line(line, plan.fingerprint) for line in path.read_text().splitlines())
    late = dataclasses.replace(second, frame_times=(), masks=({7: ""},))
    small = dataclasses.replace(second, size=(24, 32), masks=({0: ""},))
    for wrong, message in ((late, "frame 7, the medium has 3"), (small, r"\(24, 32\), the medium is \(48, 64\)")):
        path.write_text(to_line(first, plan.fingerprint) + to_line(wrong, plan.fingerprint))
        with pytest.raises(DataError, match=message):
            merge(tmp_path, plan)


def test_a_stale_part_is_refused(shards, tmp_path):
    plan = plan_of(shards).save(tmp_path)
    units = Units(tmp_path, plan, "old")
    list(units.append(plan.units[1], [Prediction("clip1_0", "clip1", reply="x")]))
    part = next((tmp_path / "units").glob("*.part"))
    part.write_text(part.read_text().replace(plan.fingerprint, "0" * 16))
    with pytest.raises(DataError, match="another run.*remove the file"):
        run_worker(tmp_path, plan, StubAdapter())


# --- export ----------------------------------------------------------------------------------------------------------------------

def test_server_zip(tmp_path):
    def with_frames(root):
        written = video.ref_youtube_vos(root)
        frames(root / "valid/JPEGImages/w", [f"{name}.jpg" for name in video.NAMES])
        return written

    folder = packed("ref_youtube_vos", with_frames, tmp_path, "valid", "--set", "server=true")
    _, _, samples, truths = questions_of("ref-youtube-vos", folder)
    predictions, masks = {}, {}
    for n, truth in enumerate(truths):
        sample = next(s for s in samples if s.medium.medium_id == truth.medium_id)
        size = sample.medium.height, sample.medium.width
        masks[truth.example_id] = np.random.default_rng(n).random(size) > 0.5
        predictions[truth.example_id] = Prediction(truth.example_id, truth.medium_id, size=size, masks=({1: encode_mask(masks[truth.example_id])},))
    paths = [tmp_path / name for name in ("a.zip", "b.zip")]
    assert [write_server_zip("ref-youtube-vos", samples, predictions, path) for path in paths] == [len(truths)] * 2
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        names = archive.namelist()
        medium = samples[0].medium
        expected = {f"Annotations/{s.medium.medium_id}/{e.example_id.removeprefix(s.medium.medium_id + '_')}/{frame}.png"
                    for s in samples for e in s.examples for frame in s.medium.source["frames"]}
        assert set(names) == expected and len(names) == len(expected) == 8
        example = samples[0].examples[0].example_id
        stem = f"Annotations/{medium.medium_id}/{example.removeprefix(medium.medium_id + '_')}"
        names = medium.source["frames"]
        with archive.open(f"{stem}/{names[1]}.png") as file, Image.open(file) as image:
            assert image.mode == "L" and np.array_equal(np.asarray(image), masks[example] * 255)
        with archive.open(f"{stem}/{names[0]}.png") as file, Image.open(file) as image:
            assert not np.asarray(image).any()
    lost = predictions | {truths[0].example_id: Prediction(truths[0].example_id, "v", "oom")}
    with pytest.raises(DataError, match="oom"):
        write_server_zip("ref-youtube-vos", samples, lost, tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists() and write_server_zip("ref-youtube-vos", samples, lost, tmp_path / "c.zip", allow_failed=True)
    with pytest.raises(ConfigError, match="no server"):
        write_server_zip("revos", samples, predictions, tmp_path / "d.zip")


def test_release_form_scores_the_same(tmp_path):
    sample = small_sample("entry", discs(5))
    prediction = predict(sample, shift_px=3, shift_s=0.5)
    path = write_release([prediction, Prediction("lost", "v", "timeout", error="no reply")], tmp_path / "out")
    (read, lost) = load_predictions(path, tmp_path / "out").values()
    assert (read.answer, read.segments, read.size) == (prediction.answer, prediction.segments, prediction.size) and lost.failed
    for t, entry in prediction.masks[0].items():
        assert np.array_equal(decode_entry(read.masks[0][t], read.size), decode_entry(entry, read.size))
    assert (tmp_path / "out/entry/masks/00004.png").is_file()


def test_samples_of_the_stub_are_what_is_asked(shards):
    _, _, samples, _ = questions_of("mevis", shards)
    assert set(all_perfect(samples)) == set(ids_of(plan_of(shards)))
