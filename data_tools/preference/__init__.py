"""Making preference pairs: replies from models, wrong replies of three published recipes, scores and verdicts, selection, checks.

Pairs leave this package in shards (``write``) that ``unipixel train dpo`` reads. Every step that asks a model goes through one client with a
journal of replies (``chat``), so that a stopped run goes on without paying twice. Tables of finished pairs are read by
``data_tools.convert.preference_pairs`` instead.
"""
