"""Running benchmarks on any number of workers: plan, infer, merge, score, export."""
