"""What one training or evaluation sample is: a medium, the objects in it, and examples (questions with evidence) about it.

Facts only: prompts are rendered from these at read time (``unipixel.data.template``), tensors are made by ``unipixel.data``.
The JSON forms below are what the shards store; nothing is pickled. Times are seconds from the start of the medium.

    Medium   frames + their times + objects + subtitles
    Example  one question (or dialogue) about a medium, its answer, time segments and evidence objects, preference pairs
    Sample   a medium with one or more of its examples: what a reader yields
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from pycocotools import mask as coco_mask

from unipixel.errors import SampleError

SCHEMA = "unipixel/1"
Segment = tuple[float, float]
Entry = str | None
"""One mask: compressed COCO ``counts``, ``""`` (annotated, object not visible) or ``None`` (frame not annotated)."""
EMPTY = ""
MediumKind = Literal["none", "image", "frames"]
Task = Literal["evidence", "refer", "locate", "chat"]
Form = Literal["query", "sentence", "explanatory", "question", "description"]
VisualPrompt = Literal["none", "mask", "point", "box", "point_or_box"]
FAILURE_MODES = ("spatial", "temporal", "cross_frame", "correctness", "evidence", "other")


def encode_mask(mask: np.ndarray) -> Entry:
    """(H, W) bool or uint8 -> entry: ``""`` when nothing is set, else compressed COCO counts."""
    mask = np.asarray(mask)
    if not mask.any():
        return EMPTY
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")


def decode_entry(entry: Entry, size: tuple[int, int]) -> np.ndarray:
    """Entry -> (H, W) bool. An unannotated frame has no mask to decode: ask ``MaskTrack.annotated`` first."""
    if entry is None:
        raise ValueError("frame is not annotated: it has no mask to decode")
    if entry == EMPTY:
        return np.zeros(size, dtype=bool)
    return coco_mask.decode({"size": list(size), "counts": entry.encode("ascii")}).astype(bool)


@dataclass(frozen=True)
class MaskTrack:
    """One object's masks over the listed frames of its medium. ``size`` is (H, W) of the masks in pixels."""

    size: tuple[int, int]
    entries: tuple[Entry, ...]

    @classmethod
    def from_masks(cls, masks: np.ndarray, annotated: Sequence[bool] | None = None) -> MaskTrack:
        """``masks`` (T, H, W) bool; frames where ``annotated`` is False are stored as not annotated."""
        keep = [True] * len(masks) if annotated is None else annotated
        return cls(masks.shape[1:], tuple(encode_mask(m) if k else None for m, k in zip(masks, keep, strict=True)))

    @property
    def annotated(self) -> np.ndarray:
        """(T,) bool: frames that carry a statement about this object (a mask or "not visible")."""
        return np.array([e is not None for e in self.entries], dtype=bool)

    def decode(self, frames: Sequence[int] | None = None) -> np.ndarray:
        """(T, H, W) bool of the given frame positions; every one of them must be annotated."""
        frames = range(len(self.entries)) if frames is None else frames
        return np.stack([decode_entry(self.entries[t], self.size) for t in frames])

    @property
    def visible(self) -> np.ndarray:
        """(T,) bool: annotated and not empty."""
        return np.array([e is not None and e != EMPTY for e in self.entries], dtype=bool)


@dataclass(frozen=True)
class SceneObject:
    """An object of a medium: ``oid`` is unique inside it, ``expression`` refers to it in words."""

    oid: str
    expression: str
    track: MaskTrack


@dataclass(frozen=True)
class Subtitle:
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Medium:
    """Frames (or one image, or nothing) with what is known about them.

    Attributes:
        frame_times: presentation time in seconds of each stored frame, strictly increasing.
        duration_s: length of the source; the last frame may start before it.
        source: where it came from (dataset, original ids); free-form, JSON only.
    """

    medium_id: str
    kind: MediumKind
    width: int = 0
    height: int = 0
    frame_times: tuple[float, ...] = ()
    duration_s: float = 0.0
    objects: Mapping[str, SceneObject] = field(default_factory=dict)
    subtitles: tuple[Subtitle, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        def bad(message: str, reason: str):
            raise SampleError(message, reason=reason, key=self.medium_id)

        if self.kind == "none":
            if self.frame_times or self.objects:
                bad("a medium of kind 'none' cannot have frames or objects", "medium_kind")
            return
        if not self.frame_times:
            bad(f"kind={self.kind!r} but no frames are listed", "no_frames")
        if self.kind == "image" and len(self.frame_times) != 1:
            bad(f"an image has one frame, got {len(self.frame_times)}", "medium_kind")
        if self.width <= 0 or self.height <= 0:
            bad(f"frame size {self.width}x{self.height} must be positive", "frame_size")
        if any(b <= a for a, b in zip(self.frame_times, self.frame_times[1:])):
            bad("frame_times must increase strictly", "frame_times")
        for oid, obj in self.objects.items():
            if obj.oid != oid:
                bad(f"object listed as {oid!r} calls itself {obj.oid!r}", "object_id")
            if len(obj.track.entries) != len(self.frame_times):
                bad(f"object {oid!r} has {len(obj.track.entries)} mask entries for {len(self.frame_times)} frames", "mask_count")
            if tuple(obj.track.size) != (self.height, self.width):
                bad(f"object {oid!r} has masks of {obj.track.size[1]}x{obj.track.size[0]} px on frames of "
                    f"{self.width}x{self.height} px; resize one of them in the converter", "mask_size")


@dataclass(frozen=True)
class PreferencePair:
    """Two replies to the same question; the rejected one fails in the named way.

    ``chosen_segments``/``rejected_segments`` and the matching ``*_objects`` give the evidence each side cites, when it cites any.
    """

    pair_id: str
    chosen: str
    rejected: str
    failure_mode: str
    chosen_segments: tuple[Segment, ...] | None = None
    rejected_segments: tuple[Segment, ...] | None = None
    chosen_objects: tuple[str, ...] | None = None
    rejected_objects: tuple[str, ...] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.chosen.strip() or not self.rejected.strip():
            raise SampleError("a preference pair needs text on both sides", reason="empty_side", key=self.pair_id)
        same_evidence = (self.chosen_segments, self.chosen_objects) == (self.rejected_segments, self.rejected_objects)
        if self.chosen.strip() == self.rejected.strip() and same_evidence:
            raise SampleError("chosen and rejected are equal", reason="equal_sides", key=self.pair_id)
        if self.failure_mode not in FAILURE_MODES:
            raise SampleError(f"failure_mode={self.failure_mode!r} is not one of {FAILURE_MODES}", reason="failure_mode", key=self.pair_id)


@dataclass(frozen=True)
class Region:
    """An object that the question points at: the texts mention it as ``[label]``, the model gets it as ``Example.visual_prompt`` says."""

    label: str
    oid: str


@dataclass(frozen=True)
class Turn:
    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Example:
    """One question about a medium.

    Attributes:
        task: ``evidence`` (question -> answer + segments + masks), ``refer`` (expression -> mask), ``locate`` (question with pointed-at
            regions -> the mask of each) or ``chat`` (free turns, possibly about pointed-at regions).
        form: how ``question`` of a ``refer`` example is worded: a noun phrase (``query``), a whole sentence, a sentence whose reply also
            explains (``explanatory``, explanation in ``answer``), a question with its ``answer``, or a description of the object.
        options: candidate answers; empty for an open question. ``answer`` must be one of them when they exist.
        segments: time evidence in seconds; ``None`` when it was not annotated, ``()`` when annotated as absent.
        targets: one inner tuple of object ids per mask the reply must draw; inside, the union is meant.
        turns: the dialogue of a ``chat`` example; empty otherwise.
        regions: objects mentioned in the texts as ``[label]``, in the order of their first mention.
        visual_prompt: how ``regions`` are shown to the model: their ``mask`` features, a ``point``, a ``box``, or one of the last two drawn
            per visit; ``none`` when there are no regions.
    """

    example_id: str
    task: Task
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    segments: tuple[Segment, ...] | None = None
    targets: tuple[tuple[str, ...], ...] = ()
    question_type: str = "other"
    rationale: str = ""
    turns: tuple[Turn, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    form: Form = "query"
    regions: tuple[Region, ...] = ()
    visual_prompt: VisualPrompt = "none"

    def __post_init__(self):
        def bad(message: str, reason: str):
            raise SampleError(message, reason=reason, key=self.example_id)

        if self.visual_prompt not in get_args(VisualPrompt) or (self.visual_prompt == "none") != (not self.regions):
            bad(f"visual_prompt={self.visual_prompt!r} with {len(self.regions)} regions: regions need one of "
                f"{get_args(VisualPrompt)[1:]}, and without them it must be 'none'", "visual_prompt")
        if len({r.label for r in self.regions}) != len(self.regions):
            bad(f"region labels repeat: {[r.label for r in self.regions]}", "region_labels")
        texts = " ".join([self.question, *self.options, self.answer, *(turn.text for turn in self.turns)])
        unmentioned = [r.label for r in self.regions if f"[{r.label}]" not in texts]
        if unmentioned:
            bad(f"regions {unmentioned} are not mentioned as [label] in the texts", "region_labels")
        if self.form not in get_args(Form) or (self.form != "query" and self.task != "refer"):
            bad(f"form={self.form!r} of task {self.task!r}: only 'refer' has one of {get_args(Form)}", "form")
        if self.form in ("explanatory", "question") and not self.answer.strip():
            bad(f"form {self.form!r} needs an answer", "empty_answer")
        if self.task == "locate" and (not self.regions or len(self.targets) != len(self.regions)):
            bad(f"task 'locate' needs one target per region, got {len(self.targets)} for {len(self.regions)}", "targets")
        if self.task == "chat":
            if len(self.turns) < 2 or self.turns[-1].role != "assistant":
                bad("a chat needs at least a user turn and a closing assistant turn", "turns")
            return
        if self.turns:
            bad(f"turns belong to task 'chat', not {self.task!r}", "turns")
        if not self.question.strip():
            bad("question is empty", "empty_question")
        if self.options and self.answer not in self.options:
            bad(f"answer {self.answer!r} is not among the options {list(self.options)}", "answer_not_in_options")
        if len(set(self.options)) != len(self.options):
            bad(f"options repeat: {list(self.options)}", "duplicate_options")
        for start, end in self.segments or ():
            if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
                bad(f"segment [{start}, {end}] is not a finite, non-negative time", "segment_range")
            if end < start:
                bad(f"segment [{start}, {end}] ends before it starts", "segment_order")


@dataclass(frozen=True)
class Sample:
    """A medium with examples about it; ``frames`` gives the encoded bytes (JPEG or PNG) of each listed frame on demand."""

    key: str
    medium: Medium
    examples: tuple[Example, ...]
    frames: Sequence[bytes] = ()
    dataset: str = ""
    split: str = ""

    def __post_init__(self):
        if len(self.frames) != len(self.medium.frame_times):
            raise SampleError(f"{len(self.frames)} frames stored, {len(self.medium.frame_times)} listed", reason="frame_count", key=self.key)
        for example in self.examples:
            validate_example(example, self.medium)

    @property
    def kind(self) -> str:
        """Modality group, see :func:`example_kind`."""
        return example_kind(self.examples[0], self.medium)


def example_kind(example: Example, medium: Medium) -> str:
    """Modality group; an optimizer step holds one kind. ``text``, or ``image``/``video`` with ``_regions`` (masks as input), ``_prompts``
    (points or boxes as input) and then ``_masks`` (masks as output) appended as far as they apply.
    """
    if medium.kind == "none":
        return "text"
    base = "image" if medium.kind == "image" else "video"
    shown = {"none": "", "mask": "_regions"}.get(example.visual_prompt, "_prompts")
    return base + shown + ("_masks" if example.targets else "")


def validate_example(example: Example, medium: Medium) -> None:
    """Checks that need both sides; raises :class:`SampleError` naming the example."""
    for oid in (oid for target in example.targets for oid in target):
        if oid not in medium.objects:
            raise SampleError(f"evidence object {oid!r} is not among {sorted(medium.objects)}", reason="unknown_object", key=example.example_id)
    for region in example.regions:
        if region.oid not in medium.objects or not medium.objects[region.oid].track.visible.any():
            raise SampleError(f"region [{region.label}] is object {region.oid!r}, which is visible in no annotated frame",
                              reason="empty_region", key=example.example_id)
    for target in example.targets:
        if target and not any(medium.objects[oid].track.annotated.any() for oid in target):
            raise SampleError(f"evidence objects {list(target)} have no annotated frame", reason="no_masks", key=example.example_id)
    for start, _ in example.segments or ():
        if medium.duration_s and start > medium.duration_s:
            raise SampleError(f"segment starts at {start} s, after the end of the medium at {medium.duration_s} s",
                              reason="segment_range", key=example.example_id)


# --- JSON forms ------------------------------------------------------------------------------------------------------------------

def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def to_json(medium: Medium, examples: Iterable[Example], *, dataset: str, split: str) -> tuple[dict, dict]:
    """(``meta.json``, ``masks.json``) of one bundle: masks live in their own member so that they can be skipped."""
    meta = {"schema": SCHEMA, "dataset": dataset, "split": split, "medium": _plain(medium), "examples": [_plain(e) for e in examples]}
    masks = {}
    for oid, obj in meta["medium"]["objects"].items():
        masks[oid] = obj.pop("track")
    return meta, {"schema": SCHEMA, "tracks": masks}


def _segments(value) -> tuple[Segment, ...] | None:
    return None if value is None else tuple((float(s), float(e)) for s, e in value)


def _pair(raw: Mapping) -> PreferencePair:
    tuples = {k: None if raw.get(k) is None else tuple(raw[k]) for k in ("chosen_objects", "rejected_objects")}
    segments = {k: _segments(raw.get(k)) for k in ("chosen_segments", "rejected_segments")}
    return PreferencePair(**{**raw, **tuples, **segments})


def example_from_json(raw: Mapping) -> Example:
    return Example(**{**raw, "options": tuple(raw["options"]), "segments": _segments(raw["segments"]),
                      "targets": tuple(tuple(t) for t in raw["targets"]), "turns": tuple(Turn(**t) for t in raw["turns"]),
                      "pairs": tuple(_pair(p) for p in raw["pairs"]), "regions": tuple(Region(**r) for r in raw.get("regions", ()))})


def medium_from_json(raw: Mapping, tracks: Mapping) -> Medium:
    objects = {}
    for oid, obj in raw["objects"].items():
        if oid not in tracks:
            raise SampleError(f"object {oid!r} has no entry in masks.json", reason="mask_missing", key=raw.get("medium_id"))
        track = MaskTrack(tuple(tracks[oid]["size"]), tuple(tracks[oid]["entries"]))
        objects[oid] = SceneObject(obj["oid"], obj["expression"], track)
    return Medium(**{**raw, "objects": objects, "frame_times": tuple(raw["frame_times"]),
                     "subtitles": tuple(Subtitle(**s) for s in raw["subtitles"])})
