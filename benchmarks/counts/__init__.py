"""What one training step costs, counted and not timed: floating-point operations, kernels, waits for the device, calls of the encoders.

The real model at true size runs forward and backward on tensors without values, so a laptop counts in a minute what a GPU would do.
``python -m benchmarks.counts`` prints the table, writes ``benchmarks/results/counts.json`` and fails when a budget is exceeded.
"""
