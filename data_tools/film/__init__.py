"""Films to training material in the layout of POVQA: pooled pictures, key frames, and what is said beside each picture.

``prepare`` handles one film, ``table`` joins subtitles with chunks, ``command`` runs many films (``unipixel film prepare``). ``split`` shows which
films train, ``sample`` draws questions, ``release*`` pack and unpack prepared films. Pooling itself is ``data_tools.pooling``; reading the result
back is ``data_tools.convert.povqa`` and ``tvqa``.
"""
