"""Pictures of masks: which pixels are right, wrong and missed, as transparent layers over a frame and as a sheet of several frames.

A layer is an (H, W) uint8 picture of palette indices (:data:`LAYER`); index 0 is transparent. A page stores every frame once and its layers,
which are small, beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unipixel.metrics.bitplane import dilate

COLOURS = {"hit": (51, 154, 240), "false": (240, 62, 62), "missed": (252, 196, 25), "truth": (47, 158, 68)}
"""RGB of correctly predicted, wrongly predicted and missed pixels, and of the truth."""
TINT = 0.7
LAYER = ("nothing", "hit", "false", "missed", "truth", "line", "rim")
"""Names of the palette indices; ``line`` and ``rim`` are the outline of the truth and the white around it."""
_RGBA = ((0, 0, 0, 0.0), *((*COLOURS[name], TINT) for name in LAYER[1:5]), (*COLOURS["truth"], 1.0), (255, 255, 255, 1.0))
ROW_NAMES = ("input", "truth", "prediction")


def outline(layer: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The layer with a line just outside of (H, W) bool ``truth``, white around it."""
    line, rim = (dilate(truth.view(np.uint8), width).astype(bool) for width in (2, 3))
    layer[rim & ~line] = LAYER.index("rim")
    layer[line & ~truth] = LAYER.index("line")
    return layer


def error_layer(truth: np.ndarray | None, pred: np.ndarray | None) -> np.ndarray:
    """Predicted pixels as hit or false, missed ones as missed, the truth outlined.

    ``truth`` and ``pred``: (H, W) bool, not both ``None``. Without a prediction only the outline is drawn; without a truth (frame not
    annotated) the prediction cannot be judged and is all hit.
    """
    layer = np.zeros((pred if truth is None else truth).shape, np.uint8)
    if pred is not None:
        known = pred if truth is None else truth
        for name, mask in (("hit", pred & known), ("false", pred & ~known), ("missed", known & ~pred)):
            layer[mask] = LAYER.index(name)
    return layer if truth is None or not truth.any() else outline(layer, truth)


def layers(truth: np.ndarray | None, pred: np.ndarray | None) -> dict[str, np.ndarray]:
    """What can be shown of a frame: its ``truth``, its ``prediction``, and the ``errors`` between them."""
    found = {"errors": error_layer(truth, pred)} if truth is not None or pred is not None else {}
    if truth is not None:
        found["truth"] = truth * np.uint8(LAYER.index("truth"))
    if pred is not None:
        found["prediction"] = pred * np.uint8(LAYER.index("hit"))
    return found


def paint(frame: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 frame under a layer -> uint8."""
    colours = np.array(_RGBA, np.float32)[layer]
    return ((1 - colours[..., 3:]) * frame + colours[..., 3:] * colours[..., :3]).astype(np.uint8)


def mask_panel(frames: Sequence[np.ndarray], pred: np.ndarray, gt: np.ndarray, captions: Sequence[str] = ()) -> Image.Image:
    """Picture with three rows of frames: input, truth (outline), prediction (hit, false and missed pixels tinted, truth outlined).

    ``frames``: (H, W, 3) uint8 each; ``pred``, ``gt``: (N, H, W) bool; ``captions``: one line per frame, or none.
    """
    if not len(frames) == len(pred) == len(gt) or (captions and len(captions) != len(frames)):
        raise ValueError(f"{len(frames)} frames, {len(pred)} predicted and {len(gt)} true masks, {len(captions)} captions: "
                         "one of each per frame is needed")
    height, width = frames[0].shape[:2]
    gap, label, line = 4, 90, 22 if captions else 0
    sheet = Image.new("RGB", (label + len(frames) * (width + gap), line + 3 * (height + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    rows = (frames, [paint(f, error_layer(g, None)) for f, g in zip(frames, gt)], [paint(f, error_layer(g, p)) for f, g, p in zip(frames, gt, pred)])
    for number, (name, row) in enumerate(zip(ROW_NAMES, rows)):
        top = line + number * (height + gap)
        draw.text((4, top + height // 2), name, "black", font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (label + column * (width + gap), top))
    for column, caption in enumerate(captions):
        draw.text((label + column * (width + gap) + width // 2, line // 2), caption, "black", font, anchor="mm")
    return sheet


def decode_frame(data: bytes, width: int) -> np.ndarray:
    """Encoded image -> (h, width, 3) uint8, aspect kept."""
    with Image.open(io.BytesIO(data)) as image:
        size = width, max(1, round(image.height * width / image.width))
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def fit(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(H, W) bool -> the height and width of ``like``, nearest."""
    return np.asarray(Image.fromarray(mask).resize(like.shape[1::-1], Image.Resampling.NEAREST))


def jpeg_uri(picture: np.ndarray) -> str:
    return _uri(Image.fromarray(picture), "jpeg", quality=80)


def layer_uri(layer: np.ndarray) -> str:
    """A layer as a palette PNG with transparency."""
    image = Image.fromarray(layer)
    image.putpalette([part for *rgb, _ in _RGBA for part in rgb])
    return _uri(image, "png", transparency=bytes(round(255 * alpha) for *_, alpha in _RGBA))


def _uri(image: Image.Image, kind: str, **how) -> str:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode("ascii")
