"""The mask scorer keeps its promised ratios to a plain implementation of the DAVIS definition, with a margin for busy machines."""

from __future__ import annotations

import json

from benchmarks.throughput import scoring, timing
from benchmarks.throughput.scoring import RESULT
from benchmarks.throughput.timing import Check

SLACK = 0.6


def test_promises_are_kept(tmp_path, alone):
    """A second look before a failure: another program may have had the processor. Equality and memory have no margin."""
    for attempt in range(2):
        checks = alone(scoring.measure, tmp_path / str(attempt), True)
        missed = [check for check in checks if not check.passed(SLACK if check.unit == "x" else 1)]
        if not missed:
            return
    raise AssertionError(timing.table(missed))


def test_saved_results_are_those_of_the_page():
    saved = json.loads(RESULT.read_text())
    page = (RESULT.parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
    assert len(saved["checks"]) == 6
    for check in saved["checks"]:
        figure = Check(check["name"], check["value"], check["target"], check["at_least"], check["unit"])
        assert check["passed"] == figure.passed() and f"| {check['name']} | {check['value']:g} {check['unit']} |" in page
