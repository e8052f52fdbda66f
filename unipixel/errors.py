"""Typed errors of the toolkit.

Every error a user can cause derives from :class:`UniPixelError`; its message names what is wrong, the value seen and what to set.
Programming errors stay ``assert``. Exit codes used by the commands are listed here so that launch scripts can rely on them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR = 2
"""A :class:`UniPixelError` ended the command."""
EXIT_PREEMPTED = 85
"""SIGTERM arrived: every rank saved a checkpoint and stopped; start the same command again to continue."""


class UniPixelError(Exception):
    """Base of all errors a user can cause."""


class ConfigError(UniPixelError, ValueError):
    """A setting is unknown, contradictory or out of range."""


class DataError(UniPixelError):
    """Data on disk is missing, damaged or contradicts itself."""


class SampleError(DataError, ValueError):
    """One sample is unusable. ``reason`` is a short machine-readable slug used to count and list skips."""

    def __init__(self, message: str, *, reason: str, key: str | None = None):
        super().__init__(f"{key}: {message}" if key else message)
        self.message, self.reason, self.key = message, reason, key

    def __reduce__(self):
        """Keeps type and fields on the way back from a worker process."""
        return _sample_error, (self.message, self.reason, self.key)


def _sample_error(message: str, reason: str, key: str | None) -> SampleError:
    return SampleError(message, reason=reason, key=key)


class CheckpointError(UniPixelError):
    """A checkpoint is missing, incomplete, or belongs to something else."""


class DistributedError(UniPixelError, RuntimeError):
    """Ranks disagree about something they must agree on."""


def nearest(name: str, choices: Iterable[str], n: int = 3) -> str:
    """``"; nearest: 'a', 'b'"`` for an error message, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(choices), n=n, cutoff=0.5)
    return "; nearest: " + ", ".join(repr(c) for c in close) if close else ""
