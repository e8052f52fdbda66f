"""``unipixel export``: a trained model as one folder that needs no base: adapters merged, in the layout of released UniPixel checkpoints.

The merged model must say what the adapters said (logits and a mask on a fixed input), what was written must be what was merged, and the
folder appears only when all of that held.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from sam2_ext.build import ARCHITECTURES
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, CheckpointError, ConfigError, UniPixelError
from unipixel.model.adapters import tied_embeddings
from unipixel.model.backbones import RELEASED
from unipixel.model.build import load_model, load_tokenizer
from unipixel.model.card import model_card
from unipixel.model.checkpoint import CONFIG, module_tensors, read_config
from unipixel.model.consolidate import consolidate, copy_beside
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import FOURIER, full_name
from unipixel.model.released import stored_settings
from unipixel.model.weights import new_folder, read_full, write_full

DTYPES = ("bfloat16", "float32")
TOLERANCE = 1e-3
"""Largest difference between merged model and adapters, in float32, as a share of the largest value."""


@dataclass(kw_only=True)
class ExportSettings:
    """What to export and where to."""

    checkpoint: str = setting("", "trained model folder, or a checkpoint-N folder of a run")
    out: str = setting("", "new folder for the exported model")
    backbone: str = setting("", "base model folder, when it is not where the checkpoint says")
    fourier_from: str = setting("", "full checkpoint with the random matrices of points and boxes, which adapter folders of the reference lack")
    from_engine: bool = setting(False, "take the weights from DeepSpeed's state in the checkpoint-N folder instead of its safetensors files")
    export_dtype: str = setting("bfloat16", "dtype of the written weights: bfloat16 (as released) or float32; random matrices stay float32")
    shard_size: str = setting("5GB", "largest file")

    def __post_init__(self):
        if not self.checkpoint or not self.out:
            raise ConfigError("set checkpoint to the trained model and out to a new folder")
        if self.export_dtype not in DTYPES:
            raise ConfigError(f"export_dtype={self.export_dtype!r} must be one of {DTYPES}")


@torch.inference_mode()
def probe(model: GroundedVLM) -> tuple[Tensor, Tensor]:
    """(logits, mask logits) of a fixed dialogue about two frames of noise; what merging must not change."""
    numbers = torch.Generator().manual_seed(0)
    config, size = model.config, model.sam2.image_size
    rows = torch.arange(4, 8)
    ids = torch.randint(0, min(1000, config.get_text_config().vocab_size), (1, 24), generator=numbers)
    ids[0, rows] = config.video_token_id
    positions = torch.arange(24).expand(4, 1, 24)
    batch = {"input_ids": ids, "visual_rows": rows, "visual_index": torch.arange(4), "grids": torch.tensor([[1, 4, 4]]),
             "patches": torch.randint(0, 256, (16, 1176), generator=numbers, dtype=torch.uint8)}
    after, before = model.hidden_states(model.embed(batch), positions, (24,))
    frames = model.normalizer.frames(torch.randint(0, 256, (2, 3, size, size), generator=numbers, dtype=torch.uint8))
    masks, *_ = model.sam2(frames, model.seg_tokens(before[-1:]), torch.zeros(1, dtype=torch.long), 2, prompting=model.prompting)
    return model.core.lm_head(after).float(), masks


def merge(model: GroundedVLM) -> list[str]:
    """Merge adapters into the backbone; returns one line per comparison.

    Raises:
        CheckpointError: the merged model says something else.
    """
    if not isinstance(model.backbone, PeftModel):
        return ["no adapters to merge"]
    before = probe(model)
    model.backbone = model.backbone.merge_and_unload()
    lines = []
    for name, mine, adapters in zip(("logits", "mask logits"), probe(model), before):
        difference, scale = (mine - adapters).abs().max().item(), max(1.0, adapters.abs().max().item())
        lines.append(f"merged = adapters, {name}: largest difference {difference:.2e}, tolerance {TOLERANCE * scale:.2e}")
        if not difference <= TOLERANCE * scale:
            raise CheckpointError(f"merging the adapters changes the model: {lines[-1]}; nothing was written")
    return lines


def export(settings: ExportSettings) -> Path:
    """Merge, compare, write, check; returns the new folder.

    Raises:
        CheckpointError: the checkpoint cannot be read, merging changes it, or ``out`` is not empty.
    """
    out = Path(settings.out)
    with tempfile.TemporaryDirectory() as consolidated, new_folder(out) as folder:
        source = Path(settings.checkpoint)
        if settings.from_engine:
            consolidate(source, Path(consolidated))
            source = Path(consolidated)
        model = load_model(source, backbone=settings.backbone, fourier_from=settings.fourier_from, dtype="float32", quantize="none")
        if model.family is not RELEASED:
            raise ConfigError(f"{source}: the layout of released checkpoints is for {RELEASED.title}; this model is {model.family.title}, whose "
                              "adapter folder loads as it is")
        if model.point_prompts.missing:
            raise CheckpointError(model.point_prompts.missing)
        lines = merge(model)
        dtype = getattr(torch, settings.export_dtype)
        tensors = {full_name(name): t.detach() if name in FOURIER else t.detach().to(dtype) for name, t in module_tensors(model)}
        write_full(tensors, folder, settings.shard_size)
        lines.append(check_written(tensors, folder))
        config = released_config(model, read_config(source), settings.export_dtype)
        base = Path(stored_settings(config, settings.checkpoint)["backbone"])
        place_network(config, [source, Path(settings.checkpoint), Path(settings.backbone or base)], folder)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")
        load_tokenizer(str(source)).save_pretrained(folder)
        copy_beside(base, folder)
        (folder / "README.md").write_text(model_card(config, Path(settings.checkpoint), lines))
    for line in lines:
        print(line)
    return out


def check_written(tensors: Mapping[str, Tensor], folder: Path) -> str:
    """Compare the files with what was meant to be in them."""
    written = read_full(folder)
    wrong = sorted(set(written) ^ set(tensors)) or [name for name, tensor in tensors.items() if not written[name].equal(tensor)]
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors were not written as they are, first {wrong[0]}: is the disk sound?")
    return f"written: {len(written)} tensors, {sum(t.nbytes for t in written.values()) / 2**30:.2f} GiB, read back bit by bit"


def released_config(model: GroundedVLM, stored: Mapping, dtype: str) -> dict:
    """``config.json`` as the UniPixel family has it: text settings inside and outside, and what this package adds."""
    config = {**model.config.to_dict(), **{name: value for name, value in stored.items() if name not in ("text_config", "vision_config")}}
    text = model.config.get_text_config()
    rope = dict(text.rope_parameters)
    inner = {**config["text_config"], "tie_word_embeddings": tied_embeddings(model.config), "vocab_size": text.vocab_size,
             "rope_theta": rope["rope_theta"], "rope_scaling": {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"}}
    outer = {name: value for name, value in inner.items() if name not in ("model_type", "architectures") and value is not None}
    return {**outer, **{name: value for name, value in config.items() if name not in outer}, "text_config": inner,
            "architectures": ["PixelQwen2_5_VLForConditionalGeneration"], "model_type": "pixel_qwen2_5_vl", "torch_dtype": dtype, "dtype": dtype,
            "conv_type": "chatml", "sam2_checkpoint": None, "sam2_enable_decoder": True, "sam2_inference_mode": False,
            "sam2_batch_mode": model.prompting == "independent", "sam2_prompting": model.prompting, "mem_order": model.mem_order}


def place_network(config: dict, places: list[Path], folder: Path) -> None:
    """Name SAM 2 as the reference does; a network described by a file of its own gets it copied into the folder."""
    name = config["sam2_config"]
    stem = Path(name).name.removesuffix(".yaml")
    if stem in ARCHITECTURES:
        config["sam2_config"] = f"configs/{stem}"
        return
    file = next((p for p in (Path(name), *(place / name for place in places)) if p.is_file()), None)
    if file is None:
        raise ConfigError(f"sam2_config={name!r} of the checkpoint is neither a released size nor a file beside it")
    shutil.copy(file, folder / file.name)
    config["sam2_config"] = file.name


def main(argv: list[str] | None = None) -> int:
    try:
        (settings,) = parse([ExportSettings], argv, prog="unipixel export")
        path = export(settings)
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"model: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
