"""``unipixel film player``: the pooled pictures of one film, method beside method in step, with what is said: one static page.

The page needs no server and loads nothing from elsewhere; pictures lie beside it or in it. A method or picture that is missing is shown as
missing, listed in ``skipped.jsonl``, and makes the exit code non-zero.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.film_report.files import claim_folder, templates, write_text
from benchmarks.film_report.pictures import Picture, PictureStore, Pooled, film_folder, key_times, read_pooled
from benchmarks.film_report.runs import ORDER, short
from data_tools.convert.povqa import spoken_segments
from data_tools.pooling.operators import full_name
from unipixel.config import parse, setting
from unipixel.data.index import SKIPPED
from unipixel.data.ledger import SkipLedger
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, SampleError, UniPixelError

MADE_FROM, PAGE = "player.json", "index.html"


@dataclass
class FilmPlayerArguments:
    """Settings of ``unipixel film player``."""

    pictures: str = setting("", "prepared films: data/out_preprocessed, or processed_tvqa")
    film: str = setting("", "which film: its folder")
    out: str = setting("", "folder for the page")
    methods: list[str] = field(default_factory=lambda: list(ORDER), metadata={"help": "pooling methods side by side, by long or short name"})
    start: float = setting(0.0, "first second of the film to show")
    end: float = setting(0.0, "last second; 0: the film's end")
    embed: bool = setting(False, "put the pictures into the page, instead of copying them beside")

    def __post_init__(self):
        missing = [f"--{name}" for name in ("pictures", "film", "out") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"{missing} must be set")
        if self.start < 0 or (self.end and self.end <= self.start):
            raise ConfigError(f"--start={self.start:g} --end={self.end:g}: the start must not be negative, and the end lie after it")
        self.methods = list(dict.fromkeys(map(full_name, self.methods)))


def run(args: FilmPlayerArguments) -> None:
    """Write the page.

    Raises:
        UniPixelError: there is no such film, nothing lies in the window, or, after the page was written, something was missing.
    """
    ledger = SkipLedger()
    store = PictureStore(Path(args.pictures), Path(args.out), args.embed, ledger)
    film_folder(store.root, args.film)
    found = {method: _pictures(method, args, store) for method in args.methods}
    ends = [some[-1].time_s + pooled.chunk_s for pooled, some in filter(None, found.values())]
    if not ends:
        raise DataError(f"no pictures of {args.film} in the window: " + "; ".join(skip.message for skip in ledger.skips))
    claim_folder(store.out, MADE_FROM, {name: value for name, value in asdict(args).items() if name not in ("out", "pictures")})
    tracks = [_track(method, some, args, store) for method, some in found.items()]
    end = min(args.end or max(ends), max(ends))
    scene = {"film": args.film, "start": args.start, "end": end, "tracks": tracks, "said": _said(args, store, end),
             "keys": [time for time in key_times(store.root, args.film) if args.start <= time < end]}
    write_text(store.out / PAGE, templates().get_template("film_player.html.j2").render(scene=scene))
    ledger.write(store.out / SKIPPED)
    print(f"{args.film}, {args.start:g} to {end:g} s: {store.out / PAGE}")
    if len(ledger):
        raise DataError("\n".join([f"{len(ledger)} problems {ledger.counts}, listed in {store.out / SKIPPED}:", *ledger.summary()]))


def _pictures(method: str, args: FilmPlayerArguments, store: PictureStore) -> tuple[Pooled, list[Picture]] | None:
    """What one method made, and its pictures in the window; a method without any goes to the ledger."""
    with store.ledger.catching(args.film, method):
        pooled = read_pooled(store.root, args.film, method, store.ledger)
        shown = pooled.between(args.start, args.end or math.inf)
        if not shown:
            raise SampleError(f"no picture of {method} from {args.start:g} s on", reason="no_frames")
        return pooled, shown
    return None


def _track(method: str, found: tuple[Pooled, list[Picture]] | None, args: FilmPlayerArguments, store: PictureStore) -> dict[str, Any]:
    """For the page: time of the first picture, seconds between two, and an address or null for each; none of a missing method."""
    track: dict[str, Any] = {"method": method, "name": short(method), "start": args.start, "step": 1.0, "pictures": []}
    if found is not None:
        pooled, shown = found
        addresses = [store.address(picture, args.film) for picture in tqdm(shown, desc=method, unit="picture", disable=None)]
        track |= {"start": shown[0].time_s, "step": pooled.chunk_s, "pictures": addresses}
    return track


def _said(args: FilmPlayerArguments, store: PictureStore, end: float) -> list[dict[str, Any]]:
    """Segments in the window, of the first method's text table."""
    with store.ledger.catching(args.film, "text table"):
        spoken = spoken_segments(film_folder(store.root, args.film), args.methods[0])
        return [{"start": one.start_s, "end": one.end_s, "text": one.text} for one in spoken if one.start_s < end and one.end_s > args.start]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film player``: exit code 0, or ``EXIT_USER_ERROR`` with the reason, or with what was missing, on stderr."""
    try:
        run(parse([FilmPlayerArguments], argv, prog="unipixel film player")[0])
    except UniPixelError as error:
        print(f"unipixel film player: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0
