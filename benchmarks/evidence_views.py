"""A medium with only the evidence that a model cited, without it, and with as much of something else: what faithfulness is asked with.

In time, frames and subtitles inside or outside of cited segments are left out, and the others keep their times. In pixels, whatever is not
shown becomes grey, frame by frame, and frames stay.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from benchmarks.masks import predicted_evidence
from benchmarks.truth import GroundTruth
from unipixel.data.media import decode_frame, stable_rng
from unipixel.errors import SampleError
from unipixel.infer.predictions import Prediction
from unipixel.metrics import merge_segments
from unipixel.sample import Entry, Example, MaskTrack, Sample, decode_entry

VIEWS = ("only", "without", "elsewhere")
"""Only the cited evidence; everything else; as much of something else."""
GREY = 128


class Frames(Sequence):
    """Some frames of a medium, changed or not: made when they are read, because a model reads few of them.

    Args:
        kept: positions in ``frames``.
        change: (encoded frame, its position) -> encoded frame.
    """

    def __init__(self, frames: Sequence[bytes], kept: Sequence[int], change: Callable[[bytes, int], bytes] | None = None):
        self._frames, self._kept, self._change = frames, kept, change

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Frames(self._frames, self._kept[i], self._change)
        frame = self._frames[self._kept[i]]
        return frame if self._change is None else self._change(bytes(frame), self._kept[i])


def time_views(sample: Sample, example: Example, cited: Prediction, seed: int) -> dict[str, Sample]:
    """View -> the question about fewer frames. ``elsewhere`` has as many frames as ``only``, in one piece if there is room.

    Raises:
        SampleError: ``no_citation``: no segment was cited, ``cites_all`` or ``cites_nothing``: no frame is outside, or inside of them.
    """
    if not cited.segments:
        raise SampleError("no segment is cited", reason="no_citation", key=example.example_id)
    times, merged = np.asarray(sample.medium.frame_times), merge_segments(cited.segments)
    inside = ((times[:, None] >= merged[:, 0]) & (times[:, None] <= merged[:, 1])).any(1)
    if inside.all():
        raise SampleError(f"the segments {cited.segments} hold all {len(times)} frames", reason="cites_all", key=example.example_id)
    if not inside.any():
        raise SampleError(f"the segments {cited.segments} hold none of the {len(times)} frames", reason="cites_nothing", key=example.example_id)
    outside, count = np.flatnonzero(~inside), int(inside.sum())
    runs = [run for run in np.split(outside, np.flatnonzero(np.diff(outside) > 1) + 1) if len(run) >= count]
    rng = stable_rng("elsewhere", seed, example.example_id)
    if runs:
        run = runs[rng.integers(len(runs))]
        start = int(rng.integers(len(run) - count + 1))
        elsewhere = run[start:start + count]
    else:
        elsewhere = np.sort(rng.choice(outside, min(count, len(outside)), replace=False))
    return {view: _with_frames(sample, example, kept.tolist())
            for view, kept in zip(VIEWS, (np.flatnonzero(inside), outside, elsewhere), strict=True)}


def _with_frames(sample: Sample, example: Example, kept: Sequence[int]) -> Sample:
    """``sample`` with some of its frames, and what is said while one of them is on the screen."""
    medium = sample.medium
    ends = [*medium.frame_times[1:], max(medium.duration_s, medium.frame_times[-1])]
    shown = [(medium.frame_times[t], ends[t]) for t in kept]
    said = tuple(s for s in medium.subtitles if any(max(s.start_s, a) < min(s.end_s, b) for a, b in shown))
    objects = {oid: dataclasses.replace(obj, track=MaskTrack(obj.track.size, tuple(obj.track.entries[t] for t in kept)))
               for oid, obj in medium.objects.items()}
    fewer = dataclasses.replace(medium, frame_times=tuple(medium.frame_times[t] for t in kept), objects=objects, subtitles=said)
    return dataclasses.replace(sample, medium=fewer, examples=(example,), frames=Frames(sample.frames, kept))


def pixel_views(sample: Sample, example: Example, cited: Prediction, seed: int) -> dict[str, Sample]:
    """View -> the question about frames whose other pixels are grey. ``elsewhere`` shows the cited shape, moved by one offset in all frames
    and wrapped around the border.

    Raises:
        SampleError: ``no_citation``: no mask was predicted, or all of them are empty.
    """
    medium = sample.medium
    truth = GroundTruth(example.example_id, medium.medium_id, "", size=(medium.height, medium.width), frame_times=medium.frame_times)
    unions = predicted_evidence(cited, truth, "resize")[0] if cited.masks else {}
    if not any(unions.values()):
        raise SampleError("no pixel is cited", reason="no_citation", key=example.example_id)
    rng = stable_rng("elsewhere", seed, example.example_id)
    offset = (int(rng.integers(medium.height // 4, 3 * medium.height // 4 + 1)), int(rng.integers(medium.width // 4, 3 * medium.width // 4 + 1)))

    def showing(visible: Callable[[np.ndarray], np.ndarray]) -> Sample:
        def grey(frame: bytes, t: int) -> bytes:
            return _grey_but(decode_frame(frame, f"{sample.key}, frame {t}"), visible(_decoded(unions, t, truth.size)))

        return dataclasses.replace(sample, examples=(example,), frames=Frames(sample.frames, range(len(sample.frames)), grey))

    return {"only": showing(lambda mask: mask), "without": showing(np.logical_not), "elsewhere": showing(lambda mask: np.roll(mask, offset, (0, 1)))}


def _decoded(unions: Mapping[int, Entry], frame: int, size: tuple[int, int]) -> np.ndarray:
    """A frame without a predicted mask shows nothing that was cited."""
    return decode_entry(unions[frame], size) if unions.get(frame) else np.zeros(size, bool)


def _grey_but(frame: np.ndarray, visible: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.where(visible[..., None], frame, np.uint8(GREY))).save(out, "PNG")
    return out.getvalue()
