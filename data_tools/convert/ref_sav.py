"""Ref-SAV as released: descriptions of objects of SA-V videos.

Training: ``ref_sav/Ref-SAV-Min-Ratio-0.3.json`` beside ``sav/sav_train/…``; paths in the JSON have one leading component that is not on
disk. The masks of SA-V lie on every 4th frame of a 24 fps video, so exactly those frames are decoded and stored. Evaluation:
``ref_sav/valid/`` in the layout of MeViS, with long and short descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, below_first, field, listed_videos, one_of, read_json, source_json
from data_tools.convert.masks import nested_entry
from data_tools.convert.referring import Clip, Expression, check_length, referring_bundle
from data_tools.convert.rvos import Layout, bundles, expression
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import JPEG_QUALITY, decode_numbered
from unipixel.errors import SampleError
from unipixel.sample import Entry

NAME = "ref_sav"
META = "Ref-SAV-Min-Ratio-0.3.json"
STEP = 4
"""Video frames per annotated frame."""


TYPES = {0: "long", 1: "short"}


def convert(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = 0, fps: float = 6.0) -> Iterator[Bundle]:
    """Ref-SAV (ref_sav/Ref-SAV-Min-Ratio-0.3.json, sav/sav_train/; ref_sav/valid/); --input is the folder of ref_sav/ and sav/.

    Args:
        fps: valid: frames per second of the pictures, which come without times
    """
    if one_of("split", split, ("train", "valid")) == "valid":
        root = folder / "ref_sav" / "valid"
        videos = listed_videos(root / "meta_expressions_valid.json")
        yield from bundles(NAME, split, videos, root / "mask_dict.json", Layout(root / "videos"), ledger, fps, max_frames, _described)
        return
    for name, raw in source_json(folder / "ref_sav" / META, META).items():
        objects = raw.get("objects") or {}
        with ledger.catching(NAME, name, examples=len(objects)):
            yield _bundle(folder / "sav", split, name, raw, objects, ledger, max_frames)


def _described(example_id: str, raw: Mapping[str, Any]) -> Expression:
    kind = raw.get("type_id")
    return expression(example_id, raw, form="description", question_type=TYPES.get(kind, "other"), source={"type_id": kind})


def _bundle(root: Path, split: str, name: str, raw: Mapping[str, Any], objects: Mapping[str, Any], ledger: SkipLedger, max_frames: int) -> Bundle:
    video, annotation = (below_first(root, field(raw, key, str)) for key in ("video_path", "anno_path"))
    if not annotation.stem.endswith("_manual"):
        raise SampleError(f"{annotation.name} is not a *_manual.json annotation", reason="annotation_kind")
    masklets = read_json(annotation)
    track = field(masklets, "masklet", list)
    check_length(len(track), split, max_frames)
    listed, times = decode_numbered(video, lambda number: number % STEP == 0)
    if len(track) > len(times):
        raise SampleError(f"masks on {len(track)} frames, every {STEP}th frame of the video are {len(times)}", reason="mask_count")
    ledger.note(f"frames decoded from video files and stored as JPEG of quality {JPEG_QUALITY}", len(times))
    said = []
    for key, obj in objects.items():
        with ledger.catching(NAME, f"{name}_{key}"):
            if (str(field(obj, "obj_id", (int, str))), obj.get("video_id", name)) != (key, name):
                raise SampleError(f"object {key!r} calls itself {obj['obj_id']!r} of {obj.get('video_id')!r}", reason="object_id")
            said.append(Expression(f"{name}_{key}", field(obj, "formated", str).strip(), (key,), form="description"))
    clip = Clip(name, listed.frames, times, listed.duration_s, said, {"video_path": raw["video_path"], "frame_numbers": list(listed.numbers)})
    return referring_bundle(NAME, split, clip, partial(_entries, masklets, len(times), ledger), ledger)


def _entries(masklets: Mapping[str, Any], count: int, ledger: SkipLedger, oid: str, size: tuple[int, int]) -> list[Entry]:
    """The object's column of ``masklet[frame][object]``; frames after the last annotated one are not annotated."""
    ids, track = masklets.get("masklet_id"), masklets["masklet"]
    try:
        column = ids.index(int(oid)) if ids else int(oid)
        entries: list[Entry] = [nested_entry(frame[column], size, ledger) for frame in track]
    except (ValueError, IndexError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"object {oid!r} is not among the masklets {ids or len(track[0])}", reason="mask_missing") from None
    return entries + [None] * (count - len(track))
