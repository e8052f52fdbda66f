"""What a panel shows of one question, as plain data for the templates: tiles, the people's answer, the replies of the runs, what was said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.film_report.choose import Group, faults
from benchmarks.film_report.files import file_name
from benchmarks.film_report.pictures import Picture, PictureStore, key_picture, read_pooled
from benchmarks.film_report.runs import METRICS, Item, RunCell, label, status
from benchmarks.film_report.tiles import choose, clock
from data_tools.convert.film_questions import clock_s
from unipixel.data.template import letter
from unipixel.errors import SampleError

SAME_TIME_S = 0.0006
"""Times of records are rounded to milliseconds, and a key frame is listed one millisecond after the pooled picture of its second."""


@dataclass(frozen=True)
class Tile:
    """One picture. ``address`` is ``None`` where the file is missing; ``evidence``: inside the annotated span; ``given``: the first run saw it."""

    address: str | None
    time: str
    key: bool
    evidence: bool
    given: bool
    path: Path


@dataclass(frozen=True)
class Scene:
    """Where a question looks, in film seconds: the window shown, the moment of the pause (or the middle of the evidence), the evidence."""

    film: str
    start_s: float
    end_s: float
    moment_s: float | None
    span: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        times = self.span if self.end_s == math.inf else (self.start_s, self.end_s)
        return self.film + (", " + " – ".join(map(clock, times)) if times else "")


@dataclass
class PanelView:
    """Everything a page shows about one question; ``faults`` are those of all runs, ``replies`` one per run."""

    file: str
    name: str
    source: str
    question: str
    scene: str
    human: dict[str, str]
    options: list[dict[str, Any]]
    replies: list[dict[str, Any]]
    said: list[dict[str, str]]
    faults: list[str]
    tiles: list[Tile] = field(default_factory=list)
    problem: str = ""
    image_list: list[str] = field(default_factory=list)


def page_name(number: int, group: Group) -> str:
    return f"{number:04d}_{file_name(group.name)}"


def view(number: int, group: Group, cells: Sequence[RunCell], pooling: str, max_frames: int, low_f1: float, store: PictureStore) -> PanelView:
    """The panel of a question; runs without it, films and pictures that are missing go to the ledger of ``store``."""
    item = group.item
    for cell, mine in zip(cells, group.items):
        if mine is None:
            store.ledger.skip(cell.name, group.name, "no_prediction", f"{cell.predictions} does not hold this question")
    replies = [_reply(cell, mine, low_f1) for cell, mine in zip(cells, group.items)]
    panel = PanelView(page_name(number, group), group.name, group.source, str(item.get("question")), "", {}, _options(item, replies), replies,
                      [{"time": clock(said["start"]), "text": said["text"]} for said in item.get("subtitle_segments") or ()],
                      sorted({fault for reply in replies for fault in reply["faults"]}))
    if "options" not in item:
        panel.human = {"Reasoning": str(item.get("gold_reasoning") or ""), "Answer": str(item.get("gold_answer"))}
    try:
        scene = scene_of(item)
        panel.scene = scene.text
        panel.tiles = _tiles(item, scene, pooling, max_frames, store)
    except SampleError as error:
        store.ledger.skip(group.source, group.name, error.reason, error.message, examples=0)
        panel.problem = error.message
    panel.image_list = [tile.path.relative_to(store.root).as_posix() for tile in panel.tiles if tile.address is not None]
    return panel


def scene_of(item: Item) -> Scene:
    """ReasonVQA: the context of the question and its pause. TVQA: the whole clip, and the annotated span.

    Raises:
        SampleError: a time cannot be read (``bad_time``).
    """
    if "vid_name" in item:
        match = re.fullmatch(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*", str(item.get("ts") or ""))
        span = (float(match[1]), float(match[2])) if match else None
        return Scene(str(item["vid_name"]), 0.0, math.inf, None if span is None else sum(span) / 2, span)
    start, _, end = str(item.get("contextTimestamp")).partition(" - ")
    return Scene(str(item["movie"]), clock_s(start), clock_s(end), clock_s(str(item.get("timestamp"))))


def _tiles(item: Item, scene: Scene, pooling: str, max_frames: int, store: PictureStore) -> list[Tile]:
    film = read_pooled(store.root, scene.film, pooling, store.ledger)
    pooled = film.between(scene.start_s, scene.end_s)
    key = [key_picture(store.root, scene.film, item["timestamp"], int(item["index"]), scene.moment_s)] if "timestamp" in item else []
    chosen = [pooled[i] for i in choose([picture.time_s for picture in pooled], scene.moment_s, max_frames - len(key))]
    evidence = film.between(*scene.span) if scene.span else ()
    in_order = sorted([*chosen, *key], key=lambda picture: (picture.time_s, picture.key))
    return [_tile(picture, picture in evidence, item, scene, store) for picture in in_order]


def _tile(picture: Picture, evidence: bool, item: Item, scene: Scene, store: PictureStore) -> Tile:
    nearness = 2 * SAME_TIME_S if picture.key else SAME_TIME_S
    given = any(abs(time - picture.time_s) <= nearness for time in item.get("frame_times") or ())
    return Tile(store.address(picture, scene.film), clock(picture.time_s), picture.key, evidence, given, picture.path)


def _options(item: Item, replies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"letter": letter(i), "text": text, "gold": i == item.get("gold_idx"),
             "by": [reply["name"] for reply in replies if reply["option"] == i]} for i, text in enumerate(item.get("options") or ())]


def _reply(cell: RunCell, item: Item | None, low_f1: float) -> dict[str, Any]:
    if item is None:
        return {"name": cell.name, "status": "not in this run", "error": None, "reasoning": None, "answer": None, "raw": None, "option": None,
                "right": None, "scores": [], "faults": []}
    wrong = sorted(faults(item, low_f1))
    answer = item.get("pred_answer_raw", item.get("pred_answer"))
    scores = [(label(metric), f"{item[name]:.3f}") for metric, name in METRICS.items() if name != "correct" and item.get(name) is not None]
    return {"name": cell.name, "status": status(item), "error": item.get("error"), "reasoning": item.get("pred_reasoning"), "answer": answer,
            "raw": item.get("reply") if "parse_failure" in wrong else None, "option": item.get("pred_idx"),
            "right": item.get("correct"), "scores": scores, "faults": wrong}
