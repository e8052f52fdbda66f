"""J and F against a plain pixel-by-pixel reference: random shapes, odd sizes, borders, void, RLE; and how much faster they are."""

import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unipixel.errors import DataError
from unipixel.metrics import jf, jf_rle, jf_sequence, jf_sequence_rle, sequence_statistics, tolerance_radius
from unipixel.metrics.bitplane import dilate, disk_boxes
from unipixel.metrics.rle import decode, parse_runs


def plain_boundary(mask):
    """Pixels whose 2x2 block down-right is not constant, last row and column repeated (davis2017-evaluation ``_seg2bmap``)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def plain_dilate(mask, radius):
    """One shifted OR for every offset of the disk."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= radius * radius and abs(dy) < height and abs(dx) < width:
                out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] |= (
                    mask[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)])
    return out


def plain_jf(pred, gt, bound_th=0.008, void=None):
    if void is not None:
        pred, gt = pred & ~void, gt & ~void
    union = (pred | gt).sum()
    j = (pred & gt).sum() / union if union else 1.0
    radius = int(bound_th) if bound_th >= 1 else int(np.ceil(bound_th * np.linalg.norm(pred.shape)))
    p, g = plain_boundary(pred), plain_boundary(gt)
    if not p.any() or not g.any():
        return j, float(p.any() == g.any())
    precision, recall = (p & plain_dilate(g, radius)).sum() / p.sum(), (g & plain_dilate(p, radius)).sum() / g.sum()
    return j, 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def random_masks(rng, n, size):
    """(n, H, W) bool: unions of a few boxes and discs, some cut by the border, some empty, some noise, some full."""
    yy, xx = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        kind = rng.integers(10)
        if kind == 0:
            continue
        if kind == 1:
            mask[:] = rng.random(size) < 0.3
            continue
        if kind == 2:
            mask[:] = True
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(-5, size[0] + 5), rng.integers(-5, size[1] + 5)
            extent = rng.integers(1, max(size) // 2 + 2)
            box, disc = (abs(yy - y) <= extent) & (abs(xx - x) <= extent // 2), (yy - y) ** 2 + (xx - x) ** 2 <= extent**2
            mask ^= box if rng.random() < 0.5 else disc
    return masks


def encode(masks):
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in masks]


SIZES = [(1, 1), (1, 40), (40, 1), (2, 2), (7, 5), (33, 65), (64, 64), (97, 131)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bound_th", [0.008, 0.05, 0.0, 1, 7])
def test_equals_the_plain_reference(size, bound_th):
    rng = np.random.default_rng([*size, int(bound_th * 1000)])
    pred, gt = random_masks(rng, 13, size), random_masks(rng, 13, size)
    gt[::3] = pred[::3] ^ (rng.random(size) < 0.01)
    want = np.array([plain_jf(p, g, bound_th) for p, g in zip(pred, gt)])
    assert np.array_equal(np.stack(jf_sequence(pred, gt, bound_th), 1), want)
    assert np.array_equal(np.stack(jf_sequence_rle(encode(pred), encode(gt), size, bound_th), 1), want)
    assert jf(pred[0], gt[0], bound_th) == tuple(want[0])
    assert jf_rle(encode(pred)[0], encode(gt)[0], size, bound_th) == tuple(want[0])


def test_void_is_background_on_both_sides():
    rng = np.random.default_rng(3)
    pred, gt, void = (random_masks(rng, 9, (50, 61)) for _ in range(3))
    want = np.array([plain_jf(p, g, void=v) for p, g, v in zip(pred, gt, void)])
    assert np.array_equal(np.stack(jf_sequence(pred, gt, void=void), 1), want)
    assert np.array_equal(np.stack(jf_sequence_rle(encode(pred), encode(gt), (50, 61), void_counts=encode(void)), 1), want)
    assert not np.array_equal(want, [plain_jf(p, g) for p, g in zip(pred, gt)])


def test_column_major_and_strided_masks():
    rng = np.random.default_rng(4)
    pred, gt = random_masks(rng, 6, (40, 70)), random_masks(rng, 6, (40, 70))
    want = jf_sequence(pred, gt)
    for view in (lambda m: np.stack([np.asfortranarray(frame) for frame in m]), lambda m: np.repeat(m, 2, axis=2)[:, :, ::2]):
        assert np.array_equal(jf_sequence(view(pred), view(gt)), want)
        assert np.array_equal(jf_sequence(view(pred), gt), want)


def test_empty_and_full():
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    half = full.copy()
    half[15:] = False
    assert jf(empty, empty) == (1, 1)
    assert jf(half, empty) == (0, 0) == jf(empty, half)
    assert jf(full, empty) == (0, 1), "a mask that fills the frame has no boundary, as in the official code"
    assert jf(half, ~half) == (0, 1)
    assert jf_rle("", "", (30, 40)) == (1, 1)
    assert jf_rle("", encode([half])[0], (30, 40)) == (0, 0)


def test_frames_do_not_disturb_each_other():
    rng = np.random.default_rng(5)
    pred, gt = random_masks(rng, 11, (60, 80)), random_masks(rng, 11, (60, 80))
    together = np.stack(jf_sequence(pred, gt), 1)
    assert np.array_equal(together, [jf(p, g) for p, g in zip(pred, gt)])
    assert np.array_equal(together[::-1], np.stack(jf_sequence(pred[::-1], gt[::-1]), 1))


def test_no_frames():
    js, fs = jf_sequence(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool))
    assert js.shape == fs.shape == (0,)


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 9, 18])
def test_disk(radius):
    size = 2 * radius + 7
    point = np.zeros((size, size), np.uint8)
    point[radius + 3, radius + 3] = 0b10100000
    yy, xx = np.mgrid[:size, :size] - (radius + 3)
    assert np.array_equal(dilate(point, radius), (yy**2 + xx**2 <= radius**2) * np.uint8(0b10100000))
    widths, heights = zip(*disk_boxes(radius))
    assert list(widths) == sorted(set(widths)) and list(heights) == sorted(set(heights), reverse=True)


@pytest.mark.parametrize("size, radius", [((480, 854), 8), ((480, 910), 9), ((480, 1152), 10), ((720, 1280), 12), ((1080, 1920), 18),
                                          ((360, 640), 6)])
def test_tolerance(size, radius):
    assert tolerance_radius(size) == radius
    assert tolerance_radius(size, 3) == 3


def test_wrong_input_is_named():
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match="uint8"):
        jf(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match=r"\(1, 5, 4\)"):
        jf(mask, mask.T)
    with pytest.raises(ValueError, match="bound_th=1.5"):
        jf(mask, mask, 1.5)
    with pytest.raises(ValueError, match="bound_th=-1"):
        jf(mask, mask, -1)
    with pytest.raises(ValueError, match="2 predicted and 1 true"):
        jf_sequence_rle(["", ""], [""], (4, 5))
    with pytest.raises(DataError, match="another size"):
        jf_rle(encode([~mask])[0], "", (5, 5))
    with pytest.raises(DataError, match="never do"):
        jf_rle("5 5", "", (4, 5))
    with pytest.raises(DataError, match="cut off"):
        parse_runs(["d"], (4, 5))
    with pytest.raises(DataError, match="mask entry 3"):
        jf_rle(3, "", (4, 5))


def test_decode_equals_pycocotools():
    rng = np.random.default_rng(6)
    for size in SIZES:
        masks = random_masks(rng, 8, size)
        for mask, counts in zip(masks, encode(masks)):
            assert np.array_equal(decode(counts, size), mask)
            assert decode(counts.encode(), size).sum() == mask.sum()


def test_runs_of_length_zero_are_joined():
    """Legal COCO, which pycocotools never writes: counts 2 0 1 3 0 2 4 (background first) in a 4x3 frame."""
    numbers = [2, 0, 1, 3, 0, 2, 4]
    differences = numbers[:3] + [numbers[i] - numbers[i - 2] for i in range(3, len(numbers))]
    counts = "".join(chr((d & 0x1F) + 48) for d in differences)
    mask = np.repeat([0, 1, 0, 1, 0, 1, 0], numbers).astype(bool).reshape(3, 4).T
    assert np.array_equal(decode(counts, (4, 3)), mask)
    (starts, ends), = parse_runs([counts], (4, 3))
    assert (starts.tolist(), ends.tolist()) == ([3], [8])


@pytest.mark.parametrize("values, mean, recall, decay", [([0.6], 0.6, 1.0, 0.0), ([1, 1, 0, 0], 0.5, 0.5, 1.0),
                                                         ([0.5, 0.5], 0.5, 0.0, 0.0)])
def test_statistics(values, mean, recall, decay):
    assert sequence_statistics(values) == pytest.approx((mean, recall, decay))


def test_statistics_of_nothing():
    with pytest.raises(ValueError, match="non-empty"):
        sequence_statistics([])


def test_speed_against_the_plain_reference():
    """CPU time, alternated, so that other load hits both. Forty times a plain evaluation is fifteen times the official one (OpenCV)."""
    rng = np.random.default_rng(8)
    yy, xx = np.mgrid[:480, :854]
    gt = np.stack([((yy - 240) / 90) ** 2 + ((xx - 300 - 4 * t) / 60) ** 2 < 1 for t in range(8)])
    pred = np.roll(gt, rng.integers(2, 9), axis=2)
    jf_sequence(pred, gt)
    plain = ours = 0.0
    for _ in range(2):
        began = time.process_time()
        want = [plain_jf(p, g) for p, g in zip(pred, gt)]
        between = time.process_time()
        got = np.stack(jf_sequence(pred, gt), 1)
        plain, ours = plain + between - began, ours + time.process_time() - between
        assert np.array_equal(got, want)
    assert plain > 40 * ours, f"{plain / ours:.1f}x"
