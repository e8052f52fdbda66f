"""What a model is told of a film scene: pictures in order, what is said meanwhile, the moment at which the viewer paused, the question.

Owns the wording (versioned Jinja templates beside this file, named in every record with their hash) and which words stand beside which
picture. Which pictures are shown is decided by the encoder. The same code serves training and evaluation (POVQA, arXiv 2510.01009).

Times in the text are seconds of the film, as in its annotations: ``source["window_s"]`` of a medium says where its window begins.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unipixel.errors import SampleError
from unipixel.sample import Example, Medium, Subtitle

PROMPTS = ("plain", "film_interleaved", "film_classic")
ALIGNMENTS = ("interval", "seed")
NO_SPEECH, NOTHING_NEAR = "[No speech]", "[No nearby subtitle segment]"
GAP_S = 0.001
"""Silence between two subtitles longer than this is a segment of its own, as in the text tables of the release."""
NEAR_S = 2.0
"""Seed alignment: how far the middle of a segment may be from a picture that lies in none."""
SHARED = "film_question"
"""The part of the wording that both prompts include."""


@dataclass(frozen=True)
class Card:
    """One picture with the words beside it. ``number`` counts from 1; times are seconds of the film."""

    number: int
    time_s: float
    segments: tuple[Subtitle, ...]
    key: bool = False


@functools.cache
def prompt_card(prompt: str) -> dict[str, str]:
    """Name, version and hash of a prompt, for records: a changed wording is another prompt."""
    own, shared = (_environment().loader.get_source(_environment(), _file(name))[0] for name in (prompt, SHARED))
    return {"name": prompt, "version": own.partition("version ")[2].partition(":")[0],
            "sha256": hashlib.sha256(f"{own}\0{shared}".encode()).hexdigest()}


def _file(prompt: str) -> str:
    return f"{prompt}.txt.j2"


def key_frame(medium: Medium) -> int | None:
    """Position of the sharp picture of the moment at which the question was asked; ``None`` without one."""
    return medium.source.get("key_frame")


def pooled_frames(medium: Medium) -> list[int]:
    """Positions of all other pictures."""
    key = key_frame(medium)
    return [t for t in range(len(medium.frame_times)) if t != key]


def start_s(medium: Medium) -> float:
    """Where a medium begins in its film."""
    return float(medium.source.get("window_s", (0.0,))[0])


def segments_of(medium: Medium, max_segments: int) -> list[Subtitle]:
    """Spoken segments and, with empty text, the silences between them, in seconds of the medium. More than ``max_segments`` keep the first
    ones and the last, as POVQA does."""
    out: list[Subtitle] = []
    end = 0.0
    for spoken in (*medium.subtitles, Subtitle(medium.duration_s, medium.duration_s, "")):
        if spoken.start_s > end + GAP_S:
            out.append(Subtitle(end, spoken.start_s, ""))
        if spoken.text:
            out.append(spoken)
        end = max(end, spoken.end_s)
    return out if len(out) <= max_segments else [*out[:max_segments - 1], out[-1]]


def beside(segments: Sequence[Subtitle], times: Sequence[float], duration_s: float) -> list[tuple[Subtitle, ...]]:
    """The segments of each picture: a picture stands for the time until the next one, the first also for what is before it. Whatever is
    spoken then is beside it; a silence only where nothing is. No segment is lost, whichever pictures are shown."""
    edges = [0.0, *times[1:], max(duration_s, times[-1])]
    out = []
    for start, end in zip(edges, edges[1:]):
        there = [s for s in segments if max(s.start_s, start) < min(s.end_s, end)]
        out.append(tuple([s for s in there if s.text] or there[:1]))
    return out


def seed_beside(segments: Sequence[Subtitle], times: Sequence[float]) -> list[tuple[Subtitle, ...]]:
    """POVQA's rule: of the segments that hold the picture's time the one whose middle is nearest, else the nearest within :data:`NEAR_S`."""
    def distance(segment: Subtitle, time: float) -> float:
        return abs((segment.start_s + segment.end_s) / 2 - time)

    out = []
    for time in times:
        holding = [s for s in segments if s.start_s <= time <= s.end_s] or [s for s in segments if distance(s, time) <= NEAR_S]
        out.append(tuple(sorted(holding, key=lambda s: distance(s, time))[:1]))
    return out


def cards(medium: Medium, frames: Sequence[int], *, use_subtitles: bool, max_segments: int, align: str) -> list[Card]:
    """A card per picture of ``frames`` (positions in the order shown; the key frame last)."""
    key, offset = key_frame(medium), start_s(medium)
    times = [medium.frame_times[t] for t in frames]
    words: list[tuple[Subtitle, ...]] = [()] * len(frames)
    if use_subtitles and frames:
        segments = segments_of(medium, max_segments)
        if align == "seed":
            words = seed_beside(segments, times)
        else:
            ordinary = [time for t, time in zip(frames, times) if t != key]
            words = beside(segments, ordinary or times, medium.duration_s)
            if ordinary and key in frames:  # it shows a moment, not a stretch
                now = times[list(frames).index(key)]
                held = [s for s in segments if s.start_s <= now < s.end_s]
                words.append(tuple([s for s in held if s.text] or held[:1]))
    return [Card(number, time + offset, tuple(_in_film(s, offset) for s in said), t == key)
            for number, (t, time, said) in enumerate(zip(frames, times, words, strict=True), 1)]


def _in_film(segment: Subtitle, offset: float) -> Subtitle:
    return Subtitle(segment.start_s + offset, segment.end_s + offset, segment.text or NO_SPEECH)


def user_text(example: Example, medium: Medium, frames: Sequence[int], settings, picture: str) -> str:
    """The user's turn of a question about a film.

    Args:
        frames: positions of the pictures shown, in their order.
        settings: ``unipixel.data.template.TemplateSettings`` with a prompt of :data:`PROMPTS` other than ``plain``.
        picture: the visual placeholder of one picture.

    Raises:
        SampleError: ``film_task``: not a question (or one about pointed-at regions or with masks in its reply), which these prompts do not ask.
    """
    if example.task != "evidence" or example.regions or example.targets:
        raise SampleError(f"prompt={settings.prompt!r} asks questions that are answered in words, not {example.task} with "
                          f"{len(example.regions)} regions and {len(example.targets)} masks: train such data with prompt: plain",
                          reason="film_task", key=example.example_id)
    shown = cards(medium, frames, use_subtitles=settings.use_subtitles, max_segments=settings.max_segments, align=settings.align)
    offset = start_s(medium)
    said = [_in_film(s, offset) for s in segments_of(medium, settings.max_segments)] if settings.use_subtitles else []
    hint = next((card for card in shown if card.key), None) if settings.key_frame_hint else None
    options = [(chr(ord("A") + i), option) for i, option in enumerate(example.options)] if settings.show_options else []
    return _environment().get_template(_file(settings.prompt)).render(
        cards=shown, segments=said, hint=hint, question=example.question.strip(), options=options, picture=picture,
        answer_style=settings.answer_style, use_subtitles=settings.use_subtitles, nothing_near=NOTHING_NEAR).strip()


@functools.cache
def _environment() -> Environment:
    # the result is plain text for a tokenizer, so nothing is escaped
    return Environment(loader=PackageLoader("unipixel.data", "prompts"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True)


def record(medium: Medium, frames: Sequence[int], settings) -> dict[str, Any]:
    """What a question was asked with, for records: pictures and segments in film seconds, and the prompt."""
    offset = start_s(medium)
    said = segments_of(medium, settings.max_segments) if settings.use_subtitles else []
    return {"frames_used": len(frames), "frame_times": [round(medium.frame_times[t] + offset, 3) for t in frames],
            "subtitle_segments": [{"start": round(s.start_s, 3), "end": round(s.end_s, 3), "text": s.text} for s in
                                  (_in_film(s, offset) for s in said)],
            "prompt": None if settings.prompt == "plain" else prompt_card(settings.prompt)}
