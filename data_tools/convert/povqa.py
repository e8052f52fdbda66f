"""ReasonVQA, the film questions of POVQA: one pooled picture per second of film, a question asked at a pause, its answer and reasoning.

``annotations/<film>.json`` and ``out_preprocessed/<film>/{<pooling>/frame%05d.jpg, KEY_FRAMES/, metadata_text_centric*.json,
run_summary.json}``. A medium is the time window of one question, so times start at 0 with the window; the film's name and the window are
in ``source``. Films, not questions, are divided into splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, file_number, image_size, one_of, read_json
from data_tools.convert.clips import frame_files
from data_tools.convert.windows import Window, cut_subtitles
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, Medium, Subtitle

NAME = "reasonvqa"
SPLIT_SEED, TRAIN_SHARE = 42, 0.9
WRAPPERS = ("items", "qa", "annotations", "data")
"""Names under which some annotation files keep their list."""
PRESENTATION = "presentation"
"""``chunk_clock`` of films whose chunk i starts exactly at i times the chunk length."""
KEY_SHIFT_S = 0.001
"""A key frame at the very time of a pooled picture is listed this much later, because times increase strictly."""


@dataclass(frozen=True)
class Film:
    """Pooled pictures with the time in seconds at which each of their chunks starts, and everything that is said."""

    name: str
    folder: Path
    files: Sequence[Path]
    times: Sequence[float]
    chunk_s: float
    subtitles: Sequence[Subtitle]


def convert(folder: Path, *, split: str, ledger: SkipLedger, pooling: str = "blend_blur_with_last_frame",
            keyframes: bool = True) -> Iterator[Bundle]:
    """ReasonVQA (POVQA): open questions about two minutes of film, with rationales; splits train, test.

    Args:
        pooling: folder of the pooled pictures: blend_blur_with_last_frame, weighted_average, weighted_average_exponential or
            weighted_average_ramp
        keyframes: add the sharp picture of the moment at which the question was asked
    """
    one_of("split", split, ("train", "test"))
    names = sorted(p.stem for p in (folder / "annotations").glob("*.json"))
    if not names:
        raise DataError(f"no annotation files in {folder / 'annotations'}: check --input")
    for name in films_of(names, split):
        items: list[dict[str, Any]] = []
        with ledger.catching(NAME, name):
            items = items_of(read_json(folder / "annotations" / f"{name}.json"))
        with ledger.catching(NAME, name, examples=len(items)):
            film = _film(folder / "out_preprocessed" / name, name, pooling, ledger) if items else None
            for item in items:
                with ledger.catching(NAME, f"{name}_{item.get('index')}"):
                    yield _bundle(film, item, keyframes, ledger)


def films_of(names: Sequence[str], split: str) -> list[str]:
    """The published division: names sorted, shuffled with Python's generator seeded 42, the first nine tenths are for training."""
    shuffled = sorted(names)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    cut = int(len(shuffled) * TRAIN_SHARE)
    return shuffled[:cut] if split == "train" else shuffled[cut:]


def clock_s(text: str) -> int:
    """``HH:MM:SS`` -> seconds (``bad_time`` otherwise)."""
    match = re.fullmatch(r"\s*(\d+):([0-5]\d):([0-5]\d)\s*", text)
    if match is None:
        raise SampleError(f"time {text!r} is not HH:MM:SS", reason="bad_time")
    hours, minutes, seconds = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds


def items_of(raw: Any) -> list[dict[str, Any]]:
    """The list of an annotation file, bare or under one of :data:`WRAPPERS` (``bad_record`` otherwise)."""
    if isinstance(raw, Mapping):
        raw = next((raw[name] for name in WRAPPERS if name in raw), None)
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise SampleError(f"annotations are neither a list of objects nor hold one under {WRAPPERS}", reason="bad_record")
    return raw


def _film(folder: Path, name: str, pooling: str, ledger: SkipLedger) -> Film:
    files = frame_files(folder / pooling)
    chunk_s = _chunk_seconds(folder / "run_summary.json", ledger)
    return Film(name, folder, files, [(file_number(p) - 1) * chunk_s for p in files], chunk_s, _subtitles(folder, pooling))


def _chunk_seconds(path: Path, ledger: SkipLedger) -> float:
    """True length of a chunk. Published chunks are cut at whole frames: a "second" of a film at 23.976 frames per second is 24 frames,
    1.001 s, which adds up to 7 s in two hours; pauses and subtitles are in true time. ``film prepare`` cuts by presentation time."""
    if not path.is_file():
        ledger.note("films without run_summary.json: chunks taken to last 1 s")
        return 1.0
    summary = read_json(path)
    if summary.get("fps_mode") != "seconds_window":
        raise SampleError(f"fps_mode={summary.get('fps_mode')!r}: only chunks of 'seconds_window' have a known time", reason="fps_mode")
    if summary.get("chunk_clock") == PRESENTATION:
        return float(field(summary, "chunk_seconds", (int, float)))
    rate = field(summary, "fps_used_or_native", (int, float))
    if rate <= 0:
        raise SampleError(f"fps_used_or_native={rate} is no rate", reason="bad_record")
    return max(1, round(rate * float(summary.get("chunk_seconds") or 1.0))) / rate


def _subtitles(folder: Path, pooling: str) -> list[Subtitle]:
    """Spoken segments of the text table; segments without text are gaps."""
    tables = (folder / f"metadata_text_centric_{pooling}.json", folder / "metadata_text_centric.json")
    path = next((p for p in tables if p.is_file()), None)
    if path is None:
        raise SampleError(f"none of {[p.name for p in tables]} in {folder}", reason="no_subtitles")
    number = (int, float)
    return [Subtitle(field(s, "text_start_time_sec", number), field(s, "text_end_time_sec", number), s["text"].strip())
            for s in read_json(path) if field(s, "text", str).strip()]


def _bundle(film: Film, item: Mapping[str, Any], keyframes: bool, ledger: SkipLedger) -> Bundle:
    start, _, end = field(item, "contextTimestamp", str).partition(" - ")
    window, paused = Window(clock_s(start), clock_s(end)), clock_s(field(item, "timestamp", str))
    chosen = [(time, path) for time, path in zip(film.times, film.files, strict=True) if window.holds(time)]
    if not chosen:
        raise SampleError(f"window {start} - {end} holds none of the {len(film.files)} pictures", reason="no_frames")
    times, frames = [window.local(time) for time, _ in chosen], list(read_frames([path for _, path in chosen]))
    width, height = image_size(frames[0])
    duration = min(window.length_s, window.local(film.times[-1] + film.chunk_s))
    example_id = f"{film.name}_{field(item, 'index', int)}"
    source = {"dataset": NAME, "film": film.name, "window_s": [window.start_s, window.end_s], "paused_s": paused - window.start_s}
    if keyframes and (key := _key_frame(film, item, (width, height), ledger)) is not None and window.holds(paused):
        time = paused - window.start_s + (KEY_SHIFT_S if paused - window.start_s in times else 0.0)
        place = sum(t < time for t in times)
        times.insert(place, time)
        frames.insert(place, key)
        source["key_frame"] = place
    example = Example(example_id, "evidence", field(item, "question", str), answer=field(item, "answer", str),
                      rationale=field(item, "reasoning", str), source={"timestamp": item["timestamp"], "contextTimestamp": item["contextTimestamp"]})
    medium = Medium(example_id, "frames", width, height, tuple(times), duration, subtitles=cut_subtitles(film.subtitles, window, duration),
                    source=source)
    return Bundle(medium, (example,), tuple(frames))


def _key_frame(film: Film, item: Mapping[str, Any], size: tuple[int, int], ledger: SkipLedger) -> bytes | None:
    name = f"KEY_{item['timestamp'].strip().replace(':', '-')}_{item['index']:04d}"
    path = next((p for suffix in (".jpg", ".png") if (p := film.folder / "KEY_FRAMES" / (name + suffix)).is_file()), None)
    if path is None:
        ledger.note("questions whose key frame is not in the release")
        return None
    data = path.read_bytes()
    with ledger.catching(NAME, f"{film.name}/{path.name}", examples=0):
        if image_size(data) != size:
            raise SampleError(f"key frame of {image_size(data)} px among pictures of {size} px", reason="frame_size")
        return data
    return None
