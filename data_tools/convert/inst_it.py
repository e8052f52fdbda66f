"""Inst-IT as released (annotations with masks): questions about marked objects of short videos, and captions of objects in images.

``inst_it_dataset_video_21k_w_mask.json`` with ``videos_raw/``, ``inst_it_dataset_image_51k_w_mask.json`` with ``images_raw/``; paths in the
JSON have one leading component that is not on disk. Texts mention objects as ``[k]`` and frames as ``<t>``, from 1; their known slips
(``<0>``, ``[01]``) are repaired and counted. A frame without a segmentation of an object is not annotated for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, below_first, field, file_number, image_size, left_out, one_of, source_json
from data_tools.convert.masks import nested_entry
from data_tools.convert.referring import at_rate, check_rate
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import SampleError
from unipixel.sample import Entry, Example, MaskTrack, Medium, Region, SceneObject, Turn

VIDEOS, IMAGES = "inst_it_dataset_video_21k_w_mask.json", "inst_it_dataset_image_51k_w_mask.json"
TAG = re.compile(r"\[(\d+)\]")
SLIPS = (("<0>", "<1>"), *((f"[0{k}]", f"[{k}]") for k in range(1, 10)))


def video_qa(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 1.0, max_frames: int = 10, max_objects: int = 5,
             max_words: int = 0) -> Iterator[Bundle]:
    """Inst-IT, video questions about objects given by their masks (videos_raw/).

    Args:
        max_objects: leave out videos whose questions mention more objects; 0: no limit
    """
    name = "inst_it_video_qa_raw"
    for raw, frames in _videos(folder, split, name, fps, max_frames, ledger):
        asked = list(_questions(name, raw, ledger))
        mentioned = {label for _, _, labels, _ in asked for label in labels}
        if 0 < max_objects < len(mentioned):
            for example_id, *_ in asked:
                ledger.skip(name, example_id, "filter_objects", f"the video's questions mention {len(mentioned)} objects, max_objects={max_objects}")
            continue
        examples = []
        for example_id, (question, answer), labels, source in asked:
            with ledger.catching(name, example_id):
                words = len(f"{question} {answer}".split())
                if 0 < max_words < words:
                    raise left_out("words", f"{words} words are more than max_words={max_words}")
                turns = (Turn("user", question), Turn("assistant", answer))
                examples.append(Example(example_id, "chat", turns=turns, source=source, regions=_regions(labels), visual_prompt="mask"))
        yield from _bundle(name, raw, frames, examples, fps, ledger)


def video_qa_mem(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 1.0, max_frames: int = 8, max_objects: int = 5
                 ) -> Iterator[Bundle]:
    """Inst-IT, the video questions with objects given by a point or box, whose masks are the reply (videos_raw/).

    Args:
        max_objects: leave out questions that mention more objects, in question or answer; 0: no limit
    """
    name = "inst_it_video_qa_raw_mem"
    for raw, frames in _videos(folder, split, name, fps, max_frames, ledger):
        examples = []
        for example_id, (question, answer), labels, source in _questions(name, raw, ledger):
            with ledger.catching(name, example_id):
                if 0 < max_objects < len(labels):
                    raise left_out("objects", f"{len(labels)} objects are more than max_objects={max_objects}")
                examples.append(Example(example_id, "locate", question, (answer,), answer, targets=tuple((x,) for x in labels), source=source,
                                        regions=_regions(labels), visual_prompt="point_or_box"))
        yield from _bundle(name, raw, frames, examples, fps, ledger)


def image_short_caption_ref(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Inst-IT, short captions of objects in images, each given by a point or box (images_raw/).

    The set has captions and no questions: the user's turn is the mention of the object alone, which the prompt template words.
    """
    name = "inst_it_image_short_caption_raw_ref"
    one_of("split", split, ("train",))
    for raw in source_json(folder / IMAGES, IMAGES):
        with ledger.catching(name, str(raw.get("image_id"))):
            frames = read_frames([below_first(folder / "images_raw", field(raw, "image_path", str))])
            size = image_size(frames[0])[::-1]
            masks, examples, objects = field(raw, "segmentations", dict), [], {}
            for oid, caption in field(raw, "instance_level_caption", dict).items():
                with ledger.catching(name, example_id := f"{raw['image_id']}_{oid}"):
                    if oid not in masks:
                        raise SampleError(f"object {oid!r} has no segmentation", reason="mask_missing")
                    turns = (Turn("user", f"[{oid}]"), Turn("assistant", field(caption, "short", str).strip()))
                    objects[oid] = SceneObject(oid, "", MaskTrack(size, (nested_entry(field(masks[oid], "mask", (dict, list)), size, ledger),)))
                    examples.append(Example(example_id, "chat", turns=turns, question_type="region_short", regions=_regions([oid]),
                                            visual_prompt="point_or_box"))
            medium = Medium(str(raw["image_id"]), "image", size[1], size[0], (0.0,), 0.0, objects,
                            source={"dataset": name, "image_path": raw["image_path"]})
            yield Bundle(medium, tuple(examples), frames)


def _videos(folder: Path, split: str, name: str, fps: float, max_frames: int, ledger: SkipLedger
            ) -> Iterator[tuple[Mapping[str, Any], list[Path]]]:
    """Records with their frame files in the order of their numbers."""
    one_of("split", split, ("train",))
    check_rate(fps)
    for raw in source_json(folder / VIDEOS, VIDEOS):
        with ledger.catching(name, str(raw.get("video_id")), examples=len(raw.get("question_answer_pairs") or ())):
            root = below_first(folder / "videos_raw", field(raw, "video_path", str))
            frames = sorted((p for p in root.glob("*") if p.suffix.lower() in (".jpg", ".png")), key=file_number)
            if not frames:
                raise SampleError(f"no frames in {root}", reason="no_frames")
            if 0 < max_frames < len(frames):
                raise left_out("frames", f"{len(frames)} frames are more than max_frames={max_frames}")
            yield raw, frames


def _questions(name: str, raw: Mapping[str, Any], ledger: SkipLedger
               ) -> Iterator[tuple[str, tuple[str, str], list[str], dict[str, Any]]]:
    """(example id, (question, answer), labels in the order of their first mention, source) of every question that mentions an object."""
    for i, pair in enumerate(field(raw, "question_answer_pairs", list)):
        with ledger.catching(name, example_id := f"{raw['video_id']}_{i}"):
            texts = tuple(field(pair, side, str).strip() for side in ("question", "answer"))
            question, answer = (_repaired(text) for text in texts)
            source = {} if (question, answer) == texts else {"question": texts[0], "answer": texts[1]}
            if source:
                ledger.note("questions with a repaired object or frame tag")
            labels = list(dict.fromkeys(TAG.findall(f"{question}\n{answer}")))
            if not labels:
                raise left_out("no_objects", "neither question nor answer mentions an object")
            yield example_id, (question, answer), labels, source


def _repaired(text: str) -> str:
    for slip, right in SLIPS:
        text = text.replace(slip, right)
    return text


def _regions(labels: Sequence[str]) -> tuple[Region, ...]:
    return tuple(Region(label, label) for label in labels)


def _bundle(name: str, raw: Mapping[str, Any], files: Sequence[Path], examples: Sequence[Example], fps: float, ledger: SkipLedger
            ) -> Iterator[Bundle]:
    """The video with the objects that its examples mention; nothing when no example is left."""
    if not examples:
        return
    with ledger.catching(name, str(raw["video_id"]), examples=len(examples)):
        frames = read_frames(files)
        size = image_size(frames[0])[::-1]
        known = field(raw, "segmentations", dict)
        objects = {}
        for oid in dict.fromkeys(region.oid for example in examples for region in example.regions):
            entries: list[Entry] = []
            for path in files:
                found = known.get(path.name, {}).get(oid)
                entries.append(None if found is None else nested_entry(field(found, "mask", (dict, list)), size, ledger))
            objects[oid] = SceneObject(oid, "", MaskTrack(size, tuple(entries)))
        medium = Medium(str(raw["video_id"]), "frames", size[1], size[0], *at_rate(len(frames), fps), objects,
                        source={"dataset": name, "video_path": raw["video_path"], "frames": [path.name for path in files]})
        yield Bundle(medium, tuple(examples), frames)
