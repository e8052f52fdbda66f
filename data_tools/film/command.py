"""``unipixel film prepare``: folders of films, subtitles and questions -> pooled pictures, key frames and text tables per film.

Films are prepared side by side, one process each, and every file of a film is written by its own process. Finished methods of a film are
kept when the command runs again. What cannot be used is printed, listed in ``skipped.jsonl``, and makes the exit code non-zero.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from data_tools.convert.clips import FRAME_SUFFIXES, VIDEO_SUFFIXES
from data_tools.convert.film_questions import SUFFIXES as QUESTION_SUFFIXES
from data_tools.convert.srt import PARSERS
from data_tools.film.files import PictureFormat
from data_tools.film.prepare import Film, Outcome, Preparation, prepare
from data_tools.film.table import MIN_GAP_S
from data_tools.film.transcribe import AUDIO_SUFFIXES, import_whisper
from data_tools.pooling.chunks import ChunkRule
from data_tools.pooling.operators import METHODS, OPERATORS, full_name
from data_tools.pooling.video import PictureSize
from unipixel import config as settings
from unipixel.config import setting
from unipixel.data.index import SKIPPED
from unipixel.data.ledger import SkipLedger
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError

CHUNK_SECONDS, CHUNK_SIZE, QUALITY, WHISPER = 1.0, 3, 95, "base"


@dataclass
class FilmArguments:
    """Settings of ``unipixel film prepare``."""

    videos: str = setting("", "folder of the films; a film is named like its file without suffix")
    out: str = setting("", "folder for the prepared films, e.g. data/out_preprocessed")
    subtitles: str | None = setting(None, "folder of <film>.srt, .vtt, .ass or .ssa; a film without one is an error")
    questions: str | None = setting(None, "folder of <film>.json or .jsonl (ReasonVQA annotations); adds the key frame of each question")
    frames_fps: float | None = setting(None, "films are folders of numbered pictures at this rate, 3 for TVQA's frames_hq")
    audio: str | None = setting(None, "folder of <film>.mp3 (or wav, flac, m4a, ogg), transcribed for films without subtitles")
    whisper: str | None = setting(None, "Whisper model for --audio; default base")
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "pooling operators, by full or short name"})
    set: list[str] = field(default_factory=list, metadata={"help": "parameters of operators as name.parameter=value, e.g. WAE.gamma=0.9"})
    chunk_seconds: float | None = setting(None, "length of a chunk in seconds; default 1")
    target_fps: float | None = setting(None, "sample frames at about this rate and count chunks in them, instead of seconds")
    chunk_size: int | None = setting(None, "sampled frames in a chunk, with --target_fps; default 3")
    skip_frames: int | None = setting(None, "sampled frames left out between chunks, with --target_fps; default 0")
    partial: str = setting("keep", "keep or drop a last chunk that is not full")
    size: str = setting("224x224", "width x height of the pictures")
    fit: str = setting("stretch", "stretch films of another shape, or letterbox them")
    quality: int | None = setting(None, "JPEG quality; default 95")
    lossless: bool = setting(False, "write PNG")
    min_gap_s: float = setting(MIN_GAP_S, "silences up to this length get no segment of their own")
    workers: int = setting(max(1, min(4, (os.cpu_count() or 2) // 2)), "films at a time, one process each")
    threads: int = setting(0, "decoder threads per film, 0: as many as the decoder likes")
    overwrite: bool = setting(False, "make methods anew that were made with other settings")

    def __post_init__(self):
        missing = [f"--{name}" for name in ("videos", "out") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"{missing} must be set")
        for name in ("videos", "subtitles", "questions", "audio"):
            if (folder := getattr(self, name)) is not None and not Path(folder).is_dir():
                raise ConfigError(f"--{name} {folder!r} is not a folder")
        without = [f"--{name}" for name in ("chunk_size", "skip_frames") if getattr(self, name) is not None]
        if self.target_fps is None and without:
            raise ConfigError(f"{without} count sampled frames: set --target_fps too")
        if self.target_fps is not None and self.chunk_seconds is not None:
            raise ConfigError("--chunk_seconds and --target_fps exclude each other")
        if self.lossless and self.quality is not None:
            raise ConfigError("--quality belongs to JPEG: leave it out with --lossless")
        if self.whisper is not None and self.audio is None:
            raise ConfigError("--whisper transcribes what is in --audio: set that too")
        if self.frames_fps is not None and self.frames_fps <= 0:
            raise ConfigError(f"--frames_fps={self.frames_fps} must be above 0")
        for name, least in (("workers", 1), ("threads", 0), ("min_gap_s", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name}={getattr(self, name)} must be at least {least}")
        self.preparation  # noqa: B018 - wrong settings are an error before anything is read

    @cached_property
    def preparation(self) -> Preparation:
        """The settings as each film needs them."""
        methods: dict[str, dict[str, float]] = {full_name(name): {} for name in self.methods}
        for text in self.set:
            name, _, value = text.partition("=")
            operator, _, parameter = name.partition(".")
            if full_name(operator) not in methods:
                raise ConfigError(f"--set {text!r}: {operator!r} is not among --methods {list(methods)}")
            try:
                methods[full_name(operator)][parameter] = float(value)
            except ValueError:
                raise ConfigError(f"--set {text!r} is not of the form name.parameter=number") from None
        for name, parameters in methods.items():
            OPERATORS[name].bound(name, parameters)
        rule = ChunkRule(Fraction(str(CHUNK_SECONDS if self.chunk_seconds is None else self.chunk_seconds)), self.target_fps,
                         CHUNK_SIZE if self.chunk_size is None else self.chunk_size, self.skip_frames or 0, self.partial)
        quality = None if self.lossless else QUALITY if self.quality is None else self.quality
        return Preparation(Path(self.out), methods, rule, PictureSize.parse(self.size, self.fit), PictureFormat(quality), self.min_gap_s,
                           self.threads, self.overwrite, Fraction(str(self.frames_fps)) if self.frames_fps else None, self.whisper or WHISPER)


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film prepare``: exit code 0, or ``EXIT_USER_ERROR`` with file and reason of everything that was wrong on stderr."""
    try:
        run(settings.parse((FilmArguments,), argv, prog="unipixel film prepare")[0])
    except UniPixelError as error:
        print(f"unipixel film prepare: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def run(args: FilmArguments) -> list[Outcome]:
    """Prepare all films; what is finished stays whatever happens to the others.

    Raises:
        DataError: there is no film, or something could not be used.
    """
    ledger = SkipLedger()
    films = find_films(args, ledger)
    if not films and not len(ledger):
        raise DataError(f"no {', '.join(VIDEO_SUFFIXES if args.frames_fps is None else FRAME_SUFFIXES)} in {args.videos}: check --videos")
    if any(film.audio is not None and film.subtitles is None for film in films):
        import_whisper()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    outcomes = []
    with tqdm(total=len(films), desc="film prepare", unit="film") as progress:
        for outcome in _outcomes(films, args, ledger):
            outcomes.append(outcome)
            progress.update()
            progress.write(f"{outcome.film}: {len(outcome.made)} methods made, {len(outcome.kept)} kept"
                           + (f", {len(outcome.ledger)} problems" if len(outcome.ledger) else ""))
            ledger.skips += outcome.ledger.skips
            ledger.notes += outcome.ledger.notes
    print("\n".join(ledger.summary()) or "nothing skipped")
    ledger.write(Path(args.out) / SKIPPED)
    if len(ledger):
        lines = [f"  {skip.key}: {skip.reason}: {skip.message}" for skip in ledger.skips]
        raise DataError("\n".join([f"{len(ledger)} problems {ledger.counts}, listed in {Path(args.out) / SKIPPED}:", *lines]))
    return outcomes


def find_films(args: FilmArguments, ledger: SkipLedger) -> list[Film]:
    """Films with their subtitles and questions. Films of one name are left out; these, a missing or ambiguous file beside a film, and
    questions about no film go to the ledger."""
    videos = _by_name(Path(args.videos), VIDEO_SUFFIXES, recursive=True) if args.frames_fps is None else _picture_folders(Path(args.videos))
    audio = _by_name(Path(args.audio), AUDIO_SUFFIXES) if args.audio else None
    subtitles = _by_name(Path(args.subtitles), tuple(PARSERS)) if args.subtitles else None
    questions = _by_name(Path(args.questions), QUESTION_SUFFIXES) if args.questions else None
    films = []
    for key, files in videos.items():
        name = files[0].name if files[0].is_dir() else files[0].stem
        if len(files) > 1:
            ledger.skip(name, key, "name_clash", f"films of one name: {[str(p) for p in files]}; rename all but one")
            continue
        beside: list[Path | None] = []
        for what, found in (("subtitles", subtitles), ("questions", questions), ("audio", audio)):
            these = (found or {}).get(key, [])
            if len(these) > 1:
                ledger.skip(name, name, "name_clash", f"{len(these)} files of {what} for {files[0]}, expected one: {[p.name for p in these]}")
            elif not these and found is not None and what == "questions":
                ledger.skip(name, name, "no_questions", f"no file of questions for {files[0]} in {args.questions}")
            beside.append(these[0] if len(these) == 1 else None)
        text_expected = subtitles is not None or audio is not None
        if text_expected and not any(found and key in found for found in (subtitles, audio)):
            ledger.skip(name, name, "no_subtitles", f"no subtitles and no speech for {files[0]} in {args.subtitles or args.audio}")
        films.append(Film(name, files[0], *beside, text_missing=text_expected and beside[0] is None))
    for key, files in (questions or {}).items():
        if key not in videos:
            ledger.skip(files[0].stem, files[0].name, "no_video", f"no film {files[0].stem!r} in {args.videos}")
    return films


def _by_name(folder: Path, suffixes: Sequence[str], *, recursive: bool = False) -> dict[str, list[Path]]:
    """Files by their name without suffix; names that differ in capitals only are one name, as they are on many file systems."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            found[path.stem.casefold()].append(path)
    return found


def _picture_folders(root: Path) -> dict[str, list[Path]]:
    """Folders below ``root`` that hold pictures, by name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted({p.parent for p in root.rglob("*") if p.suffix.lower() in FRAME_SUFFIXES}):
        found[path.name.casefold()].append(path)
    return found


def _outcomes(films: Sequence[Film], args: FilmArguments, ledger: SkipLedger) -> Iterator[Outcome]:
    """As films are finished. A process that dies takes the films still under way with it; they are listed."""
    if args.workers == 1 or len(films) == 1:
        yield from (prepare(film, args.preparation) for film in films)
        return
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:  # decoder threads do not survive a fork
        running = {pool.submit(prepare, film, args.preparation): film for film in films}
        for future in as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool:
                film = running[future]
                ledger.skip(film.name, film.video.name, "worker_died", "its process was killed, perhaps for memory: lower --workers")


if __name__ == "__main__":
    raise SystemExit(main())
