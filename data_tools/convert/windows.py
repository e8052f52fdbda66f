"""Time windows of longer videos: what lies inside, in seconds from the start of the window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unipixel.errors import SampleError
from unipixel.sample import Subtitle


@dataclass(frozen=True)
class Window:
    """``[start_s, end_s)`` of a longer video, in its seconds; ``bad_window`` unless it ends after it starts."""

    start_s: float
    end_s: float

    def __post_init__(self):
        if not 0 <= self.start_s < self.end_s:
            raise SampleError(f"window of {self.start_s} s to {self.end_s} s", reason="bad_window")

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def holds(self, time_s: float) -> bool:
        return self.start_s <= time_s < self.end_s

    def overlaps(self, start_s: float, end_s: float) -> bool:
        """Whether some of ``[start_s, end_s)`` lies inside; what merely touches does not."""
        return max(self.start_s, start_s) < min(self.end_s, end_s)

    def local(self, time_s: float) -> float:
        """Seconds from the start of the window."""
        return time_s - self.start_s


def cut_subtitles(subtitles: Iterable[Subtitle], window: Window, duration_s: float) -> tuple[Subtitle, ...]:
    """Those that overlap the window, cut to 0..``duration_s``, in order of their start; one that merely touches it does not overlap."""
    inside = [Subtitle(max(0.0, window.local(s.start_s)), min(duration_s, window.local(s.end_s)), s.text) for s in subtitles]
    return tuple(sorted((s for s in inside if s.start_s < s.end_s), key=lambda s: (s.start_s, s.end_s)))
