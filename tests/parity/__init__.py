"""Recorded runs of the reference implementation, replayed on this package's model: ``python -m tests.parity --fixture DIR``.

``cases`` reads a recording and says what kind it is, ``batch`` turns its inputs into a packed batch, ``replay`` runs the model and
compares, ``report`` holds tolerances and results.
"""
