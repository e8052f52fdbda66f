"""Grounded baselines that were not trained to give evidence in one reply: three stages about one medium.

Stage 1 asks the question, stage 2 for the times (it sees stage 1), stage 3 for the masks (it sees stage 1 only), as Sa2VA and zero-shot
UniPixel are evaluated on ST-Evidence. A speaker is anything that continues a dialogue about a medium with text and masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from benchmarks.adapters.base import Adapter
from benchmarks.adapters.evidence_reply import TURNS, join_turns, parse_turns
from benchmarks.adapters.grounded import GroundedAdapter
from benchmarks.masks import resize_entry
from benchmarks.protocol import Protocol as Rules
from benchmarks.protocol import content_hash
from benchmarks.task import Task
from data_tools.preference.frames import FrameRule
from unipixel.data import template
from unipixel.data.media import decode_frames
from unipixel.errors import ConfigError
from unipixel.infer.generate import generate
from unipixel.infer.predictions import Prediction
from unipixel.sample import Entry, Sample, encode_mask

MASK_TURN = "Please segment the objects in the video that prove this answer."
Turns = Sequence[tuple[str, str]]
Track = Mapping[int, Entry]


class Speaker(Protocol):
    identity: Mapping[str, Any]

    def say(self, sample: Sample, turns: Turns, *, draw: bool = False, careful: bool = False) -> tuple[str, list[Track]]:
        """(reply to a dialogue of (role, text) that ends with the user, its mask tracks in the size of the medium if ``draw``)."""


class ThreeStage(Adapter):
    name = "three-stage"

    def __init__(self, speaker: Speaker):
        self.speaker = speaker
        self.identity = {**speaker.identity, "adapter": self.name, "turns": content_hash([*TURNS[:2], MASK_TURN])}

    def check(self, task: Task) -> None:
        if task.answers != "evidence":
            raise ConfigError(f"{task.name} is asked in one stage; three stages are for evidence")

    def answer(self, task: Task, sample: Sample, protocol: Rules, *, careful: bool = False) -> Iterator[Prediction]:
        medium = sample.medium
        for example in sample.examples:
            options = "\n".join(f"({template.letter(i)}) {option}" for i, option in enumerate(example.options))
            first = [("user", TURNS[0].format(question=example.question, options=options))]
            answer, _ = self.speaker.say(sample, first, careful=careful)
            first.append(("assistant", answer))
            times, _ = self.speaker.say(sample, [*first, ("user", TURNS[1].format(duration=f"{medium.duration_s:.1f}"))], careful=careful)
            said, tracks = self.speaker.say(sample, [*first, ("user", MASK_TURN)], draw=True, careful=careful)
            replies = (answer, times, said)
            read, masks = parse_turns(replies), tuple(track for track in tracks if track)
            yield Prediction(example.example_id, medium.medium_id, "ok" if masks else "no_mask", reply=join_turns(replies), answer=read.answer,
                             segments=read.segments, size=(medium.height, medium.width) if masks else None, frame_times=medium.frame_times,
                             masks=masks)


class GroundedSpeaker:
    """Our model, or released UniPixel weights: 1 frame per second, at most 128, greedy, 512 tokens."""

    RULES = Rules(frames=128, fps=1.0, max_new_tokens=512)

    def __init__(self, model: GroundedAdapter):
        self.model = model
        self.identity = {**model.identity, "frames_of_medium": {"fps": self.RULES.fps, "count": self.RULES.frames}}

    @torch.inference_mode()
    def say(self, sample: Sample, turns: Turns, *, draw: bool = False, careful: bool = False) -> tuple[str, list[Track]]:
        predictor = self.model.predictor_for(sample, self.RULES, careful)
        encoded, chosen = predictor.encode_medium(sample)
        rendered = template.render_turns(turns, has_video=bool(chosen), form=predictor.encoder.chat_form(sample, chosen))
        prompt = predictor.encoder.encode_dialogue(rendered, encoded, [sample.medium.frame_times[t] for t in chosen], sample.key)
        replies = generate(predictor.model, predictor.tokenizer, [(encoded, prompt)], max_new_tokens=predictor.max_new_tokens)
        (tracks,) = predictor.segment(sample, replies) if draw else [[]]
        return replies[0].text, [dict(enumerate(track)) for track in tracks]


class Sa2VASpeaker:
    """Sa2VA (Qwen2.5-VL) through the remote code of its release: ``model.predict_forward(video=, text=, processor=)``.

    For words it gets a few frames of the medium, for masks all of them, at most 512 px wide; masks are resized back (nearest). That code shows
    its language model the first five pictures of a list only and ignores earlier turns, so words are asked over ``llm_frames`` pictures
    spread over the medium, and earlier turns stand in the text.

    Args:
        model: what ``from_pretrained`` gave.
        processor: its processor.
        llm_frames: pictures that its language model reads: 5 as released; a copy of the code that reads 16 gives the published setting.
    """

    WIDTH = 512

    def __init__(self, model: Any, processor: Any, name: str, llm_frames: int = 5):
        self.model, self.processor, self.rule = model, processor, FrameRule(fps=1, count=llm_frames)
        self.identity = {"model": name, "frames_of_medium": vars(self.rule), "mask_width": self.WIDTH, "decoding": "greedy, 2048 tokens"}

    def say(self, sample: Sample, turns: Turns, *, draw: bool = False, careful: bool = False) -> tuple[str, list[Track]]:
        medium = sample.medium
        size = medium.height, medium.width
        chosen = range(len(sample.frames)) if draw else self.rule.choose(medium.frame_times)
        pixels = decode_frames(sample.frames, list(chosen), size, sample.key).permute(0, 2, 3, 1).numpy()
        scale = min(1.0, self.WIDTH / medium.width)
        small = (max(1, round(medium.width * scale)), max(1, round(medium.height * scale)))
        pictures = [Image.fromarray(frame).resize(small, Image.Resampling.BICUBIC) for frame in pixels]
        text = "\n".join([*(f"{role}: {text}" for role, text in turns[:-1]), turns[-1][1]])
        out = self.model.predict_forward(video=pictures, text=f"<image>{text}", processor=self.processor)
        tracks = []
        for masks in out.get("prediction_masks") or () if draw else ():
            masks = np.asarray(masks).astype(bool)
            tracks.append({t: resize_entry(encode_mask(mask), mask.shape, size) for t, mask in enumerate(masks)})
        return str(out["prediction"]).strip(), tracks


def open_sa2va(folder: str, *, trust_remote_code: bool, llm_frames: int = 5, device: str = "auto") -> ThreeStage:
    """A downloaded release. Raises :class:`ConfigError` unless running its own code was allowed."""
    if not trust_remote_code:
        raise ConfigError(f"{folder} runs Python code of its own: read it, then allow it with --trust_remote_code true")
    from transformers import AutoModel, AutoProcessor  # noqa: PLC0415 - its own code imports more

    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = AutoModel.from_pretrained(folder, dtype="auto", trust_remote_code=True).eval().to(device)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    return ThreeStage(Sa2VASpeaker(model, processor, folder, llm_frames))
