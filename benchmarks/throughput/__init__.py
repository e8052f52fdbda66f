"""Costs of the data path as ratios: every figure compares two ways of doing the same work, timed side by side in one run.

``python -m benchmarks.throughput`` runs all measurements and writes ``benchmarks/results/throughput.json``; ``python -m
benchmarks.throughput.reading`` (``decoding``, ``transform``, ``resuming``, ``memory``) runs one. The exit code is 1 when a target is missed.
"""
