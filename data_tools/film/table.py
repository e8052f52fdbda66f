"""The text table of a film: everything that is said and every silence, in order of time, each with the chunks seen meanwhile."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unipixel.sample import Subtitle

MIN_GAP_S = 0.001


def text_table(cues: Iterable[Subtitle], chunks: Sequence[Mapping[str, Any]], *, min_gap_s: float = MIN_GAP_S) -> list[dict[str, Any]]:
    """Segments with the keys of the published ``metadata_text_centric.json``: a silence has an empty text.

    A cue always makes a segment, overlapping cues one each, also where no chunk is. A silence makes one when it is longer than ``min_gap_s``
    and some chunk lies in it; the last silence ends with the last chunk. Times are rounded to milliseconds.

    Args:
        cues: in any order, each with an end after its start.
        chunks: rows of the chunk table (``Chunk.row``), in order of time.
    """
    starts, ends = ([chunk[f"chunk_{edge}_time_sec"] for chunk in chunks] for edge in ("start", "end"))
    segments: list[dict[str, Any]] = []

    def segment(start: float, end: float, text: str = "") -> None:
        seen = [dict(chunk) for chunk in chunks[bisect_right(ends, start):bisect_left(starts, end)]]
        if seen or text:
            segments.append({"text": text, "text_start_time_sec": round(start, 3), "text_end_time_sec": round(end, 3),
                             "corresponding_chunks": seen})

    spoken_until = 0.0
    for cue in sorted(cues, key=lambda c: (c.start_s, c.end_s)):
        if cue.start_s > spoken_until + min_gap_s:
            segment(spoken_until, cue.start_s)
        segment(cue.start_s, cue.end_s, cue.text)
        spoken_until = max(spoken_until, cue.end_s)
    if chunks and ends[-1] > spoken_until + min_gap_s:
        segment(spoken_until, ends[-1])
    return segments
