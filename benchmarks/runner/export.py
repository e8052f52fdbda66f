"""Merged predictions in the layouts that others read: zip files of benchmark servers, and the folder of the ST-Evidence release.

Servers want one PNG per listed frame, 255 inside and 0 outside, under the frame's own name; a frame without a prediction is black, as a
missing file is refused. A failed example would be sent as black frames too, so it ends the export unless that is allowed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from benchmarks.masks import resize_entry
from benchmarks.result import LISTED, write_json
from benchmarks.truth import union_entry
from unipixel.errors import ConfigError, DataError
from unipixel.infer.predictions import Prediction, safe_name
from unipixel.sample import EMPTY, Medium, Sample, decode_entry

PREFIXES = {"ref-youtube-vos": "Annotations/", "mevis": ""}
"""Folder inside the zip, by benchmark."""
_DATE = (1980, 1, 1, 0, 0, 0)


def write_server_zip(task: str, samples: Iterable[Sample], predictions: Mapping[str, Prediction], path: str | Path, *,
                     allow_failed: bool = False) -> int:
    """``[Annotations/]<video>/<expression>/<frame>.png`` of every question of the samples; number of expressions.

    The same predictions give the same bytes.

    Raises:
        ConfigError: this benchmark has no server.
        DataError: a question has no prediction, or a failed one.
    """
    if task not in PREFIXES:
        raise ConfigError(f"{task} has no server that takes a zip; {', '.join(PREFIXES)} have")
    part, count = Path(f"{path}.part"), 0
    part.parent.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for sample in samples:
            for example in sample.examples:
                prediction = predictions.get(example.example_id)
                if prediction is None or prediction.failed:
                    bad.append(f"{example.example_id} ({'missing' if prediction is None else prediction.status})")
                    if prediction is None or not allow_failed:
                        continue
                folder = f"{PREFIXES[task]}{sample.medium.medium_id}/{_expression(example.example_id, sample.medium)}"
                for name, png in _frames(sample.medium, prediction):
                    archive.writestr(zipfile.ZipInfo(f"{folder}/{name}.png", _DATE), png)
                count += 1
    if bad and not (allow_failed and not any("(missing)" in one for one in bad)):
        part.unlink()
        raise DataError(f"{len(bad)} questions have no answer to send: {', '.join(bad[:LISTED])}; predict them, or allow failed ones as empty masks")
    part.replace(path)
    return count


def _expression(example_id: str, medium: Medium) -> str:
    """The expression's own id, which the converters put behind the video's."""
    head = f"{medium.medium_id}_"
    if not example_id.startswith(head):
        raise DataError(f"example {example_id!r} does not begin with its video {medium.medium_id!r}: these shards are not of this benchmark")
    return safe_name(example_id.removeprefix(head))


def _frames(medium: Medium, prediction: Prediction) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of every listed frame, masks of several tracks united."""
    names, size = medium.source.get("frames"), (medium.height, medium.width)
    if not names or len(names) != len(medium.frame_times):
        raise DataError(f"{medium.medium_id!r} does not list the names of its frames: pack it with this benchmark's converter")
    for t, name in enumerate(names):
        if PurePosixPath(name).name != name:
            raise DataError(f"frame name {name!r} of {medium.medium_id!r} is not a plain file name")
        entry = union_entry((track[t] for track in prediction.masks if t in track), prediction.size or size)
        yield name, mask_png(decode_entry(resize_entry(entry, prediction.size or size, size), size))


def mask_png(mask: np.ndarray) -> bytes:
    """(H, W) bool -> PNG with 0 and 255."""
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, "PNG")
    return out.getvalue()


def write_release(predictions: Iterable[Prediction], folder: str | Path) -> Path:
    """The ST-Evidence release's own form: ``predictions.json`` with nested ``parsed_response``, and ``<entry>/masks/%05d.png``.

    ``unipixel score st-evidence-gen --predictions predictions.json --pred_masks FOLDER`` reads it, and so does the published evaluator.
    """
    folder, entries = Path(folder), {}
    for prediction in predictions:
        name = safe_name(prediction.example_id)
        segments = None if prediction.segments is None else [list(segment) for segment in prediction.segments]
        said = None if prediction.failed else {"answer": prediction.answer, "segments": segments}
        entries[name] = {"video_id": prediction.medium_id, "parsed_response": said} | ({"error": prediction.error} if prediction.error else {})
        masks = folder / name / "masks"
        for frame in sorted({frame for track in prediction.masks for frame in track}):
            masks.mkdir(parents=True, exist_ok=True)
            entry = union_entry((track.get(frame, EMPTY) for track in prediction.masks), prediction.size)
            (masks / f"{frame:05d}.png").write_bytes(mask_png(decode_entry(entry, prediction.size)))
    write_json(folder / "predictions.json", entries)
    return folder / "predictions.json"
