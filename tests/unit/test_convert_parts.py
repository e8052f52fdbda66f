"""Parts of the converters: polygons, run lengths, subtitles, frames from video files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.convert.masks import compressed, rasterise
from data_tools.convert.srt import read_srt
from tests.packing import H, W, grey_video
from unipixel.data.video import decode_video
from unipixel.errors import SampleError
from unipixel.sample import EMPTY, Subtitle, encode_mask

SQUARE = {"exterior": [[2, 3], [8, 3], [8, 9], [2, 9]], "holes": [[[4, 5], [6, 5], [6, 7], [4, 7]]]}
DOT = {"exterior": [[20, 20]], "holes": []}


def test_polygons_keep_outline_and_cut_holes():
    mask = rasterise([SQUARE, DOT], (H, W))
    expected = np.zeros((H, W), bool)
    expected[3:10, 2:9] = True
    expected[5:8, 4:7] = False
    expected[20, 20] = True
    assert (mask == expected).all()


def test_uncompressed_and_damaged_rle():
    mask = np.zeros((H, W), np.uint8)
    mask[1:3, 0] = 1
    assert compressed({"size": [H, W], "counts": [1, 2, H * W - 3]}, (H, W)) == encode_mask(mask)
    assert compressed({"size": [H, W], "counts": [H * W]}, (H, W)) == EMPTY == compressed(None, (H, W))
    for rle, reason in [({"size": [W, H], "counts": "0"}, "mask_size"), ({"size": [H, W], "counts": "PPYo1"}, "bad_masks"), ({}, "bad_masks")]:
        with pytest.raises(SampleError) as caught:
            compressed(rle, (H, W))
        assert caught.value.reason == reason


def test_subtitles(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("\ufeff2\n00:00:01,500 --> 00:00:03,000\n<i>second</i>\nline\n\n1\n00:00:00.25 --> 01:00:02,000 X1:3\nfirst\n\n\n"
                    "00:00:04,000 --> 00:00:05,000\n42\n\n9\n00:00:06,000 --> 00:00:07,000\n\n", encoding="utf-8")
    assert read_srt(path) == (Subtitle(0.25, 3602.0, "first"), Subtitle(1.5, 3.0, "second line"), Subtitle(4.0, 5.0, "42"))
    for text in ("1\nno times\nx", "1\n00:00:02,000 --> 00:00:01,000\nx"):
        path.write_text(text)
        with pytest.raises(SampleError) as caught:
            read_srt(path)
        assert caught.value.reason == "bad_subtitles"
    path.write_text("")
    assert read_srt(path) == ()


def grey(frame: bytes) -> int:
    """Number of the source frame of ``grey_video``."""
    with Image.open(io.BytesIO(frame)) as image:
        return round(np.asarray(image.convert("L")).mean() / 4)


@pytest.mark.parametrize("rate,n_frames,expected", [(24, 50, list(range(0, 50, 4))), (25, 50, [0, 4, 8, 13, 17, 21, 25, 29, 33, 38, 42, 46]),
                                                    (4, 6, [0, 1, 1, 2, 3, 3, 4, 5, 5])])
def test_video_is_sampled_at_the_nearest_frames(tmp_path, rate, n_frames, expected):
    grey_video(tmp_path / "v.mp4", n_frames, rate)
    frames = decode_video(tmp_path / "v.mp4", 6.0)
    nearest = [int(np.floor(i / 6 * rate + 0.5)) for i in range(len(frames.frames))]
    assert [grey(f) for f in frames.frames] == nearest == expected
    assert frames.duration_s == pytest.approx(n_frames / rate) and frames.times[-1] < frames.duration_s
