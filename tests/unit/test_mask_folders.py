"""Folders of label pictures: reading them, the table of DAVIS 2017, and pictures that are missing or wrong."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import mask_folders
from benchmarks.label_png import read_labels
from benchmarks.leaderboard.board import Style, build_boards
from benchmarks.leaderboard.entries import Entry
from benchmarks.result import read_result
from unipixel.errors import EXIT_USER_ERROR, DataError
from unipixel.metrics import jf, sequence_statistics

SIZE = (37, 53)


def labels(t: int, shift: int = 0) -> np.ndarray:
    """(H, W) uint8: a box and a disc that move; from frame 3 on a third object."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    out = np.zeros(SIZE, np.uint8)
    out[5:17, 4 + t + shift:18 + t + shift] = 1
    out[(y - 25) ** 2 + (x - 30 - shift) ** 2 <= 49] = 2
    if t >= 3:
        out[30:36, 2:9] = 3
    return out


def save(path, values, *, palette=256, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 3 * palette).tolist())
    picture.save(path)


@pytest.fixture
def folders(tmp_path):
    """Two videos of 8 frames; the prediction is shifted by a pixel."""
    for video in ("a", "b"):
        for t in range(8):
            save(tmp_path / "gt" / video / f"{t:05d}.png", labels(t))
            save(tmp_path / "pred" / video / f"{t:05d}.png", np.where(labels(t, 1) > 2, 0, labels(t, 1)))
    return tmp_path


def run(folders, *more, code=0):
    assert mask_folders.main(["--pred", str(folders / "pred"), "--gt", str(folders / "gt"), "--out", str(folders / "result.json"), *more]) == code
    return read_result(folders / "result.json") if code == 0 else None


@pytest.mark.parametrize("palette", [2, 4, 16, 256])
def test_every_palette_depth_gives_indices(tmp_path, palette):
    values = np.random.default_rng(palette).integers(0, palette, SIZE).astype(np.uint8)
    save(tmp_path / "a.png", values, palette=palette)
    assert np.array_equal(read_labels(tmp_path / "a.png"), values)


def test_filtered_grey_and_binary_pictures_are_read(tmp_path):
    smooth = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])).astype(np.uint8)
    save(tmp_path / "grey.png", smooth, mode="L")
    assert np.array_equal(read_labels(tmp_path / "grey.png"), smooth)
    Image.fromarray(labels(0) > 0).save(tmp_path / "binary.png")
    assert np.array_equal(read_labels(tmp_path / "binary.png"), labels(0) > 0)


def test_damaged_pictures_are_refused(tmp_path):
    save(tmp_path / "a.png", labels(0))
    whole = (tmp_path / "a.png").read_bytes()
    changed = whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:]
    colour = np.zeros((*SIZE, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    header = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 3, 0, 0, 0)
    huge = whole[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + whole[33:]
    for name, data in (("cut", whole[:-40]), ("changed", changed), ("none", b"hello"), ("empty", b""), ("huge", huge)):
        (tmp_path / f"{name}.png").write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.png is not a readable"):
            read_labels(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="mode RGB"):
        read_labels(tmp_path / "colour.png")
    with pytest.raises(DataError, match="not a readable"):
        read_labels(tmp_path / "absent.png")


def test_the_table_of_davis(folders):
    """Two objects (those of the first frame), frames 1 to 6, each object's frames and then the objects averaged."""
    result = run(folders)
    frames = [[jf(labels(t, 1) == k, labels(t) == k) for t in range(1, 7)] for k in (1, 2)]
    want = {f"{side}-{name}": np.mean([sequence_statistics([f[at] for f in one])[i] for one in frames])
            for at, side in enumerate("JF") for i, name in enumerate(("mean", "recall", "decay"))}
    assert {name: result["metrics"][name]["value"] for name in want} == pytest.approx(want, abs=1e-12)
    assert result["metrics"]["J&F"]["value"] == pytest.approx((want["J-mean"] + want["F-mean"]) / 2)
    assert list(result["per_example"]) == ["a/1", "a/2", "b/1", "b/2"] and result["units"]["J-decay"] == "difference"
    assert result["trivial"]["J-mean"] == 0 and 0 < want["J-mean"] < 1
    assert run(folders, "--workers", "2") == result, "processes change nothing"
    (board,) = build_boards([Entry("a", "", result), Entry("b", "", result)], [], Style())
    assert board.metrics == ["J&F", "J-mean", "F-mean"] and board.title == "masks / gt"


def test_all_frames_and_objects(folders):
    """The third object is never predicted: J = 1 in the three frames before it appears. So it is for a prediction without any mask."""
    result = run(folders, "--protocol", "all_frames")
    assert result["card"]["protocol"]["hash"] != run(folders)["card"]["protocol"]["hash"]
    assert result["per_example"]["a/3"]["J-mean"] == pytest.approx(3 / 8) and result["n"] == 6
    assert result["trivial"]["J-mean"] == pytest.approx(3 / 8 / 3)


def test_missing_pictures_are_listed_and_count_as_empty(folders, capsys):
    (folders / "pred" / "b" / "00004.png").unlink()
    run(folders, code=EXIT_USER_ERROR)
    assert "1 predicted pictures are missing: b/00004.png" in capsys.readouterr().err
    result = run(folders, "--allow_missing", "true")
    assert result["missing"] == ["b/00004.png"] and result["status"] == {"missing": 2, "ok": 2}
    lost = result["per_example"]["a/1"]["J-mean"] - result["per_example"]["b/1"]["J-mean"]
    assert lost == pytest.approx(jf(labels(4, 1) == 1, labels(4) == 1)[0] / 6)


def test_void_is_background(folders):
    values = labels(2)
    values[5:17, 6:9] = 255
    save(folders / "gt" / "a" / "00002.png", values)
    result = run(folders)
    assert result["per_example"]["a/1"]["J-mean"] < result["per_example"]["b/1"]["J-mean"]


@pytest.mark.parametrize("values, message", [(np.full(SIZE, 3, np.uint8), "names object 3"), (np.zeros((5, 5), np.uint8), "is 5x5 px")])
def test_wrong_pictures_are_errors(folders, capsys, values, message):
    save(folders / "pred" / "a" / "00003.png", values)
    run(folders, code=EXIT_USER_ERROR)
    error = capsys.readouterr().err
    assert message in error and "00003.png" in error


def test_folders_without_content_are_refused(tmp_path, capsys):
    for name in ("pred", "gt"):
        (tmp_path / name).mkdir()
    run(tmp_path, code=EXIT_USER_ERROR)
    (tmp_path / "gt" / "a").mkdir()
    run(tmp_path, code=EXIT_USER_ERROR)
    save(tmp_path / "gt" / "a" / "00000.png", np.zeros(SIZE, np.uint8))
    run(tmp_path, code=EXIT_USER_ERROR)
    error = capsys.readouterr().err
    assert "holds no folder" in error and "no PNG" in error and "nothing to score" in error
    assert mask_folders.main(["--gt", str(tmp_path)]) == EXIT_USER_ERROR and "--pred" in capsys.readouterr().err


def test_golden_statistics(shared_data, tmp_path):
    """A clip of the official evaluator's golden set, object by object, to 1e-6."""
    import gzip

    from unipixel.metrics.rle import decode

    file = shared_data / "golden" / "workload.json.gz"
    if not file.is_file():
        pytest.skip("no golden values")
    video = json.loads(gzip.decompress(file.read_bytes()))["videos"][0]
    size = tuple(video["size"])
    for side in ("pred", "gt"):
        for t in range(len(video["objects"][0]["pred"])):
            picture = np.zeros(size, np.uint8)
            for number, thing in enumerate(video["objects"], 1):
                mask = decode(thing[side][t], size)
                if (picture[mask] > 0).any():
                    pytest.skip("objects of this clip overlap: label pictures cannot hold them")
                picture[mask] = number
            save(tmp_path / side / "clip" / f"{t:05d}.png", picture)
    rows = run(tmp_path)["per_example"]
    for number, thing in enumerate(video["objects"], 1):
        for side in "JF":
            found = [rows[f"clip/{number}"][f"{side}-{name}"] for name in ("mean", "recall", "decay")]
            assert found == pytest.approx(thing["semisup_MRD"][side], abs=1e-6)
