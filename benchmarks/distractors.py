"""Wrong options that resemble the right one: time segments and masks whose IoU with the truth lies in a chosen band.

A distractor keeps what could give it away: as many segments of about the same lengths; the region of another object, or the true region moved,
scaled or mirrored. Everything is drawn from the generator that is passed in. An item for which no distractor fits is refused, never filled up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unipixel.errors import ConfigError, SampleError
from unipixel.metrics import merge_segments, temporal_iou
from unipixel.metrics.bitplane import dilate
from unipixel.sample import Segment

TRIES = 2000
DISTINCT = 0.8
"""Highest IoU of two wrong options."""
SMALLEST = 20
"""Pixels of the smallest region that can be seen in a picture."""
INSIDE = 0.6
"""Share of a moved region that must stay in the frame."""
OUTLINE = (255, 0, 0)


@dataclass(frozen=True)
class Band:
    """IoU with the truth, both ends included."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Band:
        """``"0.1-0.3"``. Raises :class:`ConfigError`."""
        low, dash, high = text.partition("-")
        try:
            band = cls(float(low), float(high))
        except ValueError:
            band = None
        if not dash or band is None or not 0 <= band.low <= band.high < 1:
            raise ConfigError(f"IoU band {text!r} must be low-high with 0 <= low <= high < 1, such as 0.1-0.3")
        return band

    def __contains__(self, iou: float) -> bool:
        return self.low <= iou <= self.high


@dataclass(frozen=True)
class Option:
    """A wrong option: its content, its IoU with the truth, and where it comes from."""

    content: tuple[Segment, ...] | np.ndarray
    iou: float
    origin: str


# --- time ------------------------------------------------------------------------------------------------------------------------

def rounded(segments: Sequence[Sequence[float]]) -> tuple[Segment, ...]:
    """To tenths of a second, as options are printed."""
    return tuple((round(float(start), 1), round(float(end), 1)) for start, end in segments)


def segment_distractors(truth: Sequence[Segment], duration_s: float, bands: Sequence[Band], rng: np.random.Generator) -> list[Option]:
    """One wrong list of segments per band, in their order; IoU is measured on rounded times.

    Raises:
        SampleError: ``no_segments``, or ``no_time_distractor``, naming the band that nothing was found for.
    """
    truth = rounded(merge_segments(truth))
    if not truth or any(end <= start for start, end in truth):
        raise SampleError(f"segments {truth} of no length have no wrong counterpart", reason="no_segments")
    found: list[Option] = []
    for band in bands:
        for attempt in range(TRIES):
            segments, origin = _proposed_segments(truth, duration_s, attempt, rng)
            iou = temporal_iou(segments, truth) if _fits(segments, duration_s) else -1.0
            if iou in band and segments != truth and all(temporal_iou(segments, other.content) <= DISTINCT for other in found):
                found.append(Option(segments, iou, origin))
                break
        else:
            raise SampleError(f"no segments like {truth} with IoU {band.low:g}-{band.high:g} fit into {duration_s:.1f} s",
                              reason="no_time_distractor")
    return found


def _proposed_segments(truth: Sequence[Segment], duration_s: float, attempt: int, rng: np.random.Generator) -> tuple[tuple[Segment, ...], str]:
    """Moved as a whole, or placed anew with the same lengths; in later attempts with other lengths too."""
    scale = 1.0 if attempt < TRIES // 2 else float(rng.uniform(0.1, 1.8))
    if attempt % 2:
        shift = float(rng.uniform(-1.5, 1.5)) * (truth[-1][1] - truth[0][0])
        return rounded([(start + shift, start + shift + scale * (end - start)) for start, end in truth]), "moved"
    lengths = scale * rng.permutation([end - start for start, end in truth])
    starts = np.sort(rng.uniform(0, max(duration_s - lengths.sum(), 0), len(truth))) + np.concatenate([[0], np.cumsum(lengths[:-1])])
    return rounded(list(zip(starts, starts + lengths))), "placed"


def _fits(segments: Sequence[Segment], duration_s: float) -> bool:
    """Inside the medium, in order, apart from each other, none without length."""
    bounds = [bound for segment in segments for bound in segment]
    return bounds[0] >= 0 and bounds[-1] <= round(duration_s, 1) and all(a < b for a, b in zip(bounds, bounds[1:]))


# --- masks -----------------------------------------------------------------------------------------------------------------------

def mask_distractors(truth: np.ndarray, others: Mapping[str, np.ndarray], bands: Sequence[Band], rng: np.random.Generator) -> list[Option]:
    """One wrong region per band, in their order: an unused other object of the frame where one fits, else the truth moved.

    Args:
        truth: (H, W) bool.
        others: object id -> (H, W) bool of what else is annotated in the frame.

    Raises:
        SampleError: ``region_too_small``, or ``no_mask_distractor``, naming the band that nothing was found for.
    """
    if truth.sum() < SMALLEST:
        raise SampleError(f"region of {int(truth.sum())} px, at least {SMALLEST} are needed to see its outline", reason="region_too_small")
    found: list[Option] = []
    for band in bands:
        for attempt in range(-len(others), TRIES // 4):
            name, mask = list(others.items())[attempt] if attempt < 0 else ("moved", _moved(truth, rng))
            if mask is None or mask.sum() < SMALLEST or f"object {name}" in [option.origin for option in found]:
                continue
            iou = mask_iou(mask, truth)
            if iou in band and all(mask_iou(mask, other.content) <= DISTINCT for other in found):
                found.append(Option(mask, iou, "moved" if attempt >= 0 else f"object {name}"))
                break
        else:
            raise SampleError(f"no region with IoU {band.low:g}-{band.high:g} found in this frame", reason="no_mask_distractor")
    return found


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _moved(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The region scaled, perhaps mirrored, and put elsewhere; ``None`` when too little of it is in the frame."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    crop = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1][:, ::rng.choice([-1, 1])]
    size = np.maximum(1, np.round(np.array(crop.shape) * rng.uniform(0.7, 1.3)).astype(int))
    crop = np.asarray(Image.fromarray(crop).resize((int(size[1]), int(size[0])), Image.Resampling.NEAREST))
    near = rng.random() < 0.5  # around the truth for bands of high IoU, anywhere in the frame for low ones
    reach = 1.2 * size if near else np.array(mask.shape)
    centre = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) // 2 if near else np.array(mask.shape) // 2
    top, left = (int(c - s // 2 + rng.uniform(-0.5, 0.5) * r) for c, s, r in zip(centre, size, reach))
    out = np.zeros_like(mask)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + size[0], mask.shape[0]), min(left + size[1], mask.shape[1])
    if y1 <= y0 or x1 <= x0:
        return None
    out[y0:y1, x0:x1] = crop[y0 - top:y1 - top, x0 - left:x1 - left]
    return out if out.sum() >= INSIDE * crop.sum() else None


def outlined(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 frame with a red line of about 1/200 of its width just outside of (H, W) bool ``mask``."""
    out = frame.copy()
    out[dilate(mask.view(np.uint8), max(2, mask.shape[1] // 200)).astype(bool) & ~mask] = OUTLINE
    return out
