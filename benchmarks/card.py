"""The card of a result: protocol, inputs by content, code and versions, so that a number can be traced and never compared by accident."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import unipixel.metrics
from benchmarks.protocol import Protocol
from unipixel.errors import DataError

LIBRARIES = ("unipixel-train", "numpy", "pycocotools", "pillow", "scipy")


def score_card(protocol: Protocol, *, predictions: Mapping[str, Any], truth: Mapping[str, Any], bootstrap: int, seed: int,
               judge: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    Args:
        predictions: ``path`` and ``sha256`` of the file, and where its masks are.
        truth: ``path`` and ``id``: fingerprint of shards, or hash of a table.
        judge: name, revision and settings of the model that judged, if one did.
        run: what made the predictions, as the runner's plan has it: model, checkpoint, decoding, fingerprint.
    """
    return {"protocol": protocol.card(), "bootstrap": bootstrap, "seed": seed, "predictions": dict(predictions), "truth": dict(truth),
            "judge": judge and dict(judge), "run": run and dict(run), "code": code_hash(), "versions": versions()}


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str | None]:
    """Installed versions; ``None`` for what is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def code_hash() -> str:
    """16 hex digits over the source files that decide a score: this package and the metrics."""
    digest = hashlib.sha256()
    for root in (Path(__file__).parent, Path(unipixel.metrics.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root.parent).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


RUN_CARD = ".run.json"
"""Suffix of the file beside merged predictions that says what made them."""


def run_card(predictions: str | Path) -> dict[str, Any] | None:
    """What made a prediction file, if the runner did; ``None`` for any other file.

    Raises:
        DataError: the card belongs to other predictions.
    """
    path = Path(f"{predictions}{RUN_CARD}")
    if not path.is_file():
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    if card.pop("predictions_sha256") != file_hash(predictions):
        raise DataError(f"{path} belongs to other predictions than {predictions}: merge the run again")
    return card


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
