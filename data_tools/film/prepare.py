"""One film: decode it once, write its pooled pictures per method and its key frames, then its text tables and summaries.

A method is finished when its folder has its name: ``chunks.json`` inside says from which film and with which settings it was made. Texts
and summaries are made anew in each run, because that costs nothing. What cannot be used goes to the ledger; the rest of the film is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from data_tools.convert.base import read_json
from data_tools.convert.film_questions import read_film_questions
from data_tools.convert.povqa import CHUNKS, PRESENTATION
from data_tools.convert.srt import FALLBACK, Cues, read_subtitles
from data_tools.film.files import PictureFormat, partial_folders, write_json
from data_tools.film.table import text_table
from data_tools.film.transcribe import transcribe
from data_tools.pooling.chunks import ChunkRule, KeyFrames, pooled_chunks
from data_tools.pooling.operators import OPERATORS
from data_tools.pooling.video import FilmReader, FrameReader, PictureSize
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError

KEYS = "KEY_FRAMES"


@dataclass(frozen=True)
class Film:
    """Where a film is.

    Attributes:
        video: a file, or a folder of pictures.
        subtitles, questions: None where there are none.
        audio: what to transcribe where there are no subtitles.
        text_missing: subtitles were expected and not found, so no text table is made; without this a film without them is silent.
    """

    name: str
    video: Path
    subtitles: Path | None = None
    questions: Path | None = None
    audio: Path | None = None
    text_missing: bool = False

    @property
    def size(self) -> int:
        """Bytes of the file, or of all pictures of a folder."""
        return sum(p.stat().st_size for p in self.video.iterdir()) if self.video.is_dir() else self.video.stat().st_size

    @property
    def table(self) -> str:
        """Name of the text table; clips of TVQA, which are folders of pictures, have one of their own."""
        return "metadata_tvqa_text_centric" if self.video.is_dir() else "metadata_text_centric"

    @property
    def stem(self) -> str:
        """How the text table calls a frame of the source."""
        return "source_frame" if self.video.is_dir() else "sample"


@dataclass(frozen=True)
class Preparation:
    """What to make. ``methods``: operator -> its parameters; ``threads``: of the decoder, 0 for as many as it likes;
    ``frames_fps``: rate of films that are folders of pictures; ``whisper``: model that transcribes."""

    out: Path
    methods: Mapping[str, Mapping[str, float]]
    rule: ChunkRule
    size: PictureSize
    format: PictureFormat
    min_gap_s: float
    threads: int = 0
    overwrite: bool = False
    frames_fps: Fraction | None = None
    whisper: str = "base"

    def reader(self, film: Film) -> FilmReader:
        if film.video.is_dir():
            return FrameReader(film.video, self.size, rate=self.frames_fps)
        return FilmReader(film.video, self.size, threads=self.threads)

    def made_by(self, film: Film, method: str) -> dict[str, Any]:
        """What decides about the pictures of a method; a finished one is kept when this is unchanged."""
        parameters = OPERATORS[method].bound(method, self.methods[method])
        return {"video": film.video.name, "video_bytes": film.size, "method": method, "parameters": parameters,
                "rule": asdict(self.rule) | {"seconds": str(self.rule.seconds)}, "size": asdict(self.size), "quality": self.format.quality,
                "frames_fps": str(self.frames_fps) if film.video.is_dir() else None}


@dataclass(frozen=True)
class Outcome:
    """Methods made now and kept from an earlier run, and everything that went wrong."""

    film: str
    made: Sequence[str]
    kept: Sequence[str]
    ledger: SkipLedger


def prepare(film: Film, wanted: Preparation) -> Outcome:
    """Make what is missing of one film; nothing is raised for what is wrong with its files."""
    ledger, folder = SkipLedger(), wanted.out / film.name
    folder.mkdir(parents=True, exist_ok=True)
    left = [method for method in wanted.methods if _is_left(film, wanted, method, ledger)]
    moments = _moments(film, wanted.format.suffix, ledger)
    missing = _missing(film, wanted, left, moments, ledger)
    if left or missing:
        with ledger.catching(film.name, film.video.name):
            _decode(film, wanted, left, missing, ledger)
    if film.subtitles is None and film.audio is not None:
        with ledger.catching(film.name, film.audio.name):
            film = replace(film, subtitles=transcribe(film.audio, wanted.whisper, folder), text_missing=False)
    finished = {method: read_json(folder / method / CHUNKS) for method in wanted.methods if _is_current(film, wanted, method)}
    if finished:
        _write_texts(film, wanted, finished, moments, ledger)
    return Outcome(film.name, [m for m in finished if m in left], [m for m in finished if m not in left], ledger)


def _is_current(film: Film, wanted: Preparation, method: str) -> bool:
    path = wanted.out / film.name / method / CHUNKS
    return path.is_file() and read_json(path).get("made_by") == wanted.made_by(film, method)


def _is_left(film: Film, wanted: Preparation, method: str, ledger: SkipLedger) -> bool:
    folder = wanted.out / film.name / method
    if not folder.exists():
        return True
    if _is_current(film, wanted, method):
        return False
    if not wanted.overwrite:
        ledger.skip(film.name, f"{film.name}/{method}", "other_settings",
                    f"{folder} was made from another film or with other settings: set overwrite, or another out")
    return wanted.overwrite


def _moments(film: Film, suffix: str, ledger: SkipLedger) -> dict[str, float]:
    """File name of a key frame -> the second at which the question was asked."""
    if film.questions is not None:
        with ledger.catching(film.name, film.questions.name):
            return {asked.key_name + suffix: asked.paused_s for asked in read_film_questions(film.questions, ledger)}
    return {}


def _missing(film: Film, wanted: Preparation, left: Sequence[str], moments: Mapping[str, float], ledger: SkipLedger) -> list[tuple[float, str]]:
    """Key frames to be made: those without a file, all of them where pictures are made anew. Where the film's length is known from an earlier
    run, moments after it are reported without decoding it again."""
    folder = wanted.out / film.name
    known = [read_json(folder / m / CHUNKS)["film"]["duration_s"] for m in wanted.methods if m not in left and _is_current(film, wanted, m)]
    missing = []
    for name, time in moments.items():
        if known and not left and time >= known[0]:
            _past_end(film, name, time, known[0], ledger)
        elif (left and wanted.overwrite) or not (folder / KEYS / name).is_file():
            missing.append((time, name))
    return missing


def _past_end(film: Film, name: str, time: float, end: float, ledger: SkipLedger) -> None:
    ledger.skip(film.name, f"{film.questions.name} {name}", "timestamp_past_end",
                f"question at {time:g} s, {film.video.name} ends at {end:.3f} s")


def _decode(film: Film, wanted: Preparation, methods: Sequence[str], missing: Sequence[tuple[float, str]], ledger: SkipLedger) -> None:
    """One pass over the film; folders get their names when all of it was read."""
    folder, reader = wanted.out / film.name, wanted.reader(film)
    with partial_folders(folder, [*methods, KEYS]) as parts:
        keys = KeyFrames(missing, lambda name, picture: wanted.format.save(picture, parts[KEYS] / name))
        rows, held = [], 0
        if methods:
            for chunk in pooled_chunks(reader, wanted.rule, {m: wanted.methods[m] for m in methods}, keys):
                rows.append(chunk.row(film.stem, wanted.format.suffix) | {"frames": chunk.frames, "partial": chunk.partial})
                held += not chunk.frames
                for method, picture in chunk.pictures.items():
                    wanted.format.save(picture, parts[method] / chunk.file_name(wanted.format.suffix))
        else:
            for time, picture in reader:
                keys.see(time, picture)
        for time, name in keys.finish(reader.end):
            _past_end(film, name, time, float(reader.end), ledger)
        if methods and not rows:
            raise SampleError(f"{film.video} gives no chunk: it is shorter than one and partial chunks are dropped", reason="no_chunks")
        facts = {"rate": float(reader.rate), "duration_s": round(float(reader.end), 6), "frames": reader.frames, "chunks_without_frame": held,
                 "frames_out_of_order": reader.disordered}
        for method in methods:
            write_json(parts[method] / CHUNKS, {"made_by": wanted.made_by(film, method), "film": facts, "chunks": rows})
            shutil.rmtree(folder / method, ignore_errors=True)
            os.replace(parts[method], folder / method)
        (folder / KEYS).mkdir(exist_ok=True)
        for path in parts[KEYS].iterdir():
            os.replace(path, folder / KEYS / path.name)


def _cues(film: Film, duration_s: float, ledger: SkipLedger) -> Cues | None:
    """Cues of the film; None where the file cannot be used."""
    if film.subtitles is None:
        return None if film.text_missing else Cues((), (), "")
    with ledger.catching(film.name, film.subtitles.name):
        found = read_subtitles(film.subtitles)
        for line in found.malformed:
            ledger.skip(film.name, film.subtitles.name, "malformed_cue", line)
        for cue in found.cues:
            if cue.start_s >= duration_s:
                ledger.skip(film.name, film.subtitles.name, "timestamp_past_end",
                            f"cue at {cue.start_s:g} s, {film.video.name} ends at {duration_s:.3f} s")
        if found.encoding == FALLBACK:
            ledger.note(f"subtitle files read as {FALLBACK}")
        lasting = tuple(cue for cue in found.cues if cue.end_s > cue.start_s)
        if len(lasting) < len(found.cues):
            ledger.note("cues without length left out", len(found.cues) - len(lasting))
        return Cues(lasting, found.malformed, found.encoding)
    return None


def _write_texts(film: Film, wanted: Preparation, finished: Mapping[str, Mapping[str, Any]], moments: Mapping[str, float],
                 ledger: SkipLedger) -> None:
    """Text table and summary per method, and once more under the names without a method, which readers fall back to."""
    folder, facts = wanted.out / film.name, next(iter(finished.values()))["film"]
    cues = _cues(film, facts["duration_s"], ledger)
    found = sum((folder / KEYS / name).is_file() for name in moments)
    summaries = []
    for method, made in finished.items():
        rows = [{key: row[key] for key in row if key not in ("frames", "partial")} for row in made["chunks"]]
        summaries.append(_summary(film, wanted, method, made, cues, (found, len(moments))))
        if cues is not None:
            table = text_table(cues.cues, rows, min_gap_s=wanted.min_gap_s)
            for name in (f"{film.table}_{method}.json", f"{film.table}.json"):
                write_json(folder / name, table)
        write_json(folder / f"run_summary_{method}.json", summaries[-1])
    write_json(folder / "run_summary.json", summaries[0] | {"avg_method": ",".join(finished), "output_dir": film.name})


def _summary(film: Film, wanted: Preparation, method: str, made: Mapping[str, Any], cues: Cues | None, keys: tuple[int, int]) -> dict[str, Any]:
    """The published fields, with file names for paths, and what was counted."""
    facts, rule = made["film"], wanted.rule
    by_rate = rule.target_fps is not None
    return {
        "movie": film.name, "video_path": film.video.name, "fps_mode": "target_fps" if by_rate else "seconds_window",
        "fps_used_or_native": rule.target_fps if by_rate else facts["rate"], "target_fps_arg": rule.target_fps,
        "chunk_size_arg": rule.size if by_rate else None, "chunk_seconds": None if by_rate else float(rule.seconds),
        "skip_frames_between_chunks": rule.skip, "resize_to": [wanted.size.width, wanted.size.height], "avg_method": method,
        "total_chunks": len(made["chunks"]), "frames_processed": sum(row["frames"] for row in made["chunks"]),
        "has_subtitles": bool(cues and cues.cues), "key_frames_found": keys[0], "key_frames_total_in_annotations": keys[1],
        "annotation_file": film.questions.name if film.questions else None, "output_dir": f"{film.name}/{method}",
        "chunk_clock": PRESENTATION, "film": facts, "made_by": made["made_by"],
        "subtitles": {"file": film.subtitles.name if film.subtitles else None, "cues": len(cues.cues) if cues else 0,
                      "malformed": len(cues.malformed) if cues else None, "encoding": cues.encoding if cues else None},
    }
