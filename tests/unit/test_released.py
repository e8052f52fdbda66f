"""Full checkpoints of the UniPixel family, its adapters and partial files: read strictly, tied or not, in one file or in shards."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipixel.errors import CheckpointError, ConfigError
from unipixel.model.build import ModelSettings, build_released, load_model
from unipixel.model.checkpoint import module_tensors
from unipixel.model.keys import FOURIER, from_full_name
from unipixel.model.released import backbone_config, stored_settings
from unipixel.model.weights import INDEX, WHOLE, new_folder, read_full, write_full


@pytest.fixture(scope="module")
def fixture(shared_data):
    return shared_data / "fixtures" / "unipixel_tiny"


@pytest.fixture
def copy(fixture, tmp_path):
    """A full checkpoint whose tensors a test may change: ``copy(tensors -> tensors)``."""
    def make(change=lambda tensors: tensors, config=lambda config: config, shard_size="5GB"):
        folder = tmp_path / "copy"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config(json.loads((fixture / "full" / "config.json").read_text()))))
        write_full(change(load_file(fixture / "full" / WHOLE)), folder, shard_size)
        return folder
    return make


def load(folder, fixture, **options):
    return load_model(folder, sam2_config=str(fixture / "sam2_tiny_official.yaml"), dtype="float32", **options)


def tensors_of(model) -> dict[str, torch.Tensor]:
    return dict(module_tensors(model))


def test_every_tensor_arrives(fixture):
    model = load(fixture / "full", fixture)
    own = tensors_of(model)
    stored = {from_full_name(name): tensor for name, tensor in load_file(fixture / "full" / WHOLE).items()}
    assert set(own) == set(stored) and all(own[name].equal(tensor) for name, tensor in stored.items())
    assert model.core.lm_head.weight is model.core.get_input_embeddings().weight
    assert (model.mem_order, model.prompting, model.hidden_tokens) == ("window", "first", 2) and not model.training


def test_shards_and_a_second_copy_of_a_tied_matrix(fixture, copy):
    folder = copy(lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}, shard_size="300KB")
    assert (folder / INDEX).is_file() and len(list(folder.glob("model-*.safetensors"))) > 3
    whole, sharded = load(fixture / "full", fixture), load(folder, fixture)
    assert all(t.equal(tensors_of(whole)[name]) for name, t in tensors_of(sharded).items())


def test_untied_head(fixture, copy):
    def untie(config):
        return json.loads((fixture / "full_untied" / "config.json").read_text())

    head = load_file(fixture / "full_untied" / "lm_head_only.safetensors")
    model = load(copy(lambda t: t | head, untie), fixture)
    assert model.core.lm_head.weight.equal(head["lm_head.weight"]) and not model.core.get_input_embeddings().weight.equal(head["lm_head.weight"])


@pytest.mark.parametrize(("outer", "inner", "tied"), [
    (None, True, True), (False, None, False), (True, False, False), (None, None, False), (True, None, True),
])
def test_where_tying_is_said(fixture, outer, inner, tied):
    config = json.loads((fixture / "full" / "config.json").read_text())
    for place, value in ((config, outer), (config["text_config"], inner)):
        place.pop("tie_word_embeddings", None)
        if value is not None:
            place["tie_word_embeddings"] = value
    assert backbone_config(config).tie_word_embeddings is tied


@pytest.mark.parametrize(("name", "words"), [
    ("model.norm.weight", "1 missing: model.language_model.norm.weight"), ("visual.merger.mlp.0.bias", "1 missing: model.visual.merger.mlp.0.bias"),
    ("seg_head.1.bias", "lacks 1 tensors: seg_head.1.bias"), ("sam2.no_mem_embed", "lacks 1 tensors: sam2.no_mem_embed"),
    ("ref_proj.1.weight", "lacks 1 tensors: ref_proj.1.weight"),
])
def test_a_missing_tensor_is_an_error(fixture, copy, name, words):
    with pytest.raises(CheckpointError, match=words):
        load(copy(lambda t: {k: v for k, v in t.items() if k != name}), fixture)


@pytest.mark.parametrize(("name", "words"), [
    ("model.layers.7.mlp.up_proj.weight", "1 unexpected"), ("seg_head.9.bias", "1 tensors do not fit.*seg_head.9.bias"),
    ("sam2.other", "1 tensors do not fit.*sam2.other"),
])
def test_an_unexpected_tensor_is_an_error(fixture, copy, name, words):
    with pytest.raises(CheckpointError, match=words):
        load(copy(lambda t: t | {name: torch.zeros(3)}), fixture)


def test_damaged_shards(fixture, copy):
    folder = copy(shard_size="300KB")
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{first.name} cannot be read as safetensors"):
        read_full(folder)
    second.unlink()
    first.unlink()
    with pytest.raises(CheckpointError, match="is missing; the index lists"):
        read_full(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="a shard must lie in the folder itself"):
        read_full(folder)


# --- adapters and partial files ---------------------------------------------------------------------------------------------------------

def test_adapters_of_the_reference_lack_the_random_matrices(fixture, caplog):
    with caplog.at_level(logging.WARNING):
        model = load(fixture / "adapter", fixture)
    assert "never hold the random matrices" in caplog.text
    with pytest.raises(CheckpointError, match="set fourier_from to a full checkpoint"):
        model.point_prompts(torch.zeros(1, 2, 2), torch.tensor([[1, -1]]), torch.zeros(1))
    whole = load(fixture / "adapter", fixture, fourier_from=str(fixture / "full"))
    stored = load_file(fixture / "full" / WHOLE)
    assert all(tensors_of(whole)[name].equal(stored[name]) for name in FOURIER) and not whole.point_prompts.missing
    assert tensors_of(whole)["ref_proj.1.weight"].equal(stored["ref_proj.1.weight"])


def test_partial_file_alone(fixture, tmp_path, caplog):
    """The reference's second stage: the segmentation head over the base model, with SAM 2 from its own file."""
    tensors = load_file(fixture / "adapter" / "pytorch_model.safetensors")
    head = {name.removeprefix("base_model.model."): t for name, t in tensors.items() if ".seg_head." in name}
    config = json.loads((fixture / "adapter" / "config.json").read_text())
    for name in ("base", "sam2_tiny.pt"):
        (tmp_path / name).symlink_to(fixture / name)
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "config.json").write_text(json.dumps(config))
    save_file(head, tmp_path / "stage2" / "pytorch_model.safetensors")
    with caplog.at_level(logging.WARNING):
        model = load(tmp_path / "stage2", fixture)
    assert "holds no msk_proj, ref_encoder, ref_proj" in caplog.text
    assert all(tensors_of(model)[name].equal(t) for name, t in head.items())
    assert tensors_of(model)["msk_proj.0.weight"].equal(tensors_of(model)["model.visual.merger.mlp.0.weight"])
    del head["seg_head.1.bias"]
    save_file(head, tmp_path / "stage2" / "pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 tensors: seg_head.1.bias"):
        load(tmp_path / "stage2", fixture)


def test_adapters_without_all_their_tensors(fixture, tmp_path):
    folder = shutil.copytree(fixture / "adapter", tmp_path / "adapter", copy_function=shutil.copyfile)
    (tmp_path / "base").symlink_to(fixture / "base")
    with pytest.raises(ConfigError, match="sam2_checkpoint='sam2_tiny.pt' is not a file"):
        load(folder, fixture)
    (tmp_path / "sam2_tiny.pt").symlink_to(fixture / "sam2_tiny.pt")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(name := next(iter(sorted(tensors))))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=f"1 adapter tensors of the model are not in .*: {name.removeprefix('base_model.model.')}"):
        load(folder, fixture)


def test_without_sam2_weights_from_anywhere(fixture, tmp_path):
    folder = shutil.copytree(fixture / "adapter", tmp_path / "adapter", copy_function=shutil.copyfile)
    (tmp_path / "base").symlink_to(fixture / "base")
    config = json.loads((folder / "config.json").read_text()) | {"sam2_checkpoint": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lacks 1 tensors: sam2.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"):
        load(folder, fixture)  # all parameters of SAM 2 were trained and are in the partial file, its random matrix is not


@pytest.mark.parametrize(("stored", "prompting", "order"), [
    ({"sam2_batch_mode": False}, "first", "window"), ({"sam2_batch_mode": True}, "independent", "window"),
    ({"sam2_batch_mode": False, "sam2_prompting": "every"}, "every", None), ({"sam2_prompting": "first", "mem_order": "raster"}, "first", "raster"),
])
def test_settings_of_a_checkpoint(tmp_path, stored, prompting, order):
    """Folders of the reference mean its own rules; ours say theirs."""
    settings = stored_settings(stored, tmp_path)
    assert settings["sam2_prompting"] == prompting and settings.get("mem_order") == order


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    with pytest.raises(CheckpointError, match="exists and is not empty"), new_folder(tmp_path / "out"):
        pass


def test_a_full_checkpoint_as_the_base_of_a_training(fixture):
    model = build_released(fixture / "full", ModelSettings(backbone=str(fixture / "full"), sam2_config=str(fixture / "sam2_tiny_official.yaml"),
                                                           sam2_image_size=128, mem_order="window"))
    assert tensors_of(model)["seg_head.0.weight"].equal(load_file(fixture / "full" / WHOLE)["seg_head.0.weight"])
