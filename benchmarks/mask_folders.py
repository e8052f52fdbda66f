"""``unipixel score-masks``: folders of label pictures against folders of label pictures, object by object: the table of DAVIS 2017.

Layout of both sides: ``<folder>/<video>/<frame>.png``, a pixel holding the number of its object (``benchmarks.label_png``). Protocols:

* ``davis2017``: the semi-supervised task. Objects are those of the first frame; the first and the last frame are not scored; void is background.
* ``all_frames``: every object of any frame, every frame; void is background.

An object's frame values become mean, recall and decay; the result is their mean over objects. A missing picture counts as empty and is
listed; a picture that cannot be read, is of another size or names an object that does not exist is an error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from benchmarks.card import score_card
from benchmarks.label_videos import VideoScores, score_video
from benchmarks.protocol import Protocol
from benchmarks.result import LISTED, Metric, build, write_json
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.metrics import sequence_statistics

AVERAGING = {"davis2017": "frames of an object but the first and last, then the objects of the first frame",
             "all_frames": "all frames of an object, then all objects"}
STATISTICS = ("mean", "recall", "decay")
METRICS = [Metric("J&F", lambda row: (row["J-mean"] + row["F-mean"]) / 2),
           *(Metric(f"{side}-{name}", lambda row, key=f"{side}-{name}": row[key], "difference" if name == "decay" else "share")
             for side in "JF" for name in STATISTICS)]


@dataclass
class MaskFolderArguments:
    """Settings of ``unipixel score-masks``."""

    pred: str = setting("", "folder <video>/<frame>.png with the predicted labels")
    gt: str = setting("", "the same with the true labels; it decides which videos, frames and objects there are")
    protocol: Literal["davis2017", "all_frames"] = setting("davis2017", "'davis2017': semi-supervised task; 'all_frames': every frame and object")
    bound_th: float = setting(0.008, "boundary tolerance of F as a share of the diagonal, or in pixels from 1 on")
    allow_missing: bool = setting(False, "score although predicted pictures are missing; they count as empty")
    workers: int = setting(1, "processes; each takes a video at a time")
    bootstrap: int = setting(1000, "resamples for the 95 % intervals; 0 leaves them out")
    seed: int = setting(0, "seed of the resampling")
    out: str = setting("", "write the result file here")

    def __post_init__(self):
        for name in ("pred", "gt"):
            if not Path(getattr(self, name) or "-").is_dir():
                raise ConfigError(f"--{name} {getattr(self, name)!r} is not a folder of videos")
        if self.workers < 1 or self.bootstrap < 0:
            raise ConfigError(f"workers={self.workers} must be at least 1 and bootstrap={self.bootstrap} not negative")


def score_folders(args: MaskFolderArguments) -> dict[str, Any]:
    """Result of all videos of ``args.gt``, with a row per object, as plain JSON data.

    Raises:
        DataError: pictures are missing without ``allow_missing``, are damaged, of another size, or name an object that does not exist.
    """
    videos = sorted(folder for folder in Path(args.gt).iterdir() if folder.is_dir())
    if not videos:
        raise DataError(f"{args.gt} holds no folder: the layout is <folder>/<video>/<frame>.png")
    unknown = sorted({folder.name for folder in Path(args.pred).iterdir() if folder.is_dir()} - {video.name for video in videos})
    rows, empty, lost, hashes = {}, [], [], {"pred": hashlib.sha256(), "gt": hashlib.sha256()}
    for video, scores in zip(videos, _scores(videos, args)):
        lost += scores.missing
        for side, digest in (("pred", scores.pred_sha256), ("gt", scores.gt_sha256)):
            hashes[side].update(f"{video.name} {digest}\n".encode())
        for number, (sides, nothing) in enumerate(zip(scores.values, scores.empty), 1):
            facts = {"status": "missing" if scores.missing else "ok", "problems": [], "resized": False, "video": video.name,
                     "n_frames": sides.shape[1]}
            rows[f"{video.name}/{number}"] = facts | _statistics(sides)
            empty.append(facts | _statistics(nothing))
    if lost and not args.allow_missing:
        raise DataError(f"{len(lost)} predicted pictures are missing: {', '.join(lost[:LISTED])}{' and more' if len(lost) > LISTED else ''}; "
                        "write them, or set --allow_missing to count them as empty")
    result = build(benchmark="masks", split=Path(args.gt).name, metrics=METRICS, headline=("J&F", "J-mean", "F-mean"), rows=rows,
                   trivial_rows=empty, chance={}, groups={"video": "video"}, missing=lost, unknown=unknown, bootstrap=args.bootstrap, seed=args.seed)
    protocol = Protocol(on_size_mismatch="error", bound_th=args.bound_th, max_new_tokens=0, prompt="", averaging=AVERAGING[args.protocol])
    return result | {"card": score_card(protocol, predictions={"path": args.pred, "sha256": hashes["pred"].hexdigest()},
                                        truth={"path": args.gt, "id": hashes["gt"].hexdigest()}, bootstrap=args.bootstrap, seed=args.seed)}


def _statistics(sides: np.ndarray) -> dict[str, float]:
    """(2, T) J and F of one object -> its six numbers."""
    return {f"{side}-{name}": value for side, frames in zip("JF", sides) for name, value in zip(STATISTICS, sequence_statistics(frames))}


def _scores(videos: Sequence[Path], args: MaskFolderArguments) -> Iterator[VideoScores]:
    work = [videos, [Path(args.pred) / video.name for video in videos], [args.protocol] * len(videos), [args.bound_th] * len(videos)]
    if args.workers == 1:
        yield from map(score_video, *work)
        return
    with ProcessPoolExecutor(min(args.workers, len(videos)), get_context("spawn")) as pool:
        yield from pool.map(score_video, *work)


def table(result: dict[str, Any]) -> str:
    rows = [[name, f"{100 * m['value']:.1f}", "–" if m["ci95"] is None else " – ".join(f"{100 * bound:.1f}" for bound in m["ci95"]), m["n"]]
            for name, m in result["metrics"].items()]
    return tabulate(rows, ["metric (%)", "value", "95 % interval", "objects"], disable_numparse=True, colalign=("left", "right", "right", "right"))


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel score-masks``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        (args,) = parse([MaskFolderArguments], argv, prog="unipixel score-masks")
        result = score_folders(args)
    except UniPixelError as error:
        print(f"unipixel score-masks: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(table(result))
    if args.out:
        write_json(args.out, result)
        print(f"result written to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
