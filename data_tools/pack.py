"""``unipixel pack``: read a source with its converter, check every frame and every example, write shards.

What cannot be used is listed in ``skipped.jsonl`` and in the summary; the command still succeeds unless ``--strict`` is given or
nothing at all is left. One medium at a time is in memory, and the shards become readable only when all of them are written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_tools.convert import CONVERTERS, Bundle
from data_tools.convert.base import FILTER, check_frames
from data_tools.convert.options import describe, options_of, parse_settings
from unipixel import config as settings
from unipixel.config import setting
from unipixel.data.index import SKIPPED
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError, nearest
from unipixel.sample import Example, validate_example

Words = list[str]  # a name of its own, because the field ``list`` below would shadow it in the annotations


@dataclass
class PackArguments:
    """Settings of ``unipixel pack``."""

    source: str = setting("", "layout of the input, a name of --list")
    input: str = setting("", "folder of the source data")
    out: str = setting("", "folder for the shards of this split")
    split: str = setting("train", "which part of the source to pack")
    dataset: str | None = setting(None, "name of the dataset in keys and manifest; default: the source")
    set: Words = field(default_factory=list, metadata={"help": "options of the source as name=value; --list names them", "action": "extend"})
    list: bool = setting(False, "print every source with its options, and stop")
    max_shard_mb: int = setting(512, "close a shard before it exceeds this many MiB")
    max_shard_bundles: int = setting(2000, "close a shard after this many media")
    workers: int = setting(4, "threads that check the frames")
    strict: bool = setting(False, "any item that was skipped for damage is an error; what a filter leaves out is not")

    def __post_init__(self):
        if self.list:
            return
        missing = [f"--{name}" for name in ("source", "input", "out") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"{missing} must be set; `unipixel pack --list` names the sources")
        if self.source not in CONVERTERS:
            raise ConfigError(f"--source {self.source!r} is not one of {sorted(CONVERTERS)}{nearest(self.source, CONVERTERS)}")
        if not Path(self.input).is_dir():
            raise ConfigError(f"--input {self.input!r} is not a folder")
        for name in ("max_shard_mb", "max_shard_bundles", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
        self.options  # noqa: B018 - wrong options are an error before anything is read

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that were set for the converter."""
        return parse_settings(self.source, options_of(CONVERTERS[self.source]), self.set)


def parse(argv: Sequence[str] | None = None) -> PackArguments:
    return settings.parse((PackArguments,), argv, prog="unipixel pack")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pack``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        args = parse(argv)
        if args.list:
            print(describe(CONVERTERS))
        else:
            pack(args)
    except UniPixelError as error:
        print(f"unipixel pack: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def pack(args: PackArguments) -> dict[str, Any]:
    """Run one pack, print its summary, return the manifest.

    Raises:
        UniPixelError: the source is unusable, nothing was packed, or something was damaged under ``--strict``.
    """
    ledger, name = SkipLedger(), args.dataset or args.source
    bundles = CONVERTERS[args.source](Path(args.input), split=args.split, ledger=ledger, **args.options)
    with ShardWriter(args.out, dataset=name, split=args.split, max_bytes=args.max_shard_mb << 20, max_bundles=args.max_shard_bundles) as writer:
        for bundle in tqdm(checked(bundles, args.source, ledger, args.workers), desc=f"pack {name}/{args.split}", unit="medium"):
            with ledger.catching(args.source, bundle.medium.medium_id, examples=len(bundle.examples)):
                writer.write(bundle.medium, bundle.examples, bundle.frames)
        print("\n".join(ledger.summary()) or "nothing skipped")
        damage = {reason: n for reason, n in ledger.counts.items() if not reason.startswith(FILTER)}
        if args.strict and damage:
            ledger.write(Path(args.out) / SKIPPED)
            raise DataError(f"--strict: {sum(damage.values())} items were skipped {damage}; see {Path(args.out) / SKIPPED}")
        manifest = writer.close(ledger)
    print(f"packed {manifest['examples']} examples of {manifest['bundles']} media into {len(manifest['shards'])} shards in {args.out}: "
          f"{manifest['kinds']}")
    return manifest


def checked(bundles: Iterable[Bundle], source: str, ledger: SkipLedger, workers: int) -> Iterator[Bundle]:
    """Bundles whose frames all decode, with the examples that agree with their medium; the rest goes to the ledger."""
    with ThreadPoolExecutor(workers) as pool:
        source_bundles = iter(bundles)
        while True:
            listed = len(ledger)
            bundle = next(source_bundles, None)
            if bundle is None:
                return
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
            elif len(ledger) == listed:  # what happened to its examples is not listed one by one
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
