"""``unipixel leaderboard RESULT.json… --out DIR``: the tables of all given results in four formats."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.leaderboard.board import Style, build_boards
from benchmarks.leaderboard.compare import positional
from benchmarks.leaderboard.entries import load_entries
from benchmarks.leaderboard.published import published_numbers
from benchmarks.leaderboard.render import csv_text, html_page, latex, markdown
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError


@dataclass
class LeaderboardArguments:
    """Settings of ``unipixel leaderboard RESULT.json… --out DIR``."""

    results: list[str] = setting([], "result files; also without the flag: unipixel leaderboard a.json b.json")
    names: list[str] = setting([], "what to call them; default: the model in the card, else the file")
    metrics: list[str] = setting([], "columns; default: the headline of each benchmark")
    baseline: str = setting("", "name of a result that the others of its table are compared with, pair by pair")
    percent: bool = setting(True, "shares in percent with one decimal; false: 0-1 with three")
    published: bool = setting(True, "show published numbers of the same benchmarks, apart from the measured ones")
    seed: int = setting(0, "seed of the comparison with --baseline")
    out: str = setting("", "folder for leaderboard.md, .csv, .tex and .html")

    def __post_init__(self):
        if not self.results or not self.out:
            raise ConfigError("result files and --out DIR are needed: unipixel leaderboard a.json b.json --out DIR")


def run(args: LeaderboardArguments) -> None:
    """Write the four files.

    Raises:
        UniPixelError: a file is no result, or a name, metric or baseline does not exist.
    """
    style = Style(args.percent)
    boards = build_boards(load_entries(args.results, args.names), published_numbers() if args.published else [], style, metrics=args.metrics,
                          baseline=args.baseline, seed=args.seed)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(boards, style), "csv": csv_text(boards), "tex": latex(boards, style), "html": html_page(boards, style)}
    for suffix, text in texts.items():
        (folder / f"leaderboard.{suffix}").write_text(text, encoding="utf-8")
    print(f"{len(args.results)} results in {len(boards)} tables, one per benchmark, split, truth and protocol: "
          f"{folder}/leaderboard.{{{','.join(texts)}}}")
    for board in boards:
        if board.own:
            print(f"not mixed with the other tables of {board.benchmark}: {board.title}")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel leaderboard``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        run(parse([LeaderboardArguments], positional(sys.argv[1:] if argv is None else argv, "--results"), prog="unipixel leaderboard")[0])
    except UniPixelError as error:
        print(f"unipixel leaderboard: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
