"""A film scene as packed data has it: a picture per second, the picture of a pause, subtitles, a question with its reasoning."""

from __future__ import annotations

from tests.packing import jpeg
from unipixel.sample import Example, Medium, Sample, Subtitle

SIZE = 56
SAID = (Subtitle(1.0, 3.5, "Give me the key."), Subtitle(3.0, 4.0, "Never!"), Subtitle(7.2, 7.9, "So be it."))
ASKED = Example("q", "evidence", "What does he want?", answer="The key to the tower.", rationale="Picture #2 shows his hand.\nHe asks for it.")


def scene(seconds: int = 8, key_at: float | None = 5.001, start: float = 100.0, examples=(ASKED,), said=SAID) -> Sample:
    """A picture per second, and one of the pause between them."""
    times = sorted([*map(float, range(seconds)), *([] if key_at is None else [key_at])])
    source = {"film": "tower", "window_s": [start, start + seconds], "paused_s": 5.0} | ({} if key_at is None else {"key_frame": times.index(key_at)})
    medium = Medium("tower_0", "frames", SIZE, SIZE, tuple(times), float(seconds), subtitles=said, source=source)
    return Sample("tower_0", medium, tuple(examples), [jpeg(n, (SIZE, SIZE)) for n in range(len(times))])
