"""ReasonVQA, the film questions of POVQA: one pooled picture per second of film, a question asked at a pause, its answer and reasoning.

``annotations/<film>.json`` and ``out_preprocessed/<film>/{<pooling>/frame%05d.jpg, KEY_FRAMES/, metadata_text_centric*.json,
run_summary.json}``. A medium is the time window of one question, so times start at 0 with the window; the film's name, the window and the
division into parts are in ``source``. Films, not questions, are divided (``film_split``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.convert.base import Bundle, field, file_number, image_size, read_json
from data_tools.convert.clips import frame_files
from data_tools.convert.film_questions import FilmQuestion, question_files, read_film_questions
from data_tools.convert.film_split import RATIO, SEED, divide
from data_tools.convert.windows import cut_subtitles
from data_tools.pooling.operators import full_name
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import read_frames
from unipixel.errors import SampleError
from unipixel.sample import Example, Medium, Subtitle

NAME = "reasonvqa"
PRESENTATION = "presentation"
"""``chunk_clock`` of films whose chunk i starts exactly at i times the chunk length."""
CHUNKS = "chunks.json"
"""Beside the pictures of ``film prepare``: what they were made from, and when each begins and ends."""
KEY_SHIFT_S = 0.001
"""A key frame at the very time of a pooled picture is listed this much later, because times increase strictly."""


@dataclass(frozen=True)
class Film:
    """Pooled pictures with the time in seconds at which each of their chunks starts, and everything that is said."""

    name: str
    folder: Path
    method: str
    files: Sequence[Path]
    times: Sequence[float]
    chunk_s: float
    subtitles: Sequence[Subtitle]


def convert(folder: Path, *, split: str, ledger: SkipLedger, pooling: str = "blend_blur_with_last_frame", keyframes: bool = True,
            validation: int = 0, fold: str | None = None, split_ratio: float = RATIO, split_seed: int = SEED) -> Iterator[Bundle]:
    """ReasonVQA (POVQA): open questions about two minutes of film, with rationales; splits train, validation, test.

    Args:
        pooling: operator of the pooled pictures, by full or short name: blend_blur_with_last_frame (BBLF), weighted_average (WA),
            weighted_average_exponential (WAE) or weighted_average_ramp (WAR)
        keyframes: add the sharp picture of the moment at which the question was asked
        validation: number of training films that are the split validation instead
        fold: leave one film out: the only film of the split test, by name or by its place from 0 among the sorted names
        split_ratio: share of the films that are not for testing
        split_seed: of the shuffle that divides the films
    """
    method = full_name(pooling)
    files = question_files(folder / "annotations")
    division = divide(files, ratio=split_ratio, seed=split_seed, validation=validation, fold=fold)
    for name in division.films(split):
        questions: list[FilmQuestion] = []
        with ledger.catching(NAME, name):
            questions = read_film_questions(files[name], ledger)
        with ledger.catching(NAME, name, examples=len(questions)):
            film = _film(folder / "out_preprocessed" / name, name, method, ledger) if questions else None
            for question in questions:
                with ledger.catching(NAME, f"{name}_{question.index}"):
                    yield _bundle(film, question, keyframes, {"part": split, "split_hash": division.hash}, ledger)


def _film(folder: Path, name: str, method: str, ledger: SkipLedger) -> Film:
    files = frame_files(folder / method)
    chunk_s = chunk_seconds(folder / "run_summary.json", ledger)
    return Film(name, folder, method, files, [(file_number(p) - 1) * chunk_s for p in files], chunk_s, spoken_segments(folder, method))


def chunk_seconds(path: Path, ledger: SkipLedger) -> float:
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


def spoken_segments(folder: Path, method: str) -> list[Subtitle]:
    """Spoken segments of the text table, of a film or of a clip of TVQA, in film seconds; segments without text are gaps.

    Raises:
        SampleError: there is no table (``no_subtitles``), or it is malformed.
    """
    tables = [folder / f"metadata_{kind}{suffix}.json" for kind in ("text_centric", "tvqa_text_centric") for suffix in (f"_{method}", "")]
    path = next((p for p in tables if p.is_file()), None)
    if path is None:
        raise SampleError(f"none of {[p.name for p in tables]} in {folder}", reason="no_subtitles")
    number = (int, float)
    return [Subtitle(field(s, "text_start_time_sec", number), field(s, "text_end_time_sec", number), s["text"].strip())
            for s in read_json(path) if field(s, "text", str).strip()]


def _bundle(film: Film, asked: FilmQuestion, keyframes: bool, division: Mapping[str, str], ledger: SkipLedger) -> Bundle:
    window = asked.window
    chosen = [(time, path) for time, path in zip(film.times, film.files, strict=True) if window.holds(time)]
    if not chosen:
        raise SampleError(f"window {asked.context} holds none of the {len(film.files)} pictures", reason="no_frames")
    times, names = [window.local(time) for time, _ in chosen], [path.stem for _, path in chosen]
    frames = list(read_frames([path for _, path in chosen]))
    width, height = image_size(frames[0])
    duration = min(window.length_s, window.local(film.times[-1] + film.chunk_s))
    example_id, paused = f"{film.name}_{asked.index}", window.local(asked.paused_s)
    source = {"dataset": NAME, "film": film.name, "window_s": [window.start_s, window.end_s], "paused_s": paused, "method": film.method,
              "frame_names": names, **division}
    if keyframes and (key := _key_frame(film, asked, (width, height), ledger)) is not None and window.holds(asked.paused_s):
        time = paused + (KEY_SHIFT_S if paused in times else 0.0)
        place = sum(t < time for t in times)
        times.insert(place, time)
        frames.insert(place, key)
        names.insert(place, asked.key_name)
        source["key_frame"] = place
    example = Example(example_id, "evidence", asked.question, answer=asked.answer, rationale=asked.reasoning,
                      source={"timestamp": asked.timestamp, "contextTimestamp": asked.context})
    medium = Medium(example_id, "frames", width, height, tuple(times), duration, subtitles=cut_subtitles(film.subtitles, window, duration),
                    source=source)
    return Bundle(medium, (example,), tuple(frames))


def _key_frame(film: Film, asked: FilmQuestion, size: tuple[int, int], ledger: SkipLedger) -> bytes | None:
    path = next((p for suffix in (".jpg", ".png") if (p := film.folder / "KEY_FRAMES" / (asked.key_name + suffix)).is_file()), None)
    if path is None:
        ledger.note("questions whose key frame is not in the release")
        return None
    data = path.read_bytes()
    with ledger.catching(NAME, f"{film.name}/{path.name}", examples=0):
        if image_size(data) != size:
            raise SampleError(f"key frame of {image_size(data)} px among pictures of {size} px", reason="frame_size")
        return data
    return None
