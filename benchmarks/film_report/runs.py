"""A folder of runs on disk: which model was evaluated on which pooling, its summary, and its items.

``runs/<run>[/<adapter>]/<method>/*.summary.json`` with the ``.jsonl`` beside it. Summaries say what they are; those that do not (POVQA's own)
are told by their folders. Of several summaries in one place the newest counts, and the older ones are listed. Two run folders that claim the
same stage, dataset and variant are an error: which of them is meant is the user's to say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.entries import Entry
from benchmarks.protocol import content_hash
from benchmarks.result import SCHEMA
from data_tools.pooling.operators import OPERATORS, SHORT
from unipixel.errors import ConfigError, DataError, nearest

SUMMARY = ".summary.json"
STAGES = ("base", "sft", "dpo")
FULL = "full"
VARIANTS = ("keyframe_only", "text_only", "frames_only", "classic")
"""What an ablation leaves out of the full context."""
ORDER = tuple(SHORT[name] for name in ("BBLF", "WA", "WAE", "WAR"))
"""Poolings in the order of tables."""
METRICS = {"Accuracy": "correct", "EM": "em", "F1": "f1", "BLEU1": "bleu1", "BLEU4_BP": "bleu4", "ROUGE_L": "rouge_l", "EmbedCos": "embed_cos",
           "ROUGE_L_Reasoning": "rouge_l_reasoning", "EmbedCos_Reasoning": "embed_cos_reasoning"}
"""Metric of a summary, in the order of tables -> the field of an item that holds its score."""
LABELS = {"BLEU1": "BLEU-1", "BLEU4_BP": "BLEU-4 (BP)", "ROUGE_L": "ROUGE-L", "EmbedCos": "Embed Cosine", "ROUGE_L_Reasoning": "ROUGE-L-R",
          "EmbedCos_Reasoning": "Embed Cos-R"}
TOLERANCE = 1e-4
"""How far the mean of the items may be from the rounded value in their summary."""
Item = Mapping[str, Any]


def short(method: str) -> str:
    """Short name of a pooling method; any other name as it is, an empty one as a dash."""
    return OPERATORS[method].short if method in OPERATORS else method or "—"


def label(metric: str) -> str:
    """How tables and pages call a metric."""
    return LABELS.get(metric, metric)


def in_order(names: set[str], known: Sequence[str]) -> list[str]:
    """Known names in their order, then the others by name."""
    return [name for name in known if name in names] + sorted(names - set(known))


@dataclass(frozen=True, eq=False)
class RunCell:
    """One evaluation.

    Attributes:
        dataset: ``ReasonVQA`` or ``TVQA``.
        trained, evaluated: pooling of the training pictures, empty for the base model, and of those it was evaluated on.
        path: its summary; ``older`` are summaries in the same folder that it replaces.
    """

    dataset: str
    stage: str
    trained: str
    evaluated: str
    variant: str
    path: Path
    summary: Mapping[str, Any]
    older: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """``SFT WA → BBLF``: trained on WA, evaluated on BBLF."""
        variant = "" if self.variant == FULL else f" ({self.variant})"
        return " ".join(part for part in (self.stage.upper() if self.trained else self.stage, short(self.trained) if self.trained else "",
                                          f"→ {short(self.evaluated)}") if part) + variant

    @property
    def key(self) -> str:
        """``sft:weighted_average:blend_blur_with_last_frame``, as settings name a run; the base model has two parts."""
        return ":".join(part for part in (self.stage, self.trained, self.evaluated) if part)

    @property
    def predictions(self) -> Path:
        return self.path.with_name(Path(str(self.summary.get("output_file") or self.path.name.replace(SUMMARY, ".jsonl"))).name)

    def value(self, metric: str) -> float | None:
        return self.summary["metrics"].get(metric)

    def interval(self, metric: str) -> tuple[float, float] | None:
        bounds = (self.summary.get("ci95") or {}).get(metric)
        return tuple(bounds) if bounds else None

    @cached_property
    def items(self) -> dict[str, Item]:
        """Id -> item, in the order of the file. Raises :class:`DataError` when the file does not belong to the summary."""
        items: dict[str, Item] = {}
        try:
            lines = self.predictions.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{self.path} has no readable predictions beside it: {error}") from error
        for number, line in enumerate(lines, 1):
            try:
                item = json.loads(line)
                name = item_id(item)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{self.predictions}:{number} is not an item: {error!r}") from error
            if name in items:
                raise DataError(f"{self.predictions}:{number} repeats the item {name!r}")
            items[name] = item
        if len(items) != self.summary["runs"]:
            raise DataError(f"{self.predictions} has {len(items)} items, {self.path.name} counts {self.summary['runs']}: evaluate this cell again")
        return items

    @cached_property
    def entry(self) -> Entry:
        """The run as the paired comparison takes it.

        Raises:
            DataError: its items do not give the metrics of its summary.
        """
        values = {name: {metric: _score(item, field) for metric, field in METRICS.items() if field in item} for name, item in self.items.items()}
        scored = [metric for metric in METRICS if any(row.get(metric) is not None for row in values.values()) and self.value(metric) is not None]
        for metric in scored:
            found = [row[metric] for row in values.values() if row.get(metric) is not None]
            if abs(sum(found) / len(found) - self.value(metric)) > TOLERANCE:
                raise DataError(f"{self.predictions}: its items average {sum(found) / len(found):.6f} in {metric}, {self.path.name} says "
                                f"{self.value(metric):.6f}: they are not of one evaluation")
        truth = content_hash({name: [item.get(field) for field in ("question", "gold_answer", "gold_reasoning", "options", "gold_idx")]
                              for name, item in self.items.items()})
        return Entry(self.name, str(self.path), {
            "schema": SCHEMA, "benchmark": self.dataset, "split": str(self.summary.get("split_hash") or ""), "headline": scored,
            "metrics": {metric: {"value": self.value(metric)} for metric in scored}, "units": dict.fromkeys(scored, "share"),
            "averaging": dict.fromkeys(scored, "examples"),
            "per_example": {name: {"values": row, "status": status(self.items[name])} for name, row in values.items()},
            "card": {"protocol": {"compat": self.summary.get("compat")}, "truth": {"id": truth}}})


def item_id(item: Item) -> str:
    """``example_id``, or what identifies an item of POVQA's own files: film and index, or qid."""
    return str(item.get("example_id") or (f"q{item['qid']}" if "qid" in item else f"{item['movie']}_{item['index']}"))


def status(item: Item) -> str:
    return str(item.get("status") or "ok")


def _score(item: Item, field: str) -> float | None:
    return None if item[field] is None else float(item[field])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- finding them ----------------------------------------------------------------------------------------------------------------

def read_runs(root: str | Path, only: Sequence[str] = ()) -> list[RunCell]:
    """All evaluations below ``root``, the newest summary of each.

    Args:
        only: names of run folders to read, instead of all.

    Raises:
        ConfigError: a name in ``only`` does not exist, or two folders hold runs of the same kind.
        DataError: there is none, or a summary is malformed.
    """
    root = Path(root)
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    for name in only:
        if name not in names:
            raise ConfigError(f"--run_names {name!r} is no folder of {root}{nearest(name, names)}")
    found: dict[tuple, list[RunCell]] = defaultdict(list)
    for path in sorted(p for name in (only or names) for p in (root / name).rglob(f"*{SUMMARY}")):
        cell = _read(root, path)
        found[cell.dataset, cell.stage, cell.variant, cell.trained, cell.evaluated].append(cell)
    if not found:
        raise DataError(f"no *{SUMMARY} in the folders of {root}: run `unipixel film eval` first, or correct --runs")
    _check_folders(root, [cell for cells in found.values() for cell in cells])
    return [_newest(cells) for cells in found.values()]


def _read(root: Path, path: Path) -> RunCell:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(summary["metrics"], dict) or not isinstance(summary["runs"], int):
            raise TypeError("metrics must be a mapping and runs a number")
        for name, value in summary["metrics"].items():
            if value is not None and not isinstance(value, (int, float)):
                raise TypeError(f"metric {name} is {value!r}")
        parts = path.relative_to(root).parts[:-1]
        stage = summary.get("stage") or next((word for word in re.split(r"[-_]", parts[0]) if word in STAGES), None)
        if stage not in STAGES:
            raise ValueError(f"neither its field stage nor the folder {parts[0]!r} says which of {STAGES} it is")
        method = str(summary["method"])
        adapter = str(summary.get("adapter") or (parts[-2] if len(parts) > 2 else "")) if stage != "base" else ""
        variant = summary.get("variant") or ("keyframe_only" if summary.get("pooling") == "keyframe" else FULL)
        dataset = summary.get("dataset") or ("TVQA" if "tvqa" in parts[0].lower() else "ReasonVQA")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} is not the summary of a run: {error!r}") from error
    return RunCell(dataset, stage, Path(adapter).name, method, variant, path, summary)


def _newest(cells: Sequence[RunCell]) -> RunCell:
    *older, newest = sorted(cells, key=lambda cell: (cell.path.stat().st_mtime_ns, cell.path.name))
    return RunCell(newest.dataset, newest.stage, newest.trained, newest.evaluated, newest.variant, newest.path, newest.summary,
                   tuple(cell.path for cell in older))


def _check_folders(root: Path, cells: Sequence[RunCell]) -> None:
    folders: dict[tuple, set[str]] = defaultdict(set)
    for cell in cells:
        folders[cell.dataset, cell.stage, cell.variant].add(cell.path.relative_to(root).parts[0])
    for (dataset, stage, variant), names in folders.items():
        if len(names) > 1:
            raise ConfigError(f"{sorted(names)} all hold {dataset} runs of stage {stage!r}, variant {variant!r}: name the folders to read with "
                              "--run_names")


def methods_of(cells: Sequence[RunCell]) -> list[str]:
    """All poolings that were trained or evaluated on, the known ones first."""
    return in_order({name for cell in cells for name in (cell.trained, cell.evaluated) if name}, ORDER)
