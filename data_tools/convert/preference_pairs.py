"""Preference pairs over videos: VideoPASTA-7K and the 17K pairs of LLaVA-Hound, and tables of the same columns.

One row is one pair; rows with the same video and question become one ``chat`` example with several pairs. Columns that are not used stay
in the pair's ``origin``. Videos are files or folders of frames under ``videos/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, image_size
from data_tools.convert.clips import read_clip
from data_tools.convert.dialogue import without_placeholders
from data_tools.convert.referring import check_rate
from data_tools.convert.tables import find_table, read_rows, row_split
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Example, Medium, PreferencePair, Turn

COLUMNS = {"video": ("video",), "prompt": ("prompt", "question"), "chosen": ("chosen", "preferred"), "rejected": ("rejected",)}
"""Field -> the names its column may have; a table has exactly one of them."""
MODES = {"spatial_misalignment": "spatial", "temporal_incoherence": "temporal", "cross_frame_disconnection": "cross_frame",
         "crossframe": "cross_frame"}
"""Names of the failure modes in the paper -> ours."""


@dataclass(frozen=True)
class Row:
    """One pair with the question it answers and its reference answer, which may be empty."""

    prompt: str
    answer: str
    pair: PreferencePair


def videopasta(folder: Path, *, split: str, ledger: SkipLedger, table: str | None = None, videos: str = "videos",
               fps: float = 2.0) -> Iterator[Bundle]:
    """VideoPASTA: pairs whose rejected reply fails in space, in time or across frames; a table without a split column is used whole.

    Args:
        table: table inside the input; default its only CSV or JSONL file
        videos: folder of the videos inside the input
        fps: frames kept per second of video, or the rate at which folders of frames were taken
    """
    return _convert("videopasta", folder, table, split, ledger, videos, fps, _videopasta_mode)


def llava_hound(folder: Path, *, split: str, ledger: SkipLedger, table: str = "sft_dpo_17k.jsonl", videos: str = "videos",
                fps: float = 2.0) -> Iterator[Bundle]:
    """LLaVA-Hound: pairs ranked by a language model that read a caption of the video; a table without a split column is used whole.

    Args:
        table: table inside the input
        videos: folder inside the input with the videos, or with one folder of frames per video as released
        fps: the rate at which the frames were taken, or frames kept per second of video files
    """
    return _convert("llava_hound", folder, table, split, ledger, videos, fps, _hound_mode)


def _videopasta_mode(row: Mapping[str, Any], ledger: SkipLedger) -> str:
    mode = re.sub(r"[\s-]+", "_", str(row.get("failure_mode") or "").strip().lower())
    if not mode:
        ledger.note("pairs without a failure mode: taken as other")
        return "other"
    return MODES.get(mode, mode)


def _hound_mode(row: Mapping[str, Any], ledger: SkipLedger) -> str:
    if "chosen_score" in row or "rejected_score" in row:
        chosen, rejected = (field(row, name, (int, float)) for name in ("chosen_score", "rejected_score"))
        if not chosen > rejected:
            raise SampleError(f"chosen_score={chosen} is not above rejected_score={rejected}", reason="score_order")
    return "correctness"


def _convert(name: str, folder: Path, table: str | None, split: str, ledger: SkipLedger, videos: str, fps: float, mode_of) -> Iterator[Bundle]:
    check_rate(fps)
    if not (folder / videos).is_dir():
        raise ConfigError(f"no folder {folder / videos}: set it with --set videos=...")
    path = find_table(folder, table)
    of_video: dict[str, list[Row]] = {}
    seen: set[str] = set()
    splits: set[str] = set()
    for number, row in read_rows(path):
        with ledger.catching(name, f"row {number}"):
            own = row_split(row, split)
            splits.add(own)
            if own != split:
                continue
            video, read = _row(row, number, path.name, mode_of, ledger)
            if read.pair.pair_id in seen:
                ledger.note("pair ids repeat: the number of the row is added")
                read = replace(read, pair=replace(read.pair, pair_id=f"{read.pair.pair_id}@{number}"))
            seen.add(read.pair.pair_id)
            of_video.setdefault(video, []).append(read)
    if split not in splits:
        raise DataError(f"{path} has no rows of split {split!r}; it has {sorted(splits)}")
    for video, rows in of_video.items():
        with ledger.catching(name, video, examples=len({row.prompt for row in rows})):
            yield _bundle(name, folder / videos, video, rows, fps, ledger)


def _row(row: Mapping[str, Any], number: int, table: str, mode_of, ledger: SkipLedger) -> tuple[str, Row]:
    used = {"id", "failure_mode", "answer", "split"}
    texts = {}
    for name, columns in COLUMNS.items():
        present = [c for c in columns if isinstance(row.get(c), str) and row[c].strip()]
        if len(present) != 1:
            raise SampleError(f"expected text in one of the columns {list(columns)}, the row has text in {present} of {sorted(row)}",
                              reason="bad_record")
        texts[name] = row[present[0]]
        used.add(present[0])
    extra = {key: value for key, value in row.items() if key not in used}
    pair = PreferencePair(str(row.get("id") or number), texts["chosen"], texts["rejected"], mode_of(row, ledger),
                          origin={"table": table, "row": number} | ({"extra": extra} if extra else {}))
    return texts["video"], Row(without_placeholders(texts["prompt"]).strip(), str(row.get("answer") or "").strip(), pair)


def _bundle(name: str, root: Path, video: str, rows: Sequence[Row], fps: float, ledger: SkipLedger) -> Bundle:
    clip = read_clip(root, video, fps, ledger)
    width, height = image_size(clip.frames[0])
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, []).append(row)
    examples = []
    for prompt, its_rows in by_prompt.items():
        first = its_rows[0]
        with ledger.catching(name, first.pair.pair_id):
            turns = (Turn("user", prompt), Turn("assistant", first.answer or first.pair.chosen))
            examples.append(Example(first.pair.pair_id, "chat", turns=turns, pairs=tuple(row.pair for row in its_rows)))
    medium = Medium(video, "frames", width, height, clip.times, clip.duration_s, source={"dataset": name, "video": video})
    return Bundle(medium, tuple(examples), clip.frames)
