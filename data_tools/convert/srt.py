"""SubRip subtitles. Cues may overlap and may come in any order; numbering is ignored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from unipixel.errors import SampleError
from unipixel.sample import Subtitle

TIME = r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})"
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def read_srt(path: Path, *, encodings: Sequence[str] = ("utf-8-sig",)) -> tuple[Subtitle, ...]:
    """Cues in order of their start; text without markup, its lines joined by spaces; cues without text are left out.

    Args:
        encodings: tried in this order.

    Raises:
        SampleError: ``bad_subtitles``: a block without a timing line, a cue that ends before it starts, or text in no given encoding.
    """
    text = _decoded(path, encodings)
    cues = []
    for block in re.split(r"\r?\n\s*\n", text.strip()):
        lines = block.strip().splitlines()
        if not lines:
            continue
        if len(lines) > 1 and lines[0].strip().isdigit():
            lines = lines[1:]
        timing = TIMING.fullmatch(lines[0])
        if not timing:
            raise SampleError(f"{path}: no timing line in {block[:60]!r}", reason="bad_subtitles")
        start, end = _seconds(timing.groups()[:4]), _seconds(timing.groups()[4:])
        if end < start:
            raise SampleError(f"{path}: cue {lines[0]!r} ends before it starts", reason="bad_subtitles")
        words = MARKUP.sub("", " ".join(line.strip() for line in lines[1:])).strip()
        if words:
            cues.append(Subtitle(start, end, words))
    return tuple(sorted(cues, key=lambda c: (c.start_s, c.end_s)))


def _decoded(path: Path, encodings: Sequence[str]) -> str:
    raw = path.read_bytes()
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise SampleError(f"{path} is not text in {' or '.join(encodings)}", reason="bad_subtitles")


def _seconds(parts: tuple[str, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
