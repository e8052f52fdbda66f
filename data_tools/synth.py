"""The synthetic world: short seeded videos with exact answers, time segments and masks; the data that the quickstart trains on.

Owns how a clip is put together and how a world is laid out on disk; what moves, what it looks like and what is asked live in the
``synth_*`` modules beside it. ``unipixel synth --out DIR`` writes::

    <out>/world.json                         the settings; a folder holds one world
    <out>/<split>/<clip_id>/frames/%05d.jpg  pictures (media 'frames' or 'both')
    <out>/<split>/<clip_id>/video.mp4        video (media 'mp4' or 'both')
    <out>/<split>/<clip_id>/clip.json        {"meta": ..., "masks": ...} as unipixel.sample.to_json gives them
    <out>/<split>/<clip_id>/subtitles.srt
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from data_tools.synth_config import SynthConfig, clip_rng
from data_tools.synth_facts import Facts, acceptable, observe, rounded
from data_tools.synth_media import write_jpegs, write_mp4, write_srt
from data_tools.synth_pairs import make_pairs
from data_tools.synth_questions import OPTION_COUNT, describe, draft_questions, draft_references, narrate, place_answer
from data_tools.synth_render import Footprint, render, visible_masks
from data_tools.synth_scene import sample_cast, sample_scene
from unipixel.data.template import TemplateSettings, question_text, reply_text
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.sample import Example, MaskTrack, Medium, SceneObject, Subtitle, Turn, example_from_json, medium_from_json, to_json

__all__ = ["ClipPlan", "SynthClip", "SynthConfig", "corpus", "main", "make_clip", "plan_clip", "read_world", "write_mp4", "write_srt",
           "write_world"]

DATASET = "synth"
MEDIA = ("frames", "mp4", "both")
_ATTEMPTS = 400
_LINE_S = 1.2
"""How long a subtitle line stays."""
_SILENCE_S = 1.0
"""Somewhere nothing is said for at least this long."""


@dataclass(frozen=True)
class SynthClip:
    """``frames`` (T, H, W, 3) uint8 and ``times`` (T,) in seconds, with all that is known about them."""

    frames: np.ndarray
    times: tuple[float, ...]
    medium: Medium
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class ClipPlan:
    """A clip before rendering: everything but the pictures and the encoded masks. ``masks`` are (T, H, W) bool by object."""

    clip_id: str
    facts: Facts
    masks: dict[str, np.ndarray]
    prints: dict[str, Footprint]
    subtitles: tuple[Subtitle, ...]
    examples: tuple[Example, ...]


_CAPTION_REQUESTS = ("Describe the objects in the video.", "Which objects does the video show, where and when?")


def plan_clip(config: SynthConfig, split: str, index: int) -> ClipPlan:
    """Draw scenes until one is clear and has temporal structure, then write what is asked about it."""
    rng = clip_rng(config, split, index)
    cast = sample_cast(config, rng)
    for _ in range(_ATTEMPTS):
        scene = sample_scene(config, cast, rng)
        if scene is None:
            continue
        masks, prints = visible_masks(scene)
        facts = observe(scene, masks, prints)
        if acceptable(facts, config):
            break
    else:
        raise ConfigError(f"no clear clip in {_ATTEMPTS} attempts for split={split!r}, index={index}: lower max_objects "
                          f"({config.max_objects}), max_radius ({config.max_radius}) or min_visible_s ({config.min_visible_s}), "
                          f"or raise duration_s ({config.duration_s}) or fps ({config.fps!r})")
    clip_id = f"{split}_{index:05d}"
    return ClipPlan(clip_id, facts, masks, prints, _subtitles(facts, config), tuple(_examples(clip_id, index, facts, config, rng)))


def _examples(clip_id: str, index: int, facts: Facts, config: SynthConfig, rng: np.random.Generator) -> Iterator[Example]:
    for k, draft in enumerate(draft_questions(facts, config, rng)):
        example_id = f"{clip_id}_q{k}"
        yield Example(
            example_id, "evidence", draft.question, place_answer(draft, (index + k) % OPTION_COUNT), draft.answer,
            segments=rounded(draft.segments), targets=(draft.oids,), question_type=draft.kind, rationale=draft.rationale,
            pairs=make_pairs(draft, facts, example_id, config, rng))
    for k, (expression, oid) in enumerate(draft_references(facts, config, rng)):
        yield Example(f"{clip_id}_r{k}", "refer", expression, targets=((oid,),), question_type="refer")
    if config.captions:
        turns = (Turn("user", _CAPTION_REQUESTS[index % len(_CAPTION_REQUESTS)]), Turn("assistant", describe(facts)))
        yield Example(f"{clip_id}_c", "chat", turns=turns, question_type="caption")


def _subtitles(facts: Facts, config: SynthConfig) -> tuple[Subtitle, ...]:
    """Lines that do not overlap, with at least one silent stretch."""
    lines: list[Subtitle] = []
    for time_s, text in narrate(facts):
        start = round(min(time_s, config.duration_s - _LINE_S), 2)
        if not lines or start >= lines[-1].end_s + 0.1:
            lines.append(Subtitle(start, round(start + _LINE_S, 2), text))
    while _longest_silence(lines, config.duration_s) < _SILENCE_S:
        lines.pop()
    return tuple(lines)


def _longest_silence(lines: list[Subtitle], duration: float) -> float:
    return max(b - a for a, b in zip([0.0, *(s.end_s for s in lines)], [*(s.start_s for s in lines), duration], strict=True))


def make_clip(config: SynthConfig, split: str, index: int) -> SynthClip:
    """A pure function of its arguments: the same clip in every process and in every order."""
    plan = plan_clip(config, split, index)
    scene = plan.facts.scene
    objects = {oid: SceneObject(oid, f"the {life.name}", MaskTrack.from_masks(plan.masks[oid])) for oid, life in plan.facts.lives.items()}
    times = tuple(float(t) for t in scene.times)
    medium = Medium(plan.clip_id, "frames", scene.width, scene.height, times, scene.duration_s, objects, plan.subtitles,
                    source={"dataset": DATASET, "split": split, "index": index})
    return SynthClip(render(scene, config, plan.prints), times, medium, plan.examples)


def corpus(config: SynthConfig, n: int) -> Iterator[str]:
    """Every text of ``n`` training clips, without pictures: questions, options, prompts, replies, rationales, subtitles, pairs."""
    by_letter, by_text = TemplateSettings(), TemplateSettings(answer_style="text", use_subtitles=True)
    for index in range(n):
        plan = plan_clip(config, "train", index)
        for k, example in enumerate(plan.examples):
            if example.task == "chat":
                yield from (turn.text for turn in example.turns)
                continue
            for settings in (by_letter, by_text):
                yield question_text(example, "frames", plan.subtitles, settings, wording=index + k)
                yield reply_text(example, settings, wording=index + k)
            yield from (example.question, *example.options)
            if example.rationale:
                yield example.rationale
            for pair in example.pairs:
                yield from (pair.chosen, pair.rejected)
        yield from (line.text for line in plan.subtitles)


# --- files -----------------------------------------------------------------------------------------------------------------------

def _write_clip(config: SynthConfig, out: Path, media: str, job: tuple[str, int]) -> bool:
    """Write one clip folder, complete or not at all. Returns False when it is already there."""
    split, index = job
    folder = out / split / f"{split}_{index:05d}"
    if folder.exists():
        return False
    clip = make_clip(config, split, index)
    partial_folder = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    if media in ("frames", "both"):
        write_jpegs(partial_folder / "frames", clip.frames)
    if media in ("mp4", "both"):
        write_mp4(partial_folder / "video.mp4", clip.frames, clip.times, rate=None if config.variable_fps else config.rate)
    meta, masks = to_json(clip.medium, clip.examples, dataset=DATASET, split=split)
    (partial_folder / "clip.json").write_text(json.dumps({"meta": meta, "masks": masks}), encoding="utf-8")
    write_srt(clip.medium.subtitles, partial_folder / "subtitles.srt")
    partial_folder.rename(folder)
    return True


def write_world(out: Path | str, config: SynthConfig, splits: Mapping[str, int], *, workers: int | None = None,
                media: str = "frames") -> Path:
    """Write ``splits`` (name -> number of clips) under ``out``; clips that are complete already are kept. One writer per folder.

    Args:
        workers: processes; None means as many as there are CPUs. The result does not depend on it.
        media: ``frames``, ``mp4`` or ``both``.
    Raises:
        ConfigError: ``out`` holds a world with other settings, or an argument is out of range.
    """
    out = Path(out)
    if media not in MEDIA:
        raise ConfigError(f"media={media!r} must be one of {MEDIA}")
    workers = os.cpu_count() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers={workers}: set at least 1")
    _claim(out, config, media)
    jobs = [(split, index) for split, count in splits.items() for index in range(count)]
    write = partial(_write_clip, config, out, media)
    progress = partial(tqdm, total=len(jobs), desc="synth", unit="clip")
    if workers == 1:
        for _ in progress(map(write, jobs)):
            pass
    else:
        with ProcessPoolExecutor(min(workers, max(1, len(jobs)))) as pool:
            for _ in progress(pool.map(write, jobs, chunksize=8)):
                pass
    return out


def _claim(out: Path, config: SynthConfig, media: str) -> None:
    """Store the settings at the root, or refuse when other ones are there."""
    path, wanted = out / "world.json", {"config": json.loads(config.to_json()), "media": media}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            before, now = ({"media": world["media"], **world["config"]} for world in (found, wanted))
            changed = [f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
            raise ConfigError(f"{out} holds a world with other settings ({'; '.join(changed)}): choose another folder or delete this one")
        return
    out.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    part.rename(path)


def read_world(root: Path | str, split: str) -> Iterator[tuple[Medium, tuple[Example, ...], list[Path]]]:
    """(medium, examples, picture files) of every clip folder of a split, in order. A world of videos only has no picture files."""
    root = Path(root)
    if not (root / "world.json").is_file():
        raise DataError(f"{root} is not a synthetic world: it has no world.json; write one with 'unipixel synth --out {root}'")
    if not (root / split).is_dir():
        found = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise DataError(f"{root} has no split {split!r}; it has {found}")
    media = json.loads((root / "world.json").read_text(encoding="utf-8"))["media"]
    for folder in sorted(p for p in (root / split).iterdir() if not p.name.startswith(".")):
        stored = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        medium = medium_from_json(stored["meta"]["medium"], stored["masks"]["tracks"])
        frames = sorted((folder / "frames").glob("*.jpg"))
        expected = 0 if media == "mp4" else len(medium.frame_times)
        if len(frames) != expected:
            raise DataError(f"{folder} has {len(frames)} pictures, expected {expected}: delete the folder and write the world again")
        yield medium, tuple(example_from_json(e) for e in stored["meta"]["examples"]), frames


# --- command line ----------------------------------------------------------------------------------------------------------------

@dataclass
class SynthOutput:
    """Where the world goes and how much of it."""

    out: str = field(metadata={"help": "folder of the world"})
    train: int = field(default=400, metadata={"help": "clips of the split 'train'"})
    test: int = field(default=48, metadata={"help": "clips of the split 'test'"})
    workers: int | None = field(default=None, metadata={"help": "processes; default: number of CPUs"})
    media: Literal["frames", "mp4", "both"] = field(default="frames", metadata={"help": "store pictures, a video, or both"})


def main(argv: list[str] | None = None) -> int:
    """``unipixel synth``: write a world."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser((SynthConfig, SynthOutput), prog="unipixel synth", description="Write a synthetic video world.")
    try:
        config, io = parser.parse_args_into_dataclasses(argv)
        root = write_world(io.out, config, {"train": io.train, "test": io.test}, workers=io.workers, media=io.media)
    except UniPixelError as error:
        print(f"unipixel synth: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"wrote {io.train} train and {io.test} test clips to {root}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
