"""``--model`` -> adapter: a preset of a general model, a folder of Sa2VA, or a checkpoint of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.adapters.base import Adapter
from benchmarks.adapters.presets import PRESETS
from unipixel.config import setting
from unipixel.errors import ConfigError, nearest


@dataclass(kw_only=True)
class ModelArguments:
    """What answers, and how."""

    model: str = setting("", "checkpoint folder of ours or of a UniPixel release, folder of Sa2VA, or a preset: gpt-4o, qwen2.5-vl, ...")
    backbone: str = setting("", "checkpoint folder: base model, when it is not where the checkpoint says")
    models: str = setting("", "YAML file of endpoints: role 'answerer' is where a preset is served, role 'judge' judges open answers")
    mode: Literal["single-turn", "multi-turn"] = setting("single-turn", "preset, evidence: one reply, or three turns")
    segmenter: str = setting("", "preset, evidence: checkpoint folder that turns referring expressions into masks")
    grouping: Literal["separate", "concat", "both"] = setting("separate", "segmenter: one pass per expression, all in one sentence, or both")
    every_n_frames: int = setting(0, "segmenter: its language model sees every n-th frame")
    target_fps: float = setting(0.0, "segmenter: ... so many frames per second; 1 when nothing is said")
    frame_num: int = setting(0, "segmenter: ... so many frames")
    three_stages: bool = setting(False, "checkpoint folder, evidence: answer, times and masks in three turns, as zero-shot UniPixel is evaluated")
    trust_remote_code: bool = setting(False, "folder of Sa2VA: run the Python code that it brings")
    llm_frames: int = setting(5, "folder of Sa2VA: pictures that its language model reads")
    batch_size: int = setting(8, "checkpoint folder: prompts generated together")
    device: str = setting("auto", "cuda, cpu, or auto")

    def __post_init__(self):
        preset = self.model in PRESETS
        if self.model and not preset and not Path(self.model).is_dir():
            raise ConfigError(f"--model {self.model!r} is neither a folder nor a preset{nearest(self.model, PRESETS)}; presets: {', '.join(PRESETS)}")
        if self.segmenter and not preset:
            raise ConfigError(f"--segmenter is the second step of a preset; {self.model!r} draws its masks itself")
        if self.three_stages and preset:
            raise ConfigError("--three_stages is for grounded checkpoints; a preset has --mode multi-turn")


def open_adapter(args: ModelArguments, journal: str | Path) -> Adapter:
    """The loaded model. ``journal``: file that keeps the replies of a preset."""
    if args.model in PRESETS:
        from benchmarks.adapters.chat import open_chat  # noqa: PLC0415 - the client is not needed for checkpoints

        speaker = open_chat(args.model, args.models, journal, args.mode)
        return _with_segmenter(args, speaker) if args.segmenter else speaker
    from benchmarks.adapters.grounded import open_grounded  # noqa: PLC0415 - imports the whole model stack
    from benchmarks.adapters.stages import GroundedSpeaker, ThreeStage, open_sa2va  # noqa: PLC0415

    if _is_sa2va(Path(args.model)):
        return open_sa2va(args.model, trust_remote_code=args.trust_remote_code, llm_frames=args.llm_frames, device=args.device)
    model = open_grounded(args.model, backbone=args.backbone, batch_size=args.batch_size, device=args.device)
    return ThreeStage(GroundedSpeaker(model)) if args.three_stages else model


def _with_segmenter(args: ModelArguments, speaker: Adapter) -> Adapter:
    from benchmarks.adapters.grounded import open_grounded  # noqa: PLC0415
    from benchmarks.adapters.segmenter import GroundedSegmenter, SegmenterFrames  # noqa: PLC0415
    from benchmarks.adapters.two_step import TwoStep  # noqa: PLC0415

    frames = SegmenterFrames(every_n_frames=args.every_n_frames, target_fps=args.target_fps, frame_num=args.frame_num)
    model = open_grounded(args.segmenter, backbone=args.backbone, batch_size=args.batch_size, device=args.device)
    return TwoStep(speaker, GroundedSegmenter(model, args.grouping, frames))


def _is_sa2va(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any("Sa2VA" in str(name) for name in config.get("architectures") or ())
