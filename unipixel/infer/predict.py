"""``unipixel predict``: questions about packed shards, a video or a folder of frames -> answers, time segments and masks as JSON Lines.

Examples of one medium are answered together, its frames are encoded once for all their masks. The file is resumable: what it already
holds is not computed again. A failing example becomes a record with its status, never a missing row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from unipixel.config import parse, setting
from unipixel.data import media, template
from unipixel.data.collate import collate
from unipixel.data.encode import EncodedDialogue, EncodedMedium, SampleEncoder
from unipixel.data.shards import ShardDataset
from unipixel.data.video import medium_from_path
from unipixel.errors import EXIT_USER_ERROR, ConfigError, SampleError, UniPixelError
from unipixel.infer.generate import Reply, generate
from unipixel.infer.predictions import Prediction, PredictionWriter, completed_ids
from unipixel.infer.segment import segment_clip
from unipixel.infer.settings import evaluation_settings, read_changes
from unipixel.metrics import normalise_segments, parse_reply
from unipixel.model.build import load_checkpoint
from unipixel.model.checkpoint import read_config
from unipixel.model.grounded import GroundedVLM
from unipixel.sample import Example, Sample

REFERENCE_FRAMES = {"num_frames": 16, "reference_times": True}
"""What released UniPixel weights are evaluated with."""


@dataclass(kw_only=True)
class PredictSettings:
    """What to predict, with what, and where to."""

    checkpoint: str = setting("", "folder of a trained model")
    backbone: str = setting("", "base model folder, when it is not where the checkpoint says")
    fourier_from: str = setting("", "full checkpoint with the random matrices of points and boxes, which adapter folders of the reference lack")
    shards: list[str] = setting([], "packed folders: predict every example with a question")
    video: str = setting("", "a video file or a folder of frames, instead of shards")
    question: str = setting("", "the question about --video")
    options: list[str] = setting([], "answer options of --question")
    fps: float = setting(6.0, "frames per second taken from --video, and the rate of a folder of frames")
    out: str = setting("predictions.jsonl", "predictions as JSON Lines; a partial file beside it is continued")
    batch_size: int = setting(8, "prompts generated together")
    num_frames: int = setting(0, "frames the language model sees; 0: as in training")
    set: list[str] = setting([], "other settings of frames and prompt than in training, as name=value, e.g. show_frames=none")
    max_new_tokens: int = setting(512, "longest reply in tokens")
    limit: int = setting(0, "only the first N examples; 0: all")
    offload_memory: bool = setting(False, "keep SAM 2's memory of past frames on the host: slower, for hundreds of masks per video")
    device: str = setting("auto", "cuda, cpu, or auto")

    def __post_init__(self):
        if not self.checkpoint:
            raise ConfigError("checkpoint is empty: name the folder of a trained model")
        if bool(self.shards) == bool(self.video):
            raise ConfigError("give either --shards or --video")
        if self.video and not self.question:
            raise ConfigError("--video needs a --question")


class Predictor:
    """A loaded model that answers with evidence.

    Args:
        frames, text: frame budget and prompt form, as the model was trained with.
        draw_masks: false where only words are wanted: SAM 2 does not run.
    """

    def __init__(self, model: GroundedVLM, tokenizer, frames: media.FrameSettings, text: template.TemplateSettings, *,
                 max_new_tokens: int = 512, batch_size: int = 8, offload_memory: bool = False, draw_masks: bool = True):
        self.model, self.tokenizer, self.text, self.draw_masks = model, tokenizer, text, draw_masks
        self.max_new_tokens, self.batch_size, self.offload_memory = max_new_tokens, batch_size, offload_memory
        self.encoder = SampleEncoder(tokenizer, frames, text, sam_size=model.sam2.image_size, layout=model.family.layout)

    def predict(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """One prediction per example of the samples (each sample: one medium with the examples to answer), in order."""
        waiting: list[tuple[Sample, Example, EncodedMedium, EncodedDialogue]] = []
        for sample in samples:
            try:
                encoded, chosen = self.encode_medium(sample)
                prompts = [self.encode_prompt(sample, i, encoded, chosen) for i in range(len(sample.examples))]
            except SampleError as error:
                yield from (Prediction(e.example_id, sample.medium.medium_id, status="decode_error", error=str(error)) for e in sample.examples)
                continue
            waiting += [(sample, example, encoded, prompt) for example, prompt in zip(sample.examples, prompts)]
        for start in range(0, len(waiting), self.batch_size):
            yield from self.answer(waiting[start:start + self.batch_size])

    def encode_medium(self, sample: Sample) -> tuple[EncodedMedium, list[int]]:
        """(frames of a sample for the language model, their positions)."""
        chosen = self.encoder.choose_frames(sample, np.random.default_rng(0))
        out = EncodedMedium(sample.key, shown=tuple(chosen))
        if chosen:
            self.encoder.add_frames(out, sample, chosen, masks_wanted=False)
        return out, chosen

    def encode_prompt(self, sample: Sample, index: int, encoded: EncodedMedium, chosen: Sequence[int], *, forced: bool = False) -> EncodedDialogue:
        """The question of one example, with the objects that it points at; ``forced``: and the reply that its annotation asks for."""
        example = sample.examples[index]
        form = self.encoder.chat_form(sample, list(chosen))
        rendered = (template.render(sample, self.text, (index,), frames=chosen, form=form) if forced
                    else template.render_prompt(sample, self.text, index, chosen, form))
        prompts = self.encoder.visual_prompts([(example, None)], sample, encoded, list(chosen))
        times = [sample.medium.frame_times[t] for t in chosen]
        return self.encoder.encode_dialogue(rendered, encoded, times, example.example_id, prompts)

    @torch.inference_mode()
    def forced_tokens(self, encoded: EncodedMedium) -> torch.Tensor:
        """(O, K, C) prompt embeddings of every ``<|seg|>`` in the one dialogue of a medium, read from a single forward pass."""
        model = self.model
        batch = {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in collate([encoded], "video").items()}
        _, before = model.hidden_states(model.embed(batch), batch["position_ids"], batch["segment_lengths"])
        return model.seg_tokens(before[encoded.dialogues[0].seg.to(model.device) - 1])

    def answer(self, batch) -> Iterator[Prediction]:
        started = time.perf_counter()
        replies = generate(self.model, self.tokenizer, [(encoded, prompt) for _, _, encoded, prompt in batch], max_new_tokens=self.max_new_tokens)
        by_medium: dict[int, list[int]] = {}
        for i, (sample, *_) in enumerate(batch):
            by_medium.setdefault(id(sample), []).append(i)
        results: dict[int, Prediction] = {}
        for indices in by_medium.values():
            sample = batch[indices[0]][0]
            masks = self.segment(sample, [replies[i] for i in indices])
            for i, tracks in zip(indices, masks):
                results[i] = to_prediction(sample, batch[i][1], replies[i], tracks, batch[i][2].shown)
        seconds = (time.perf_counter() - started) / len(batch)
        for i in range(len(batch)):
            yield _timed(results[i], seconds)

    def segment(self, sample: Sample, replies: Sequence[Reply]) -> list[list]:
        """Mask tracks of each reply; all objects of the medium are tracked together, its frames encoded once."""
        tokens = torch.cat([r.tokens for r in replies])
        if not len(tokens) or not len(sample.frames) or not self.draw_masks:
            return [[] for _ in replies]
        tracks = iter(segment_clip(self.model, sample.frames, (sample.medium.height, sample.medium.width), tokens, key=sample.key,
                                   offload_memory=self.offload_memory))
        return [[next(tracks) for _ in r.tokens] for r in replies]


def _timed(prediction: Prediction, seconds: float) -> Prediction:
    return Prediction(**{**vars(prediction), "seconds": round(seconds, 4)})


def to_prediction(sample: Sample, example: Example, reply: Reply, tracks: Sequence[Sequence], shown: tuple[int, ...] | None = None) -> Prediction:
    parsed = parse_reply(reply.text)
    segments, _ = normalise_segments(parsed.segments) if parsed.segments is not None else (None, None)
    medium = sample.medium
    masks = tuple(dict(enumerate(track)) for track in tracks)
    status = "no_reply" if not reply.text else "ok" if masks else "no_mask"
    return Prediction(example.example_id, medium.medium_id, status=status, reply=reply.text, answer=parsed.answer,
                      segments=None if segments is None else tuple(segments), size=(medium.height, medium.width) if masks else None,
                      frame_times=medium.frame_times, masks=masks, shown=shown)


def load_predictor(checkpoint: str, *, backbone: str = "", fourier_from: str = "", num_frames: int = 0, max_new_tokens: int = 512,
                   batch_size: int = 8, offload_memory: bool = False, device: str = "auto", context: Mapping[str, Any] | None = None,
                   draw_masks: bool = True) -> Predictor:
    """Model, frame budget and prompt form of a trained checkpoint. ``context``: settings of frames and prompt that shall differ from training.

    One of the reference records neither: it gets the reference's, 16 frames at its fixed rate.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    stored = read_config(checkpoint).get("unipixel", {"frames": REFERENCE_FRAMES})
    frames, text = evaluation_settings(stored, dict(context or {}) | ({"num_frames": num_frames} if num_frames else {}))
    model, tokenizer = load_checkpoint(checkpoint, backbone=backbone, fourier_from=fourier_from, device=device)
    return Predictor(model, tokenizer, frames, text, max_new_tokens=max_new_tokens, batch_size=batch_size,
                     offload_memory=offload_memory, draw_masks=draw_masks)


def questions(settings: PredictSettings, done: set[str]) -> Iterable[Sample]:
    """Samples with the examples that are still to be answered; free dialogues have no single question and are left out."""
    if settings.video:
        medium, frames = medium_from_path(settings.video, settings.fps)
        example = Example("question", "evidence", settings.question, tuple(settings.options),
                          settings.options[0] if settings.options else "", segments=(), question_type="user")
        yield Sample(medium.medium_id, medium, (example,) if example.example_id not in done else (), frames)
        return
    dataset = ShardDataset(settings.shards)
    left = settings.limit or len(dataset)
    for rows in dataset.groups(10**9):
        sample = dataset.sample(rows[0], rows)
        wanted = tuple(e for e in sample.examples if e.task != "chat")[:left]
        left -= len(wanted)
        wanted = tuple(e for e in wanted if e.example_id not in done)
        if wanted:
            yield Sample(sample.key, sample.medium, wanted, sample.frames, sample.dataset, sample.split)


def run(settings: PredictSettings) -> Path:
    """Predict everything that the output does not hold yet; returns its path."""
    out = Path(settings.out)
    if out.exists():
        print(f"{out} is complete; remove it to predict again")
        return out
    done = completed_ids(out)
    predictor = load_predictor(settings.checkpoint, backbone=settings.backbone, fourier_from=settings.fourier_from, num_frames=settings.num_frames,
                               max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size,
                               offload_memory=settings.offload_memory, device=settings.device, context=read_changes(settings.set))
    with PredictionWriter(out) as writer, tqdm(desc="predict", unit="example", initial=len(done)) as bar:
        for sample in questions(settings, done):
            for prediction in predictor.predict([sample]):
                writer.write(prediction)
                bar.update()
        writer.finish()
    return out


def main(argv: list[str] | None = None) -> int:
    try:
        (settings,) = parse([PredictSettings], argv, prog="unipixel predict")
        path = run(settings)
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"predictions: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
