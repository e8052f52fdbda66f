"""``unipixel pack``: read a source with its converter, check every frame and every example, write shards.

What cannot be used is listed in ``skipped.jsonl`` and in the summary; the command still succeeds unless ``--strict`` is given or
nothing at all is left.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import HfArgumentParser

from data_tools.convert import CONVERTERS, Bundle
from data_tools.convert.base import check_frames
from unipixel.data.index import SKIPPED
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError, nearest
from unipixel.sample import Example, validate_example


@dataclass
class PackArguments:
    """Settings of ``unipixel pack``."""

    source: str = field(metadata={"help": f"layout of the input: {', '.join(CONVERTERS)}"})
    input: str = field(metadata={"help": "folder of the source data"})
    out: str = field(metadata={"help": "folder for the shards of this split"})
    split: str = field(default="train", metadata={"help": "which part of the source to pack"})
    dataset: str | None = field(default=None, metadata={"help": "name of the dataset in keys and manifest; default: the source"})
    preferences: bool = field(default=False, metadata={"help": "st_evidence: read preferences.jsonl too"})
    table: str | None = field(default=None, metadata={"help": "st_evidence: CSV file inside the input; default: st_evidence.csv, "
                                                              "else st_evidence_gen.csv"})
    fps: float | None = field(default=None, metadata={"help": "rvos: frames per second of the listed frames; default 6"})
    max_shard_mb: int = field(default=512, metadata={"help": "close a shard before it exceeds this many MiB"})
    max_shard_bundles: int = field(default=2000, metadata={"help": "close a shard after this many media"})
    workers: int = field(default=4, metadata={"help": "threads that check the frames"})
    strict: bool = field(default=False, metadata={"help": "any skipped item is an error"})

    def __post_init__(self):
        if self.source not in CONVERTERS:
            raise ConfigError(f"--source {self.source!r} is not one of {sorted(CONVERTERS)}{nearest(self.source, CONVERTERS)}")
        if not Path(self.input).is_dir():
            raise ConfigError(f"--input {self.input!r} is not a folder")
        for name in ("max_shard_mb", "max_shard_bundles", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
        accepted = inspect.signature(CONVERTERS[self.source]).parameters
        useless = [name for name in ("preferences", "table", "fps") if getattr(self, name) and name not in accepted]
        if useless:
            raise ConfigError(f"--source {self.source} has no use for {['--' + name for name in useless]}: leave them out")

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that were set for the converter."""
        return {name: getattr(self, name) for name in ("preferences", "table", "fps") if getattr(self, name)}


def parse(argv: Sequence[str] | None = None) -> PackArguments:
    args, = HfArgumentParser(PackArguments, prog="unipixel pack", description=__doc__).parse_args_into_dataclasses(argv)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pack``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        pack(parse(argv))
    except UniPixelError as error:
        print(f"unipixel pack: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def pack(args: PackArguments) -> dict[str, Any]:
    """Run one pack, print its summary, return the manifest.

    Raises:
        UniPixelError: the source is unusable, nothing was packed, or something was skipped under ``--strict``.
    """
    ledger, name = SkipLedger(), args.dataset or args.source
    bundles = CONVERTERS[args.source](Path(args.input), split=args.split, ledger=ledger, **args.options)
    with ShardWriter(args.out, dataset=name, split=args.split, max_bytes=args.max_shard_mb << 20, max_bundles=args.max_shard_bundles) as writer:
        for bundle in tqdm(checked(bundles, args.source, ledger, args.workers), desc=f"pack {name}/{args.split}", unit="medium"):
            with ledger.catching(args.source, bundle.medium.medium_id, examples=len(bundle.examples)):
                writer.write(bundle.medium, bundle.examples, bundle.frames)
        print("\n".join(ledger.summary()) or "nothing skipped")
        if args.strict and len(ledger):
            ledger.write(Path(args.out) / SKIPPED)
            raise DataError(f"--strict: {len(ledger)} items were skipped {ledger.counts}; see {Path(args.out) / SKIPPED}")
        manifest = writer.close(ledger)
    print(f"packed {manifest['examples']} examples of {manifest['bundles']} media into {len(manifest['shards'])} shards in {args.out}: "
          f"{manifest['kinds']}")
    return manifest


def checked(bundles: Iterable[Bundle], source: str, ledger: SkipLedger, workers: int) -> Iterator[Bundle]:
    """Bundles whose frames all decode, with the examples that agree with their medium; the rest goes to the ledger."""
    with ThreadPoolExecutor(workers) as pool:
        for bundle in bundles:
            medium, examples = bundle.medium, []
            frames_good = False
            with ledger.catching(source, medium.medium_id, examples=len(bundle.examples)):
                check_frames(medium, bundle.frames, pool)
                frames_good = True
            if not frames_good:
                continue
            for example in bundle.examples:
                with ledger.catching(source, example.example_id):
                    validate_example(example, medium)
                    examples.append(example)
            if examples:
                yield Bundle(medium, _distinct(examples, source, ledger), bundle.frames)
            elif not bundle.examples:
                ledger.skip(source, medium.medium_id, "no_examples", "no usable example about this medium", examples=0)


def _distinct(examples: Iterable[Example], source: str, ledger: SkipLedger) -> tuple[Example, ...]:
    kept: dict[str, Example] = {}
    for example in examples:
        if example.example_id in kept:
            ledger.skip(source, example.example_id, "duplicate_example", "this example id occurred before in the same medium")
        else:
            kept[example.example_id] = example
    return tuple(kept.values())


if __name__ == "__main__":
    raise SystemExit(main())
