"""Reports on film question answering (POVQA): tables over poolings, panels of single questions, and a player of pooled pictures.

Everything is made from a folder of runs (``runs``: one ``predictions.jsonl`` with ``predictions.summary.json`` per training and evaluation
pooling) and from prepared films (``pictures``). Nothing is inferred or scored here; marks, tests and escaping are those of
``benchmarks.leaderboard``.
"""
