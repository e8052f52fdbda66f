"""From encoded frames to uint8 tensors: which frames, decode once, two resizes (language model and SAM 2), patch order.

Everything stays uint8 until it is on the training device; :class:`Normalizer` there turns it into what each network was trained on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from unipixel.config import setting
from unipixel.data.frames import StoredFrames
from unipixel.data.layout import MERGE, QWEN2_5_VL, TEMPORAL, VisualLayout
from unipixel.data.stored_video import DECODERS, StoredVideo
from unipixel.errors import ConfigError, SampleError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH = QWEN2_5_VL.patch


SAMPLINGS = ("random", "uniform", "near_ts", "all")
SHOWN = ("all", "key_frame", "none")
FORMATS = ("JPEG", "PNG")
"""What frames may be: no other decoder sees their bytes."""


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """How many frames a clip gives, and the pixel budget of the language model."""

    num_frames: int = setting(8, "frames taken from a video (all of them when it has fewer)")
    frame_sampling: str = setting("random", "random draws one frame per equal stretch (training), uniform spreads them from first to last; of films "
                                            "near_ts takes those nearest to the pause, all the first ones")
    key_frame: bool = setting(False, "films: show the sharp picture of the pause after the others, beyond num_frames; false: leave it out")
    show_frames: str = setting("all", "what an ablation leaves of the pictures: all, key_frame (or the one nearest to the pause), or none")
    prompt_tokens: int = setting(0, "films: show fewer than num_frames pictures where the prompt would have more tokens than this; 0: no limit")
    min_pixels: int = setting(128 * 28 * 28, "least area of a frame for the language model, in pixels; sides become multiples of 28 (Qwen3-VL: 32)")
    max_pixels: int = setting(256 * 28 * 28, "largest area of a frame for the language model, in pixels")
    reference_times: bool = setting(False, "tell the language model that frames are half a second apart, whatever their times, as released UniPixel "
                                           "weights were trained")

    video_decoder: str = setting("pyav", "decoder of video files inside shards: pyav, or torchcodec when it is installed")

    def __post_init__(self):
        if self.video_decoder not in DECODERS:
            raise ConfigError(f"video_decoder={self.video_decoder!r} must be one of {DECODERS}")
        if self.video_decoder == "torchcodec" and importlib.util.find_spec("torchcodec") is None:
            raise ConfigError("video_decoder='torchcodec' is not installed: pip install torchcodec (and FFmpeg), or use pyav")
        for name, allowed in (("frame_sampling", SAMPLINGS), ("show_frames", SHOWN)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {allowed}")
        if self.prompt_tokens < 0:
            raise ConfigError(f"prompt_tokens={self.prompt_tokens} must be 0 (no limit) or more")
        if self.num_frames < 1:
            raise ConfigError(f"num_frames={self.num_frames} must be at least 1")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(f"min_pixels={self.min_pixels} and max_pixels={self.max_pixels} must be positive and in order")


def stable_rng(*parts) -> np.random.Generator:
    """Random numbers that depend on the given values only, not on workers, ranks or earlier draws."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def sample_frames(total: int, count: int, rng: np.random.Generator | None = None, preferred: np.ndarray | None = None) -> list[int]:
    """Frame positions, increasing: ``count`` of ``total``, or all when there are fewer.

    Without ``rng`` the positions are spread from the first to the last frame; with it one frame is drawn per equal stretch, so that
    every frame, the last included, can be drawn. ``preferred`` (total,) bool: in stretches that hold such frames only they are drawn.
    """
    if total <= count:
        return list(range(total))
    if rng is None:
        return [total // 2] if count == 1 else np.round(np.linspace(0, total - 1, count)).astype(int).tolist()
    edges = np.round(np.linspace(0, total, count + 1)).astype(int)
    stretches = [np.arange(a, b) for a, b in zip(edges, edges[1:])]
    if preferred is not None:
        stretches = [s[preferred[s]] if preferred[s].any() else s for s in stretches]
    return [int(rng.choice(s)) for s in stretches]


def decode_frame(data: bytes, key: str) -> np.ndarray:
    """Encoded image -> (H, W, 3) uint8 RGB: grey, CMYK and palette images are converted, an alpha channel is dropped.

    An EXIF orientation is not applied: sizes and masks refer to the pixels as they are stored.

    Raises:
        SampleError: not an image, a truncated one, or one with more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):  # the conversion would clip them
                raise SampleError(f"pixels of mode {image.mode!r} have more than 8 bits per channel", reason="unreadable_frame", key=key)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise SampleError(f"unreadable frame: {error}", reason="unreadable_frame", key=key) from error


def decode_frames(frames: Sequence[bytes], positions: Sequence[int], size: tuple[int, int], key: str, video_decoder: str = "pyav") -> Tensor:
    """(T, 3, H, W) uint8, channels-last in memory (what the uint8 resize is fastest on). ``size`` is the expected (H, W)."""
    if isinstance(frames, StoredVideo):
        decoded = frames.decode(positions, video_decoder)
        if decoded.shape[1:3] != tuple(size):
            raise SampleError(f"the video is {decoded.shape[2]}x{decoded.shape[1]} px, listed as {size[1]}x{size[0]}", reason="frame_size", key=key)
        return torch.from_numpy(decoded).permute(0, 3, 1, 2)
    encoded = frames.read(positions) if isinstance(frames, StoredFrames) else [frames[t] for t in positions]
    decoded = np.empty((len(positions), *size, 3), np.uint8)
    for out, t, data in zip(decoded, positions, encoded):
        frame = decode_frame(data, f"{key}, frame {t}")
        if frame.shape[:2] != tuple(size):
            raise SampleError(f"frame {t} is {frame.shape[1]}x{frame.shape[0]} px, listed as {size[1]}x{size[0]}", reason="frame_size", key=key)
        out[:] = frame
        del frame  # so that the next one reuses its memory, which is in the processor's cache
    return torch.from_numpy(decoded).permute(0, 3, 1, 2)


def llm_size(height: int, width: int, settings: FrameSettings, layout: VisualLayout = QWEN2_5_VL) -> tuple[int, int]:
    """(h, w) in pixels, multiples of a token's side, inside the pixel budget (Qwen's ``smart_resize``)."""
    return smart_resize(height, width, layout.token, settings.min_pixels, settings.max_pixels)


def resize_for_llm(frames: Tensor, settings: FrameSettings, layout: VisualLayout = QWEN2_5_VL) -> Tensor:
    """(T, 3, H, W) uint8 -> (T, 3, h, w) uint8, bicubic with antialiasing."""
    return TF.resize(frames, list(llm_size(*frames.shape[-2:], settings, layout)), InterpolationMode.BICUBIC, antialias=True)


def resize_for_sam2(frames: Tensor, size: int) -> Tensor:
    """(T, 3, H, W) uint8 -> (T, 3, size, size) uint8, bilinear with antialiasing, aspect ratio ignored (as SAM 2 is trained).

    Channels-last in memory, like its input: reordering costs as much as decoding, so it is left to the training device.
    """
    return TF.resize(frames, [size, size], InterpolationMode.BILINEAR, antialias=True)


def patchify(frames: Tensor, layout: VisualLayout = QWEN2_5_VL, *, separate: bool = False) -> tuple[Tensor, tuple[int, int, int]]:
    """(T, 3, h, w) uint8 -> ((N, P) uint8 patches in Qwen's order, (t, h / patch, w / patch)); P is 1176 for patches of 14 pixels.

    ``separate``: every frame is a picture, that is, a temporal cell of itself and its copy; the vision tower attends within cells only.
    Otherwise an odd number of frames is padded with a copy of the last one. Patches are ordered by temporal cell, then by 2 x 2 token, so that
    four consecutive rows merge into one token; inside a row the order is channel, frame of the cell, y, x.
    """
    if separate:
        frames = frames.repeat_interleave(TEMPORAL, dim=0)
    elif len(frames) % TEMPORAL:
        frames = torch.cat([frames, frames[-1:]])
    patch = layout.patch
    t, gh, gw = len(frames) // TEMPORAL, frames.shape[-2] // patch, frames.shape[-1] // patch
    # a row of a patch is one item to copy: three times as quick as pixel by pixel
    x = np.ascontiguousarray(frames.numpy()).view(f"V{patch}")
    x = x.reshape(t, TEMPORAL, 3, gh // MERGE, MERGE, patch, gw // MERGE, MERGE)
    x = np.ascontiguousarray(x.transpose(0, 3, 6, 4, 7, 2, 1, 5)).view(np.uint8)
    return torch.from_numpy(x.reshape(t * gh * gw, layout.patch_values)), (t, gh, gw)


class Normalizer:
    """uint8 -> float on whatever device the data is: mean and deviation of the layout (language model) and ImageNet (SAM 2)."""

    def __init__(self, layout: VisualLayout = QWEN2_5_VL):
        per_row = np.repeat(np.array([layout.mean, layout.std]) * 255, layout.patch_values // 3, axis=1)
        self.patch_mean, self.patch_std = torch.tensor(per_row, dtype=torch.float32)
        self.frame_mean, self.frame_std = (torch.tensor(v)[:, None, None] * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))

    def patches(self, x: Tensor) -> Tensor:
        """(N, P) uint8 -> float32."""
        return (x.float() - self.patch_mean.to(x.device)) / self.patch_std.to(x.device)

    def frames(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 in any memory format -> float32, contiguous."""
        return (x.contiguous().float() - self.frame_mean.to(x.device)) / self.frame_std.to(x.device)
