"""Comparing costs: CPU time of alternatives that take turns, the checks that follow, their table and their JSON.

CPU time, because other programs share the machine; turns, because its speed drifts; ratios, because no absolute time is worth
publishing.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

EXIT_MISSED = 1
LIBRARIES = ("torch", "torchvision", "transformers", "webdataset", "numpy", "pillow", "pycocotools", "pyarrow")


@dataclass(frozen=True)
class Check:
    """One figure.

    Attributes:
        name: what is compared with what, in words.
        value: a ratio, or a quantity in ``unit``.
        target: the bound that is promised; ``None``: reported only.
        at_least: whether the bound is a lower one.
    """

    name: str
    value: float
    target: float | None = None
    at_least: bool = True
    unit: str = "x"

    def passed(self, slack: float = 1.0) -> bool:
        """Whether the value keeps the target; ``slack`` below 1 loosens it by that factor."""
        if self.target is None:
            return True
        return self.value >= self.target * slack if self.at_least else self.value <= self.target / slack

    @property
    def bound(self) -> str:
        return "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:g}"


class Costs:
    """CPU seconds of alternatives, one value per turn."""

    def __init__(self, alternatives: Mapping[str, Callable[[], Any]], turns: int):
        """Run every alternative once to warm up, then ``turns`` times, in another order each turn."""
        names, orders = list(alternatives), np.random.default_rng(0)
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            alternatives[name]()
        gc.collect()
        gc.disable()
        try:
            for _ in range(turns):
                for name in orders.permutation(names).tolist():
                    start = time.process_time()
                    alternatives[name]()
                    self.seconds[name].append(time.process_time() - start)
                gc.collect()
        finally:
            gc.enable()

    def ratio(self, slow: str, fast: str) -> float:
        """How many times ``fast`` fits into ``slow``, by the medians of their turns."""
        return float(np.median(self.seconds[slow]) / np.median(self.seconds[fast]))

    def best_ratio(self, slow: str, fast: str) -> float:
        """The same from the quickest turn of each: for a machine too busy for medians."""
        return min(self.seconds[slow]) / min(self.seconds[fast])


PROCESSES, TURNS = 5, 21


def compare(alternatives: Callable[[Path], Mapping[str, Callable[[], Any]]], folder: Path, turns: int) -> Costs:
    torch.set_num_threads(1)  # as in a loader worker
    return Costs(alternatives(folder), turns)


class Comparison:
    """Alternatives that fill large arrays: where a process happens to place those in memory moves their ratio by up to a tenth, so it is the
    median over fresh processes.

    Args:
        alternatives: module-level function: scratch folder -> the alternatives, named.
        quick: a single run in this process, for the tests.
    """

    def __init__(self, alternatives: Callable[[Path], Mapping[str, Callable[[], Any]]], folder: Path, quick: bool):
        self.quick = quick
        if quick:
            self.runs = [compare(alternatives, folder, 7)]
        else:
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                self.runs = pool.starmap(compare, [(alternatives, folder, TURNS)] * PROCESSES, chunksize=1)

    def ratio(self, slow: str, fast: str) -> float:
        return float(np.median([costs.best_ratio(slow, fast) if self.quick else costs.ratio(slow, fast) for costs in self.runs]))


Measurement = Callable[[Path, bool], list[Check]]
"""(scratch folder, quick) -> checks; ``quick``: small data and few turns, for the tests."""


def table(checks: Sequence[Check]) -> str:
    rows = [(c.name, f"{c.value:.3g} {c.unit}", c.bound, "" if c.target is None else "ok" if c.passed() else "MISSED") for c in checks]
    return tabulate(rows, headers=("measured", "value", "target", ""), colalign=("left", "right", "left", "left"), disable_numparse=True)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """Checks, with what they were measured on."""
    return {"checks": [asdict(c) | {"value": float(f"{c.value:.4g}"), "passed": c.passed()} for c in checks], "cores": os.cpu_count(),
            "python": platform.python_version(), "machine": platform.machine(), "versions": {name: version(name) for name in LIBRARIES}}


def run(measurements: Sequence[Measurement], out: Path | None = None, *, quick: bool = False) -> int:
    """Measure, print the table, write the JSON; exit code 0, or ``EXIT_MISSED``."""
    torch.set_num_threads(1)  # as in a loader worker
    checks: list[Check] = []
    for measure in measurements:
        with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
            print(f"measuring {measure.__module__.rpartition('.')[2]}", file=sys.stderr)
            checks += measure(Path(folder), quick)
    print(table(checks))
    text = json.dumps(report(checks), indent=1) + "\n"
    if out:
        out.write_text(text)
    return 0 if all(c.passed() for c in checks) else EXIT_MISSED
