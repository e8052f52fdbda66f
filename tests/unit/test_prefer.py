"""``unipixel pairs accuracy``: margins are those of each pair alone, accuracies and ties by hand, what cannot be scored is listed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from launch.cli import main
from tests.tiny_run import flags, recipe
from tests.unit.test_mask_preference import write
from unipixel.config import parse
from unipixel.data.ledger import SkipLedger
from unipixel.data.pair_groups import PairGroups
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError
from unipixel.infer.prefer import Margin, PreferSettings, margins, result
from unipixel.model.checkpoint import ADAPTER
from unipixel.train.sft import SETTINGS, save_untrained


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs") / "shards")


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Two untrained models of different seeds and adapters that are not zero."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        out = folder / str(seed)
        save_untrained(*parse(SETTINGS, flags(recipe(tiny, lora_scope="llm", seed=seed, paraphrase=False, output_dir=str(out)), folder)))
        generator = torch.Generator().manual_seed(seed)
        moved = {name: 0.2 * torch.randn(t.shape, generator=generator) if "lora_B" in name else t for name, t in load_file(out / ADAPTER).items()}
        save_file(moved, out / ADAPTER, metadata={"format": "pt"})
    return folder / "1", folder / "2"


def settings(models, pairs, **changes) -> PreferSettings:
    return PreferSettings(**{"checkpoint": str(models[0]), "shards": [str(pairs)], "out": "unused", "device": "cpu", **changes})


def test_batches_do_not_change_the_margins(models, pairs):
    groups = PairGroups(ShardDataset([pairs]), masks=True)
    together, alone = (margins(str(models[0]), settings(models, pairs, batch_size=size), groups, SkipLedger()) for size in (4, 1))
    assert together.keys() == alone.keys() and len(alone) == 8
    for key, margin in alone.items():
        assert margin.mode == together[key].mode
        for mine, theirs in zip(margin[1:], together[key][1:]):
            assert (mine is None and theirs is None) or mine == pytest.approx(theirs, abs=2e-3)
    kinds = {key.rpartition("_")[2]: (margin.words is not None, margin.masks is not None) for key, margin in alone.items()}
    assert kinds == {"object": (False, True), "both": (True, True), "time": (True, False), "words": (True, False)}


def test_accuracies_by_hand(models, pairs):
    own = {"a": Margin("temporal", 2.0, None), "b": Margin("evidence", None, -0.5), "c": Margin("evidence", -3.0, 0.2), "d": Margin("other", 1, None)}
    theirs = {**own, "a": Margin("temporal", 1.0, None), "b": Margin("evidence", None, -0.6), "c": Margin("evidence", -3.0, 0.3)}
    found = result(settings(models, pairs, beta=0.1, mask_beta=1.0), own, theirs)["accuracy"]
    assert found == {"all": {"pairs": 4, "plain": 0.5, "reward": 0.5}, "evidence": {"pairs": 2, "plain": 0.0, "reward": 0.5},
                     "other": {"pairs": 1, "plain": 1.0, "reward": 0.0}, "temporal": {"pairs": 1, "plain": 1.0, "reward": 1.0}}
    assert "reward" not in result(settings(models, pairs), own, None)["accuracy"]["all"]


def test_command(models, pairs, tmp_path, capsys):
    out = tmp_path / "accuracy.json"
    command = ["pairs", "accuracy", "--checkpoint", str(models[0]), "--reference", str(models[1]), "--shards", str(pairs), "--out", str(out)]
    assert main(command) == 0
    stored, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert stored["accuracy"]["all"]["pairs"] == 8 and set(stored["accuracy"]) == {"all", "correctness", "evidence", "temporal"}
    assert "reward" in printed and "nothing skipped" in printed and not list(tmp_path.glob("*.part"))
    same = main([*command[:4], "--reference", str(models[0]), *command[6:]])
    assert same == 0 and json.loads(out.read_text())["accuracy"]["all"]["reward"] == 0, "a model gains nothing over itself, and a tie is wrong"


def test_bad_input(models, pairs, tmp_path, capsys):
    with pytest.raises(ConfigError, match="checkpoint is empty"):
        PreferSettings(shards=["x"], out="y")
    with pytest.raises(ConfigError, match="beta=0"):
        settings(models, pairs, beta=0.0)
    assert main(["pairs", "accuracy", "--checkpoint", str(tmp_path), "--shards", str(pairs), "--out", "x.json"]) == EXIT_USER_ERROR
    assert "holds no config.json" in capsys.readouterr().err
