"""ViCaS as released: sentences that refer to tracked objects of a video.

Records are all in ``annotations/annotations_wo_masks_v1.0.json`` with the masks in ``masks/<video>/<i>.json`` (i: place of the referral),
or one file per video in ``annotations/v1.0/`` with the masks inside. ``splits/v1.0/<split>.json`` lists the ids. Frames are
``video_frames/<video>/%05d.jpg`` with the number of the frame at 30 per second; only the frames of a record's ``segmentations`` are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, file_number, inside, one_of, read_json, source_json
from data_tools.convert.masks import joined, nested_entry
from data_tools.convert.referring import MAX_FRAMES, Clip, Expression, check_length, distinct, referring_bundle
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import DataError, SampleError
from unipixel.sample import Entry

NAME = "vicas"
VERSION = "v1.0"
WITHOUT_MASKS = f"annotations_wo_masks_{VERSION}.json"
FPS = 30.0
"""What the frame numbers count."""


@dataclass(frozen=True)
class Record:
    """One video; ``masks`` is the folder of its mask files, ``None`` when the record holds the masks itself."""

    raw: Mapping[str, Any]
    masks: Path | None
    frames: Path
    _files: dict[int, list[list]] = dataclass_field(default_factory=dict)

    @cached_property
    def video(self) -> str:
        return field(self.raw, "filename", str)[:6]

    @cached_property
    def listed(self) -> list[Mapping[str, Any]]:
        listed = field(self.raw, "segmentations", list)
        if not listed:
            raise SampleError("no frames are listed", reason="no_frames")
        return listed

    def clip(self, expressions: list[Expression]) -> Clip:
        names = [field(one, "filename", str) for one in self.listed]
        numbers = [file_number(name) for name in names]
        frames = read_frames([inside(self.frames, f"{self.video}/{name}") for name in names])
        times = tuple(n / FPS for n in numbers)
        captions = {key: value for key, value in self.raw.items() if key.startswith("caption") and isinstance(value, str)}
        return Clip(self.video, frames, times, times[-1] + 1 / FPS, expressions,
                    {"filename": self.raw["filename"], "frames": names, "is_gt": [bool(s.get("is_gt")) for s in self.listed], "captions": captions})

    def track(self, track_id: int, size: tuple[int, int], ledger: SkipLedger) -> list[Entry]:
        """Masks of one track over the listed frames; it is not visible where a frame does not list it.

        Raises:
            SampleError: ``mask_missing``: the record knows no such track.
        """
        if self.masks is None:
            known = [_place(frame, track_id) for frame in self.listed]
            if all(place is None for place in known):
                raise SampleError(f"track {track_id} is in no frame of the record", reason="mask_missing")
            return [nested_entry(None if place is None else field(frame, "mask_rles", list)[place], size, ledger)
                    for frame, place in zip(self.listed, known, strict=True)]
        for i, referral in enumerate(self.referrals):
            ids = field(referral, "track_ids", list)
            if track_id in ids and (self.masks / f"{i}.json").is_file():
                frames = self.mask_file(i)
                if all(len(frame) == len(ids) for frame in frames):
                    return [nested_entry(frame[ids.index(track_id)], size, ledger) for frame in frames]
        raise SampleError(f"no mask file in {self.masks} tells the track {track_id} apart", reason="mask_missing")

    def union(self, i: int, size: tuple[int, int], ledger: SkipLedger) -> list[Entry]:
        """Masks of all tracks of referral ``i`` together."""
        if self.masks is not None:
            return [nested_entry(list(frame), size, ledger) for frame in self.mask_file(i)]
        tracks = [self.track(track, size, ledger) for track in self.referrals[i]["track_ids"]]
        return [joined(entries, size) for entries in zip(*tracks, strict=True)]

    @property
    def referrals(self) -> list[Mapping[str, Any]]:
        return field(self.raw, "object_referrals", list)

    def mask_file(self, i: int) -> list[list]:
        """Masks of referral ``i``: per listed frame a list, as a rule one per track. Read once, it serves several objects."""
        if i in self._files:
            return self._files[i]
        frames = read_json(self.masks / f"{i}.json")
        if not isinstance(frames, list) or len(frames) != len(self.listed) or not all(isinstance(f, list) for f in frames):
            raise SampleError(f"{self.masks / f'{i}.json'} is not a list of mask lists for {len(self.listed)} frames", reason="mask_count")
        self._files[i] = frames
        return frames


def records(folder: Path) -> Callable[[str], Record]:
    """Reader of a record by its id.

    Raises:
        DataError: neither layout is in ``folder``.
    """
    annotations, frames = folder / "annotations", folder / "video_frames"
    if (annotations / WITHOUT_MASKS).is_file():
        known = source_json(annotations / WITHOUT_MASKS, WITHOUT_MASKS)

        def read(video: str) -> Record:
            if video not in known:
                raise SampleError(f"video {video!r} is not in {WITHOUT_MASKS}", reason="record_missing")
            return Record(known[video], inside(folder / "masks", video), frames)

        return read
    single = next((f for f in (annotations / VERSION, annotations) if f.is_dir() and any(f.glob("*.json"))), None)
    if single is None:
        raise DataError(f"no ViCaS annotations: neither {annotations / WITHOUT_MASKS} nor {annotations / VERSION}/<video>.json exist")
    return lambda video: Record(read_json(inside(single, f"{video}.json")), None, frames)


def convert(folder: Path, *, split: str, ledger: SkipLedger, max_frames: int = MAX_FRAMES) -> Iterator[Bundle]:
    """ViCaS v1.0 (annotations/, masks/, splits/v1.0/, video_frames/)."""
    ids = source_json(folder / "splits" / VERSION / f"{one_of('split', split, ('train', 'val', 'test'))}.json", f"split {split!r}")
    read = records(folder)
    for number in ids:
        video = str(number).zfill(6)
        with ledger.catching(NAME, video):
            record = read(video)
            check_length(len(record.listed), split, max_frames)
            said = []
            for i, referral in enumerate(record.referrals):
                with ledger.catching(NAME, f"{video}_{i}"):
                    tracks = field(referral, "track_ids", list)
                    said.append(Expression(f"{video}_{i}", field(referral, "prompt", str).strip(), _objects(record, i, tracks), "sentence",
                                           source={"track_ids": tracks}))
            yield referring_bundle(NAME, split, record.clip(said), lambda oid, size, record=record: _entries(record, oid, size, ledger), ledger)


def _objects(record: Record, i: int, tracks: list[int]) -> tuple[str, ...]:
    """One object per track where the masks tell the tracks apart, otherwise (``r<i>``) one for the whole referral."""
    if record.masks is not None and (record.masks / f"{i}.json").is_file() and any(len(f) != len(tracks) for f in record.mask_file(i)):
        return (f"r{i}",)
    return distinct(tracks, "t")


def _entries(record: Record, oid: str, size: tuple[int, int], ledger: SkipLedger) -> list[Entry]:
    return record.union(int(oid[1:]), size, ledger) if oid[0] == "r" else record.track(int(oid[1:]), size, ledger)


def _place(frame: Mapping[str, Any], track_id: int) -> int | None:
    ids = frame.get("track_ids") or []
    return ids.index(track_id) if track_id in ids else None
