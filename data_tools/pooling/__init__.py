"""Temporal pooling: the frames of a chunk of film -> one picture per operator (POVQA, arXiv 2510.01009).

``operators`` defines the weights, ``stream`` applies them to frames that arrive one by one (NumPy or torch), ``video`` decodes a file
into upright pictures of one size, ``chunks`` divides it by presentation time. Nothing here knows folders, subtitles or questions.
"""

from data_tools.pooling.operators import METHODS, OPERATORS, weights
from data_tools.pooling.stream import Pooler, pool, to_uint8

__all__ = ["METHODS", "OPERATORS", "Pooler", "pool", "to_uint8", "weights"]
