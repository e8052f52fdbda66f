"""Frames: which ones, how they are decoded and resized, and patches that equal those of the model's own processor."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from unipixel.data import media
from unipixel.data.media import FrameSettings, Normalizer
from unipixel.errors import ConfigError, SampleError


def random_frames(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


# --- which frames ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("total", "count", "positions"), [
    (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (10, 4, [0, 3, 6, 9]), (7, 1, [3]), (1, 1, [0]),
])
def test_uniform_positions_reach_both_ends(total, count, positions):
    assert media.sample_frames(total, count) == positions


def test_random_positions_are_one_per_stretch_and_reach_every_frame():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        positions = media.sample_frames(11, 4, rng)
        assert len(positions) == 4 and all(a < b for a, b in zip(positions, positions[1:]))
        seen |= set(positions)
    assert seen == set(range(11))


def test_random_positions_prefer_annotated_frames():
    preferred = np.zeros(12, dtype=bool)
    preferred[[1, 4, 5]] = True
    for seed in range(30):
        positions = media.sample_frames(12, 4, np.random.default_rng(seed), preferred)
        assert positions[0] == 1 and positions[1] in (4, 5) and positions[2] in (6, 7, 8) and positions[3] in (9, 10, 11)


def test_stable_rng_depends_on_its_parts_only():
    draw = [media.stable_rng(0, "key", epoch).integers(1 << 30) for epoch in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
    assert int(media.stable_rng(0, "key", 0).integers(1 << 30)) == 574711937, "a change would redraw the frames of every run being resumed"


# --- decoding -------------------------------------------------------------------------------------------------------------------------

def test_decoded_frames_keep_their_pixels_and_order():
    pixels = random_frames(3, 8, 12).permute(0, 2, 3, 1).numpy()
    frames = media.decode_frames([encoded(p) for p in pixels], [2, 0], (8, 12), "clip")
    assert frames.shape == (2, 3, 8, 12) and frames.dtype == torch.uint8
    assert (frames.permute(0, 2, 3, 1).numpy() == pixels[[2, 0]]).all()


def test_grey_images_become_rgb():
    assert media.decode_frame(encoded(np.full((4, 5), 9, np.uint8)), "k").tolist() == [[[9, 9, 9]] * 5] * 4


def test_colours_in_other_forms_become_rgb():
    """CMYK, palette and transparency as Pillow converts them; the pixels of colour JPEGs are those of Pillow's decoder, unchanged."""
    pixels = random_frames(1, 16, 24)[0].permute(1, 2, 0).numpy()
    for mode, form in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")):
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, form)
        decoded = media.decode_frame(out.getvalue(), "k")
        assert decoded.shape == (16, 24, 3) and decoded.dtype == np.uint8
        assert np.array_equal(decoded, np.asarray(Image.open(out).convert("RGB")))


def test_orientation_tags_do_not_turn_the_pixels():
    """Masks and sizes refer to what is stored."""
    image, tags, out = Image.fromarray(random_frames(1, 8, 12)[0].permute(1, 2, 0).numpy()), Image.Exif(), io.BytesIO()
    tags[0x0112] = 6  # "turn right by 90 degrees to view"
    image.save(out, "JPEG", exif=tags)
    assert media.decode_frames([out.getvalue()], [0], (8, 12), "k").shape == (1, 3, 8, 12)


def test_what_would_be_distorted_is_refused(monkeypatch):
    """16-bit pixels, which a conversion would clip to white; pictures of absurd size; other formats under a familiar name."""
    deep = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(deep, "PNG")
    gif = encoded(np.zeros((4, 4), np.uint8), "GIF")
    for data, words in ((deep.getvalue(), "more than 8 bits"), (gif, "cannot identify")):
        with pytest.raises(SampleError, match=words) as caught:
            media.decode_frame(data, "clip, frame 2")
        assert caught.value.reason == "unreadable_frame"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(SampleError, match="decompression bomb"):
        media.decode_frame(encoded(np.zeros((4, 4, 3), np.uint8)), "k")


@pytest.mark.parametrize("data", [b"", b"nothing", encoded(np.zeros((40, 40, 3), np.uint8), "JPEG")[:200], b"\xff\xd8\xff\xe0" + bytes(99)])
def test_broken_images_name_their_frame(data):
    with pytest.raises(SampleError) as caught:
        media.decode_frames([data], [0], (40, 40), "clip7")
    assert caught.value.reason == "unreadable_frame" and "clip7, frame 0" in str(caught.value)


def test_frame_of_another_size_than_listed():
    with pytest.raises(SampleError, match="frame 1 is 6x4 px, listed as 5x4"):
        media.decode_frames([encoded(np.zeros((4, 5, 3), np.uint8)), encoded(np.zeros((4, 6, 3), np.uint8))], [0, 1], (4, 5), "clip")


# --- resizing -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("size", "budget", "expected"), [
    ((96, 128), (784, 3136), (28, 56)), ((480, 640), (100352, 200704), (364, 504)), ((30, 300), (784, 200704), (28, 308)),
])
def test_llm_size_keeps_the_budget(size, budget, expected):
    h, w = media.llm_size(*size, FrameSettings(min_pixels=budget[0], max_pixels=budget[1]))
    assert (h, w) == expected and h % 28 == w % 28 == 0 and budget[0] <= h * w <= budget[1]


def test_sam2_frames_equal_the_reference(shared_data):
    """The reference resizes floats; uint8 is resized in two rounded passes, which ends at most one grey level apart."""
    common = load_file(shared_data / "fixtures" / "unipixel_tiny" / "cases" / "common.safetensors")
    frames = media.resize_for_sam2(common["in.raw_frames"].permute(0, 3, 1, 2), 128)
    assert frames.dtype == torch.uint8 and frames.shape == (10, 3, 128, 128)
    levels = (Normalizer().frames(frames) - common["out.frames"]).abs() * 255 * torch.tensor(media.IMAGENET_STD)[:, None, None]
    assert levels.max() <= 1 and levels.mean() < 0.35


def test_llm_patches_equal_the_reference(shared_data):
    common = load_file(shared_data / "fixtures" / "unipixel_tiny" / "cases" / "common.safetensors")
    settings = FrameSettings(min_pixels=28 * 28 * 28, max_pixels=64 * 28 * 28)
    patches, grid = media.patchify(media.resize_for_llm(common["in.raw_frames"][:6].permute(0, 3, 1, 2), settings))
    assert list(grid) == common["out.video_grid_thw"][0].tolist()
    apart = (Normalizer().patches(patches) - common["out.pixel_values_videos"]).abs()
    assert (apart > 1e-5).float().mean() < 0.005 and apart.max() < 0.04, "PIL and torchvision may round a bicubic pixel differently"


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_patches_and_normalisation_equal_the_processor(count):
    frames = random_frames(count, 56, 84)
    patches, grid = media.patchify(frames)
    out = Qwen2VLVideoProcessor(do_resize=False)(videos=[frames], do_sample_frames=False, return_tensors="pt")
    assert list(grid) == out["video_grid_thw"][0].tolist() == [(count + 1) // 2, 4, 6]
    assert patches.dtype == torch.uint8
    torch.testing.assert_close(Normalizer().patches(patches), out["pixel_values_videos"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("changes", "words"), [
    ({"frame_sampling": "some"}, "must be one of"), ({"num_frames": 0}, "num_frames=0 must be at least 1"),
    ({"min_pixels": 10, "max_pixels": 5}, "must be positive and in order"), ({"min_pixels": 0}, "must be positive and in order"),
])
def test_settings_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        FrameSettings(**changes)


def test_an_optional_decoder_gives_the_same_pixels(tmp_path):
    pytest.importorskip("torchcodec")
    from tests.packing import grey_video
    from unipixel.data.stored_video import StoredVideo

    grey_video(tmp_path / "v.mp4", 30, 10)
    video = StoredVideo((tmp_path / "v.mp4").read_bytes, [t / 5 for t in range(12)])
    assert np.array_equal(video.decode([3, 0, 11]), video.decode([3, 0, 11], "torchcodec"))


def test_decoders_are_checked(monkeypatch):
    with pytest.raises(ConfigError, match="video_decoder='decord' must be one of"):
        FrameSettings(video_decoder="decord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install torchcodec"):
        FrameSettings(video_decoder="torchcodec")
