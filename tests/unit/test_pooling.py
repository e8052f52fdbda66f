"""Pooling operators against the published numbers, their streaming form, and chunks by presentation time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks.throughput import pooling as throughput
from benchmarks.throughput import timing
from data_tools.pooling import METHODS, OPERATORS, Pooler, pool, to_uint8, weights
from data_tools.pooling.chunks import ChunkRule, KeyFrames, _Division, pooled_chunks
from data_tools.pooling.video import FilmReader, PictureSize
from data_tools.synth_media import write_mp4
from unipixel.errors import ConfigError, SampleError

SMALL = PictureSize(16, 16)
NTSC = Fraction(24000, 1001)


@pytest.mark.parametrize(("n", "name", "first", "last", "centroid", "effective"), [
    (3, "seed_wa", .0606, .6061, .773, 2.07), (3, "WAE", .2809, .3887, .554, 2.95), (3, "seed_war", 1 / 14, 9 / 14, .786, 2.00),
    (3, "BBLF", .1966, .5721, .688, 2.38), (24, "seed_wa", .0076, .0758, .648, 19.3), (24, "WAE", .0036, .1531, .775, 11.8),
    (24, "seed_war", .0002, .1176, .755, 13.6), (24, "BBLF", .0026, .4072, .843, 5.1),
    (3, "WA", 1 / 3, 1 / 3, .5, 3.0), (3, "WAR", 1 / 6, 3 / 6, 2 / 3, 36 / 14), (24, "WAR", 1 / 300, 24 / 300, 23 / 3 * 2 / 23, 18.367),
])
def test_weights_are_the_published_ones(n, name, first, last, centroid, effective):
    w = weights(name, n)
    assert w.shape == (n,) and w.dtype == np.float64 and w.sum() == pytest.approx(1, abs=1e-12)
    assert (w[0], w[-1]) == pytest.approx((first, last), abs=1e-4)
    assert w @ np.arange(n) / (n - 1) == pytest.approx(centroid, abs=1e-3)
    assert 1 / (w ** 2).sum() == pytest.approx(effective, rel=5e-3)


def test_parameters_change_the_weights():
    assert weights("WAR", 3, power=2) == pytest.approx(weights("seed_war", 3)) and weights("WAE", 4, gamma=1) == pytest.approx([.25] * 4)
    assert weights("BBLF", 3, gamma=0) == pytest.approx([0, 0, 1]) and weights("BBLF", 2, blend=1) == pytest.approx(weights("WAE", 2))
    assert weights("seed_wa", 5, floor=1) == pytest.approx([.2] * 5)
    for name in OPERATORS:
        assert weights(name, 1) == pytest.approx([1.0])


def test_errors_name_what_is_known():
    with pytest.raises(ConfigError, match="known: .*weighted_average_ramp.*WAR.*nearest: 'weighted_average'"):
        weights("weighted_averag", 3)
    with pytest.raises(ConfigError, match="has no parameter 'gama'; known: .'blend', 'gamma'.*nearest: 'gamma'"):
        weights("BBLF", 3, gama=.5)
    with pytest.raises(ConfigError, match="gamma=1.5 must be in 0..1"):
        weights("WAE", 3, gamma=1.5)
    with pytest.raises(ConfigError, match="n=0 frames"):
        weights("WA", 0)
    with pytest.raises(ConfigError, match="no pooling operator"):
        Pooler({})
    with pytest.raises(SampleError, match="without frames"):
        pool(np.zeros((0, 2, 2, 3), np.uint8), "WA")
    with pytest.raises(SampleError, match="frame 1 of shape and type"):
        pool([np.zeros((2, 2, 3)), np.zeros((2, 3, 3))], "WA")


@pytest.mark.parametrize("n", [1, 2, 32, 33, 70])
def test_one_pass_gives_the_weighted_sum_in_numpy_and_torch(n):
    frames = np.random.default_rng(n).integers(0, 256, (n, 5, 7, 3), dtype=np.uint8)
    pooler = Pooler({name: {} for name in OPERATORS})
    for _ in range(2):  # a pooler starts anew after each chunk
        for frame in frames:
            pooler.add(frame)
        together = pooler.finish()
    for frame in frames:
        pooler.add(frame)
    rounded = pooler.finish(rounded=True)
    for name in OPERATORS:
        wanted = np.tensordot(weights(name, n), frames.astype(np.float64), 1)
        other = pool(torch.from_numpy(frames), name)
        np.testing.assert_allclose(together[name], wanted, atol=1e-9)
        np.testing.assert_allclose(pool(frames, name), other.numpy(), atol=1e-6)
        assert (rounded[name] == to_uint8(together[name])).all() and rounded[name].dtype == np.uint8
        assert (to_uint8(together[name]) == to_uint8(other).numpy()).all() and to_uint8(other).dtype == torch.uint8


def test_frames_that_are_alike_give_themselves_back():
    """Every grey level, every operator: the published code, which cuts off decimals, loses up to 109 of 256."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for n in (1, 3, 24, 60):
        for name in OPERATORS:
            assert (to_uint8(pool(np.stack([grey] * n), name)) == grey).all()
    assert to_uint8(pool(np.array([[[[1]]], [[[2]]]], np.uint8), "WA")).item() == 2


def test_memory_is_a_block_and_the_sums():
    pooler = Pooler({name: {} for name in METHODS})
    for _ in range(100):
        pooler.add(np.zeros((4, 4, 3), np.uint8))
    assert pooler._block.shape == (32, 48) and pooler._sums.shape == (4, 48)  # uniform, exponential (BBLF's too), ramp, last frame


def film(path: Path, n: int, *, rate: Fraction | None = Fraction(30), times=None, size=(16, 16)) -> Path:
    """Frame t has grey level t % 64 * 4; every frame is a key frame of high quality."""
    grey = (np.arange(n) % 64 * 4).astype(np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (n, *size, 3))
    write_mp4(path, frames, times if times is not None else [float(t / rate) for t in range(n)], rate=rate if times is None else None, crf=1)
    return path


def cut(path: Path, rule: ChunkRule | None = None, keys: KeyFrames | None = None, **more):
    return list(pooled_chunks(FilmReader(path, more.pop("size", SMALL), threads=1), rule or ChunkRule(), {"WA": {}, "BBLF": {}}, keys))


def test_a_real_clip_of_200_frames_makes_7_chunks(shared_data):
    reader = FilmReader(shared_data / "mini_real/videos/bedroom.mp4", PictureSize(), threads=1)
    chunks = list(pooled_chunks(reader, ChunkRule(), {name: {} for name in METHODS}))
    assert [c.frames for c in chunks] == [30] * 6 + [20] and [c.partial for c in chunks] == [False] * 6 + [True]
    assert (chunks[-1].start_s, chunks[-1].end_s) == pytest.approx((6, 6.667), abs=1e-3)
    assert chunks[1].row() == {"image_file_range": "sample00031-sample00060", "saved_chunk_filename": "frame00002.jpg",
                               "chunk_start_time_sec": 1.0, "chunk_end_time_sec": 2.0}
    assert {p.shape for c in chunks for p in c.pictures.values()} == {(224, 224, 3)} and set(chunks[0].pictures) == set(METHODS)
    sampled = list(pooled_chunks(reader := FilmReader(reader.path, SMALL), ChunkRule(target_fps=3), {"WA": {}}))
    assert [c.frames for c in sampled] == [3] * 6 + [2] and (sampled[0].first_frame, sampled[0].last_frame, sampled[1].first_frame) == (1, 21, 31)
    assert sampled[0].end_s == sampled[1].start_s == 1.0 and reader.frames == 200


def test_200_frames_make_7_chunks_by_time_and_by_rate(tmp_path):
    """The same on a film that is made here: every tenth frame at 3 per second, in chunks of three."""
    path = film(tmp_path / "v.mp4", 200)
    assert [c.frames for c in cut(path)] == [30] * 6 + [20]
    chunks = cut(path, ChunkRule(target_fps=3, size=3))
    assert [c.frames for c in chunks] == [3] * 6 + [2] and [c.file_name() for c in chunks] == [f"frame{n:05d}.jpg" for n in range(1, 8)]
    assert [c.first_frame for c in chunks] == list(range(1, 200, 30)) and sum(c.frames for c in chunks) == 20
    assert [c.frames for c in cut(path, ChunkRule(target_fps=3, size=3, partial="drop"))] == [3] * 6


def test_two_hours_of_ntsc_do_not_drift():
    """The division alone, on the time stamps of a whole film: the published code is 7.2 s late at its end."""
    class Reader:
        path, rate, frames, end = "film", NTSC, 0, Fraction(0)

    division, picture, chunks = _Division(ChunkRule(), {"WA": {}}), np.zeros((1, 1, 1), np.uint8), []
    total = int(7200 * NTSC)
    for t in range(total):
        Reader.frames, Reader.end = t + 1, (t + 1) / NTSC
        chunks += division.add(Reader, t / NTSC, picture)
    chunks += division.finish(Reader)
    assert len(chunks) == 7200 and sum(c.frames for c in chunks) == total
    late = [(c.first_frame - 1) / NTSC - Fraction(c.start_s) for c in chunks]
    assert all(0 <= float(d) < float(1 / NTSC) for d in late) and chunks[-1].start_s == 7199


def test_frames_go_where_they_are_shown(tmp_path):
    """Variable rate: the picture at 0.4 s stays through the second from 1 s to 2 s, in which no frame appears."""
    chunks = cut(film(tmp_path / "v.mp4", 4, times=[0, 0.4, 2.25, 3.1]))
    assert [(c.number, c.start_s, c.end_s, c.frames, c.first_frame, c.last_frame) for c in chunks[:3]] == [
        (1, 0.0, 1.0, 2, 1, 2), (2, 1.0, 2.0, 0, 2, 2), (3, 2.0, 3.0, 1, 3, 3)]
    assert abs(int(chunks[1].pictures["weighted_average"].mean()) - 4) <= 2 and len(chunks) == 4
    assert abs(float(chunks[0].pictures["weighted_average"].mean()) - 2) <= 2


def test_the_last_chunk(tmp_path):
    exact, longer = film(tmp_path / "a.mp4", 20, rate=Fraction(10)), film(tmp_path / "b.mp4", 23, rate=Fraction(10))
    assert [(c.frames, c.partial) for c in cut(exact)] == [(10, False)] * 2
    assert [(c.frames, c.partial, c.end_s) for c in cut(longer)] == [(10, False, 1.0), (10, False, 2.0), (3, True, 2.3)]
    assert [c.frames for c in cut(longer, ChunkRule(partial="drop"))] == [10, 10]
    assert [c.frames for c in cut(longer, ChunkRule(seconds=Fraction(1, 2)))] == [5, 5, 5, 5, 3]
    sampled = ChunkRule(target_fps=10, size=4, skip=2)
    assert [(c.first_frame, c.last_frame, c.start_s, c.end_s) for c in cut(longer, sampled)] == [
        (1, 4, 0.0, 0.4), (7, 10, 0.6, 1.0), (13, 16, 1.2, 1.6), (19, 22, 1.8, 2.2)]
    for wrong in ({"seconds": Fraction(0)}, {"target_fps": 0.0}, {"size": 0}, {"skip": -1}, {"partial": "guess"}):
        with pytest.raises(ConfigError, match="must be|is not one of"):
            ChunkRule(**wrong)


def test_a_time_stamp_far_away_is_damage(tmp_path):
    with pytest.raises(SampleError, match="would stay until 5000.000 s"):
        cut(film(tmp_path / "v.mp4", 3, times=[0, 1, 5000]))


def test_key_frames_are_those_on_the_screen(tmp_path):
    path, saved = film(tmp_path / "v.mp4", 23, rate=Fraction(10)), {}
    keys = KeyFrames([(2.25, "late"), (0.0, "first"), (0.7, "at"), (0.79, "between"), (9.0, "past"), (2.3, "end")], saved.__setitem__)
    reader = FilmReader(path, SMALL)
    list(pooled_chunks(reader, ChunkRule(), {"WA": {}}, keys))
    assert keys.finish(reader.end) == [(2.3, "end"), (9.0, "past")]
    assert {key: round(float(picture.mean()) / 4) for key, picture in saved.items()} == {"first": 0, "at": 7, "between": 7, "late": 22}


def quadrants(path: Path, degrees: int) -> Path:
    """White in the upper left quarter; to be shown turned by ``degrees``."""
    picture = np.zeros((1, 32, 64, 3), np.uint8)
    picture[:, :16, :32] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 32, "yuv420p", {"crf": "1"}
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[0], format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()  # the display matrix of the track header, as cameras write it
    unit, wide, at = 1 << 16, 1 << 30, data.index(b"tkhd") + 44
    matrix = {0: (unit, 0, 0, 0, unit, 0, 0, 0, wide), 90: (0, unit, 0, -unit, 0, 0, 0, 0, wide), 180: (-unit, 0, 0, 0, -unit, 0, 0, 0, wide)}
    path.write_bytes(data[:at] + b"".join(v.to_bytes(4, "big", signed=True) for v in matrix[degrees]) + data[at + 36:])
    return path


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1))])
def test_rotation_is_applied(tmp_path, degrees, corner):
    (chunk,) = cut(quadrants(tmp_path / "v.mp4", degrees))
    picture = chunk.pictures["weighted_average"]
    bright = [(y, x) for y in (0, 1) for x in (0, 1) if picture[8 * y + 2:8 * y + 6, 8 * x + 2:8 * x + 6].mean() > 200]
    assert bright == [corner] and picture.shape == (16, 16, 3)


def test_letterbox_keeps_the_shape(tmp_path):
    path = film(tmp_path / "v.mp4", 40, rate=Fraction(10), size=(32, 64))
    picture = cut(path, size=PictureSize(32, 32, "letterbox"))[-1].pictures["weighted_average"]
    assert picture[:8].max() == 0 == picture[24:].max() and picture[8:24].min() > 100
    assert cut(path, size=PictureSize(32, 32))[-1].pictures["weighted_average"].min() > 100
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        PictureSize.parse("224", "stretch")
    with pytest.raises(ConfigError, match="fit='crop'"):
        PictureSize.parse("224x112", "crop")


def test_damaged_files_are_named(tmp_path):
    path = film(tmp_path / "v.mp4", 60, rate=Fraction(10))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(SampleError, match="cannot decode .*bad.mp4") as caught:
        cut(tmp_path / "bad.mp4")
    assert caught.value.reason == "video_unreadable"
    front = tmp_path / "front.mp4"
    with av.open(str(path)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    front.write_bytes(front.read_bytes()[:-front.stat().st_size // 2])
    with pytest.raises(SampleError) as caught:
        cut(front)
    assert caught.value.reason in ("video_truncated", "video_unreadable")


def test_pooling_costs_little_beside_decoding(tmp_path):
    """The promised ratios on half a minute, with a margin; a second look before a failure: another program may have had the processor."""
    for attempt in range(2):
        (folder := tmp_path / str(attempt)).mkdir()
        checks = throughput.measure(folder, quick=True)
        if all(check.passed(0.8) for check in checks):
            return
    raise AssertionError(timing.table(checks))
