"""Scores of answers, time segments and masks, and the reading of replies. NumPy only: training and benchmarks share them."""

from unipixel.metrics.choice import map_option, same_text
from unipixel.metrics.masks import jf, jf_rle, jf_sequence, jf_sequence_rle, sequence_statistics, tolerance_radius
from unipixel.metrics.reply import ParsedReply, parse_reply
from unipixel.metrics.temporal import merge_segments, normalise_segments, temporal_iop, temporal_iou

__all__ = ["ParsedReply", "jf", "jf_rle", "jf_sequence", "jf_sequence_rle", "map_option", "merge_segments", "normalise_segments",
           "parse_reply", "same_text", "sequence_statistics", "temporal_iop", "temporal_iou", "tolerance_radius"]
