"""``unipixel pairs evidence``: pairs about evidence from any grounded dataset, without a model.

The chosen side is the true reply. The rejected one has the same answer and shows something else: the true segments of another question
(``swapped``), its own segments at another time of the clip (``moved``), what a model said about them itself (``predicted``), or the masks of
another object (``evidence``). How much the two sides overlap is a setting: pairs that share nothing are easy and teach little about borders.

Swapped segments are as often chosen as rejected, so neither their lengths nor their places tell the sides apart. Moved ones keep their
lengths, but long segments have no room to move: trained on them alone, a model learns that short segments are right.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from data_tools.preference.command import command
from data_tools.preference.steps import Media
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.data.media import stable_rng
from unipixel.data.shards import ShardWriter
from unipixel.data.stored_video import StoredVideo
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.infer.predictions import Prediction, load_predictions
from unipixel.metrics import temporal_iou
from unipixel.sample import EMPTY, Example, Medium, PreferencePair, Sample, Segment

SOURCE = "evidence"
ANSWER = "Answer: {answer}."


@dataclass(frozen=True)
class Known:
    """Beside an example: the true segments of all questions, and what the model said."""

    segments: list[tuple[Segment, ...]]
    predictions: Mapping[str, Prediction]


@dataclass(kw_only=True)
class EvidencePairSettings:
    """Settings of ``unipixel pairs evidence``."""

    shards: list[str] = setting([], "packed folders whose examples have answers with segments or masks")
    out: str = setting("", "folder for the shards with the pairs")
    split: str = setting("train", "split that is written to the manifest, which is that of --shards")
    dataset: str = setting("evidence-pairs", "name of the dataset that is written")
    modes: list[str] = setting(["swapped", "evidence"], "what the rejected side shows: swapped (segments of another question), moved (its own "
                                                         "elsewhere), predicted (what the model of --predictions says), evidence (another object)")
    predictions: str = setting("", "what `unipixel predict` wrote about the same shards, for the mode predicted")
    per_mode: int = setting(1, "pairs of each mode per example, at most")
    min_tiou: float = setting(0.0, "temporal IoU of the rejected with the true segments, at least")
    max_tiou: float = setting(0.5, "and at most")
    time_step_s: float = setting(0.1, "segments are moved by multiples of this, in seconds")
    max_mask_iou: float = setting(0.5, "mean IoU of the rejected object's masks with the true ones, at most, over frames where either is seen")
    min_seen: int = setting(1, "frames in which the rejected object is seen, at least")
    limit: int = setting(0, "use this many media only; 0: all")
    seed: int = setting(0, "of the choice among what is allowed")

    def __post_init__(self):
        for name in ("shards", "out", "modes"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is empty")
        if unknown := [mode for mode in self.modes if mode not in MODES]:
            raise ConfigError(f"--modes {unknown} must be of {list(MODES)}")
        if bool(self.predictions) != ("predicted" in self.modes):
            raise ConfigError(f"--predictions={self.predictions!r} with --modes {' '.join(self.modes)}: the mode predicted needs the file, and no "
                              "other one does")
        if not 0 <= self.min_tiou <= self.max_tiou < 1:
            raise ConfigError(f"--min_tiou={self.min_tiou} and --max_tiou={self.max_tiou} must be in order, at least 0 and below 1")
        if not 0 <= self.max_mask_iou < 1:
            raise ConfigError(f"--max_mask_iou={self.max_mask_iou} must be at least 0 and below 1")
        if self.time_step_s <= 0 or self.per_mode < 1 or self.min_seen < 1 or self.limit < 0:
            raise ConfigError(f"--time_step_s={self.time_step_s} must be positive, --per_mode={self.per_mode} and --min_seen={self.min_seen} at "
                              f"least 1, --limit={self.limit} not negative")


DRAWS = 256
"""Segments of other questions that are tried per example."""


def swapped_segments(segments: Sequence[Segment], duration: float, settings: EvidencePairSettings, pool: Sequence[tuple[Segment, ...]],
                     rng: np.random.Generator) -> list[tuple[Segment, ...]]:
    """Up to ``per_mode`` different ones of a random part of ``pool`` that lie inside the clip and overlap as far as is allowed."""
    found: list[tuple[Segment, ...]] = []
    for i in rng.integers(len(pool), size=min(DRAWS, 4 * len(pool))).tolist():
        other = pool[i]
        if other in found or other == tuple(segments) or other[-1][1] > duration:
            continue
        if settings.min_tiou <= temporal_iou(other, segments) <= settings.max_tiou:
            found.append(other)
            if len(found) == settings.per_mode:
                break
    return found


def moved_segments(segments: Sequence[Segment], duration: float, settings: EvidencePairSettings) -> list[tuple[Segment, ...]]:
    """The segments at all other times of the clip where their overlap with the true ones is allowed, earliest first."""
    first, last = min(s for s, _ in segments), max(e for _, e in segments)
    steps = np.arange(np.ceil(-first / settings.time_step_s), np.floor((duration - last) / settings.time_step_s) + 1)
    found = []
    for by in steps[steps != 0] * settings.time_step_s:
        moved = tuple((round(s + by, 3), round(e + by, 3)) for s, e in segments)
        inside = all(0 <= s < e <= duration for s, e in moved)
        if inside and settings.min_tiou <= temporal_iou(moved, segments) <= settings.max_tiou:
            found.append(moved)
    return found


def mask_overlap(medium: Medium, first: Sequence[str], second: Sequence[str]) -> tuple[float, int]:
    """(mean IoU of two unions of objects over the frames where both are annotated and either is seen, frames where the second one is seen)."""
    values, seen = [], 0
    for entries in zip(*(medium.objects[oid].track.entries for oid in (*first, *second)), strict=True):
        if any(entry is None for entry in entries):
            continue
        size = medium.objects[first[0]].track.size
        sides = [[{"size": list(size), "counts": e} for e in part if e != EMPTY] for part in (entries[:len(first)], entries[len(first):])]
        seen += bool(sides[1])
        if sides[0] and sides[1]:
            a, b = (coco_mask.merge(side) for side in sides)
            values.append(float(coco_mask.iou([a], [b], [False])[0, 0]))
        elif sides[0] or sides[1]:
            values.append(0.0)
    return (float(np.mean(values)) if values else 0.0), seen


def swapped(example: Example, medium: Medium, settings: EvidencePairSettings, rng: np.random.Generator, known: Known) -> list[dict]:
    """Rejected sides with the times of other questions."""
    if not example.segments:
        raise SampleError("no true segments", reason="no_segments")
    found = swapped_segments(example.segments, medium.duration_s, settings, known.segments, rng)
    if not found:
        raise SampleError(f"none of {DRAWS} segments of other questions overlaps with temporal IoU {settings.min_tiou}-{settings.max_tiou} inside "
                          f"{medium.duration_s:.1f} s", reason="no_other_segments")
    return [{"rejected_segments": other, "tiou": round(temporal_iou(other, example.segments), 4)} for other in found]


def moved(example: Example, medium: Medium, settings: EvidencePairSettings, rng: np.random.Generator, known: Known) -> list[dict]:
    """Rejected sides at other times."""
    if not example.segments:
        raise SampleError("no true segments", reason="no_segments")
    found = moved_segments(example.segments, medium.duration_s, settings)
    if not found:
        total = sum(e - s for s, e in example.segments)
        raise SampleError(f"{len(example.segments)} segments of {total:.1f} s in a clip of {medium.duration_s:.1f} s fit "
                          f"nowhere else with temporal IoU {settings.min_tiou}-{settings.max_tiou}", reason="no_room")
    return [{"rejected_segments": found[i], "tiou": round(temporal_iou(found[i], example.segments), 4)}
            for i in rng.permutation(len(found))[:settings.per_mode].tolist()]


def evidence(example: Example, medium: Medium, settings: EvidencePairSettings, rng: np.random.Generator, known: Known) -> list[dict]:
    """Rejected sides that show another object."""
    if len(example.targets) != 1:
        raise SampleError(f"{len(example.targets)} masks in the reply, pairs compare one", reason="targets")
    truth = example.targets[0]
    everyone = {oid for target in example.targets for oid in target}
    others = [(oid, *mask_overlap(medium, truth, (oid,))) for oid in sorted(medium.objects.keys() - everyone)]
    found = [(oid, iou) for oid, iou, seen in others if iou <= settings.max_mask_iou and seen >= settings.min_seen]
    if not found:
        raise SampleError(f"none of {len(others)} other objects is seen in {settings.min_seen} annotated frames with mask IoU of at most "
                          f"{settings.max_mask_iou}", reason="no_other_object")
    return [{"rejected_objects": (found[i][0],), "mask_iou": round(found[i][1], 4)} for i in rng.permutation(len(found))[:settings.per_mode].tolist()]


def predicted(example: Example, medium: Medium, settings: EvidencePairSettings, rng: np.random.Generator, known: Known) -> list[dict]:
    """The model's own segments, where they are wrong enough."""
    said = known.predictions.get(example.example_id)
    if not example.segments:
        raise SampleError("no true segments", reason="no_segments")
    if said is None or said.failed or not said.segments:
        raise SampleError("the model gave no segments", reason="no_prediction")
    overlap = temporal_iou(said.segments, example.segments)
    if not settings.min_tiou <= overlap <= settings.max_tiou:
        raise SampleError(f"the model's segments have temporal IoU {overlap:.2f}", reason="tiou_outside")
    return [{"rejected_segments": said.segments, "tiou": round(overlap, 4)}]


MODES: dict[str, tuple[str, Callable[..., list[dict]]]] = {
    "swapped": ("temporal", swapped), "moved": ("temporal", moved), "predicted": ("temporal", predicted), "evidence": ("evidence", evidence)}
"""Name -> failure mode of its pairs, and what makes their rejected sides."""


def pairs_of(example: Example, sample: Sample, settings: EvidencePairSettings, known: Known, ledger: SkipLedger) -> Iterator[PreferencePair]:
    """Pairs of one example; what a mode cannot make goes to the ledger."""
    if not example.answer:
        ledger.skip(SOURCE, example.example_id, "no_answer", "no answer that both sides could give")
        return
    objects = example.targets[0] if len(example.targets) == 1 else None
    truth = {"chosen_segments": example.segments, "rejected_segments": example.segments, "chosen_objects": objects, "rejected_objects": objects}
    text = ANSWER.format(answer=example.answer.strip().removesuffix("."))
    for mode in settings.modes:
        with ledger.catching(f"{SOURCE}/{mode}", example.example_id):
            rng = stable_rng(settings.seed, sample.key, example.example_id, mode)
            failure, make = MODES[mode]
            for number, side in enumerate(make(example, sample.medium, settings, rng, known)):
                overlap = {name: side.pop(name) for name in ("tiou", "mask_iou") if name in side}
                yield PreferencePair(f"{example.example_id}_{mode}{number}", text, text, failure, **{**truth, **side},
                                     origin={"generator": "unipixel pairs evidence", "mode": mode, "seed": settings.seed, **overlap})


def all_segments(media: Media, settings: EvidencePairSettings) -> list[tuple[Segment, ...]]:
    """True segments of all questions that have an answer, each as often as it occurs. Media that cannot be read are listed when pairs are made."""
    found = []
    for key in tqdm(media.first(settings.limit), desc="segments", unit="medium"):
        with contextlib.suppress(SampleError):
            found += [tuple(example.segments) for example in media.sample(key).examples if example.answer and example.segments]
    return found


def run(settings: EvidencePairSettings) -> int:
    """Write the shards; prints what was made and what was left out.

    Raises:
        ConfigError: a folder is of another split than the one that is written.
        DataError: not a single pair could be made.
    """
    media, ledger, made, overlaps = Media(settings.shards), SkipLedger(), Counter(), {"tiou": [], "mask_iou": []}
    if others := sorted(set(media.splits) - {settings.split}):
        raise ConfigError(f"--shards are of the splits {sorted(set(media.splits))} and would be written as {settings.split!r}: leave out {others}, "
                          "or set --split, so that what is for testing is not trained on")
    known = Known(all_segments(media, settings) if "swapped" in settings.modes else [],
                  load_predictions(settings.predictions) if settings.predictions else {})
    with ShardWriter(settings.out, dataset=settings.dataset, split=settings.split) as writer:
        for key in tqdm(media.first(settings.limit), desc="evidence pairs", unit="medium"):
            with ledger.catching(SOURCE, key):
                sample = media.sample(key)
                found = [(e, tuple(pairs_of(e, sample, settings, known, ledger))) for e in sample.examples]
                examples = [replace(e, pairs=pairs) for e, pairs in found if pairs]
                if examples:
                    frames = sample.frames if isinstance(sample.frames, StoredVideo) else list(sample.frames)
                    writer.write(sample.medium, examples, frames)
                for pair in (p for e in examples for p in e.pairs):
                    made[pair.origin["mode"]] += 1
                    for name, values in overlaps.items():
                        values += [pair.origin[name]] if name in pair.origin else []
        print("\n".join(ledger.summary()) or "nothing skipped")
        if not made:
            raise DataError("no pair could be made; the reasons stand above")
        writer.close(ledger)
    print(f"{sum(made.values())} pairs in {settings.out}: {', '.join(f'{mode} {n}' for mode, n in made.most_common())}")
    for name, values in overlaps.items():
        if values:
            print(f"{name}: mean {np.mean(values):.3f}, from {min(values):.3f} to {max(values):.3f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command("pairs evidence", [EvidencePairSettings], run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
