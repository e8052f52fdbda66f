"""Multiple-choice benchmarks over videos as released: MVBench and VideoMME.

MVBench: ``json/<task>.json`` and ``video/<folder of the task>/``; five of its 20 tasks ask about a part of the video, from ``start`` to
``end``, which is cut out. VideoMME: one parquet table ``videomme/test-*.parquet``, ``data/<videoID>.mp4`` and ``subtitle/<videoID>.srt``.
Questions about one video (or one part of it) share a bundle.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_tools.convert.base import Bundle, field, image_size, inside, source_json
from data_tools.convert.clips import read_clip
from data_tools.convert.referring import check_rate
from data_tools.convert.srt import read_srt
from unipixel.data.ledger import SkipLedger
from unipixel.data.video import FrameList
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, Medium, Subtitle

TASKS = {
    "action_sequence": "star/Charades_v1_480", "action_prediction": "star/Charades_v1_480", "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos", "unexpected_action": "FunQA_test/test", "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480", "object_shuffle": "perception/videos", "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video", "scene_transition": "scene_qa/video", "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation", "moving_attribute": "clevrer/video_validation", "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd", "character_order": "perception/videos", "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq", "counterfactual_inference": "clevrer/video_validation",
}
"""MVBench's tasks and the folders of their videos, as its release lays them out."""
PICTURES = {"episodic_reasoning": 3.0}
"""Tasks whose videos are folders of pictures, with their rate."""
LETTERED = re.compile(r"^\(?[A-Z][.)]\s*")


def mvbench(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 2.0, whole: bool = False) -> Iterator[Bundle]:
    """MVBench (json/<task>.json, video/), all splits are one.

    Args:
        whole: show whole videos also where the question is about a part, as UniPixel's evaluation does; not comparable with the official one
    """
    check_rate(fps)
    found = [task for task in TASKS if (folder / "json" / f"{task}.json").is_file()]
    if not found:
        raise DataError(f"no json/<task>.json of MVBench in {folder}: check --input")
    for task in TASKS:
        if task not in found:
            ledger.skip("mvbench", task, "file_missing", f"no {folder / 'json' / task}.json", examples=200)
    for task in found:
        media: dict[tuple[str, float, float], list[Example]] = {}
        for n, row in enumerate(source_json(folder / "json" / f"{task}.json", task)):
            with ledger.catching("mvbench", f"{task}_{n}"):
                part = (float(row["start"]), float(row["end"])) if not whole and "start" in row and "end" in row else (0.0, float("inf"))
                example = _question(f"{task}_{n}", field(row, "question", str), field(row, "candidates", list), field(row, "answer", str), task,
                                    {name: row[name] for name in ("start", "end") if name in row})
                media.setdefault((field(row, "video", str), *part), []).append(example)
        for (video, start, end), examples in media.items():
            name = video if end == float("inf") else f"{video}@{start:g}-{end:g}"
            with ledger.catching("mvbench", f"{task}/{name}", examples=len(examples)):
                clip = read_clip(inside(folder / "video", TASKS[task]), video, PICTURES.get(task, fps), ledger)
                yield _bundle("mvbench", f"{task}/{name}", _between(clip, start, end), examples, {"video": video, "task": task})


def videomme(folder: Path, *, split: str, ledger: SkipLedger, fps: float = 1.0) -> Iterator[Bundle]:
    """VideoMME (videomme/test-*.parquet, data/, subtitle/), all splits are one."""
    check_rate(fps)
    tables = sorted((folder / "videomme").glob("*.parquet"))
    if not tables:
        raise DataError(f"no videomme/*.parquet in {folder}: check --input")
    rows = [row for table in tables for row in pq.read_table(table).to_pylist()]
    videos: dict[str, list[Mapping[str, Any]]] = {}
    for n, row in enumerate(rows):
        with ledger.catching("videomme", str(row.get("question_id", n))):
            videos.setdefault(field(row, "videoID", str), []).append(row)
    for video, asked in videos.items():
        with ledger.catching("videomme", video, examples=len(asked)):
            examples = []
            for row in asked:
                with ledger.catching("videomme", str(row.get("question_id"))):
                    options = [LETTERED.sub("", option) for option in field(row, "options", list)]
                    answer = field(row, "answer", str).strip()
                    index = ord(answer[:1].upper()) - ord("A") if answer else -1
                    if not 0 <= index < len(options):
                        raise SampleError(f"answer {answer!r} is no letter of {len(options)} options", reason="answer_not_in_options")
                    examples.append(_question(field(row, "question_id", str), field(row, "question", str), options, options[index],
                                              str(row.get("task_type") or "other"),
                                              {name: row.get(name) for name in ("duration", "domain", "sub_category")}))
            yield _bundle("videomme", video, read_clip(folder / "data", video, fps, ledger), examples, {"video": video},
                          _subtitles(folder / "subtitle" / f"{video}.srt", ledger))


def _question(example_id: str, question: str, options: Sequence[Any], answer: str, kind: str, source: Mapping[str, Any]) -> Example:
    return Example(example_id, "evidence", question, tuple(str(option) for option in options), answer, question_type=kind, source=source)


def _between(clip: FrameList, start: float, end: float) -> FrameList:
    """The frames from ``start`` to ``end`` seconds, times counted from ``start``; at least the frame nearest to the middle."""
    if end == float("inf"):
        return clip
    kept = [i for i, t in enumerate(clip.times) if start <= t <= end]
    if not kept:
        kept = [min(range(len(clip.times)), key=lambda i: abs(clip.times[i] - (start + end) / 2))]
    return dataclasses.replace(clip, numbers=tuple(range(len(kept))), frames=tuple(clip.frames[i] for i in kept), duration_s=len(kept) / clip.fps)


def _bundle(dataset: str, medium_id: str, clip: FrameList, examples: Sequence[Example], source: Mapping[str, Any],
            subtitles: tuple[Subtitle, ...] = ()) -> Bundle:
    width, height = image_size(clip.frames[0])
    medium = Medium(medium_id, "frames", width, height, clip.times, clip.duration_s, subtitles=subtitles, source={"dataset": dataset, **source})
    return Bundle(medium, tuple(examples), clip.frames)


def _subtitles(path: Path, ledger: SkipLedger) -> tuple[Subtitle, ...]:
    if path.is_file():
        with ledger.catching("videomme", path.name, examples=0):
            return read_srt(path)
    return ()
