"""Rationales by a model for questions whose answer is known, and the check that every picture, time and word they cite is really there.

``context`` is what the model is shown, ``generate`` asks for rationales, ``verify`` checks them, ``command`` is ``unipixel film rationales``.
"""
