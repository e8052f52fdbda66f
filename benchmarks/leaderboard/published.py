"""Numbers that others published, with where they stand: shown beside measured ones for reference, never in one table with them.

One YAML file per source under ``benchmarks/published``: ``source``, ``read`` (when, or which version), ``secondary`` (quoted by others, not
read in the original), ``comment``, and the numbers: ``percent`` (shares, as printed) and ``scores`` (other units, as they are), each
``benchmark`` or ``benchmark@split`` -> metric -> model -> value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from unipixel.errors import DataError

FOLDER = Path(__file__).parents[1] / "published"
NUMBERS = {"percent": 100.0, "scores": 1.0}
"""Field -> what its values are divided by."""
FIELDS = {"source", "read"}
OPTIONAL = {"secondary", "comment", *NUMBERS}


@dataclass(frozen=True)
class PublishedEntry:
    """What one source says of one model on one benchmark; ``split`` is empty when the benchmark has one only. Shares in 0-1."""

    benchmark: str
    split: str
    model: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Published:
    """All numbers of one source; ``secondary``: quoted there from another work."""

    source: str
    read: str
    secondary: bool
    comment: str
    entries: tuple[PublishedEntry, ...]


def read_published(path: Path) -> Published:
    """Raises :class:`DataError` naming the file when its form is another one."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or not set(raw) >= FIELDS or set(raw) - FIELDS - OPTIONAL or not set(raw) & set(NUMBERS):
            raise DataError(f"{path}: fields must be {sorted(FIELDS)}, at least one of {sorted(NUMBERS)}, and perhaps {sorted(OPTIONAL)}")
        for kind, scale in NUMBERS.items():
            for benchmark, metrics in raw.get(kind, {}).items():
                for metric, models in metrics.items():
                    for model, value in models.items():
                        values.setdefault((benchmark, str(model)), {})[metric] = float(value) / scale
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a file of published numbers: {error}") from error
    entries = tuple(PublishedEntry(*benchmark.partition("@")[::2], model, found) for (benchmark, model), found in values.items())
    return Published(raw["source"], str(raw["read"]), bool(raw.get("secondary", False)), raw.get("comment", ""), entries)


def published_numbers(folder: Path = FOLDER) -> list[Published]:
    return [read_published(path) for path in sorted(folder.glob("*.yaml"))]
