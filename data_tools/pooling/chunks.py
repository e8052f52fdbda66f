"""Chunks of a film and their pooled pictures, in one pass over its frames; the memory used does not grow with the film.

A frame belongs to the chunk in which it appears: chunk i of ``seconds`` holds the times [i*seconds, (i+1)*seconds), computed with
fractions, so a two-hour film at 24000/1001 frames per second has no drift. With a target rate chunks are counted in sampled frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from data_tools.pooling.stream import Pooler
from data_tools.pooling.video import FilmReader
from unipixel.errors import ConfigError, SampleError

PARTIAL = ("keep", "drop")
MICRO = 1_000_000
LONGEST_STILL_S = 600
"""A frame on the screen for longer than this is taken for a damaged time stamp."""


@dataclass(frozen=True)
class Chunk:
    """One row of the chunk table.

    Attributes:
        number: from 1, without holes; part of the picture's file name.
        start_s, end_s: what the chunk covers, in seconds from the film's first frame; the last one ends with the film.
        first_frame, last_frame: 1-based, inclusive, in order of presentation.
        frames: how many were pooled; 0 where no frame appears in the chunk, so it shows the one that stays on the screen.
        partial: the film ends before the chunk is full.
        pictures: operator -> (H, W, 3) uint8.
    """

    number: int
    start_s: float
    end_s: float
    first_frame: int
    last_frame: int
    frames: int
    partial: bool = False
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def row(self, stem: str = "sample", suffix: str = ".jpg") -> dict:
        """As the text tables list it: the published keys."""
        return {"image_file_range": f"{stem}{self.first_frame:05d}-{stem}{self.last_frame:05d}", "saved_chunk_filename": self.file_name(suffix),
                "chunk_start_time_sec": round(self.start_s, 3), "chunk_end_time_sec": round(self.end_s, 3)}

    def file_name(self, suffix: str = ".jpg") -> str:
        return f"frame{self.number:05d}{suffix}"


@dataclass(frozen=True)
class ChunkRule:
    """How a film is divided. Either ``seconds`` counts, or, where ``target_fps`` is set, ``size`` sampled frames.

    Attributes:
        seconds: length of a chunk.
        target_fps: keep every round(rate / target_fps)-th frame.
        size, skip: sampled frames in a chunk, and left out between two chunks.
        partial: keep or drop a last chunk that is not full.
    """

    seconds: Fraction = Fraction(1)
    target_fps: float | None = None
    size: int = 3
    skip: int = 0
    partial: str = "keep"

    def __post_init__(self):
        if self.seconds <= 0:
            raise ConfigError(f"chunk_seconds={float(self.seconds)} must be above 0")
        if self.target_fps is not None and self.target_fps <= 0:
            raise ConfigError(f"target_fps={self.target_fps} must be above 0")
        if self.size < 1 or self.skip < 0:
            raise ConfigError(f"chunk_size={self.size} must be at least 1 and skip_frames={self.skip} at least 0")
        if self.partial not in PARTIAL:
            raise ConfigError(f"partial={self.partial!r} is not one of {PARTIAL}")

    def stride(self, rate: Fraction) -> int:
        """Every how many-th frame is sampled."""
        return 1 if self.target_fps is None else max(1, round(float(rate) / self.target_fps))


class KeyFrames:
    """The frames on the screen at given moments; each is handed to ``save`` as soon as the next frame appears.

    Args:
        moments: (seconds from the first frame, key), in any order.
        save: gets key and picture.
    """

    def __init__(self, moments: Iterable[tuple[float, str]], save: Callable[[str, np.ndarray], None]):
        exact = ((Fraction(moment).limit_denominator(MICRO), key) for moment, key in moments)  # 2.3 is 23/10, not its binary neighbour
        self._pending = sorted(exact, reverse=True)
        self._save, self._shown = save, None

    def see(self, time: Fraction, picture: np.ndarray) -> None:
        while self._pending and self._pending[-1][0] < time:
            self._save(self._pending.pop()[1], self._shown)
        self._shown = picture

    def finish(self, end: Fraction) -> list[tuple[float, str]]:
        """Moments at or after the end of the film, which have no frame."""
        while self._pending and self._pending[-1][0] < end:
            self._save(self._pending.pop()[1], self._shown)
        return [(float(moment), key) for moment, key in self._pending[::-1]]


def pooled_chunks(film: FilmReader, rule: ChunkRule, operators: Mapping[str, Mapping[str, float]],
                  key_frames: KeyFrames | None = None) -> Iterator[Chunk]:
    """Chunks in order, each with its picture per operator. Chunks without a frame of their own repeat the picture on the screen.

    Raises:
        ConfigError: unknown operator or parameter.
        SampleError: the film cannot be decoded.
    """
    division = _Division(rule, operators)
    for time, picture in film:
        if key_frames is not None:
            key_frames.see(time, picture)
        yield from division.add(film, time, picture)
    yield from division.finish(film)


class _Division:
    """The chunk being filled: its frames, and where it starts."""

    def __init__(self, rule: ChunkRule, operators: Mapping[str, Mapping[str, float]]):
        self.rule, self.pooler = rule, Pooler(operators)
        self.number = 0
        self.at: int | None = None  # which multiple of the chunk length, or which group of sampled frames
        self.start = self.latest = Fraction(0)
        self.first = self.last = 0
        self.shown: np.ndarray | None = None

    def add(self, film: FilmReader, time: Fraction, picture: np.ndarray) -> Iterator[Chunk]:
        sampled, rest = divmod(film.frames - 1, self.rule.stride(film.rate))
        if rest:
            return
        if self.rule.target_fps is None:
            at, used = time // self.rule.seconds, True
        else:
            at, place = divmod(sampled, self.rule.size + self.rule.skip)
            used = place < self.rule.size
        if self.pooler.count and (at != self.at or not used):
            self._check_still(film, time)
            yield self._close(time if self.rule.target_fps else (self.at + 1) * self.rule.seconds)
            if self.rule.target_fps is None:
                for empty in range(self.at + 1, at):
                    yield self._held(empty)
        if used:
            if not self.pooler.count:
                self.start = time if self.rule.target_fps else at * self.rule.seconds
                self.first = film.frames
            self.at, self.last, self.latest, self.shown = at, film.frames, time, picture
            self.pooler.add(picture)

    def _check_still(self, film: FilmReader, until: Fraction) -> None:
        if until - self.latest > LONGEST_STILL_S:
            raise SampleError(f"{film.path}: frame {self.last} at {float(self.latest):.3f} s would stay until {float(until):.3f} s",
                              reason="bad_timestamps")

    def _close(self, end: Fraction, partial: bool = False) -> Chunk:
        self.number += 1
        frames = self.pooler.count
        pictures = self.pooler.finish(rounded=True)
        return Chunk(self.number, float(self.start), float(end), self.first, self.last, frames, partial, pictures)

    def _held(self, at: int, end: Fraction | None = None) -> Chunk:
        self.number += 1
        start, full = at * self.rule.seconds, (at + 1) * self.rule.seconds
        return Chunk(self.number, float(start), float(full if end is None else end), self.last, self.last, 0, end is not None,
                     dict.fromkeys(self.pooler.operators, self.shown))

    def finish(self, film: FilmReader) -> Iterator[Chunk]:
        """The last chunk, or chunks where the last frame stays long; one that lacks less than half a frame is full."""
        if not self.pooler.count:
            return
        if self.rule.target_fps is not None:
            if (partial := self.pooler.count < self.rule.size) and self.rule.partial == "drop":
                return
            yield self._close(film.end, partial)
            return
        self._check_still(film, film.end)
        slack = (1 / film.rate if film.rate else Fraction(0)) / 2
        at = self.at
        while True:
            full = (at + 1) * self.rule.seconds
            partial = film.end < full - slack
            if partial and self.rule.partial == "drop":
                return
            yield self._close(min(film.end, full), partial) if at == self.at else self._held(at, film.end if partial else None)
            at += 1
            if film.end - at * self.rule.seconds <= slack:
                return
