"""Validation while training: what may not choose a checkpoint, the same number on any number of ranks, and which checkpoint is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_run import KINDS, Ranks, clip, engine, questions, recipe, steps, tiny_parts, write_clips, write_kinds
from unipixel.data.loader import Groups
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.errors import ConfigError
from unipixel.train import sft
from unipixel.train.checkpoints import MARKER, mark_complete, rotate
from unipixel.train.validation import Validation, check_held_out, film_divisions


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("held_out") / "shards", 3, first=20)


def shards(folder: Path, split: str, films: dict[int, str | None]) -> ShardDataset:
    """Clips by number, each of a film or of none."""
    with ShardWriter(folder, dataset="films", split=split) as writer:
        for index, film in films.items():
            medium, frames, _ = clip(index)
            medium = type(medium)(**{**vars(medium), "source": {"film": film} if film else {}})
            writer.write(medium, questions(index)[2:], frames)
    return ShardDataset(folder)


@pytest.mark.parametrize(("split", "films", "message"), [
    ("test", {5: "hero"}, "are of the split 'test': what chooses the checkpoint is no test any more"),
    ("validation", {5: "matrix", 6: "hero"}, "1 films or media of eval_shards also train: matrix"),
    ("validation", {2: None}, "1 films or media of eval_shards also train: clip2")])
def test_what_may_not_choose(tmp_path, split, films, message):
    train = shards(tmp_path / "train", "train", {1: "matrix", 2: None})
    with pytest.raises(ConfigError, match=message):
        check_held_out(train, shards(tmp_path / "held_out", split, films))
    check_held_out(train, shards(tmp_path / "fine", "validation", {1: "hero"}))


def divided(folder: Path, part: str, name: str) -> Path:
    with ShardWriter(folder, dataset="films", split="train") as writer:
        medium, frames, _ = clip(0)
        writer.write(type(medium)(**{**vars(medium), "source": {"film": "hero", "part": part, "split_hash": name}}), questions(0)[2:], frames)
    return folder


def test_the_division_of_films_is_known_and_its_test_part_refused(tiny, tmp_path):
    train, test = divided(tmp_path / "train", "train", "0123"), divided(tmp_path / "test", "test", "0123")
    assert film_divisions(ShardDataset([tiny.clips, train])) == ["0123"] and film_divisions(ShardDataset(tiny.clips)) == []
    with pytest.raises(ConfigError, match=r"holds the films of the test part \(split hash 0123\)"):
        film_divisions(ShardDataset([train, test]))


def test_keep_best_needs_something_to_tell_it_by(tiny, tmp_path, capsys):
    settings = recipe(tiny, keep_best=True, output_dir=str(tmp_path / "out"))
    argv = [word for name, value in settings.items() for word in (f"--{name}", *(value if isinstance(value, list) else [str(value)]))]
    assert sft.main(argv) == 2 and "keep_best=true chooses by the validation loss: set eval_shards" in capsys.readouterr().err


def test_every_group_counts_once_on_any_number_of_ranks(tiny, tmp_path):
    """Ranks take turns of one kind at a time, and make equally many passes."""
    _, _, encoder, _ = tiny_parts(tiny)
    validation = Validation(Groups(ShardDataset(write_kinds(tmp_path / "kinds", 3, KINDS)), 3), encoder)
    for world in (1, 2, 4):
        ranks = [list(validation.draws(rank, world)) for rank in range(world)]
        assert len({len(draws) for draws in ranks}) == 1
        assert sorted(group for draws in ranks for group, _, counts in draws if counts) == list(range(len(validation.groups)))
        assert all(len({kind for _, kind, _ in turn}) == 1 for turn in zip(*ranks)), "the same kind on every rank"


def checkpoints(out: Path, numbers: list[int]) -> None:
    for number in numbers:
        (out / f"checkpoint-{number}").mkdir(parents=True)
        mark_complete(out / f"checkpoint-{number}")


@pytest.mark.parametrize(("keep", "best", "left"), [(2, 1, {1, 4}), (2, 4, {3, 4}), (1, 2, {2, 4}), (1, 4, {4}), (2, None, {3, 4}),
                                                    (None, 1, {1, 2, 3, 4})])
def test_the_best_checkpoint_survives_rotation(tmp_path, keep, best, left):
    checkpoints(tmp_path, [1, 2, 3, 4])
    (tmp_path / "checkpoint-2" / "x").mkdir()
    rotate(tmp_path, keep, best)
    assert {int(p.name.split("-")[1]) for p in tmp_path.iterdir()} == left and all((p / MARKER).is_file() for p in tmp_path.iterdir())


def run(tiny, held_out, out: Path, world: int, **changes) -> Path:
    settings = recipe(tiny, **{"eval_shards": [str(held_out)], "keep_best": True, "save_steps": 2, "max_steps": 6, "save_total_limit": 2,
                               "learning_rate": 3e-2, "lr_scheduler_type": "constant", **changes})
    return Ranks(settings, out, world=world).finish()


def losses(out: Path) -> dict[int, float]:
    state = json.loads((max(out.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])) / "trainer_state.json").read_text())
    return {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}


def test_the_best_checkpoint_is_the_result(tiny, held_out, tmp_path):
    """A rate that is much too high: the loss on held-out clips is least at some checkpoint, whose files the run ends with."""
    out = run(tiny, held_out, tmp_path / "run", 1)
    found = losses(out)
    best = min(found, key=found.get)
    assert sorted(found) == [2, 4, 6] and best != 6
    assert f"best checkpoint: step {best}, validation loss {found[best]:.4f}" in (out / "rank_0.log").read_text()
    for name in ("adapter_model.safetensors", "pytorch_model.safetensors", "config.json", "adapter_config.json"):
        assert (out / name).read_bytes() == (out / f"checkpoint-{best}" / name).read_bytes()
    other = next(step for step in found if step != best and (out / f"checkpoint-{step}").is_dir())
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (out, out / f"checkpoint-{other}"))
    assert any(not torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_the_validation_loss_does_not_depend_on_ranks_and_changes_nothing(tiny, held_out, tmp_path):
    """Under ZeRO-3, where a rank that made fewer passes than the others would hang; the training is that of a run without validation."""
    settings = {"deepspeed": engine("zero3", tmp_path), "gradient_accumulation_steps": 1, "max_steps": 2, "save_steps": 1}
    two = run(tiny, held_out, tmp_path / "two", 2, **settings)
    one = run(tiny, held_out, tmp_path / "one", 1, **settings | {"deepspeed": "", "gradient_accumulation_steps": 2})
    assert losses(two)[2] == pytest.approx(losses(one)[2], rel=1e-3)
    plain = Ranks(recipe(tiny, learning_rate=3e-2, lr_scheduler_type="constant", **settings), tmp_path / "plain").finish()
    assert [line["loss"] for line in steps(two)] == [line["loss"] for line in steps(plain)]
