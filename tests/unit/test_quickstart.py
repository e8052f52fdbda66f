"""The quickstart and the example for own data, made small: every stage runs, the training is killed and resumed, results are complete."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from launch import quickstart
from unipixel.train import checkpoints

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_quickstart_runs_every_stage(tmp_path, capfd):
    settings = quickstart.QuickstartSettings(out=str(tmp_path / "run"), train_clips=12, test_clips=3, steps=14, pair_clips=8, pair_steps=2)
    result = quickstart.run(settings)
    printed = capfd.readouterr().out
    assert "killed the training after checkpoint-" in printed and "resuming from" in printed
    assert [row["metric"] for row in result["rows"]] == list(quickstart.METRICS)
    assert all(row["trained"] is not None and 0 <= row["trained"] <= 1 for row in result["rows"])
    folder = tmp_path / "run"
    assert json.loads((folder / "quickstart.json").read_text())["settings"]["steps"] == 14
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "panel.png").stat().st_size > 1_000
    newest, passed = checkpoints.newest_complete(folder / "trained")
    assert newest.name == "checkpoint-14" and not passed
    assert list((folder / "trained").rglob("events.out.tfevents*"))
    shares = result["preferences"]["all"]
    assert shares["pairs"] > 0 and all(0 <= shares[name] <= 1 for name in ("before", "after", "reward")) and "held-out preference pairs" in printed
    again = quickstart.run(settings)  # nothing is done twice
    assert again["seconds"] == result["seconds"]


@pytest.mark.slow
def test_overfit_example_on_real_clips(tmp_path, shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    overfit = importlib.import_module("overfit_folder")
    settings = overfit.OverfitSettings(data=str(shared_data / "mini_real"), out=str(tmp_path / "run"), steps=4, splits=["train"])
    results = overfit.run(settings)
    assert results["train"]["n"] == 27 and not results["train"]["missing"]
    assert set(json.loads((tmp_path / "run" / "overfit.json").read_text())["clip_J"]) == {"bedroom", "blocks", "coffee", "dog"}
