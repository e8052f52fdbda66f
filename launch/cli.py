"""The ``unipixel`` command: a table from words to entry points. Flags belong to the entry points, which are imported only when called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from launch import __version__
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError, nearest

EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells report it."""


class Command(NamedTuple):
    target: str
    """``module:function``; the function takes the remaining arguments and returns the exit code."""
    summary: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command("launch.quickstart:main", "train, predict and score a toy model on this machine, in minutes"),
    "synth": Command("data_tools.synth:main", "write a synthetic video world with exact answers, times and masks"),
    "film prepare": Command("data_tools.film.command:main", "films with subtitles and questions: pooled pictures, key frames, text tables"),
    "film split": Command("data_tools.film.split:main", "which films train, choose checkpoints and test; checks their annotations"),
    "film release pack": Command("data_tools.film.release_pack:main", "prepared films as a release: deterministic tars, manifest, card"),
    "film release verify": Command("data_tools.film.release_unpack:verify_main", "check a release: every size, checksum and archive member"),
    "film release unpack": Command("data_tools.film.release_unpack:unpack_main", "a downloaded release back into folders, checked before and safely"),
    "film sample": Command("data_tools.film.sample:main", "a stratified part of a table of questions, e.g. 5000 of TVQA by show"),
    "film rationales": Command("data_tools.rationale.command:main", "reasons for known answers by a model, every citation checked"),
    "film eval": Command("benchmarks.film_runs.command:main", "an untrained or trained models over all pooling methods: replies, scores, baselines"),
    "film grid": Command("benchmarks.film_runs.grid:main", "one number per training and evaluation pooling, from the runs of film eval"),
    "film tables": Command("benchmarks.film_report.tables:main", "runs over poolings as tables: leaderboard, DPO - SFT, ablation"),
    "film panels": Command("benchmarks.film_report.panels:main", "questions about films as pages: pictures, people's answer, replies of runs"),
    "film player": Command("benchmarks.film_report.player:main", "the pooled pictures of a film, method beside method, as one page"),
    "pack": Command("data_tools.pack:main", "turn a dataset into checked tar shards"),
    "index": Command("data_tools.reindex:main", "make index and manifest of a folder of tars anew"),
    "validate": Command("data_tools.validate:main", "check packed data completely: structure, checksums, every frame and mask"),
    "data-stats": Command("data_tools.stats:main", "kinds, lengths and objects of packed data, and what a mixture makes of them"),
    "preview": Command("data_tools.preview:main", "show packed examples, with what the model will see, as one HTML page"),
    "pairs make correctness": Command("data_tools.preference.make:correctness_main", "preference pairs from answers to other questions (POVQA)"),
    "pairs make pasta": Command("data_tools.preference.make:pasta_main", "replies of a model that sees too little and is misled (VideoPASTA)"),
    "pairs make hound": Command("data_tools.preference.make:hound_main", "captions, questions and replies to be ranked (LLaVA-Hound)"),
    "pairs evidence": Command("data_tools.preference.evidence:main", "pairs with wrong times or masks from any grounded dataset, without a model"),
    "pairs score": Command("data_tools.preference.score:main", "grade replies, judge them, or compute their implicit rewards"),
    "pairs filter": Command("data_tools.preference.filter:main", "choose pairs without repetitions and leaks, and pack them"),
    "pairs accuracy": Command("unipixel.infer.prefer:main", "how often a trained model prefers the chosen side of held-out pairs"),
    "pairs stats": Command("data_tools.preference.stats:main", "length, style and overlap of chosen and rejected replies"),
    "pairs agree": Command("data_tools.preference.agree:main", "how far two judges of the same replies agree, two models or a model and a person"),
    "pairs sheet": Command("data_tools.preference.sheet:main", "frames and replies as a page for a person, and the table to fill in"),
    "pairs captions": Command("data_tools.preference.captions:main", "what captions say of time, place and objects, and what is wrong in them"),
    "pairs check": Command("data_tools.preference.check:main", "do pairs repeat each other, or hold what a benchmark tests"),
    "train sft": Command("launch.start:sft", "supervised fine-tuning on all GPUs of this machine, or --dry-run"),
    "train dpo": Command("launch.start:dpo", "preference training over video, on all GPUs of this machine, or --dry-run"),
    "export": Command("unipixel.model.export:main", "a trained model as one folder in the layout of released UniPixel checkpoints"),
    "predict": Command("unipixel.infer.predict:main", "answers, time segments and masks of a trained model"),
    "bench lmms-eval": Command("benchmarks.bench:external", "print lmms-eval's command for its benchmarks, or read its results"),
    "bench": Command("benchmarks.bench:main", "run a model on benchmarks: plan, infer on all GPUs, merge, score, export"),
    "score": Command("benchmarks.score:main", "score predictions against their ground truth"),
    "build-mcq": Command("benchmarks.builder:main", "multiple-choice questions about evidence from packed data"),
    "score-masks": Command("benchmarks.mask_folders:main", "J and F of folders of label pictures, object by object (DAVIS 2017)"),
    "leaderboard": Command("benchmarks.leaderboard.command:main", "tables of many results: Markdown, CSV, LaTeX, HTML"),
    "compare": Command("benchmarks.leaderboard.compare:main", "paired differences of two results, and the examples that changed"),
    "faithfulness": Command("benchmarks.faithfulness:main", "is the evidence that a model cites what it answers from"),
    "report": Command("benchmarks.report:main", "predictions beside the truth as one HTML page"),
}


def listing() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(["commands:", *(f"  {words:{width}}  {command.summary}" for words, command in COMMANDS.items()), "",
                      "`unipixel COMMAND --help` lists the flags of a command."])


def find(words: Sequence[str]) -> tuple[str, list[str]]:
    """(name in :data:`COMMANDS`, remaining arguments).

    Raises:
        ConfigError: no command has this name; the nearest ones are named.
    """
    for name in COMMANDS:
        length = len(name.split())
        if name.split() == list(words[:length]):
            return name, list(words[length:])
    said = [word for word in words[:3] if not word.startswith("-")]
    family = [name for name in COMMANDS if name.split()[0] == words[0]]
    if len(said) == 1 and family:
        raise ConfigError(f"{words[0]!r} is the first word of {', '.join(map(repr, family))}; `unipixel --help` says what they do")
    near = nearest(" ".join(said[:2]), COMMANDS) or nearest(words[0], COMMANDS)
    raise ConfigError(f"unknown command {' '.join(said[:2] if family else said[:1])!r}{near}; `unipixel --help` lists all")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (``docs/launch.md`` lists them)."""
    parser = argparse.ArgumentParser(prog="unipixel", usage="unipixel COMMAND [flags]", epilog=listing(),
                                     description="Train video-language models that answer with evidence, and score them.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"unipixel-train {__version__}")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    words = parser.parse_args(argv).words
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_USER_ERROR
    try:
        name, rest = find(words)
        module, function = COMMANDS[name].target.split(":")
        return getattr(importlib.import_module(module), function)(rest)
    except UniPixelError as error:
        print(f"unipixel: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("unipixel: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
