"""Frames of a stored video are those that decoding it from the beginning gives, at a fraction of the decoding."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from unipixel.data import stored_video
from unipixel.data.media import decode_frames
from unipixel.data.shards import ShardDataset
from unipixel.data.stored_video import StoredVideo
from unipixel.data.writer import ShardWriter
from unipixel.errors import SampleError
from unipixel.sample import Example, Medium

SIZE = (48, 64)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8: a bar over a changing scene; no two are alike."""
    scene = np.random.default_rng(seed).integers(0, 200, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(scene, 3 * t, 1) for t in range(count)])
    for t, frame in enumerate(frames):
        frame[t % 40:t % 40 + 6] = (255, 4 * t % 256, 0)
    return frames


def video(count: int = 60, *, gop: int = 12, b_frames: int = 0, rate: Fraction = Fraction(30), ticks: list[int] | None = None,
          start: int = 0) -> bytes:
    """An mp4; ``ticks``: presentation times in 1/600 s instead of a fixed rate; ``start``: the first time stamp."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"g": str(gop), "bf": str(b_frames), "preset": "ultrafast", "sc_threshold": "0", "crf": "20"}
        stream.codec_context.time_base = Fraction(1, 600) if ticks else 1 / rate
        for t, pixels in enumerate(pictures(count)):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.time_base = stream.codec_context.time_base
            frame.pts = start + (ticks[t] if ticks else t)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def sequential(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """((n,) seconds from the first frame, (n, H, W, 3) pixels), by decoding everything."""
    with av.open(io.BytesIO(data)) as container:
        decoded = sorted(((f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)), key=lambda pair: pair[0])
    return np.array([float(time - decoded[0][0]) for time, _ in decoded]), np.stack([pixels for _, pixels in decoded])


def nearest(times: np.ndarray, wanted: float) -> int:
    return int(np.abs(times - wanted).argmin())


class Counter:
    """Counts the frames that are handed out by decoders."""

    def __init__(self, monkeypatch):
        self.frames, walk = 0, av.container.InputContainer.decode
        counter = self

        class Counting:
            """An input container whose decoded frames are counted."""

            def __init__(self, container):
                self.container = container

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.container.close()

            def decode(self, stream):
                for frame in walk(self.container, stream):
                    counter.frames += 1
                    yield frame

            def __getattr__(self, name):
                return getattr(self.container, name)

        self.open = av.open
        monkeypatch.setattr(stored_video.av, "open", lambda *a, **k: Counting(self.open(*a, **k)))


# --- which frames ---------------------------------------------------------------------------------------------------------------------

VARIABLE = np.cumsum([0] + [10 + 17 * (t % 5) for t in range(59)]).tolist()


@pytest.mark.parametrize("options", [
    {"gop": 1}, {"gop": 12}, {"gop": 250}, {"gop": 12, "b_frames": 3}, {"gop": 250, "b_frames": 2}, {"gop": 12, "ticks": VARIABLE},
    {"gop": 12, "b_frames": 2, "ticks": VARIABLE}, {"rate": Fraction(24000, 1001)}, {"gop": 7, "start": 90}, {"count": 1}, {"count": 2},
], ids=str)
def test_frames_equal_sequential_decoding(options):
    data = video(**options)
    times, pixels = sequential(data)
    assert len(times) == options.get("count", 60)
    wanted = np.sort(np.random.default_rng(1).uniform(0, times[-1] + 0.01, 12)).tolist()
    stored = StoredVideo(lambda: data, wanted)
    assert len(stored) == 12
    everything = stored.decode(range(12))
    assert np.array_equal(everything, pixels[[nearest(times, t) for t in wanted]])
    for positions in ([11], [0], [3, 9], [9, 3, 9], [10, 0, 5]):
        assert np.array_equal(StoredVideo(lambda: data, wanted).decode(positions), everything[positions])
        assert np.array_equal(stored.decode(positions), everything[positions]), "a second use"


def test_exact_times_give_their_own_frames():
    data = video(rate=Fraction(24000, 1001), b_frames=2)
    times, pixels = sequential(data)
    assert np.array_equal(StoredVideo(lambda: data, times.tolist()).decode(range(60)), pixels)


def test_times_beyond_the_end_give_the_last_frame():
    data = video(20)
    _, pixels = sequential(data)
    stored = StoredVideo(lambda: data, [0.0, 0.63, 5.0, 900.0])
    assert np.array_equal(stored.decode(range(4)), pixels[[0, 19, 19, 19]])


@pytest.mark.parametrize(("gop", "positions", "most"), [(12, [59], 12), (12, [0, 59], 1 + 12), (1, [5, 30, 59], 3), (250, [59], 60),
                                                        (12, list(range(60)), 60), (250, [10, 40], 41)])
def test_decoding_begins_at_key_frames(monkeypatch, gop, positions, most):
    data = video(gop=gop)
    counter = Counter(monkeypatch)
    StoredVideo(lambda: data, [t / 30 for t in range(60)]).decode(positions)
    assert len(positions) <= counter.frames <= most


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees):
    """As players do: the display matrix of the file turns the picture."""
    data = rotated(video(6), degrees)
    _, pixels = sequential(data)
    decoded = StoredVideo(lambda: data, [0.0, 0.1]).decode([0, 1])
    with av.open(io.BytesIO(data)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert abs(rotation) in (degrees, 360 - degrees)
    assert np.array_equal(decoded[0], np.rot90(pixels[0], rotation // 90)) and decoded.shape[1:3] == (SIZE if degrees == 180 else SIZE[::-1])


def rotated(data: bytes, degrees: int) -> bytes:
    """The file with the rotation written into its track header (ISO 14496-12, ``tkhd``: a 3 x 3 matrix of 16.16 numbers)."""
    one, minus = (1 << 16).to_bytes(4, "big"), ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    first = {90: (zero, one, zero, minus, zero), 180: (minus, zero, zero, zero, minus), 270: (zero, minus, zero, one, zero)}[degrees]
    at = data.index(b"tkhd") + 4 + 40
    assert data[at:at + 4] == one, "the matrix stands elsewhere"
    return data[:at] + b"".join(first) + zero * 3 + w + data[at + 36:]


# --- files that are no good -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("data", [b"", b"not a video", video(5)[:200], video(5)[:-300]], ids=["empty", "text", "header", "cut"])
def test_unreadable_files_are_bad_samples(data):
    with pytest.raises(SampleError) as caught:
        StoredVideo(lambda: data, [0.0, 0.1], "clip7").decode([1])
    assert caught.value.reason == "video_unreadable" and caught.value.key == "clip7"


def test_damaged_frames_are_not_replaced():
    """Packets overwritten with zeros: either they decode to the same pixels, or the sample is refused."""
    data = bytearray(video(40, gop=40))
    at = data.index(b"mdat") + 4
    data[at:at + (len(data) - at) // 2] = bytes((len(data) - at) // 2)
    with pytest.raises(SampleError) as caught:
        StoredVideo(lambda: bytes(data), [t / 30 for t in range(40)], "clip").decode([0, 5, 10])
    assert caught.value.reason == "video_unreadable"


def test_sound_alone_is_no_video():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 16000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(SampleError) as caught:
        StoredVideo(lambda: out.getvalue(), [0.0]).decode([0])
    assert caught.value.reason == "video_unreadable"


# --- in shards ------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def packed(tmp_path):
    data = video(30)
    times = tuple(t / 10 for t in range(10))
    medium = Medium("clip", "frames", SIZE[1], SIZE[0], times, 1.0)
    with ShardWriter(tmp_path / "d", dataset="toy", split="train") as writer:
        key = writer.write(medium, [Example("q", "evidence", "What moves?", answer="A bar.")], StoredVideo(lambda: data, times))
    return tmp_path / "d", key, data


def test_round_trip(packed):
    folder, key, data = packed
    sample = ShardDataset(folder).sample(0)
    times, pixels = sequential(data)
    expected = pixels[[nearest(times, t) for t in sample.medium.frame_times]]
    frames = decode_frames(sample.frames, [7, 2], SIZE, key)
    assert frames.shape == (2, 3, *SIZE) and np.array_equal(frames.permute(0, 2, 3, 1).numpy(), expected[[7, 2]])
    picture = np.asarray(Image.open(io.BytesIO(sample.frames[4])), np.int16)
    assert np.abs(picture - expected[4]).mean() < 12 and len(sample.frames[1:3]) == 2, "an item is the frame as JPEG"
    with pytest.raises(SampleError, match="the video is 64x48 px, listed as 64x50"):
        decode_frames(sample.frames, [0], (50, 64), key)


def test_webdataset_reads_the_member(packed):
    folder, key, data = packed
    (bundle,) = wds.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False)
    assert bundle["__key__"] == key and bundle["video.mp4"] == data and "frames.zip" not in bundle


@pytest.mark.parametrize("large", [False, True])
def test_a_flipped_bit_is_found_before_decoding(packed, monkeypatch, large):
    from unipixel.data import shards

    folder, key, data = packed
    if large:
        monkeypatch.setattr(shards, "WHOLE", 0)
    tar = folder / "shard-000000.tar"
    raw = bytearray(tar.read_bytes())
    raw[raw.index(data) + len(data) // 2] ^= 1
    tar.write_bytes(raw)
    with pytest.raises(SampleError) as caught:
        ShardDataset(folder).sample(0).frames.decode([0])
    assert caught.value.reason == "checksum" and caught.value.key == key
