"""Which frames of a medium are shown: sampled over its length, or around a pause, with or without the picture of the pause itself.

Owns positions only; nothing is decoded here. Media of films have a key frame (``source["key_frame"]``) that is not one of their pooled
pictures, and the time at which the viewer paused (``source["paused_s"]``), in seconds of the medium.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipixel.data import media
from unipixel.data.film_context import key_frame, pooled_frames
from unipixel.errors import SampleError
from unipixel.sample import Sample


def choose_frames(sample: Sample, settings: media.FrameSettings, rng: np.random.Generator, count: int | None = None) -> list[int]:
    """Positions of the frames to show, increasing, with the key frame, where one is wanted, as the last.

    With random sampling, annotated frames are drawn before unannotated ones, and a frame gives way to one that shows a region which none
    of them does. ``count`` stands in for ``num_frames``.

    Raises:
        SampleError: ``no_pause``: frames near a pause are asked for, and the medium has none; ``show_frames``: masks or regions are asked
            about without frames.
    """
    if settings.show_frames != "all":
        if any(example.targets or example.regions for example in sample.examples):
            raise SampleError(f"show_frames={settings.show_frames!r} hides what masks and regions are about", reason="show_frames", key=sample.key)
        return _ablated(sample, settings)
    count = settings.num_frames if count is None else count
    pooled, key = pooled_frames(sample.medium), key_frame(sample.medium)
    chosen = [pooled[i] for i in _sampled(sample, pooled, settings.frame_sampling, count, rng)] if count else []
    if count:
        _show_regions(sample, chosen)
    return chosen + [key] * (settings.key_frame and key is not None)


def _ablated(sample: Sample, settings: media.FrameSettings) -> list[int]:
    if settings.show_frames == "none" or not sample.medium.frame_times:
        return []
    key = key_frame(sample.medium)
    return [key] if key is not None else _nearest(sample, pooled_frames(sample.medium), 1)


def _sampled(sample: Sample, pooled: Sequence[int], sampling: str, count: int, rng: np.random.Generator) -> list[int]:
    """Places in ``pooled``."""
    total = len(pooled)
    if sampling == "all":
        return list(range(min(total, count)))
    if sampling == "near_ts":
        return [pooled.index(t) for t in _nearest(sample, pooled, count)]
    if sampling == "uniform" or total <= count:
        return media.sample_frames(total, count)
    evidence = [sample.medium.objects[region.oid].track.visible for e in sample.examples for region in e.regions]
    evidence += [sample.medium.objects[oid].track.annotated for e in sample.examples for target in e.targets for oid in target]
    usable = np.logical_and.reduce(evidence)[pooled] if evidence else np.ones(total, dtype=bool)
    return media.sample_frames(total, count, rng, preferred=usable)


def _nearest(sample: Sample, pooled: Sequence[int], count: int) -> list[int]:
    """The ``count`` pictures nearest to the pause, in order of time; of two equally near ones the earlier."""
    paused = sample.medium.source.get("paused_s")
    if paused is None:
        raise SampleError("this medium has no time of a pause (source['paused_s']), which frame_sampling: near_ts and show_frames: key_frame need",
                          reason="no_pause", key=sample.key)
    return sorted(sorted(pooled, key=lambda t: (abs(sample.medium.frame_times[t] - paused), t))[:count])


def _show_regions(sample: Sample, chosen: list[int]) -> None:
    """Exchanges frames, in place, until every pointed-at region is visible in one."""
    for oid in sorted({region.oid for example in sample.examples for region in example.regions}):
        seen = sample.medium.objects[oid].track.visible
        if not seen[chosen].any() and seen.any():
            there = seen.nonzero()[0]
            slot, frame = min(((i, t) for i in range(len(chosen)) for t in there), key=lambda pair: (abs(chosen[pair[0]] - pair[1]), pair))
            chosen[:] = sorted({*chosen[:slot], *chosen[slot + 1:], int(frame)})
