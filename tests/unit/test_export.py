"""Exported models: the same model in one folder in the released layout, nothing written when something is wrong, engine states consolidated."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import tiny_run
from tests.tiny_run import Ranks, recipe
from unipixel.errors import CheckpointError, ConfigError
from unipixel.model import export as exporting
from unipixel.model.build import load_checkpoint, load_model
from unipixel.model.checkpoint import module_tensors
from unipixel.model.consolidate import consolidate
from unipixel.model.export import ExportSettings, export, main, probe
from unipixel.model.keys import FOURIER, full_name
from unipixel.model.weights import INDEX, WHOLE, read_full


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A finished run under ZeRO-3, with a checkpoint after its last step."""
    folder = tmp_path_factory.mktemp("run")
    settings = recipe(tiny, max_steps=2, save_steps=2, deepspeed=tiny_run.engine("zero3", folder))
    return Ranks(settings, folder / "run", world=2).finish()


def settings(checkpoint, out, **changes) -> ExportSettings:
    return ExportSettings(checkpoint=str(checkpoint), out=str(out), **changes)


def test_the_exported_model_is_the_trained_one(run, tmp_path, capsys):
    out = export(settings(run, tmp_path / "model", export_dtype="float32"))
    printed = capsys.readouterr().out
    assert "merged = adapters, logits: largest difference" in printed and "mask logits" in printed and "read back bit by bit" in printed
    model, tokenizer = load_checkpoint(out, dtype="float32")
    trained = load_model(run, dtype="float32")
    for mine, theirs in zip(probe(model), probe(trained)):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert (model.prompting, model.mem_order) == ("first", "raster") and tokenizer.convert_tokens_to_ids("<|seg|>") == model.config.seg_token_id
    assert not (tmp_path / ".model.partial").exists()


def test_layout_is_the_released_one(run, tmp_path, shared_data):
    out = export(settings(run, tmp_path / "model", shard_size="300KB"))
    assert (out / INDEX).is_file() and not (out / WHOLE).is_file()
    tensors = read_full(out)
    assert set(tensors) == {full_name(name) for name, _ in module_tensors(load_model(out))}
    assert "lm_head.weight" not in tensors and {t.dtype for name, t in tensors.items() if name not in FOURIER} == {torch.bfloat16}
    assert {tensors[name].dtype for name in FOURIER} == {torch.float32}
    mine = json.loads((out / "config.json").read_text())
    theirs = json.loads((shared_data / "fixtures" / "unipixel_tiny" / "full" / "config.json").read_text())
    own_ways = {"partial_checkpoint", "model_name_or_path", "max_window_layers", "sample_objects", "sam2_apply_postprocessing",
                "transformers_version", "sliding_window", "vision_token_id"}
    assert set(theirs) - set(mine) - own_ways == set()
    assert mine["architectures"] == theirs["architectures"] and mine["model_type"] == theirs["model_type"]
    assert mine["rope_scaling"]["rope_type"] == "default" and mine["text_config"]["tie_word_embeddings"] is True
    assert mine["text_config"]["rope_theta"] == mine["rope_theta"] == 1e6


def test_card_says_where_the_model_comes_from(run, tmp_path):
    out = export(settings(run, tmp_path / "model"))
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"].endswith("base") and "clips" in card and f"torch {torch.__version__.split('+')[0]}" in card
    assert "max_steps: 2" in card or "learning_rate: 0.001" in card
    assert "merged = adapters, logits" in card


@pytest.mark.parametrize("from_files", [False, True])
def test_engine_state_gives_the_same_weights(run, tmp_path, from_files):
    """DeepSpeed's partitioned state and the files of the trained model; without the latter, frozen parts are missing by name."""
    checkpoint = run / "checkpoint-2"
    out = export(settings(checkpoint, tmp_path / "engine", export_dtype="float32", from_engine=not from_files))
    direct = export(settings(run, tmp_path / "files", export_dtype="float32"))
    mine, theirs = read_full(out), read_full(direct)
    assert set(mine) == set(theirs)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5, msg=name)


def test_consolidated_folder_holds_the_trained_tensors(run, tmp_path):
    consolidate(run / "checkpoint-2", tmp_path)
    for name in ("adapter_model.safetensors", "pytorch_model.safetensors"):
        mine, theirs = load_file(tmp_path / name), load_file(run / name)
        assert set(mine) >= set(theirs) and {"inv_freq"} & {n.split(".")[-1] for n in mine} == set()
    with pytest.raises(CheckpointError, match="holds no engine checkpoint"):
        consolidate(run, tmp_path / "none")


def test_a_merge_that_changes_the_model_writes_nothing(run, tmp_path, monkeypatch):
    from peft import PeftModel

    def merge_badly(self):
        merged = self.unload()  # adapters forgotten
        merged.lm_head.weight.data += 0.1
        return merged

    monkeypatch.setattr(PeftModel, "merge_and_unload", merge_badly, raising=False)
    with pytest.raises(CheckpointError, match="merging the adapters changes the model: .*logits.*nothing was written"):
        export(settings(run, tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_files_that_differ_from_the_model_are_noticed(run, tmp_path, monkeypatch):
    write = exporting.write_full

    def write_badly(tensors, *rest):
        write({**tensors, "seg_head.1.bias": tensors["seg_head.1.bias"] + 1}, *rest)

    monkeypatch.setattr(exporting, "write_full", write_badly)
    with pytest.raises(CheckpointError, match="1 tensors were not written as they are, first seg_head.1.bias"):
        export(settings(run, tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays(run, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes").write_text("mine")
    assert main(["--checkpoint", str(run), "--out", str(tmp_path / "model")]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["notes"]


def test_settings_that_say_too_little():
    with pytest.raises(ConfigError, match="set checkpoint"):
        ExportSettings(out="x")
    with pytest.raises(ConfigError, match="export_dtype='half' must be one of"):
        ExportSettings(checkpoint="a", out="b", export_dtype="half")


def test_a_released_checkpoint_survives_the_round(shared_data, tmp_path):
    """Adapters of the reference, exported: the full checkpoint of the same run."""
    fixture = shared_data / "fixtures" / "unipixel_tiny"
    model = load_model(fixture / "adapter", sam2_config=str(fixture / "sam2_tiny_official.yaml"), fourier_from=str(fixture / "full"), dtype="float32")
    exporting.merge(model)
    mine = {full_name(name): tensor for name, tensor in module_tensors(model)}
    theirs = load_file(fixture / "full" / WHOLE)
    assert set(mine) == set(theirs)
    assert max((mine[name] - tensor).abs().max().item() for name, tensor in theirs.items()) < 1e-5
