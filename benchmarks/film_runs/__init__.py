"""Models of films evaluated over pooling methods, as POVQA's runs are laid out: ``unipixel film eval`` and ``unipixel film grid``.

``cells`` says which runs there are and which are done, ``models`` loads what answers, ``scoring`` and ``baselines`` turn replies into numbers,
``files`` writes a run, ``grid`` reads many. Asking, resuming and merging are the benchmarks' own (``benchmarks.runner``).
"""
