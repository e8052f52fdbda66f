"""Osprey-724K: dialogues about, descriptions of, and yes/no questions on regions of COCO pictures.

``Osprey-724K/osprey_*.json`` and the pictures in ``coco/``. A record lists its regions' masks; the texts mention them as ``<region1>``
(counted from 1), here ``[1]``. The model is shown the masks of the regions that are mentioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, inside, one_of, source_json
from data_tools.convert.dialogue import read_regions, read_turns
from data_tools.convert.images import check_size, read_picture, scene_object, still, visible_mask
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import Example, Region, SceneObject, Turn

DESCRIPTION = "region_description"
"""Question type of a description: its question is only the region, the wording is left to the template."""


def conversation(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Osprey conversations: dialogues of several turns about regions; split train."""
    return _convert("osprey_conversation", folder, "osprey_conversation", "coco/train2014", split, ledger)


def detail_description(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Osprey detailed descriptions: one example per described region; split train."""
    return _convert("osprey_detail_description", folder, "osprey_detail_description", "coco/train2014", split, ledger)


def pos_neg(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Osprey positive and negative questions on the category of regions (LVIS); split train."""
    return _convert("osprey_pos_neg", folder, "osprey_lvis_positive_negative", "coco/imgs", split, ledger)


def _convert(name: str, folder: Path, table: str, pictures: str, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    one_of("split", split, ("train",))
    for number, record in enumerate(source_json(folder / "Osprey-724K" / f"{table}.json", "records")):
        lost = max(1, len(record["description"])) if isinstance(record, Mapping) and isinstance(record.get("description"), list) else 1
        with ledger.catching(name, f"record {number}", examples=lost):
            yield _bundle(name, folder / pictures, number, record, ledger)


def _bundle(name: str, pictures: Path, number: int, record: Mapping[str, Any], ledger: SkipLedger) -> Bundle:
    file_name, masks = field(record, "file_name", str), field(record, "annotation", list)
    data, size = read_picture(inside(pictures, file_name))
    check_size(record, size)
    objects: dict[str, SceneObject] = {}
    examples = []
    if "description" in record:
        read = [(f"{number}_{n}", partial(_description, text=text)) for n, text in enumerate(field(record, "description", list))]
    else:
        read = [(str(number), partial(_dialogue, raw=field(record, "conversations", list)))]
    for example_id, example_from in read:
        with ledger.catching(name, example_id):
            example = example_from(example_id, count=len(masks), ledger=ledger)
            for region in example.regions:
                if region.oid not in objects:
                    entry = visible_mask(field(masks[int(region.label) - 1], "segmentation", (list, dict)), size, ledger)
                    objects[region.oid] = scene_object(region.oid, "", entry, size)
            examples.append(example)
    source = {"dataset": name, "id": record.get("id"), "file_name": file_name}
    return Bundle(still(f"{number}_{Path(file_name).stem}", size, objects, source), tuple(examples), (data,))


def _dialogue(example_id: str, *, raw: Sequence[Any], count: int, ledger: SkipLedger) -> Example:
    turns, mentioned = [], []
    for turn in read_turns(raw, ledger):
        text, numbers = read_regions(turn.text, count, ledger)
        turns.append(replace(turn, text=text))
        mentioned += numbers
    return _about(example_id, turns, mentioned)


def _description(example_id: str, *, text: Any, count: int, ledger: SkipLedger) -> Example:
    """``<region2>: text`` -> a dialogue whose question is ``[2]``."""
    if not isinstance(text, str):
        raise SampleError(f"description {text!r:.60} is no text", reason="bad_record")
    tagged, numbers = read_regions(text.strip(), count, ledger)
    prefix = f"[{numbers[0]}]" if numbers else ""
    said = tagged.removeprefix(prefix).lstrip(" :")
    if not numbers or not tagged.startswith(prefix) or not said:
        raise SampleError(f"expected '<regionN>: text', got {text[:60]!r}", reason="region_tag")
    return _about(example_id, [Turn("user", prefix), Turn("assistant", said)], numbers, DESCRIPTION)


def _about(example_id: str, turns: Sequence[Turn], numbers: Sequence[int], question_type: str = "other") -> Example:
    regions = tuple(Region(str(n), f"r{n}") for n in dict.fromkeys(numbers))
    return Example(example_id, "chat", turns=tuple(turns), question_type=question_type, regions=regions,
                   visual_prompt="mask" if regions else "none")
