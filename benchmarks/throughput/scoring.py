"""J and F of masks: ours against a plain implementation of the DAVIS 2017 definition with OpenCV, on seeded clips of several objects.

The plain one does what the official evaluator does per object and frame: boundary of the whole frame, dilation by an OpenCV disk, and so
on; its values must come out the same. Compared are masks in memory, COCO run lengths, and folders of palette pictures.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.label_videos import score_video
from benchmarks.throughput.timing import Check, Comparison, run
from unipixel.metrics import jf_sequence, jf_sequence_rle, tolerance_radius
from unipixel.sample import encode_mask

RESULT = Path(__file__).resolve().parents[1] / "results" / "scoring.json"
SIZE = 480, 854
FRAMES, OBJECTS = 8, 3
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756
"""256 colours, as the label pictures of DAVIS have."""
SCORED = slice(1, -1)
"""Frames of the semi-supervised task."""
MEMORY = """
import sys
from pathlib import Path
from benchmarks.label_videos import score_video
score_video(Path(sys.argv[1]), Path(sys.argv[2]), "davis2017", 0.008)
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Not ``ru_maxrss``, which keeps the memory of the process that started this one."""


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) bool: pixels that differ from their right, lower or lower right neighbour; the last row and column repeat."""
    east, south, diagonal = mask.copy(), mask.copy(), mask.copy()
    east[:, :-1], south[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    diagonal[-1, :-1], diagonal[:-1, -1] = mask[-1, 1:], mask[1:, -1]
    return (mask ^ east) | (mask ^ south) | (mask ^ diagonal)


def plain_jf(pred: np.ndarray, gt: np.ndarray) -> tuple[float, float]:
    """(H, W) bool masks -> J and F."""
    union = (pred | gt).sum()
    j = (pred & gt).sum() / union if union else 1.0
    edges = plain_boundary(pred), plain_boundary(gt)
    grown = [cv2.dilate(edge.astype(np.uint8), disk(tolerance_radius(pred.shape))).astype(bool) for edge in edges]
    counts = [edge.sum() for edge in edges]
    if not all(counts):
        return j, float(counts[0] == counts[1])
    precision, recall = (edges[0] & grown[1]).sum() / counts[0], (edges[1] & grown[0]).sum() / counts[1]
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain(pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """(T, H, W) bool masks -> (2, T)."""
    return np.array([plain_jf(p, g) for p, g in zip(pred, gt)]).T


@cache
def tracks(radius: tuple[float, float] = (30, 110), objects: int = OBJECTS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per object (prediction, truth), each (FRAMES, H, W) bool: wobbling discs of ``radius`` pixels that move; the prediction is shifted and
    smaller."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE[0], :SIZE[1]]
    out = []
    for _ in range(objects):
        centre, step, size, lobes = rng.uniform((120, 80), (734, 400)), rng.uniform(-9, 9, 2), rng.uniform(*radius), rng.integers(3, 9)
        sides = []
        for shift, scale in ((rng.uniform(-5, 5, 2), 0.96), ((0, 0), 1.0)):
            masks = []
            for t in range(FRAMES):
                dx, dy = (x - centre[0] - step[0] * t - shift[0], y - centre[1] - step[1] * t - shift[1])
                masks.append(np.hypot(dx, dy) < scale * size * (1 + 0.2 * np.sin(lobes * np.arctan2(dy, dx) + t / 2)))
            sides.append(np.stack(masks))
        out.append((sides[0], sides[1]))
    return out


Alternatives = dict[str, Callable[[], object]]


def in_memory(folder: Path) -> Alternatives:
    cv2.setNumThreads(1)
    pairs = tracks()
    return {"plain": lambda: [plain(*pair) for pair in pairs], "ours": lambda: [jf_sequence(*pair) for pair in pairs]}


def frame_filling(folder: Path) -> Alternatives:
    """One object over two thirds of the frame."""
    cv2.setNumThreads(1)
    pairs = tracks((330, 331), objects=1)
    return {"plain": lambda: [plain(*pair) for pair in pairs], "ours": lambda: [jf_sequence(*pair) for pair in pairs]}


def run_lengths(folder: Path) -> Alternatives:
    cv2.setNumThreads(1)
    pairs = [[[encode_mask(mask) for mask in side] for side in pair] for pair in tracks()]

    def decode(side: list[str]) -> np.ndarray:
        packed = [{"size": list(SIZE), "counts": counts.encode()} for counts in side]
        return coco_mask.decode(packed).astype(bool).transpose(2, 0, 1).copy()

    return {"plain": lambda: [plain(decode(pred), decode(gt)) for pred, gt in pairs],
            "ours": lambda: [jf_sequence_rle(pred, gt, SIZE) for pred, gt in pairs]}


def write_folders(folder: Path) -> tuple[Path, Path]:
    """A video as palette pictures, predicted and true; later objects cover earlier ones."""
    pairs, sides = tracks(), (folder / "pred" / "clip", folder / "gt" / "clip")
    for side, path in enumerate(sides):
        path.mkdir(parents=True, exist_ok=True)
        for t in range(FRAMES):
            labels = np.zeros(SIZE, np.uint8)
            for number, pair in enumerate(pairs, 1):
                labels[pair[side][t]] = number
            picture = Image.fromarray(labels)
            picture.putpalette(PALETTE)
            picture.save(path / f"{t:05d}.png")
    return sides


def plain_folders(pred: Path, gt: Path) -> np.ndarray:
    """(O, 2, T - 2)."""
    sides = [np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))[SCORED]]) for folder in (pred, gt)]
    return np.stack([plain(sides[0] == number, sides[1] == number) for number in range(1, OBJECTS + 1)])


def pictures(folder: Path) -> Alternatives:
    cv2.setNumThreads(1)
    pred, gt = write_folders(folder)
    return {"plain": lambda: plain_folders(pred, gt), "ours": lambda: score_video(gt, pred, "davis2017", 0.008)}


def largest_difference(folder: Path) -> float:
    pred, gt = write_folders(folder)
    pairs = [*tracks(), *tracks((330, 331), objects=1)]
    found = [np.abs(plain(*pair) - np.stack(jf_sequence(*pair))).max() for pair in pairs]
    return float(max(*found, np.abs(plain_folders(pred, gt) - score_video(gt, pred, "davis2017", 0.008).values).max()))


def peak_memory(folder: Path) -> float:
    """MiB of a fresh process that scores the folders."""
    pred, gt = write_folders(folder)
    command = [sys.executable, "-c", MEMORY, str(gt), str(pred)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout)


def measure(folder: Path, quick: bool = False) -> list[Check]:
    def ratio(alternatives: Callable[[Path], Alternatives]) -> float:
        return Comparison(alternatives, folder, quick).ratio("plain", "ours")

    return [
        Check("plain DAVIS J and F with OpenCV / ours, masks in memory", ratio(in_memory), 15),
        Check("the same, an object that fills two thirds of the frame", ratio(frame_filling), 5),
        Check("pycocotools decoding and plain J and F / ours, COCO run lengths", ratio(run_lengths), 15),
        Check("Pillow and plain J and F / ours, folders of palette pictures", ratio(pictures), 6),
        Check("largest difference of J and F to the plain values", largest_difference(folder), 1e-6, at_least=False, unit=""),
        Check("memory of a process that scores such folders", peak_memory(folder), 150, at_least=False, unit="MiB"),
    ]


if __name__ == "__main__":
    raise SystemExit(run([measure], RESULT))
