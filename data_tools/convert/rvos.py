"""Referring video segmentation in the layout of MeViS: expressions, and per annotation one RLE or null per frame.

``meta_expressions.json``, ``mask_dict.json`` and ``JPEGImages/<video>/<frame>.jpg`` in the input folder or in its sub-folder
``<split>``. An optional ``layout.json`` gives ``frames_root``, ``image_template`` and the split of each video. The layout has no
times: the listed frames are placed ``1/fps`` apart. null means that the object is not visible. MeViS and LV-VIS are in this layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, inside, listed_videos, one_of, source_json
from data_tools.convert.referring import (
    MAX_FRAMES,
    Clip,
    Expression,
    at_rate,
    by_annotation,
    check_length,
    check_rate,
    distinct,
    listed_frames,
    no_public_masks,
    referring_bundle,
    untold_bundle,
)
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import DataError, SampleError

META, MASKS, LAYOUT = "meta_expressions.json", "mask_dict.json", "layout.json"


@dataclass(frozen=True)
class Layout:
    """Where the pictures are; ``split`` maps video -> split and is ``None`` when the folder is one split."""

    frames_root: Path
    image_template: str = "<frames_root>/<video>/<frame>.jpg"
    split: dict[str, str] | None = None

    def frames(self, video: str, names: list[str]) -> tuple[bytes, ...]:
        if self.image_template == Layout.image_template:
            return listed_frames(self.frames_root, video, names)
        for name in (video, *names):
            inside(self.frames_root, name)
        template = self.image_template.replace("<frames_root>", str(self.frames_root)).replace("<video>", video)
        return read_frames([Path(template.replace("<frame>", name)) for name in names])


def convert(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = 0) -> Iterator[Bundle]:
    """Own expressions in the layout of MeViS (meta_expressions.json, mask_dict.json, JPEGImages/)."""
    if not (folder / META).is_file() and (folder / split / META).is_file():
        folder = folder / split
    layout = _layout(folder)
    videos = listed_videos(folder / META)
    if layout.split is not None:
        videos = {name: video for name, video in videos.items() if layout.split.get(name) == split}
    if not videos:
        raise DataError(f"{folder / META} has no videos of split {split!r}: check --split")
    yield from bundles("rvos", split, videos, folder / MASKS, layout, ledger, fps, max_frames)


def mevis(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = MAX_FRAMES, server: bool = False
          ) -> Iterator[Bundle]:
    """MeViS (train/, valid_u/ with masks; the masks of valid are not public)."""
    root = folder / one_of("split", split, ("train", "valid_u", "valid", "test"))
    layout = Layout(root / "JPEGImages")
    if server:
        yield from untold("mevis", listed_videos(root / META), layout.frames, ledger, fps)
    else:
        yield from bundles("mevis", split, listed_videos(root / META), root / MASKS, layout, ledger, fps, max_frames)


def lvvis(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = MAX_FRAMES) -> Iterator[Bundle]:
    """LV-VIS with category names as expressions (train/JPEGImages, mask_dict.json); underscores become spaces."""
    one_of("split", split, ("train",))
    yield from bundles("lvvis", split, listed_videos(folder / META), folder / MASKS, Layout(folder / "train" / "JPEGImages"), ledger, fps,
                       max_frames, partial(expression, wording=lambda name: name.replace("_", " ")))


def bundles(dataset: str, split: str, videos: Mapping[str, Mapping[str, Any]], masks_file: Path, layout: Layout, ledger: SkipLedger,
            fps: float, max_frames: int, say: Callable[[str, Mapping[str, Any]], Expression] | None = None) -> Iterator[Bundle]:
    """One bundle per video; ``say`` makes the expression of an example id and its record (default: :func:`expression`)."""
    check_rate(fps)
    if not masks_file.is_file():
        raise no_public_masks(dataset, split, videos, masks_file)
    masks = source_json(masks_file, masks_file.name)
    for name, video in videos.items():
        with ledger.catching(dataset, name, examples=len(video.get("expressions", ()))):
            names = field(video, "frames", list)
            check_length(len(names), split, max_frames)
            frames = layout.frames(name, names)
            said = []
            for number, raw in field(video, "expressions", dict).items():
                with ledger.catching(dataset, f"{name}_{number}"):
                    said.append((say or expression)(f"{name}_{number}", raw))
            clip = Clip(name, frames, *at_rate(len(frames), fps), said, {"frames": names})
            yield referring_bundle(dataset, split, clip, by_annotation(masks, len(frames), ledger), ledger)


def untold(dataset: str, videos: Mapping[str, Mapping[str, Any]], read: Callable[[str, list[str]], tuple[bytes, ...]], ledger: SkipLedger,
           fps: float) -> Iterator[Bundle]:
    """One bundle per video of a split whose masks only a server has; ``read`` gives the frames of a video by their names."""
    check_rate(fps)
    for name, video in videos.items():
        with ledger.catching(dataset, name, examples=len(video.get("expressions", ()))):
            names = field(video, "frames", list)
            frames = read(name, names)
            said = [Expression(f"{name}_{number}", field(raw, "exp", str).strip(), ()) for number, raw in field(video, "expressions", dict).items()]
            yield untold_bundle(dataset, Clip(name, frames, *at_rate(len(frames), fps), said, {"frames": names}))


def expression(example_id: str, raw: Mapping[str, Any], wording: Callable[[str], str] = str, **facts: Any) -> Expression:
    """``{exp, obj_id, anno_id}``: an object is one annotation; the ids stay in ``source``, the stored text too where it was changed."""
    text, annotations, objects = field(raw, "exp", str), field(raw, "anno_id", list), raw.get("obj_id")
    if isinstance(objects, list) and len(objects) != len(annotations):
        raise SampleError(f"{len(objects)} obj_id for {len(annotations)} anno_id", reason="bad_record")
    source = {"anno_id": annotations, "obj_id": objects} | ({"exp": text} if wording(text) != text else {}) | facts.pop("source", {})
    return Expression(example_id, wording(text).strip(), distinct(annotations, "a"), source=source, **facts)


def _layout(folder: Path) -> Layout:
    path = folder / LAYOUT
    if not path.is_file():
        return Layout(folder / "JPEGImages")
    raw = source_json(path, LAYOUT)
    known = {name: raw[name] for name in ("image_template", "split") if name in raw}
    return Layout(folder / raw.get("frames_root", "JPEGImages"), **known)
