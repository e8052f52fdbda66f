"""``examples/released_checkpoint.py`` on an exported toy model: the check, the answer, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.packing import grey_video
from tests.tiny_run import Ranks, recipe
from unipixel.model.export import ExportSettings, export

FILE = Path(__file__).parents[2] / "examples" / "released_checkpoint.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("released_checkpoint", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    run = Ranks(recipe(tiny, max_steps=1, deepspeed=""), folder / "run", world=1).finish()
    return export(ExportSettings(checkpoint=str(run), out=str(folder / "model")))


def test_check_and_answer(example, model, tmp_path, capsys):
    grey_video(tmp_path / "clip.mp4", 12, 6)
    assert example.main(["--checkpoint", str(model), "--check_only", "true"]) == 0
    assert "tensors, all in place" in capsys.readouterr().out
    out = tmp_path / "answer"
    assert example.main(["--checkpoint", str(model), "--video", str(tmp_path / "clip.mp4"), "--expression", "the ball", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Please segment the ball in this video." in printed
    record = json.loads((out / "answer.json").read_text())
    assert record["reply"] is not None and len(record["frame_times"]) == 12
    assert Image.open(out / "masks.png").width % 6 == 0


def test_files_that_do_not_fit_are_named(example, model, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in Path(model).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    file = broken / "model.safetensors"
    tensors = load_file(file)
    tensors["stranger"] = tensors.pop("seg_head.1.weight")
    tensors["seg_head.1.bias"] = tensors["seg_head.1.bias"][:-1].clone()
    save_file(tensors, file)
    assert example.main(["--checkpoint", str(broken), "--check_only", "true"]) == 2
    error = capsys.readouterr().err
    assert "1 missing: ['seg_head.1.weight']" in error and "1 unexpected: ['stranger']" in error
    assert "1 of another shape: ['seg_head.1.bias']" in error


def test_wrong_calls(example, model, tmp_path, capsys):
    assert example.main(["--checkpoint", str(tmp_path)]) == 2 and "no full checkpoint" in capsys.readouterr().err
    assert example.main(["--checkpoint", str(model)]) == 2 and "--expression" in capsys.readouterr().err
