"""All measurements: ``python -m benchmarks.throughput``; writes ``benchmarks/results/throughput.json``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.throughput import decoding, memory, reading, resuming, transform
from benchmarks.throughput.timing import run

MEASUREMENTS = [module.measure for module in (reading, decoding, transform, resuming, memory)]
RESULT = Path(__file__).resolve().parents[1] / "results" / "throughput.json"

if __name__ == "__main__":
    raise SystemExit(run(MEASUREMENTS, RESULT))
