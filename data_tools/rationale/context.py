"""What a rationale may refer to: numbered pictures with their times and files, and segments of speech, all in seconds of the film.

The cards are those that training shows (``unipixel.data.film_context``). A record keeps its context in plain values, so a rationale can be
checked without the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unipixel.data.film_context import cards, key_frame, pooled_frames, start_s
from unipixel.data.media import sample_frames
from unipixel.errors import SampleError
from unipixel.sample import Medium, Subtitle


@dataclass(frozen=True)
class Shown:
    """One picture. ``number`` counts from 1; ``file`` is its name without suffix, empty where the medium does not say."""

    number: int
    time_s: float
    file: str
    segments: tuple[Subtitle, ...]
    key: bool = False

    @property
    def text(self) -> str:
        """Word for word what stands beside the picture in training (``film_interleaved``), so that citations mean the same there."""
        said = "".join(f"\nSegment ({s.start_s:.1f}-{s.end_s:.1f}s): {s.text}" for s in self.segments)
        return f"Picture #{self.number} (t={self.time_s:.1f}s){said}"


@dataclass(frozen=True)
class Context:
    """``start_s`` to ``end_s`` of a film."""

    start_s: float
    end_s: float
    pictures: tuple[Shown, ...]

    @property
    def segments(self) -> list[Subtitle]:
        """Every segment that stands beside a picture, once, in order."""
        return sorted({s for picture in self.pictures for s in picture.segments}, key=lambda s: (s.start_s, s.end_s, s.text))

    def plain(self) -> dict[str, Any]:
        """For a record; :meth:`read` is its inverse."""
        return {"window_s": [self.start_s, self.end_s],
                "pictures": [{"number": p.number, "time_s": p.time_s, "file": p.file, "key": p.key,
                              "segments": [[s.start_s, s.end_s, s.text] for s in p.segments]} for p in self.pictures]}

    @classmethod
    def read(cls, raw: Any) -> Context:
        """Raises :class:`SampleError` (``no_context``) where the values are not those of :meth:`plain`."""
        try:
            pictures = tuple(Shown(int(p["number"]), float(p["time_s"]), str(p["file"]),
                                   tuple(Subtitle(float(a), float(b), str(text)) for a, b, text in p["segments"]), bool(p["key"]))
                             for p in raw["pictures"])
            start, end = map(float, raw["window_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise SampleError(f"the record has no context to check against ({type(error).__name__}: {error})", reason="no_context") from error
        return cls(start, end, pictures)


def context_of(medium: Medium, *, frames: int, max_segments: int) -> tuple[Context, Sequence[int]]:
    """(what is shown of a medium, positions of its pictures): ``frames`` pooled ones spread over it, then the key frame where there is one.

    Raises:
        SampleError: ``no_frames``: the medium has no pictures.
    """
    pooled, key = pooled_frames(medium), key_frame(medium)
    if not pooled:
        raise SampleError("there is no picture to cite", reason="no_frames", key=medium.medium_id)
    positions = [pooled[i] for i in sample_frames(len(pooled), frames)] + ([] if key is None else [key])
    names: Mapping[int, str] = dict(enumerate(medium.source.get("frame_names", ())))
    shown = cards(medium, positions, use_subtitles=True, max_segments=max_segments, align="interval")
    pictures = tuple(Shown(card.number, round(card.time_s, 3), names.get(t, ""),
                           tuple(Subtitle(round(s.start_s, 3), round(s.end_s, 3), s.text) for s in card.segments), card.key)
                     for t, card in zip(positions, shown, strict=True))
    start = start_s(medium)
    return Context(start, round(start + medium.duration_s, 3), pictures), positions
