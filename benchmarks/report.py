"""``unipixel report``: scored predictions beside the truth, as one HTML file or as a folder with a page per example, and as a picture.

A folder is for whole benchmarks: its index filters and sorts thousands of examples, a page is loaded when it is opened. A single file holds
some examples, evenly spaced. Both stand alone: no network, all text escaped. What is shown of an example is ``report_views``; the numbers
are those of the result file, which must belong to the same prediction file.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from benchmarks.report_pictures import COLOURS, decode_frame, fit, mask_panel
from benchmarks.report_views import LAYERS, Run, choose_frames, example_view, model_masks, scored
from benchmarks.result import LISTED, differences, read_result
from benchmarks.score import shown
from benchmarks.truth import read_samples
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predictions import load_predictions
from unipixel.sample import EMPTY, Sample, decode_entry

TEMPLATES = Path(__file__).parent / "templates"
IN_ONE_FILE = 100


@dataclass
class ReportArguments:
    """Settings of ``unipixel report``."""

    predictions: str = setting("", "prediction file (.jsonl)")
    score: str = setting("", "result file that `unipixel score` wrote for it")
    shards: list[str] = setting([], "packed datasets with the frames and the ground truth")
    baseline_predictions: str = setting("", "a second prediction file to compare with, for instance of the untrained model")
    baseline_score: str = setting("", "its result file")
    name: str = setting("trained", "what to call the model")
    baseline_name: str = setting("untrained", "what to call the second one")
    out: str = setting("report.html", "an .html file, or a folder for a page per example")
    limit: int = setting(0, f"show at most so many examples, evenly spaced; 0: all in a folder, {IN_ONE_FILE} in one file")
    frames: int = setting(6, "frames per example")
    width: int = setting(300, "width of a frame in pixels")
    panel: str = setting("", "also write one example as a picture to this PNG file")
    panel_example: str = setting("", "example_id of that picture")

    def __post_init__(self):
        if not (self.predictions and self.score and self.shards):
            raise ConfigError("--predictions, --score and --shards are needed")
        if bool(self.baseline_predictions) != bool(self.baseline_score):
            raise ConfigError("--baseline-predictions and --baseline-score belong together")
        if bool(self.panel) != bool(self.panel_example):
            raise ConfigError("--panel and --panel-example belong together")
        if self.limit < 0 or min(self.frames, self.width) < 1:
            raise ConfigError(f"limit={self.limit} must not be negative, frames={self.frames} and width={self.width} must be at least 1")

    @property
    def in_one_file(self) -> bool:
        return Path(self.out).suffix == ".html"


def load_run(name: str, predictions: str, result: str) -> Run:
    """Both files of one model. Raises :class:`DataError` when the result was made from other predictions."""
    content = read_result(result)
    if not Path(predictions).is_file() or content["card"]["predictions"]["sha256"] != hashlib.sha256(Path(predictions).read_bytes()).hexdigest():
        raise DataError(f"{result} was made from other predictions than {predictions}: run `unipixel score` again")
    return Run(name, load_predictions(predictions), content)


def headline(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per metric: every model with its interval, the paired difference to the baseline, the trivial baseline."""
    result, change = runs[0].result, {}
    if len(runs) > 1:
        change = differences(result, runs[1].result, result["card"]["bootstrap"], result["card"]["seed"])
    return [{"metric": name, "unit": result["units"][name], "values": [run.result["metrics"][name] for run in runs], "change": change.get(name),
             "trivial": result["trivial"].get(name)} for name in result["metrics"]]


def views(samples: Iterable[Sample], runs: Sequence[Run], args: ReportArguments) -> Iterator[dict[str, Any]]:
    """What is shown of each chosen example; samples are read one by one.

    Raises:
        DataError: a result file scores other examples than the samples hold.
    """
    ids = list(runs[0].result["per_example"])
    limit = args.limit or (IN_ONE_FILE if args.in_one_file else len(ids))
    chosen = {ids[i] for i in np.linspace(0, len(ids) - 1, min(limit, len(ids))).round().astype(int)}
    known, found = set.intersection(*(set(run.result["per_example"]) for run in runs)), set()
    for sample, example, truth in scored(samples, runs[0].result):
        found.add(truth.example_id)
        if truth.example_id in chosen & known:
            yield example_view(sample, example, truth, runs, args.frames, args.width)
    for run in runs:
        stray = sorted(set(run.result["per_example"]) ^ found)
        if stray:
            raise DataError(f"the result of {run.name!r} and the shards hold different examples, for instance {stray[:LISTED]}: "
                            "score against these shards")


def templates(runs: Sequence[Run], args: ReportArguments) -> jinja2.Environment:
    """Templates with what all pages share."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.filters["shown"] = shown
    environment.globals |= {"runs": runs, "title": " and ".join(run.name for run in runs), "layers": LAYERS, "n_tiles": args.frames,
                            "colours": {name: "rgb({}, {}, {})".format(*rgb) for name, rgb in COLOURS.items()}}
    return environment


def write_file(args: ReportArguments, runs: Sequence[Run]) -> None:
    found = list(views(read_samples(args.shards), runs, args))
    page = templates(runs, args).get_template("report.html.j2").render(rows=headline(runs), examples=found, total=len(runs[0].result["per_example"]))
    Path(args.out).write_text(page, encoding="utf-8")
    print(f"wrote {args.out} ({len(page) / 1e6:.1f} MB)")


def write_folder(args: ReportArguments, runs: Sequence[Run]) -> None:
    """``items/000000.html`` and so on, each written when it is made, and ``index.html`` last: a folder without it is incomplete.

    Raises:
        DataError: the folder already holds something; or see :func:`views`.
    """
    folder = Path(args.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"out={args.out!r} already holds something: choose another folder, or remove it")
    (folder / "items").mkdir(parents=True)
    environment, lines = templates(runs, args), []
    item = environment.get_template("report_item.html.j2")
    found, total = views(read_samples(args.shards), runs, args), min(args.limit or sys.maxsize, len(runs[0].result["per_example"]))
    for number, view in enumerate(found):
        page = item.render(example=view, number=number, last=total - 1)
        (folder / "items" / f"{number:06d}.html").write_text(page, encoding="utf-8")
        lines.append(view["line"])
    index = environment.get_template("report_index.html.j2").render(
        rows=headline(runs), lines=lines, columns=runs[0].result["headline"], total=len(runs[0].result["per_example"]))
    (folder / "index.html").write_text(index, encoding="utf-8")
    print(f"wrote {folder / 'index.html'} and {len(lines)} pages")


def example_panel(samples: Iterable[Sample], run: Run, example_id: str, n_frames: int, width: int) -> Image.Image:
    """:func:`mask_panel` of one example. Raises :class:`DataError` when it does not exist or has no mask truth."""
    for sample, _, truth in scored(samples, run.result):
        if truth.example_id == example_id and truth.evidence:
            predicted = model_masks(run.predictions.get(example_id), truth)
            chosen = choose_frames(truth, len(sample.frames), n_frames)
            frames = [decode_frame(sample.frames[t], width) for t in chosen]
            sides = [np.stack([fit(decode_entry(side.get(t, EMPTY), truth.size), f) for t, f in zip(chosen, frames)])
                     for side in (predicted, truth.evidence)]
            return mask_panel(frames, *sides, captions=[f"{truth.frame_times[t]:.1f} s" for t in chosen])
    raise DataError(f"panel_example={example_id!r} is not among the examples with masks in these shards")


def run_report(args: ReportArguments) -> None:
    """Write the pages, and the panel where one is asked for.

    Raises:
        UniPixelError: files are missing, or do not belong together.
    """
    runs = [load_run(args.name, args.predictions, args.score)]
    if args.baseline_predictions:
        runs.append(load_run(args.baseline_name, args.baseline_predictions, args.baseline_score))
    (write_file if args.in_one_file else write_folder)(args, runs)
    if args.panel:
        example_panel(read_samples(args.shards), runs[0], args.panel_example, args.frames, args.width).save(args.panel)
        print(f"wrote {args.panel}")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel report``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        run_report(parse([ReportArguments], argv, prog="unipixel report")[0])
    except UniPixelError as error:
        print(f"unipixel report: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
