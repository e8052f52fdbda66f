"""``unipixel build-mcq``: multiple-choice questions about evidence from packed data with videos, masks and answers.

Every question becomes up to three, as in the multiple-choice part of ST-Evidence: its answer (``qa``), the time segments that prove it
(``time``) and a picture that outlines what proves it (``space``). Wrong segments and regions have a chosen IoU with the truth
(``distractors``); right letters are spread evenly; what cannot be built is listed. The result is a packed folder for
``unipixel bench st-evidence-mcq``; it is a pure function of the data, the settings and the seed.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.distractors import Band, mask_distractors, outlined, rounded, segment_distractors
from benchmarks.result import write_json
from benchmarks.tasks.evidence_mcq import PARTS
from benchmarks.truth import GroundTruth, read_samples, truth_of
from data_tools.convert.st_evidence_mcq import SPACE_QUESTION, TIME_QUESTION
from unipixel.config import parse, setting
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.data.template import format_segments, letter
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, SampleError, UniPixelError
from unipixel.metrics import merge_segments
from unipixel.sample import EMPTY, Example, Sample, decode_entry, encode_mask

SCHEMA = "unipixel-mcq/1"
PROVENANCE = "builder.json"
DATASET = "st_evidence_mcq"
WRONG = 3
"""Wrong options of ``time`` and ``space``."""


@dataclass
class BuilderArguments:
    """Settings of ``unipixel build-mcq``."""

    shards: list[str] = setting([], "packed datasets with questions, segments and masks")
    out: str = setting("", "folder for the packed multiple-choice questions")
    parts: list[str] = setting(list(PARTS), "which questions to build: qa, time, space")
    total: int = setting(0, "build exactly so many of each part, drawn at random; 0: all that can be built")
    time_bands: list[str] = setting(["0-0.3"] * WRONG, "IoU with the truth of each of the three wrong lists of segments")
    mask_bands: list[str] = setting(["0-0.3"] * WRONG, "IoU with the truth of each of the three wrong regions")
    split: str = setting("test", "what to call the split")
    seed: int = setting(0, "seed of everything that is drawn")

    def __post_init__(self):
        if not self.shards or not self.out:
            raise ConfigError("--shards and --out are needed")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(f"parts={self.parts} must be some of {', '.join(PARTS)}, each once")
        if self.total < 0:
            raise ConfigError(f"total={self.total} must not be negative")
        for name, bands in (("time_bands", self.time_bands), ("mask_bands", self.mask_bands)):
            if len(bands) != WRONG:
                raise ConfigError(f"{name}={bands}: {WRONG} IoU bands are needed, one per wrong option")
        self.bands  # noqa: B018 - malformed bands are an error before anything is read

    @property
    def bands(self) -> dict[str, list[Band]]:
        return {"time": [Band.parse(text) for text in self.time_bands], "space": [Band.parse(text) for text in self.mask_bands]}


@dataclass
class Item:
    """One multiple-choice question before its options have letters.

    Attributes:
        right, wrong: contents of the options: texts, or mask entries for ``space``.
        facts: what is stored with the question: IoU of the wrong options with the truth, their origins, the frame.
    """

    example_id: str
    part: str
    question: str
    right: str
    wrong: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    letter: int = -1

    @property
    def key(self) -> str:
        return f"{self.example_id}:{self.part}"

    @property
    def options(self) -> list[str]:
        return [*self.wrong[:self.letter], self.right, *self.wrong[self.letter:]]


def draw_key(seed: int, *words: str) -> int:
    """A number that depends on nothing but the seed and the words."""
    return int.from_bytes(hashlib.sha256("\0".join([str(seed), *words]).encode()).digest()[:8])


def source_examples(sample: Sample) -> list[Example]:
    """Questions with evidence; those that only carry a preference pair are left out, as in scoring."""
    return [example for example in sample.examples if example.task == "evidence" and (example.options or not example.pairs)]


# --- items -----------------------------------------------------------------------------------------------------------------------

def build_item(example: Example, sample: Sample, truth: GroundTruth, part: str, args: BuilderArguments) -> Item:
    """One question, without letters. Raises :class:`SampleError` when this example does not yield it."""
    rng = np.random.default_rng(draw_key(args.seed, example.example_id, part))
    if part == "qa":
        if not example.options:
            raise SampleError("an open question has no wrong answers", reason="no_options")
        wrong = [option for option in example.options if option != example.answer]
        return Item(example.example_id, part, example.question, example.answer, [wrong[i] for i in rng.permutation(len(wrong))])
    if part == "time":
        if truth.segments is None:
            raise SampleError("time was not annotated", reason="no_segments")
        found = segment_distractors(truth.segments, truth.duration_s, args.bands["time"], rng)
        right, wrong = format_segments(rounded(merge_segments(truth.segments))), [format_segments(option.content) for option in found]
        question, facts = TIME_QUESTION.format(question=example.question), {}
    else:
        frame, others = _picture(example, sample, truth)
        found = mask_distractors(decode_entry(truth.evidence[frame], truth.size), others, args.bands["space"], rng)
        right, wrong = truth.evidence[frame], [encode_mask(option.content) for option in found]
        question, facts = SPACE_QUESTION.format(question=example.question), {"frame": frame}
    order = rng.permutation(len(wrong))
    facts |= {"iou": [found[i].iou for i in order], "origin": [found[i].origin for i in order], "band": [int(i) for i in order]}
    return Item(example.example_id, part, question, right, [wrong[i] for i in order], facts)


def _picture(example: Example, sample: Sample, truth: GroundTruth) -> tuple[int, dict[str, np.ndarray]]:
    """(frame that shows the evidence: the middle one of those inside the segments, else of all; other objects that are visible there)."""
    visible = [frame for frame, entry in truth.evidence.items() if entry != EMPTY]
    if not visible:
        raise SampleError("no frame shows the evidence with a mask", reason="no_masks")
    inside = [frame for frame in visible if any(start <= truth.frame_times[frame] <= end for start, end in truth.segments or ())]
    frame = (inside or visible)[len(inside or visible) // 2]
    own = {oid for target in example.targets for oid in target}
    return frame, {oid: obj.track.decode([frame])[0] for oid, obj in sample.medium.objects.items() if oid not in own and obj.track.visible[frame]}


def build_items(samples: Iterable[Sample], args: BuilderArguments, ledger: SkipLedger) -> dict[str, list[Item]]:
    """Part -> everything that can be built, in the order in which items are drawn; the rest is in ``ledger``."""
    items: dict[str, list[Item]] = {part: [] for part in args.parts}
    for sample in samples:
        for example in source_examples(sample):
            truth = truth_of(example, sample.medium)
            for part in args.parts:
                with ledger.catching(DATASET, f"{example.example_id}:{part}"):
                    items[part].append(build_item(example, sample, truth, part, args))
    return {part: sorted(some, key=lambda item: draw_key(args.seed, "order", item.key)) for part, some in items.items()}


def choose(items: dict[str, list[Item]], args: BuilderArguments) -> list[Item]:
    """``total`` items of each part (all with 0), with their letters: each comes equally often, to within one.

    Raises:
        DataError: fewer than ``total`` can be built.
    """
    chosen = []
    for part, some in items.items():
        if len(some) < args.total:
            raise DataError(f"total={args.total}: only {len(some)} {part} questions can be built from these shards; give more, widen the IoU bands, "
                            "or lower --total")
        taken = some[:args.total or None]
        for count in sorted({len(item.wrong) + 1 for item in taken}):
            group = [item for item in taken if len(item.wrong) + 1 == count]
            rng = np.random.default_rng(draw_key(args.seed, "letters", part, str(count)))
            rounds = [rng.permutation(count) for _ in range(-(-len(group) // count))]
            for item, place in zip(group, np.concatenate(rounds)):
                item.letter = int(place)
        chosen += taken
    return chosen


# --- the packed folder -----------------------------------------------------------------------------------------------------------

def question(item: Item, sample: Sample) -> Example:
    """The example that is stored; pictures of ``space`` are drawn here, where the frames are at hand."""
    provenance = {"from": item.example_id, "dataset": sample.dataset, "split": sample.split} | item.facts
    options, source = tuple(item.options), {"builder": provenance}
    if item.part == "space":
        size = sample.medium.height, sample.medium.width
        with Image.open(io.BytesIO(sample.frames[item.facts["frame"]])) as image:
            frame = np.asarray(image.convert("RGB"))
        source["option_pictures"] = [_jpeg(outlined(frame, decode_entry(entry, size))) for entry in item.options]
        options = tuple(f"picture {letter(i)}" for i in range(len(item.options)))
    return Example(item.key, "evidence", item.question, options, options[item.letter], question_type=item.part, source=source)


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=90)
    return base64.b64encode(out.getvalue()).decode("ascii")


def bundles(samples: Iterable[Sample], chosen: Sequence[Item]) -> Iterator[tuple[Sample, list[Example]]]:
    """Media with their questions; masks and subtitles stay behind, since they would tell the answer."""
    wanted: dict[str, list[Item]] = {}
    for item in chosen:
        wanted.setdefault(item.example_id, []).append(item)
    for sample in samples:
        mine = [item for example in sample.examples for item in sorted(wanted.get(example.example_id, ()), key=lambda item: PARTS.index(item.part))]
        if mine:
            yield sample, [question(item, sample) for item in mine]


def build(args: BuilderArguments) -> dict[str, Any]:
    """Write the folder; returns what ``builder.json`` in it says.

    Raises:
        DataError: too few questions can be built, ids repeat, or the folder is not empty.
    """
    folder = Path(args.out)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"out={args.out!r} already holds something: choose another folder, or remove it")
    data, ledger = ShardDataset(args.shards), SkipLedger()
    items = build_items(read_samples(args.shards), args, ledger)
    repeated = [key for key, n in Counter(item.key for some in items.values() for item in some).items() if n > 1]
    if repeated:
        raise DataError(f"example ids repeat in these shards: {repeated[:5]}; build from one dataset at a time")
    chosen = choose(items, args)
    with ShardWriter(folder, dataset=DATASET, split=args.split) as writer:
        for sample, examples in bundles(read_samples(args.shards), chosen):
            origin = {"dataset": sample.dataset, "medium_id": sample.medium.medium_id}
            writer.write(dataclasses.replace(sample.medium, objects={}, subtitles=(), source=origin), examples, sample.frames)
        writer.close(ledger)
    letters = {part: dict(sorted(Counter(letter(item.letter) for item in chosen if item.part == part).items())) for part in args.parts}
    built = {part: sum(counts.values()) for part, counts in letters.items()}
    facts = {"schema": SCHEMA, "settings": asdict(args), "truth": data.fingerprint, "built": built,
             "left_over": {part: len(some) - built[part] for part, some in items.items()}, "refused": ledger.counts, "letters": letters}
    write_json(folder / PROVENANCE, facts)
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel build-mcq``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (args,) = parse([BuilderArguments], argv, prog="unipixel build-mcq")
        facts = build(args)
    except UniPixelError as error:
        print(f"unipixel build-mcq: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    for part, count in facts["built"].items():
        print(f"{part}: {count} questions, right letters {facts['letters'][part]}, {facts['left_over'][part]} left over")
    print(f"refused: {facts['refused'] or 'none'}; {args.out}/skipped.jsonl lists them")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
