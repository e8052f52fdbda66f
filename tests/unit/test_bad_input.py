"""What a user can get wrong: each is a clear error before training, or a counted and listed skip; nothing is lost in silence."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError

from tests import tiny_run
from tests.tiny_run import Ranks, clip, questions, recipe, steps, write_clips
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, SampleError
from unipixel.sample import Example, MaskTrack, Medium, SceneObject, Turn
from unipixel.train import checkpoints, sft, trainer

# --- settings and files: the command ends before it trains ----------------------------------------------------------------------------


def try_settings(argv: Sequence[str]) -> int:
    """Start every recipe of ``cases.json`` in the output folder; write exit code and error text of each."""
    folder = Path(argv[-1])
    results = {}
    for name, settings in json.loads((folder / "cases.json").read_text()).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        with contextlib.redirect_stderr(io.StringIO()) as text:
            code = sft.main(["--config", str(folder / f"{name}.yaml"), "--output_dir", str(folder / name)])
        results[name] = code, text.getvalue().strip().splitlines()[-1]
    (folder / "results.json").write_text(json.dumps(results))
    return 0


@pytest.fixture(scope="module")
def refusals(tiny, tmp_path_factory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("refused") / "run"
    damaged, truncated, empty, unfinished = (shutil.copytree(tiny.clips, folder / name) for name in ("damaged", "truncated", "empty", "unfinished"))
    (damaged / "shard-000001.tar").unlink()
    (truncated / "shard-000000.tar").write_bytes((truncated / "shard-000000.tar").read_bytes()[:-512])
    manifest = json.loads((empty / "dataset.json").read_text())
    (empty / "dataset.json").write_text(json.dumps(manifest | {"examples": 0, "shards": []}))
    (unfinished / "dataset.json").unlink()
    half = folder / "other" / "checkpoint-7"
    half.mkdir(parents=True)
    base = recipe(tiny, deepspeed="")
    cases = {
        "missing_shard": {"shards": [str(damaged)]}, "truncated_shard": {"shards": [str(truncated)]}, "empty": {"shards": [str(empty)]},
        "unfinished": {"shards": [str(unfinished)]}, "no_folder": {"shards": [str(folder / "nowhere")]}, "no_shards": {"shards": []},
        "misspelt": {"learning_rat": 1e-4}, "engine": {"deepspeed": "zero22"}, "lora": {"lora_targets": "q_porj"},
        "part": {"train": ["seg", "sam2_decodr"]}, "rule": {"lora_layers": "qkv"}, "resume": {"resume": str(half)},
        "prompting": {"sam2_prompting": "frist"}, "style": {"answer_style": "word"}, "sam2": {"sam2_config": "sam2.1_hiera_xl"},
        "pixels": {"min_pixels": 9000, "max_pixels": 784}, "half": {"model_dtype": "bfloat16", "bf16": False}}
    (folder / "cases.json").write_text(json.dumps({name: base | change for name, change in cases.items()}))
    Ranks({}, folder, world=1, target=try_settings).finish()
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(("case", "words"), [
    ("missing_shard", ["shard-000001.tar is listed in dataset.json but missing", "restore the file or pack the dataset again"]),
    ("truncated_shard", ["shard-000000.tar has", "bytes, dataset.json says"]),
    ("empty", ["lists no examples (empty dataset)"]),
    ("unfinished", ["has no dataset.json (an interrupted pack)"]),
    ("no_folder", ["no dataset folder", "unipixel pack"]),
    ("no_shards", ["shards is empty: name at least one folder"]),
    ("misspelt", ["unknown setting 'learning_rat'", "nearest: 'learning_rate'"]),
    ("engine", ["deepspeed='zero22' is neither a file nor one of", "nearest: 'zero2'"]),
    ("lora", ["lora_targets='q_porj' matched 0 of", "nearest: 'q_proj'"]),
    ("part", ["train='sam2_decodr' is not a part of the model", "nearest: 'sam2_decoder'"]),
    ("rule", ["lora_layers='qkv' must be one of", "nearest: 'qkvo'"]),
    ("resume", ["cannot resume from", "the run was stopped while writing it (no complete.json)"]),
    ("prompting", ["sam2_prompting='frist' must be one of", "nearest: 'first'"]),
    ("style", ["answer_style='word' must be one of"]),
    ("sam2", ["sam2 config 'sam2.1_hiera_xl' is neither one of"]),
    ("pixels", ["min_pixels=9000 and max_pixels=784"]),
    ("half", ["model_dtype='bfloat16'", "trains only under autocast: set bf16: true"]),
])
def test_refused_before_training(refusals, case, words):
    code, text = refusals[case]
    assert code == EXIT_USER_ERROR, text
    assert text.startswith("error: ")
    for part in words:
        assert part in text


# --- samples that break the contract never get into a shard ----------------------------------------------------------------------------

def mask_of(size: tuple[int, int]) -> SceneObject:
    return SceneObject("a", "a box", MaskTrack.from_masks(np.ones((2, *size), dtype=bool)))


@pytest.mark.parametrize(("make", "reason", "words"), [
    (lambda: Medium("m", "frames", 56, 42, (0.0, 0.5), 1.0, {"a": mask_of((40, 56))}), "mask_size", "masks of 56x40 px on frames of 56x42 px"),
    (lambda: Example("e", "evidence", "What?", ("yes", "no"), "maybe"), "answer_not_in_options", "'maybe' is not among the options"),
    (lambda: Example("e", "evidence", "When?", answer="now", segments=((2.0, 1.0),)), "segment_order", "[2.0, 1.0] ends before it starts"),
    (lambda: Example("e", "evidence", "When?", answer="now", segments=((-1.0, 1.0),)), "segment_range", "not a finite, non-negative time"),
    (lambda: Example("e", "chat", turns=(Turn("user", "Hello?"),)), "turns", "closing assistant turn"),
])
def test_sample_that_contradicts_itself(make, reason, words):
    with pytest.raises(SampleError) as caught:
        make()
    assert caught.value.reason == reason and words in str(caught.value)


# --- samples that cannot be used: replaced by one of the same kind, listed, limited -----------------------------------------------------

@pytest.fixture(scope="module")
def flawed(tmp_path_factory) -> Path:
    """Six media, of which 1 has a broken JPEG, 2 frames of another size than listed, and 3 a visual placeholder in its question."""
    folder = tmp_path_factory.mktemp("flawed") / "shards"
    with ShardWriter(folder, dataset="tiny", split="train") as writer:
        for index in range(6):
            medium, frames, _ = clip(index)
            examples = questions(index)[:2]
            if index == 1:
                frames = [b"\xff\xd8\xff\xe0" + bytes(200)] * len(frames)
            if index == 2:
                frames = [tiny_run.picture(np.zeros((40, 40, 3), np.uint8))] * len(frames)
            if index == 3:
                examples = [Example("clip3_q", "evidence", "What is <|video_pad|> for?", answer="Frames", targets=(("red",),))]
            writer.write(medium, examples, frames)
    return folder


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]


def test_unusable_samples_are_replaced_and_listed(tiny, flawed, tmp_path):
    out = Ranks(recipe(tiny, shards=[str(flawed)], max_steps=6, save_steps=3), tmp_path / "run").finish()
    lines = listed(out)
    assert {line["reason"] for line in lines} == {"unreadable_frame", "frame_size", "visual_placeholder"}
    assert {line["rank"] for line in lines} <= {0, 1}
    assert all(set(line) == {"shard", "offset", "key", "reason", "message", "step", "rank"} for line in lines)
    assert any(line["key"].startswith("tiny-train-clip1") for line in lines)
    for rank in (0, 1):
        seen = steps(out, rank)
        assert [line["step"] for line in seen] == list(range(6)) and {line["kind"] for line in seen} == {"video_masks"}
        assert not {"clip1_q", "clip1_r", "clip2_q", "clip2_r", "clip3_q"} & {key for line in seen for key in ", ".join(line["keys"]).split(", ")}
    stored = json.loads((out / "checkpoint-6" / "data_order.json").read_text())
    assert stored["skips"] == len(lines)


def test_too_many_unusable_samples_stop_every_rank(tiny, flawed, tmp_path):
    run = Ranks(recipe(tiny, shards=[str(flawed)], max_steps=6, max_skips=1), tmp_path / "run")
    assert run.wait() == [EXIT_USER_ERROR] * 2, run.logs()
    for rank in (0, 1):
        assert "samples could not be used (max_skips=1); they are listed in" in run.log(rank)
    assert len(steps(run.out, 0)) == len(steps(run.out, 1)) < 3
    assert len(listed(run.out)) >= 2


def test_data_without_a_usable_sample_names_what_was_tried(tiny, tmp_path):
    run = Ranks(recipe(tiny, max_tokens=5, deepspeed=""), tmp_path / "run", world=1)
    assert run.wait() == [EXIT_USER_ERROR], run.logs()
    assert "16 samples of kind 'video' in a row cannot be used" in run.log(0) and "tokens, max_tokens=5" in run.log(0)


def test_other_data_than_the_checkpoint_was_trained_on(tiny, tmp_path):
    out = Ranks(recipe(tiny, deepspeed="", max_steps=1, save_steps=1), tmp_path / "run", world=1).finish()
    others = write_clips(tmp_path / "others", 2, first=50)
    run = Ranks(recipe(tiny, deepspeed="", max_steps=2, shards=[str(others)]), out, world=1)
    assert run.wait() == [EXIT_USER_ERROR], run.logs()
    assert "the checkpoint's data order belongs to other data or settings: " in run.log(0) and "init_from" in run.log(0)


# --- a full disk --------------------------------------------------------------------------------------------------------------------------

def train_on_a_full_disk(argv: Sequence[str]) -> int:
    """The second checkpoint meets a full disk."""
    write, calls = trainer.save_trained, []

    def save(*args):
        write(*args)
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    trainer.save_trained = save
    return tiny_run.train(argv)


def test_disk_full_while_saving(tiny, tmp_path):
    run = Ranks(recipe(tiny, deepspeed="", max_steps=3, save_steps=1, save_total_limit=1), tmp_path / "run", world=1, target=train_on_a_full_disk)
    assert run.wait() == [EXIT_USER_ERROR], run.logs()
    assert f"no space left while writing {run.out / 'checkpoint-2'}" in run.log(0) and "MiB free" in run.log(0)
    found, passed = checkpoints.newest_complete(run.out)
    assert found == run.out / "checkpoint-1" and passed[0].startswith("checkpoint-2: ")


@pytest.mark.parametrize(("error", "free", "full"), [
    (OSError(errno.ENOSPC, "No space left on device"), 2**40, True),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 2**40, True),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 2**40, True),
    (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"), 0, True),
    (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"), 2**40, False),
    (PermissionError(errno.EACCES, "Permission denied"), 2**40, False),
])
def test_errors_of_a_full_disk(monkeypatch, tmp_path, error, free, full):
    """As torch and safetensors raise them."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**41, 2**41 - free, free))
    assert checkpoints.out_of_space(error, tmp_path) is full
