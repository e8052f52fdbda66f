"""``unipixel film panels``: questions as pages, with the scene's pictures, what people wrote and what several runs replied.

``main`` draws a few of the best questions for one page, ``appendix`` writes a page per question and an index. Pages open without a network.
``panels.json`` is written first and says what the folder is made from: the same command goes on where it was interrupted, another one is
refused. Pictures that are missing are empty tiles, listed in ``skipped.jsonl``, and make the exit code non-zero.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from benchmarks.film_report import choose
from benchmarks.film_report.files import claim_folder, templates, write_text
from benchmarks.film_report.panel_view import PanelView, page_name, view
from benchmarks.film_report.pictures import PictureStore
from benchmarks.film_report.runs import METRICS, VARIANTS, RunCell, label, read_runs, sha256
from data_tools.pooling.operators import SHORT
from unipixel.config import parse, setting
from unipixel.data.index import SKIPPED
from unipixel.data.ledger import SkipLedger
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError

DATASETS = {"reasonvqa": "ReasonVQA", "tvqa": "TVQA"}
MADE_FROM, INDEX = "panels.json", "index.html"
Show = Callable[[int, choose.Group], PanelView]
NOT_CONTENT = ("out", "runs", "pictures")
"""Settings that may change between two starts of one command: where things are, not what they are."""


@dataclass
class FilmPanelsArguments:
    """Settings of ``unipixel film panels``."""

    runs: str = setting("runs", "folder of the runs")
    run_names: list[str] = setting([], "folders of --runs to read; default: all")
    task: Literal["reasonvqa", "tvqa"] = setting("reasonvqa", "whose questions")
    pictures: str = setting("", "prepared films: data/out_preprocessed, or processed_tvqa")
    out: str = setting("", "folder for the pages")
    mode: Literal["main", "appendix"] = setting("main", "a few questions on one page, or a page for each")
    pooling: str = setting("", "pooling of the pictures, by long or short name; default: what the first run was evaluated on")
    cells: list[str] = setting([], "runs to show, as stage:trained:evaluated, e.g. base:BBLF sft:BBLF:WA; default: all stages of one pooling")
    variant: Literal["full", *VARIANTS] = setting("full", "context the runs were given")
    disagree: bool = setting(False, "only questions to which the two runs of --cells gave different answers, the largest difference first")
    errors: list[str] = setting([], f"only questions on which some run has one of these: {', '.join(choose.FAULTS)}")
    low_f1: float = setting(0.2, "F1 below which an answer counts as low_f1")
    score: str = setting("F1", "metric that ranks questions: its mean over the runs, or their difference with --disagree")
    n: int = setting(5, "questions on the page, in mode main")
    top: int = setting(20, "they are drawn from so many of the highest score")
    diverse: bool = setting(False, "draw from all films or shows in turn")
    seed: int = setting(1337, "seed of the draw")
    max_frames: int = setting(36, "tiles per question, with the key frame")
    embed: bool = setting(False, "put the pictures into the pages, instead of copying them beside")

    def __post_init__(self):
        missing = [f"--{name}" for name in ("pictures", "out") if not getattr(self, name)]
        if missing:
            raise ConfigError(f"{missing} must be set")
        if not Path(self.pictures).is_dir():
            raise ConfigError(f"--pictures {self.pictures!r} is not a folder")
        for name in ("n", "top", "max_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
        unknown = set(self.errors) - set(choose.FAULTS)
        if unknown:
            raise ConfigError(f"--errors {sorted(unknown)} are none of {list(choose.FAULTS)}")
        if self.score not in METRICS:
            raise ConfigError(f"--score {self.score!r} is none of {list(METRICS)}")
        if self.disagree and len(self.cells) != 2:
            raise ConfigError(f"--disagree compares two runs: name them with --cells, which has {len(self.cells)}")


def run(args: FilmPanelsArguments) -> None:
    """Write the pages.

    Raises:
        UniPixelError: runs are malformed or do not exist, no question is left, or, after everything was written, something was missing.
    """
    cells = [cell for cell in read_runs(args.runs, args.run_names) if (cell.dataset, cell.variant) == (DATASETS[args.task], args.variant)]
    if not cells:
        raise ConfigError(f"no {DATASETS[args.task]} runs of variant {args.variant!r} in {args.runs}: set --task, --variant or --runs")
    pooling = SHORT.get(args.pooling, args.pooling)
    cells = choose.pick(cells, args.cells, pooling or choose.first_pooling(cells))
    groups, chosen = select(cells, args)
    ledger = SkipLedger()
    store = PictureStore(Path(args.pictures), Path(args.out), args.embed, ledger)
    claim_folder(store.out, MADE_FROM, {"settings": {name: value for name, value in asdict(args).items() if name not in NOT_CONTENT},
                                        "predictions": {cell.key: sha256(cell.predictions) for cell in cells}})
    shown = functools.partial(view, cells=cells, pooling=pooling or cells[0].evaluated, max_frames=args.max_frames, low_f1=args.low_f1, store=store)
    (write_one_page if args.mode == "main" else write_pages)(groups, shown, store.out, {
        "title": f"{DATASETS[args.task]}: {', '.join(cell.name for cell in cells)}", "chosen": chosen, "names": [cell.name for cell in cells]})
    print(f"{len(groups)} questions: {store.out / INDEX}")
    ledger.write(store.out / SKIPPED)
    if len(ledger):
        raise DataError("\n".join([f"{len(ledger)} problems {ledger.counts}, listed in {store.out / SKIPPED}:", *ledger.summary()]))


def select(cells: Sequence[RunCell], args: FilmPanelsArguments) -> tuple[list[choose.Group], str]:
    """(questions in the order in which they are shown, how they were chosen, in words).

    Raises:
        DataError: none is left.
    """
    groups = choose.grouped(cells)
    words = [f"{len(groups)} questions"]
    if args.errors:
        wanted = set(args.errors)
        groups = [group for group in groups if any(item is not None and wanted & choose.faults(item, args.low_f1) for item in group.items)]
        words.append(f"{len(groups)} with {' or '.join(args.errors)}")
    value, what = {group.name: group.score(args.score) for group in groups}, f"mean {label(args.score)} of the runs shown"
    if args.disagree:
        groups = [group for group in groups if choose.disagree(group)]
        value, what = {group.name: choose.gap(group, args.score) for group in groups}, f"difference of {label(args.score)}"
        words.append(f"{len(groups)} answered differently")
    if not groups:
        raise DataError(f"no question is left: {', '.join(words)}")
    if args.mode == "main":
        words.append(f"{min(args.n, args.top, len(groups))} drawn with seed {args.seed} from the {min(args.top, len(groups))} of highest {what}"
                     + (", films in turn" if args.diverse else ""))
        return choose.draw(groups, value, n=args.n, top=args.top, seed=args.seed, diverse=args.diverse), "; ".join(words)
    if args.disagree:
        groups = sorted(groups, key=lambda group: (-value[group.name], group.name))
        words.append(f"ordered by {what}")
    return groups, "; ".join(words)


def write_one_page(groups: Sequence[choose.Group], shown: Show, folder: Path, facts: Mapping[str, Any]) -> None:
    """``index.html`` with all questions, and a list of pictures for each."""
    panels = [shown(number, group) for number, group in enumerate(groups)]
    for panel in panels:
        _write_list(folder, panel)
    write_text(folder / INDEX, templates().get_template("film_panels.html.j2").render(panels=panels, before=None, after=None, **facts))


def write_pages(groups: Sequence[choose.Group], shown: Show, folder: Path, facts: Mapping[str, Any]) -> None:
    """A page and a list of pictures per question, each written when it is made, and the index last."""
    environment, lines = templates(), []
    page = environment.get_template("film_panels.html.j2")
    names = [page_name(number, group) for number, group in enumerate(groups)]
    for number, group in enumerate(tqdm(groups, desc="film panels", unit="question", disable=None)):
        panel = shown(number, group)
        write_text(folder / f"{panel.file}.html", page.render(panels=[panel], before=names[number - 1] if number else None,
                                                              after=names[number + 1] if number + 1 < len(names) else None, **facts))
        _write_list(folder, panel)
        lines.append(dataclasses.replace(panel, tiles=[], said=[]))  # the pictures of thousands of pages would not fit the memory
    write_text(folder / INDEX, environment.get_template("film_panel_index.html.j2").render(panels=lines, faults=choose.FAULTS, **facts))


def _write_list(folder: Path, panel: PanelView) -> None:
    write_text(folder / f"{panel.file}.imagelist.txt", "".join(f"{line}\n" for line in panel.image_list))


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film panels``: exit code 0, or ``EXIT_USER_ERROR`` with the reason, or with what was missing, on stderr."""
    try:
        run(parse([FilmPanelsArguments], argv, prog="unipixel film panels")[0])
    except UniPixelError as error:
        print(f"unipixel film panels: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0
