"""Results side by side: cards and tables (Markdown, CSV, LaTeX, HTML), published numbers for reference, and paired comparison.

Everything is made from result files (``benchmarks.result``); nothing is scored here. Rows of different protocols never share a table.
"""
