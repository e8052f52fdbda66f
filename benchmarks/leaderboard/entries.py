"""Result files as entries of a leaderboard, and what makes two of them comparable.

Reads the current schema and, for ST-Evidence, ``unipixel-score/1``, whose rows hold the same facts under other names. Two entries are
comparable when benchmark, split, truth, protocol and judge are the same; the checkpoint, the frames a model needs and its code may differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.protocol import content_hash
from benchmarks.result import SCHEMA, averaging, read_result
from unipixel.errors import ConfigError, DataError

OLD_SCHEMA = "unipixel-score/1"
NOT_PROTOCOL = ("hash", "prompt_hash")
"""Fields of a protocol card that follow from the others."""


@dataclass(frozen=True)
class Entry:
    """One result file under the name it has in tables."""

    name: str
    path: str
    result: Mapping[str, Any]

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings of the protocol, the prompt by its hash, with the judge that took part."""
        card = self.result["card"]
        judge = {"judge": card["judge"]} if card.get("judge") else {}
        kept = {name: value for name, value in card["protocol"].items() if name not in NOT_PROTOCOL}
        return kept | ({"prompt": content_hash(kept["prompt"])} if "prompt" in kept else {}) | judge

    @property
    def truth_id(self) -> str:
        return str(self.result["card"]["truth"]["id"])

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Entries with equal keys are comparable: benchmark, split, truth, protocol."""
        return self.result["benchmark"], self.result["split"], self.truth_id, content_hash(self.protocol)


def load(path: str | Path) -> dict[str, Any]:
    """A result file of the current or the old schema, in the current form. Raises :class:`DataError` when it is neither."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    result = _upgraded(content, path) if isinstance(content, dict) and content.get("schema") == OLD_SCHEMA else read_result(path)
    card = result["card"]
    if not isinstance(card, dict) or not isinstance(card.get("protocol"), dict) or "id" not in card.get("truth", {}):
        raise DataError(f"{path} has no card with protocol and truth: its numbers cannot be compared with any other; score again")
    return result


def load_entries(paths: Sequence[str], names: Sequence[str]) -> list[Entry]:
    """Entries in the order given; without ``names`` each is called after the model in its card, else after its file.

    Raises:
        ConfigError: names and files differ in number, or two entries that would share a table have one name.
        DataError: a file is no result.
    """
    if names and len(names) != len(paths):
        raise ConfigError(f"{len(names)} names for {len(paths)} result files: give one each")
    results = [load(path) for path in paths]
    names = names or [_default_name(path, result) for path, result in zip(paths, results)]
    entries = [Entry(name, str(path), result) for name, path, result in zip(names, paths, results)]
    repeated = [name for (name, _), n in Counter((entry.name, entry.key) for entry in entries).items() if n > 1]
    if repeated:
        raise ConfigError(f"several results of one benchmark are called {repeated[0]!r}: name each file with --names")
    return entries


def _default_name(path: str, result: Mapping[str, Any]) -> str:
    run = result["card"].get("run") or {}
    return str(run.get("model") or (Path(path).parent.name if Path(path).stem in ("score", "result") else Path(path).stem) or path)


def _upgraded(old: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """``unipixel-score/1`` (ST-Evidence generation only) -> the current form."""
    from benchmarks.tasks.evidence import EvidenceGeneration as task  # imports torch, which tables do not need

    try:
        rows = {example_id: row | {"values": {metric.name: metric.value(row) for metric in task.metrics}}
                for example_id, row in old["per_example"].items()}
        kept = {name: old[name] for name in ("n", "metrics", "trivial", "missing", "unknown", "status", "format_errors", "resized", "card")}
        groups = {"question type": old["by_question_type"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} lacks the field {error}: it was cut or edited; score the predictions again") from error
    return kept | {"schema": SCHEMA, "benchmark": task.name, "split": "test", "headline": list(task.headline), "groups": groups,
                   "units": {metric.name: metric.unit for metric in task.metrics}, "averaging": averaging(task.metrics, list(rows.values())),
                   "chance": {}, "per_example": rows}
