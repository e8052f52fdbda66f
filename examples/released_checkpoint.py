"""A released UniPixel checkpoint on your own video: check its files, ask it as it was trained to be asked, look at the masks.

    hf download PolyU-ChenLab/UniPixel-3B --local-dir models/UniPixel-3B
    python examples/released_checkpoint.py --checkpoint models/UniPixel-3B --check_only true
    python examples/released_checkpoint.py --checkpoint models/UniPixel-3B --video clip.mp4 --expression "the brown dog" --out answer

The check reads names and shapes only (seconds, no weights in memory). The answer uses the checkpoint's own protocol: 16 frames spread
uniformly over the video for the language model, masks propagated over all frames, greedy decoding.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from transformers import Qwen2_5_VLForConditionalGeneration

from sam2_ext import build_sam2
from unipixel.config import parse, setting
from unipixel.data.media import decode_frames
from unipixel.data.template import render_prompt
from unipixel.data.video import medium_from_path
from unipixel.errors import EXIT_USER_ERROR, CheckpointError, ConfigError, UniPixelError
from unipixel.infer.predict import load_predictor
from unipixel.infer.predictions import Prediction, to_record
from unipixel.model.checkpoint import module_tensors, read_config
from unipixel.model.grounded import GroundedVLM
from unipixel.model.keys import full_name
from unipixel.model.released import backbone_config, is_released
from unipixel.sample import EMPTY, Example, Sample, decode_entry

TINT = np.array([255, 64, 64])
COLUMNS = 6


@dataclass(kw_only=True)
class ReleasedSettings:
    """What to check and what to ask."""

    checkpoint: str = setting("", "folder of a full checkpoint")
    check_only: bool = setting(False, "compare the names and shapes in the files with the model, and stop")
    video: str = setting("", "video file or folder of frames")
    expression: str = setting("", "what to segment; a question is answered too when it ends with a question mark")
    fps: float = setting(6.0, "frames per second taken from the video")
    out: str = setting("answer", "folder for answer.json and masks.png")

    def __post_init__(self):
        if not is_released(self.checkpoint):
            raise ConfigError(f"checkpoint={self.checkpoint!r} is no full checkpoint: a folder with config.json (sam2_config) and safetensors files")
        if not self.check_only and not (self.video and self.expression):
            raise ConfigError("set --video and --expression, or --check_only true")


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the safetensors files, from their headers."""
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return shapes


def check(folder: Path) -> int:
    """Compare the files with a model of the recorded size that has no storage; returns the number of tensors.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; they are listed.
    """
    config = read_config(folder)
    network = config["sam2_config"]
    own = folder / network
    sam2 = build_sam2(own if own.is_file() else Path(network).name, image_size=config["sam2_image_size"]).to("meta")
    with torch.device("meta"):
        model = GroundedVLM(Qwen2_5_VLForConditionalGeneration(backbone_config(config)), sam2, hidden_tokens=config["sam2_hidden_tokens"])
    expected = {full_name(name): tuple(tensor.shape) for name, tensor in module_tensors(model)}
    stored = stored_shapes(folder)
    if backbone_config(config).tie_word_embeddings:
        stored.pop("lm_head.weight", None)
    wrong = {"missing": expected.keys() - stored.keys(), "unexpected": stored.keys() - expected.keys(),
             "of another shape": {name for name in expected.keys() & stored.keys() if expected[name] != stored[name]}}
    if any(wrong.values()):
        raise CheckpointError(f"{folder}: " + "; ".join(f"{len(names)} {what}: {sorted(names)[:10]}" for what, names in wrong.items() if names))
    return len(expected)


def ask(settings: ReleasedSettings) -> tuple[Sample, Prediction, str]:
    """(sample, prediction, prompt) of the expression on the video."""
    medium, frames = medium_from_path(settings.video, settings.fps)
    form = "sentence" if settings.expression.rstrip().endswith("?") else "query"
    sample = Sample(medium.medium_id, medium, (Example("question", "refer", settings.expression, form=form),), frames)
    predictor = load_predictor(settings.checkpoint)
    (prediction,) = predictor.predict([sample])
    return sample, prediction, render_prompt(sample, predictor.text).text


def draw(sample: Sample, prediction: Prediction) -> Image.Image:
    """The first mask track over frames spread through the video."""
    size = (sample.medium.height, sample.medium.width)
    chosen = np.linspace(0, len(sample.frames) - 1, min(COLUMNS, len(sample.frames))).round().astype(int).tolist()
    frames = decode_frames(sample.frames, chosen, size, sample.key).permute(0, 2, 3, 1).numpy()
    track = prediction.masks[0] if prediction.masks else {}
    masks = np.stack([decode_entry(track.get(t, EMPTY), size) for t in chosen])[..., None]
    return Image.fromarray(np.hstack(list(np.where(masks, frames // 2 + TINT // 2, frames).astype(np.uint8))))


def main(argv: list[str] | None = None) -> int:
    try:
        (settings,) = parse([ReleasedSettings], argv, prog="released_checkpoint")
        print(f"{settings.checkpoint}: {check(Path(settings.checkpoint))} tensors, all in place")
        if settings.check_only:
            return 0
        sample, prediction, prompt = ask(settings)
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "answer.json").write_text(json.dumps(to_record(prediction), indent=1) + "\n")
    draw(sample, prediction).save(out / "masks.png")
    print(f"prompt: {prompt.splitlines()[-2]}\nreply ({prediction.status}): {prediction.reply}")
    print(f"{len(prediction.masks)} mask tracks in {out}/answer.json, drawn in {out}/masks.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
