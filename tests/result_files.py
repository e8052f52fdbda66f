"""Result files of made-up systems, for the tests of tables and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.protocol import Protocol
from benchmarks.result import Metric, build, write_json

METRICS = (Metric("accuracy", lambda row: row["right"]), Metric("mIoU", lambda row: row["iou"]),
           Metric("cIoU", lambda row: (row["inter"], row["union"])), Metric("by kind", lambda row: row["iou"], by="kind"),
           Metric("score", lambda row: row["score"], unit="score_0_5"),
           Metric("mIoU if right", lambda row: row["iou"] if row["right"] else None, conditional=True))


def make_row(right: bool, iou: float, *, kind: str = "what", inter: int = 0, union: int = 100, score: float = 2.5,
             status: str = "ok") -> dict[str, Any]:
    return {"status": status, "problems": [], "resized": False, "right": right, "iou": iou, "kind": kind, "inter": inter, "union": union,
            "score": score}


def make_result(rows: Mapping[str, dict[str, Any]], *, benchmark: str = "st-evidence-gen", split: str = "test", protocol: Protocol | None = None,
                missing: Sequence[str] = (), truth: str = "truth0", model: str = "", judge: Mapping[str, Any] | None = None,
                headline: Sequence[str] = ("accuracy", "mIoU")) -> dict[str, Any]:
    result = build(benchmark=benchmark, split=split, metrics=METRICS, headline=headline, rows={i: dict(row) for i, row in rows.items()},
                   trivial_rows=[make_row(False, 0.25) for _ in rows], chance={"accuracy": 0.2}, groups={"kind": "kind"}, missing=missing, unknown=[],
                   bootstrap=200, seed=0)
    return result | {"card": {"protocol": (protocol or Protocol()).card(), "bootstrap": 200, "seed": 0, "judge": judge,
                              "predictions": {"path": "p.jsonl", "sha256": "ab" * 32}, "truth": {"path": ["shards"], "id": truth},
                              "run": {"model": model, "checkpoint": "ckpt-1"} if model else None, "code": "c0de"}}


def save_result(path: Path, rows: Mapping[str, dict[str, Any]], **facts: Any) -> str:
    write_json(path, make_result(rows, **facts))
    return str(path)
