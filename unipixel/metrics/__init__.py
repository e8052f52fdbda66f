"""Scores of answers, time segments and masks, and the reading of replies. NumPy only: training and benchmarks share them."""

from unipixel.metrics.choice import map_option, same_text
from unipixel.metrics.masks import jf, jf_rle, jf_sequence, jf_sequence_rle, sequence_statistics, tolerance_radius
from unipixel.metrics.reply import ParsedReply, parse_reply
from unipixel.metrics.significance import holm, mcnemar_exact, permutation_test
from unipixel.metrics.temporal import merge_segments, normalise_segments, temporal_iop, temporal_iou
from unipixel.metrics.text import bleu1, bleu4, exact_match, rouge_l, token_f1

__all__ = ["ParsedReply", "bleu1", "bleu4", "exact_match", "holm", "jf", "jf_rle", "jf_sequence", "jf_sequence_rle", "map_option",
           "mcnemar_exact", "merge_segments", "normalise_segments", "parse_reply", "permutation_test", "rouge_l", "same_text",
           "sequence_statistics", "temporal_iop", "temporal_iou", "token_f1", "tolerance_radius"]
