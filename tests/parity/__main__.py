"""``python -m tests.parity --fixture DIR [--cases DIR]``: replay recordings of the reference and compare; exit code 1 on a miss.

    --fixture   folder with the checkpoints (``full/``, ``adapter/``, …), the SAM 2 network and ``cases/``
    --cases     other recordings in the same format; their shared inputs, or the fixture's
    --all       every compared quantity, and what was not compared with the reason
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from tests.parity.cases import SAMPLING, read_cases
from tests.parity.media import replay_sampling
from tests.parity.replay import Replay
from tests.parity.report import Result


def replay_folder(fixture: Path, cases: Path) -> list[Result]:
    replay = Replay(fixture)
    results = [replay(case) for case in read_cases(cases, fixture / "cases")]
    return results + ([replay_sampling(cases / SAMPLING)] if (cases / SAMPLING).is_file() else [])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixture", type=Path, required=True)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.ERROR)
    torch.manual_seed(0)
    results = replay_folder(args.fixture, args.cases or args.fixture / "cases")
    for result in results:
        print(result.line())
        if args.all or not result.ok:
            for quantity in result.quantities:
                if args.all or not quantity.ok:
                    print(f"        {'ok' if quantity.ok else 'MISS':4}  {quantity.name:60} {quantity.difference:10.2e} of {quantity.tolerance:8.1e}")
        if args.all:
            for name, reason in result.left.items():
                print(f"        left  {name:60} {reason}")
    missed = [result.case for result in results if not result.ok]
    print(f"{len(results) - len(missed)} of {len(results)} cases agree" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
