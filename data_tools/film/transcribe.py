"""Speech to cues with Whisper (the package faster-whisper), for films without subtitles.

The package is optional; what it wrote once is kept as a SubRip file, which later runs read.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import av

from data_tools.synth_media import write_srt
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Subtitle

AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".m4a", ".ogg")
TRANSCRIPT = "transcript.srt"


def import_whisper() -> Any:
    """The package; :class:`ConfigError` where it is missing."""
    try:
        import faster_whisper  # noqa: PLC0415  (an extra)
    except ImportError:
        raise ConfigError("transcribing needs the package faster-whisper: pip install 'unipixel-train[transcribe]', or leave --audio out") from None
    return faster_whisper


@cache
def load_whisper(model: str) -> Any:
    """The model, once per process; :class:`ConfigError` where it cannot be had."""
    package = import_whisper()
    try:
        return package.WhisperModel(model)
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"--whisper {model!r} cannot be loaded: {error}") from error


def transcribe(audio: Path, model: str, folder: Path) -> Path:
    """``folder/transcript.srt``, made from ``audio`` unless it exists.

    Raises:
        ConfigError: the package or the model is missing.
        SampleError: ``no_speech``: nothing was heard; ``audio_unreadable``.
    """
    path = folder / TRANSCRIPT
    if path.is_file():
        return path
    loaded = load_whisper(model)
    try:
        heard = [Subtitle(float(s.start), float(s.end), s.text.strip()) for s in loaded.transcribe(str(audio))[0]]
    except (av.FFmpegError, IndexError, RuntimeError) as error:
        raise SampleError(f"cannot transcribe {audio}: {str(error)[:200]}", reason="audio_unreadable") from error
    cues = [cue for cue in heard if cue.text]
    if not cues:
        raise SampleError(f"no speech in {audio}", reason="no_speech")
    part = folder / f".{TRANSCRIPT}.part"
    write_srt(cues, part)
    os.replace(part, path)
    return path
