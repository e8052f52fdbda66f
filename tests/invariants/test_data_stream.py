"""What reaches training is one stream, whatever the workers do, and nothing is lost in silence: bad samples, killed workers, open files."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from io import BytesIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from tests.tiny_run import KINDS, clip, questions, write_kinds
from unipixel.data import storage, writer
from unipixel.data.encode import SampleEncoder
from unipixel.data.loader import MAX_ATTEMPTS, Groups, MicroBatches, _identity, _PlanSampler, _start_worker, build_loader
from unipixel.data.media import FrameSettings
from unipixel.data.plan import OrderPlan
from unipixel.data.shards import ShardDataset
from unipixel.data.template import TemplateSettings
from unipixel.data.writer import ShardWriter
from unipixel.errors import DataError
from unipixel.model.tiny import train_tokenizer
from unipixel.sample import Example, MaskTrack, encode_mask

TEXTS = [text for index in range(3) for e in questions(index) for text in (e.question, e.answer, *(t.text for t in e.turns))]


@pytest.fixture(scope="module")
def encoder() -> SampleEncoder:
    frames = FrameSettings(num_frames=3, min_pixels=784, max_pixels=3136)
    return SampleEncoder(train_tokenizer(TEXTS * 4, 400), frames, TemplateSettings(), sam_size=32, max_tokens=400)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "shards", 4)


def digest(value) -> str:
    """Hash of a batch: names, plain values, and the bytes of its tensors."""
    out = hashlib.sha256()

    def add(item) -> None:
        if isinstance(item, torch.Tensor):
            out.update(f"{item.dtype}{tuple(item.shape)}".encode() + item.contiguous().numpy().tobytes())
        elif isinstance(item, dict):
            for name in sorted(item, key=str):
                out.update(str(name).encode())
                add(item[name])
        elif isinstance(item, (list, tuple)):
            for part in item:
                add(part)
        elif is_dataclass(item):
            add(asdict(item))
        else:
            out.update(repr(item).encode())

    add(value)
    return out.hexdigest()


def stream(data: ShardDataset, encoder: SampleEncoder, count: int, *, workers: int = 0, prefetch: int | None = None, start: str | None = None,
           micro: int = 2, per_medium: int = 1) -> Iterator[dict]:
    """The first batches, from the production dataset and sampler under any settings of the loader."""
    groups = Groups(data, per_medium)
    sampler = _PlanSampler(OrderPlan(groups.sources(), seed=5), rank=0, world=1, micro=micro, accumulation=1)
    loader = DataLoader(MicroBatches(groups, encoder), sampler=sampler, batch_size=None, collate_fn=_identity, num_workers=workers,
                        prefetch_factor=prefetch, multiprocessing_context=start, worker_init_fn=_start_worker if workers else None)
    return islice(loader, count)


# --- the stream -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("workers", "prefetch", "start"), [(1, 1, "fork"), (1, 4, "fork"), (3, 1, "fork"), (3, 4, "fork"), (1, 2, "spawn")])
def test_the_stream_does_not_depend_on_workers(kinds, encoder, workers, prefetch, start):
    alone = list(stream(ShardDataset(kinds), encoder, 12))
    assert {batch["kind"] for batch in alone} == set(KINDS)
    others = stream(ShardDataset(kinds), encoder, 12, workers=workers, prefetch=prefetch, start=start)
    for here, there in zip(alone, others, strict=True):
        assert (here["keys"], digest(here)) == (there["keys"], digest(there))


def training_batches(folder: Path, encoder: SampleEncoder, workers: int) -> Iterator[dict]:
    groups = Groups(ShardDataset(folder), 1)
    return iter(build_loader(groups, encoder, OrderPlan(groups.sources(), seed=5), rank=0, world=1, micro=2, accumulation=1, workers=workers))


def exit_code(target: Callable, *args) -> int | None:
    """Of a process that runs ``target``; ``None`` when it does not end in time. Torch reports dead workers from a signal handler, which
    a test should not be interrupted by."""
    run = get_context("fork").Process(target=target, args=args)
    run.start()
    run.join(45)
    code, left = run.exitcode, [] if run.exitcode is not None else psutil.Process(run.pid).children()
    for process in (*left, run):
        process.kill()
    return code


def _lose_a_worker(folder: Path, encoder: SampleEncoder) -> None:
    batches = training_batches(folder, encoder, 2)
    next(batches)
    os.kill(psutil.Process().children()[0].pid, signal.SIGKILL)
    for _ in range(10_000):
        next(batches)
    os._exit(0)


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_worker_ends_the_run(kinds, encoder, attempt):
    """With an error, within seconds, and nothing waits for the other worker."""
    assert exit_code(_lose_a_worker, kinds, encoder) == 1


# --- unusable samples -----------------------------------------------------------------------------------------------------------------

def with_nan(monkeypatch) -> None:
    """A writer that lets NaN pass: the times of this clip."""
    plain = writer._json_bytes
    monkeypatch.setattr(writer, "_json_bytes", lambda value, key: plain(value, key).replace(b"0.5,1.0", b"NaN,1.0", 1))


def without_a_frame(monkeypatch) -> None:
    """Frame 3 of the archive is missing, its directory is consistent."""
    def zip_frames(frames, key):
        out = BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for t, frame in enumerate(frames):
                if t != 3:
                    archive.writestr(zipfile.ZipInfo(f"{t:05d}.png"), frame)
        return out.getvalue()

    monkeypatch.setattr(writer, "zip_frames", zip_frames)


def masks_of_another_size(medium):
    red = medium.objects["red"]
    small = encode_mask(np.ones((5, 5), bool))
    track = MaskTrack(red.track.size, tuple(small for _ in red.track.entries))
    return dict(medium.objects) | {"red": type(red)(red.oid, red.expression, track)}


def write_damaged(folder: Path, monkeypatch, *, good: int) -> dict[str, str]:
    """A shard of clips about the red box, five of them bad in different ways; returns key -> reason of the bad ones."""
    def example(name: str, question: str = "What does the red box do?") -> list[Example]:
        return [Example(f"{name}_q", "evidence", question, answer="It moves", segments=((0.5, 1.0),), targets=(("red",),))]

    expected = {}
    with ShardWriter(folder, dataset="d", split="s", max_bundles=4) as out:
        for index in range(good + 5):
            medium, frames, _ = clip(index)
            name, kind = medium.medium_id, index if index < 5 else None
            with monkeypatch.context() as patch:
                if kind == 0:
                    with_nan(patch)
                elif kind == 1:
                    without_a_frame(patch)
                elif kind == 2:
                    medium = type(medium)(**{**vars(medium), "objects": masks_of_another_size(medium)})
                elif kind == 4:
                    frames = [*frames[:2], *(frame[:60] for frame in frames[2:])]
                key = out.write(medium, example(name, "What is it? " * 200 if kind == 3 else "What does the red box do?"), frames)
            if kind is not None:
                expected[key] = ("contract", "frame_count", "bad_masks", "too_long", "unreadable_frame")[kind]
    return expected


def test_bad_samples_get_the_same_substitutes_everywhere(tmp_path, monkeypatch, encoder):
    expected = write_damaged(tmp_path / "d", monkeypatch, good=11)
    data = ShardDataset(tmp_path / "d")
    runs = [list(stream(data, encoder, 8, workers=workers, prefetch=1 if workers else None)) for workers in (0, 1, 3)]
    assert len({digest(run) for run in runs}) == 1
    skips = [skip for batch in runs[0] for skip in batch["skips"]]
    firsts = {skip.key: skip for skip in reversed(skips)}
    assert {key: skip.reason for key, skip in firsts.items()} == expected
    rows = {row["key"]: row for row in data.rows.to_pylist()}
    for key, skip in firsts.items():
        assert (skip.shard, skip.offset) == (data.shards[rows[key]["shard"]], rows[key]["offset"]) and key.split("-")[-1] in skip.message
    assert all(len(batch["keys"]) == 2 and not {f"clip{i}_q" for i in range(5)} & set(batch["keys"]) for batch in runs[0])
    drawn = 8 * 2
    assert drawn == len(data) and len(skips) >= 5, "one epoch draws every sample once; a substitute may be bad as well"


def test_every_dialogue_has_labels(kinds, encoder):
    """No batch divides by nothing: there is at least the end of a reply to learn."""
    for batch in stream(ShardDataset(kinds), encoder, 20, micro=1):
        assert len(batch["label_ids"]) >= len(batch["keys"]) and len(batch["label_rows"]) == len(batch["label_ids"])


FOUND = 3


def _meet_broken_data(folder: Path, encoder: SampleEncoder, workers: int) -> None:
    try:
        for _ in islice(training_batches(folder, encoder, workers), 200):
            pass
    except DataError as error:
        assert f"{MAX_ATTEMPTS} samples of kind 'video_masks' in a row cannot be used; run `unipixel validate`" in str(error)
        sys.exit(FOUND)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_data_ends_with_an_error(tmp_path, encoder, workers):
    """Nine of ten samples bad: a report soon, not an endless search, and the process ends."""
    with ShardWriter(tmp_path / "d", dataset="d", split="s") as out:
        for index in range(30):
            medium, frames, _ = clip(index)
            out.write(medium, questions(index)[:1], frames if index % 10 == 0 else [frame[:60] for frame in frames])
    assert exit_code(_meet_broken_data, tmp_path / "d", encoder, workers) == FOUND


# --- ranks, files ---------------------------------------------------------------------------------------------------------------------

def test_ranks_agree_though_sources_differ_a_hundredfold(tmp_path, encoder):
    """One source a hundred times smaller than another, one smaller than a step: kinds and counts are equal on all ranks."""
    sizes = {"large": 100, "small": 1, "few": 3}
    for name, size in sizes.items():
        with ShardWriter(tmp_path / name, dataset=name, split="s") as out:
            for index in range(size):
                medium, frames, _ = clip(index)
                out.write(medium, [questions(index)[2 if name == "small" else 0]], frames)
    groups = Groups(ShardDataset([tmp_path / name for name in sizes]), per_medium=1)
    ranks = []
    for rank in range(4):
        loader = build_loader(groups, encoder, OrderPlan(groups.sources(), seed=1), rank=rank, world=4, micro=2, accumulation=1)
        ranks.append([(batch["kind"], len(batch["keys"]), json.dumps(batch["plan"])) for batch in islice(loader, 30)])
    assert ranks[0] == ranks[1] == ranks[2] == ranks[3]
    assert {kind for kind, *_ in ranks[0]} == {"video", "video_masks"} and {count for _, count, _ in ranks[0]} == {2}


def test_open_files_of_a_worker_are_bounded(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(storage, "MAX_OPEN_FILES", 4)
    with ShardWriter(tmp_path / "d", dataset="d", split="s", max_bundles=1) as out:
        for index in range(24):
            medium, frames, _ = clip(index)
            out.write(medium, questions(index)[:1], frames)
    before = set(psutil.Process().children())
    batches = stream(ShardDataset(tmp_path / "d"), encoder, 60, workers=1, prefetch=1, start="fork", micro=1)
    next(batches)
    (worker,) = set(psutil.Process().children()) - before
    shards = [sum(file.path.startswith(str(tmp_path)) for file in worker.open_files()) for _ in batches]
    assert 1 <= max(shards) <= 4
