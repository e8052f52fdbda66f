"""Clips in the toolkit's own JSON form, as the synthetic world writes them.

Layout: ``<input>/<split>/<clip>/clip.json`` = ``{"meta": ..., "masks": ...}`` of ``unipixel.sample.to_json``, ``frames/%05d.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_tools.convert.base import Bundle, read_json
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import DataError, SampleError
from unipixel.sample import SCHEMA, example_from_json, medium_from_json


def convert(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """The toolkit's own clips, as `unipixel synth` writes them (<split>/<clip>/clip.json, frames/)."""
    clips = sorted(p for p in (folder / split).glob("*") if p.is_dir())
    if not clips:
        raise DataError(f"no clip folders in {folder / split}: make them with `unipixel synth`, or check --input and --split")
    for clip in clips:
        with ledger.catching("synth", clip.name):
            bundle = _bundle(clip, ledger)
            yield bundle


def _bundle(clip: Path, ledger: SkipLedger) -> Bundle:
    raw = read_json(clip / "clip.json")
    try:
        meta, masks = raw["meta"], raw["masks"]
        if meta["schema"] != SCHEMA:
            raise SampleError(f"clip.json has schema {meta['schema']!r}, this version reads {SCHEMA!r}", reason="schema")
        medium = medium_from_json(meta["medium"], masks["tracks"])
        examples = []
        for example in meta["examples"]:
            with ledger.catching("synth", example["example_id"]):
                examples.append(example_from_json(example))
    except (KeyError, TypeError) as error:
        raise SampleError(f"clip.json is not in the form of unipixel.sample.to_json: {error!r}", reason="contract") from error
    if medium.frame_times and not (clip / "frames").is_dir():
        raise SampleError(f"no folder {clip / 'frames'}: write the world with its frames as pictures (--media frames or both)",
                          reason="no_frames")
    frames = read_frames([clip / "frames" / f"{t:05d}.jpg" for t in range(len(medium.frame_times))])
    return Bundle(medium, tuple(examples), frames)
