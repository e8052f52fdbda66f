"""Converters from public and own layouts to bundles, by the name used on the command line."""

from data_tools.convert import rvos, st_evidence, synth
from data_tools.convert.base import Bundle

CONVERTERS = {
    "synth": synth.convert,
    "st_evidence": st_evidence.convert,
    "rvos": rvos.convert,
}

__all__ = ["CONVERTERS", "Bundle"]
