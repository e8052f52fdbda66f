"""What must not be trained on: videos and questions of benchmarks, given as files or as packed folders.

A video is the same when its name is, without folder, suffix and ActivityNet's ``v_``; a question when its words are nearly the same. Videos
that were renamed are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.convert.clips import VIDEO_SUFFIXES
from data_tools.convert.tables import READERS, read_rows
from data_tools.preference.select import Made
from data_tools.preference.steps import Media
from data_tools.preference.textual import NearDuplicates
from unipixel.data.index import MANIFEST
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Medium

VIDEO_FIELDS = ("video", "video_id", "video_path", "vid_name", "vid", "video_name", "medium_id", "film", "movie", "youtube_id", "videoID")
QUESTION_FIELDS = ("question", "prompt", "q", "query")
SIMILAR = 0.8
"""Least share of common runs of words that makes two questions the same."""


def video_name(name: str) -> str:
    """``v_abc.mp4``, ``videos/abc.mkv`` and ``abc`` are one video. Case counts: ids of YouTube depend on it."""
    path = PurePosixPath(str(name).strip())
    bare = path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
    return bare.removeprefix("v_")


def names_of(medium: Medium) -> set[str]:
    """All names that a medium is known under: its own id, and those that its source lists."""
    named = [medium.medium_id, *(medium.source[f] for f in VIDEO_FIELDS if isinstance(medium.source.get(f), str))]
    return {video_name(n) for n in named}


@dataclass(frozen=True)
class Leak:
    """One match: ``what`` is ``leak_video`` or ``leak_question``."""

    what: str
    benchmark: str
    detail: str


class Benchmarks:
    """Names of videos and texts of questions that are for testing.

    Args:
        sources: packed folders; tables (CSV, JSONL, JSON list) with columns such as ``video`` and ``question``; text files of one video name per
            line.

    Raises:
        ConfigError: a source is none of these.
        DataError: a table cannot be read, or has none of the columns.
    """

    def __init__(self, sources: Sequence[str | Path]):
        self.videos: dict[str, str] = {}
        self.questions = NearDuplicates(SIMILAR)
        self.counts: dict[str, tuple[int, int]] = {}
        for source in map(Path, sources):
            videos, questions = set(), []
            for names, asked in _read(source):
                videos |= names
                questions += asked
            for name in sorted(videos):
                self.videos.setdefault(name, source.name)
            for question in dict.fromkeys(questions):
                self.questions.add(source.name, question)
            self.counts[str(source)] = len(videos), len(questions)
            if not videos and not questions:
                raise DataError(f"benchmark {source}: neither videos (columns {VIDEO_FIELDS}) nor questions ({QUESTION_FIELDS}) in it")

    def leak(self, medium: Medium, question: str) -> Leak | None:
        """The first match of a training item, if there is one; a video counts more than a question."""
        for name in sorted(names_of(medium)):
            if name in self.videos:
                return Leak("leak_video", self.videos[name], f"video {name!r} is in {self.videos[name]}")
        near = self.questions.find(question)
        if near:
            return Leak("leak_question", near[0], f"question {question[:80]!r} is in {near[0]} (similarity {near[1]:.2f})")
        return None


def without_leaks(made: Sequence[Made], media: Media, benchmarks: Benchmarks, ledger) -> list[Made]:
    """Pairs of media and questions that no benchmark has; the others are listed."""
    kept = []
    for m in made:
        with ledger.catching("leakage", m.pair.pair_id):
            leak = benchmarks.leak(media.sample(m.question.medium).medium, m.question.prompt)
            if leak:
                raise SampleError(leak.detail, reason=leak.what)
            kept.append(m)
    return kept


def _read(source: Path) -> Iterator[tuple[set[str], list[str]]]:
    """(names of videos, questions) per item."""
    if (source / MANIFEST).is_file():
        media = Media([source])
        for key in media:
            sample = media.sample(key)
            asked = [text for e in sample.examples for text in (e.question, *(turn.text for turn in e.turns if turn.role == "user"))]
            yield names_of(sample.medium), [text for text in asked if text.strip()]
    elif source.suffix == ".txt" and source.is_file():
        yield {video_name(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()}, []
    elif source.suffix in READERS and source.is_file():
        for _, row in read_rows(source):
            yield {video_name(v) for v in _texts(row, VIDEO_FIELDS)}, _texts(row, QUESTION_FIELDS)
    else:
        raise ConfigError(f"benchmark {str(source)!r} is no packed folder, no table ({', '.join(READERS)}) and no .txt list of videos")


def _texts(row: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    return [row[f].strip() for f in fields if isinstance(row.get(f), str) and row[f].strip()]
