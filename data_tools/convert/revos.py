"""ReVOS as released: referring and reasoning expressions over videos of several sources.

``meta_expressions_{train,valid}_.json``, ``mask_dict.json`` for both, ``mask_dict_foreground.json`` for scoring, frames under
``<video>/`` or ``JPEGImages/<video>/``, where the video's name contains slashes. Videos of TAO are long and only partly annotated: for
training they are cut to where the objects of an expression are seen, one medium per set of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, left_out, listed_videos, one_of, source_json
from data_tools.convert.referring import (
    MAX_FRAMES,
    TRAIN,
    Clip,
    Expression,
    at_rate,
    by_annotation,
    check_length,
    check_rate,
    dense_entries,
    listed_frames,
    referring_bundle,
)
from data_tools.convert.rvos import expression
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import MaskTrack, SceneObject

NAME = "revos"
MASKS, FOREGROUND_FILE = "mask_dict.json", "mask_dict_foreground.json"
FOREGROUND = "foreground"
"""Object of evaluation media: all annotated objects of the video together, which the robustness score needs."""
TYPES = {0: "referring", 1: "reasoning"}


def convert(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 6.0, max_frames: int = MAX_FRAMES) -> Iterator[Bundle]:
    """ReVOS (meta_expressions_<split>_.json, mask_dict.json, frames by video)."""
    check_rate(fps)
    one_of("split", split, ("train", "valid"))
    videos = listed_videos(folder / f"meta_expressions_{split}_.json")
    masks = source_json(folder / MASKS, MASKS)
    foreground = source_json(folder / FOREGROUND_FILE, FOREGROUND_FILE) if split != TRAIN and (folder / FOREGROUND_FILE).is_file() else {}
    for name, video in videos.items():
        said: list[Expression] = []
        for number, raw in (video.get("expressions") or {}).items():
            with ledger.catching(NAME, f"{name}_{number}"):
                said.append(_expression(f"{name}_{number}", raw, split))
        groups = _by_objects(name, said) if split == TRAIN and name.split("/")[0] == "TAO" else {name: said}
        for medium_id, group in groups.items():
            with ledger.catching(NAME, medium_id, examples=len(group)):
                window = _seen(masks, group) if medium_id != name else None
                bundle = _bundle(folder, split, name, medium_id, video, group, window, masks, fps, max_frames, ledger)
                yield _with_foreground(bundle, foreground[name], ledger) if name in foreground else bundle


def _expression(example_id: str, raw: Mapping[str, Any], split: str) -> Expression:
    kind = raw.get("type_id")
    said = expression(example_id, raw, question_type=TYPES.get(kind, "other"), source={"type_id": kind})
    if split == TRAIN and not said.oids:  # before grouping: it belongs to no group
        raise left_out("no_objects", "the expression means no object")
    return replace(said, form="sentence") if said.text.endswith("?") else said


def _by_objects(name: str, said: Sequence[Expression]) -> dict[str, list[Expression]]:
    """Expressions by the set of objects they mean, which names the medium."""
    groups: dict[str, list[Expression]] = {}
    for one in said:
        ids = sorted(one.source["obj_id"] or one.source["anno_id"])
        groups.setdefault(f"{name}/objects_{'_'.join(map(str, ids))}", []).append(one)
    return groups


def _seen(masks: Mapping[str, Sequence], group: Sequence[Expression]) -> slice:
    """First to last listed frame where the group's objects have a mask."""
    ids = [oid.removeprefix("a") for oid in group[0].oids]
    if missing := [i for i in ids if i not in masks]:
        raise SampleError(f"annotations {missing} are not in {MASKS}", reason="mask_missing")
    seen = sorted({t for i in ids for t, mask in enumerate(masks[i]) if mask is not None})
    if not seen:
        raise SampleError(f"the objects {ids} are visible in no frame", reason="masks_empty")
    if seen[-1] - seen[0] < 1:
        raise left_out("short_window", f"the objects {ids} are seen in less than 2 frames")
    return slice(seen[0], seen[-1] + 1)


def _bundle(folder: Path, split: str, video: str, medium_id: str, raw: Mapping[str, Any], said: Sequence[Expression], window: slice | None,
            masks: Mapping[str, Sequence], fps: float, max_frames: int, ledger: SkipLedger) -> Bundle:
    listed = field(raw, "frames", list)
    names = listed[window or slice(None)]
    check_length(len(names), split, max_frames)
    root = folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else folder
    frames = listed_frames(root, video, names)
    clip = Clip(medium_id, frames, *at_rate(len(frames), fps), said,
                {"video": video, "frames": names, "vid_id": raw.get("vid_id"), "first_frame": window.start if window else 0})
    return referring_bundle(NAME, split, clip, by_annotation(masks, len(listed), ledger, window), ledger)


def _with_foreground(bundle: Bundle, raw: Mapping[str, Any], ledger: SkipLedger) -> Bundle:
    size, count = (bundle.medium.height, bundle.medium.width), len(bundle.frames)
    track = MaskTrack(size, dense_entries(raw, "masks_rle", count, size, ledger))
    objects = {**bundle.medium.objects, FOREGROUND: SceneObject(FOREGROUND, "", track)}
    source = {**bundle.medium.source, "foreground_ratio": raw.get("foreground_ratio")}
    return replace(bundle, medium=replace(bundle.medium, objects=objects, source=source))
