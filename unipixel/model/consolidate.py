"""An engine checkpoint of DeepSpeed (ZeRO 0 to 3) -> the files of a trained model, by DeepSpeed's own converter, for any number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import save_file

from unipixel.errors import CheckpointError
from unipixel.model.checkpoint import ADAPTER, ADAPTER_CONFIG, CONFIG, PARTIAL, disk_name, read_config
from unipixel.model.weights import read_file

TAG_FILE = "latest"
BESIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*", "generation_config.json",
          "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
"""Small files that travel with a model."""


def is_engine(folder: str | Path) -> bool:
    """Whether a folder holds an engine checkpoint."""
    return (Path(folder) / TAG_FILE).is_file()


def consolidate(folder: str | Path, out: Path) -> None:
    """Write the trained float32 weights of an engine checkpoint into ``out``, with the settings and the tokenizer beside it.

    What the engine does not hold because it was frozen is taken from the trained model in the same folder, when there is one.

    Raises:
        CheckpointError: no engine checkpoint, or DeepSpeed cannot read it.
    """
    folder = Path(folder)
    if not is_engine(folder):
        raise CheckpointError(f"{folder} holds no engine checkpoint ({TAG_FILE} is missing): name a checkpoint-N folder of a run with DeepSpeed")
    read_config(folder)
    try:
        state = get_fp32_state_dict_from_zero_checkpoint(str(folder), exclude_frozen_parameters=True)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise CheckpointError(f"{folder}: DeepSpeed cannot consolidate it: {error}") from error
    lora = (folder / ADAPTER_CONFIG).is_file()
    tensors = read_file(folder / PARTIAL) if (folder / PARTIAL).is_file() else {}
    tied = {tensor.data_ptr() for name, tensor in state.items() if "embed_tokens" in name}
    tensors |= {disk_name(name, lora): tensor.contiguous() for name, tensor in state.items()
                if "inv_freq" not in name and not ("lm_head" in name and tensor.data_ptr() in tied)}  # engines also store rotary tables
    adapter = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    out.mkdir(parents=True, exist_ok=True)
    if lora:
        save_file(adapter, out / ADAPTER, metadata={"format": "pt"})
        shutil.copy(folder / ADAPTER_CONFIG, out)
    save_file({name: tensor for name, tensor in tensors.items() if name not in adapter}, out / PARTIAL, metadata={"format": "pt"})
    shutil.copy(folder / CONFIG, out)
    copy_beside(folder, out)


def copy_beside(source: Path, out: Path) -> None:
    """Copy tokenizer, processor and generation settings that ``out`` lacks."""
    for pattern in BESIDE:
        for file in source.glob(pattern):
            if file.is_file() and not (out / file.name).exists():
                shutil.copy(file, out)
