"""Subtitle cues: SubRip, WebVTT and Advanced SubStation files. Cues may overlap and may come in any order; numbering is ignored.

A parser yields the cues it could read, and in place of each other one a line that says what is wrong. ``read_srt`` refuses a file with
such a line; ``read_subtitles`` lists them.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unipixel.errors import SampleError
from unipixel.sample import Subtitle

CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d\d)[,.](\d{1,3})")
"""SubRip asks for hours, WebVTT may leave them out, SubStation counts in hundredths."""
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
NOT_A_CUE = re.compile(r"(?:WEBVTT|NOTE|STYLE|REGION)\b")
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
FALLBACK = "cp1252"
"""What old files without a byte order mark are in when they are not UTF-8."""

Parsed = Iterator[Subtitle | str]


@dataclass(frozen=True)
class Cues:
    """What a file holds.

    Attributes:
        cues: in order of their start; text without markup, its lines joined by spaces; cues without text are left out.
        malformed: for each cue that could not be read, what is wrong.
        encoding: the one that was used.
    """

    cues: tuple[Subtitle, ...]
    malformed: tuple[str, ...]
    encoding: str


def read_srt(path: Path, *, encodings: Sequence[str] = ("utf-8-sig",)) -> tuple[Subtitle, ...]:
    """Cues of a SubRip file in which nothing is malformed.

    Args:
        encodings: tried in this order.

    Raises:
        SampleError: ``bad_subtitles``: a block without a timing line, a cue that ends before it starts, or text in no given encoding.
    """
    found = _read(path, parse_srt, encodings)
    if found.malformed:
        raise SampleError(f"{path}: {found.malformed[0]}", reason="bad_subtitles")
    return found.cues


def read_subtitles(path: Path) -> Cues:
    """Cues of a .srt, .vtt, .ass or .ssa file in UTF-8, UTF-16 with a byte order mark, or :data:`FALLBACK`.

    Raises:
        SampleError: ``bad_subtitles``: another kind of file, not text, or not a single cue with text.
    """
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        raise SampleError(f"{path}: subtitles are read from {', '.join(PARSERS)}", reason="bad_subtitles")
    start = path.read_bytes()[:4]
    mark = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    found = _read(path, parse, (mark,) if mark else ("utf-8", FALLBACK))
    if not found.cues:
        raise SampleError(f"{path} holds no subtitle with text" + "".join(f"; {line}" for line in found.malformed[:1]), reason="bad_subtitles")
    return found


def _read(path: Path, parse: Callable[[str], Parsed], encodings: Sequence[str]) -> Cues:
    text, encoding = _decoded(path, encodings)
    parsed = list(parse(text.replace("\r\n", "\n")))
    cues = sorted((c for c in parsed if isinstance(c, Subtitle) and c.text), key=lambda c: (c.start_s, c.end_s))
    return Cues(tuple(cues), tuple(line for line in parsed if isinstance(line, str)), encoding)


def _decoded(path: Path, encodings: Sequence[str]) -> tuple[str, str]:
    raw = path.read_bytes()
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            raise SampleError(f"{path} is not text in {encoding}: it holds zero bytes", reason="bad_subtitles")
        return text, encoding
    raise SampleError(f"{path} is not text in {' or '.join(encodings)}", reason="bad_subtitles")


def parse_srt(text: str) -> Parsed:
    """SubRip: blocks of a number, a timing line and lines of text, with an empty line after each."""
    for lines in _blocks(text):
        yield _timed(lines[1:] if len(lines) > 1 and lines[0].strip().isdigit() else lines)


def parse_vtt(text: str) -> Parsed:
    """WebVTT: notes, styles, regions and cue settings are passed over; a cue may have a name; character references are resolved."""
    if not text.startswith("WEBVTT"):
        yield "the first line is not WEBVTT"
    for lines in _blocks(text):
        if NOT_A_CUE.match(lines[0]):
            continue
        cue = _timed(lines[1:] if len(lines) > 1 and "-->" not in lines[0] else lines)
        yield cue if isinstance(cue, str) else Subtitle(cue.start_s, cue.end_s, html.unescape(cue.text).strip())


def parse_ass(text: str) -> Parsed:
    r"""Advanced SubStation: the lines ``Dialogue:`` of ``[Events]``, by the columns its ``Format:`` line names; ``\N``, ``\n``, ``\h`` are spaces."""
    columns: list[str] = []
    events = False
    for line in text.splitlines():
        if line.startswith("["):
            events = line.strip().lower() == "[events]"
        elif events and line.startswith("Format:"):
            columns = [name.strip().lower() for name in line.partition(":")[2].split(",")]
        elif events and line.startswith("Dialogue:"):
            values = dict(zip(columns, line.partition(":")[2].split(",", len(columns) - 1), strict=False))
            if {"start", "end", "text"} <= values.keys():
                yield _cue(values["start"], values["end"], re.sub(r"\\[Nnh]", " ", values["text"]), line)
            else:
                yield f"no start, end and text in {line[:60]!r}"


PARSERS: dict[str, Callable[[str], Parsed]] = {".srt": parse_srt, ".vtt": parse_vtt, ".ass": parse_ass, ".ssa": parse_ass}
"""By suffix."""


def _blocks(text: str) -> Iterable[list[str]]:
    return (block.strip().splitlines() for block in re.split(r"\n\s*\n", text.strip()) if block.strip())


def _timed(lines: list[str]) -> Subtitle | str:
    start, arrow, rest = lines[0].partition("-->")
    if not arrow:
        return f"no timing line in {lines[0][:60]!r}"
    end = rest.split(maxsplit=1)
    return _cue(start, end[0] if end else "", " ".join(line.strip() for line in lines[1:]), lines[0])


def _cue(start: str, end: str, words: str, line: str) -> Subtitle | str:
    begins, ends = _seconds(start), _seconds(end)
    if begins is None or ends is None:
        return f"no timing line in {line[:60]!r}"
    if ends < begins:
        return f"cue {line[:60]!r} ends before it starts"
    return Subtitle(begins, ends, MARKUP.sub("", words).strip())


def _seconds(text: str) -> float | None:
    match = CLOCK.fullmatch(text.strip())
    if match is None or int(match[3]) > 59:
        return None
    return int(match[1] or 0) * 3600 + int(match[2]) * 60 + int(match[3]) + int(match[4].ljust(3, "0")) / 1000
