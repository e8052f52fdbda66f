"""Referring video segmentation in the layout of MeViS: expressions, and per annotation one RLE or null per frame.

``meta_expressions.json``, ``mask_dict.json`` and ``JPEGImages/<video>/<frame>.jpg`` in the input folder or in its sub-folder
``<split>``. An optional ``layout.json`` gives ``frames_root``, ``image_template`` and the split of each video. The layout has no
times: the listed frames are placed ``1/fps`` apart. null means that the object is not visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, image_size, inside, read_json, source_file
from data_tools.convert.masks import compressed
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Example, MaskTrack, Medium, SceneObject

NAME = "rvos"
META, MASKS, LAYOUT = "meta_expressions.json", "mask_dict.json", "layout.json"


@dataclass(frozen=True)
class Layout:
    """Where the pictures are; ``split`` maps video -> split and is ``None`` when the folder is one split."""

    frames_root: Path
    image_template: str = "<frames_root>/<video>/<frame>.jpg"
    split: dict[str, str] | None = None

    def frame(self, video: str, frame: str) -> Path:
        for name in (video, frame):
            inside(self.frames_root, name)
        return Path(self.image_template.replace("<frames_root>", str(self.frames_root)).replace("<video>", video).replace("<frame>", frame))


def convert(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0) -> Iterator[Bundle]:
    """One bundle per video; expressions become ``refer`` examples whose target is the union of their annotations."""
    if fps <= 0:
        raise ConfigError(f"--fps={fps} must be positive")
    if not (folder / META).is_file() and (folder / split / META).is_file():
        folder = folder / split
    layout = _layout(folder)
    videos = _json(source_file(folder / META, META))["videos"]
    masks = _json(source_file(folder / MASKS, MASKS))
    if layout.split is not None:
        videos = {name: video for name, video in videos.items() if layout.split.get(name) == split}
    if not videos:
        raise DataError(f"{folder / META} has no videos of split {split!r}: check --split")
    for name, video in videos.items():
        with ledger.catching(NAME, name, examples=len(video.get("expressions", ()))):
            yield _bundle(layout, name, video, masks, fps, ledger)


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except SampleError as error:
        raise DataError(str(error)) from error


def _layout(folder: Path) -> Layout:
    path = folder / LAYOUT
    if not path.is_file():
        return Layout(folder / "JPEGImages")
    raw = _json(path)
    known = {name: raw[name] for name in ("image_template", "split") if name in raw}
    return Layout(folder / raw.get("frames_root", "JPEGImages"), **known)


def _bundle(layout: Layout, name: str, video: dict[str, Any], masks: dict[str, list], fps: float, ledger: SkipLedger) -> Bundle:
    listed = video.get("frames", ())
    frames = read_frames([layout.frame(name, frame) for frame in listed])
    if not frames:
        raise SampleError("no frames are listed", reason="no_frames")
    width, height = image_size(frames[0])
    objects: dict[str, SceneObject] = {}
    examples = []
    for number, raw in video.get("expressions", {}).items():
        example_id = f"{name}_{number}"
        with ledger.catching(NAME, example_id):
            annotations = {f"a{anno}": str(anno) for anno in raw.get("anno_id", ())}
            if not annotations:
                raise SampleError("the expression names no object (anno_id)", reason="no_object_ids")
            example = Example(example_id, "refer", raw.get("exp", ""), targets=(tuple(annotations),),
                              source={"anno_id": raw["anno_id"], "obj_id": raw.get("obj_id")})
            for oid, anno in annotations.items():
                known = objects.get(oid) or SceneObject(oid, "", _track(masks, anno, len(frames), (height, width)))
                # an object is named by the first expression that means it and nothing else
                names_it = len(annotations) == 1 and not known.expression
                objects[oid] = replace(known, expression=raw["exp"]) if names_it else known
            examples.append(example)
    times = tuple(t / fps for t in range(len(frames)))
    medium = Medium(name, "frames", width, height, times, len(frames) / fps, objects, source={"dataset": NAME, "frames": list(listed)})
    return Bundle(medium, tuple(examples), frames)


def _track(masks: dict[str, list], anno: str, n_frames: int, size: tuple[int, int]) -> MaskTrack:
    if anno not in masks:
        raise SampleError(f"annotation {anno} is not in {MASKS}", reason="mask_missing")
    if len(masks[anno]) != n_frames:
        raise SampleError(f"annotation {anno} has {len(masks[anno])} masks for {n_frames} frames", reason="mask_count")
    return MaskTrack(size, tuple(compressed(rle, size) for rle in masks[anno]))
