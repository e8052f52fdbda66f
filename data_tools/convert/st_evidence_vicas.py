"""ST-Evidence-Instruct, the question set over ViCaS: a table of questions whose evidence objects are ViCaS tracks.

``st_evidence_vicas.csv`` in the input folder; frames and masks are those of a ViCaS folder (``data_tools.convert.vicas``), which the
published tree keeps beside ``st-evidence-instruct/``. ``mask_evidence`` holds track ids. No masks or frames are in the set itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.convert.base import Bundle, image_size, read_csv, source_file
from data_tools.convert.referring import distinct
from data_tools.convert.st_evidence import COLUMNS, entry_example, mask_ids
from data_tools.convert.vicas import Record, records
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import MaskTrack, Medium, SceneObject

NAME = "st_evidence_vicas"
TABLE = "st_evidence_vicas.csv"
VICAS = Path("../../../vicas")
"""Where the published tree has ViCaS, seen from ``st-evidence-instruct/gen_qa/vicas``."""


def convert(folder: Path, *, split: str, ledger: SkipLedger, vicas: str | None = None) -> Iterator[Bundle]:
    """ST-Evidence-Instruct, gen_qa/vicas (st_evidence_vicas.csv with frames and masks of ViCaS).

    Args:
        vicas: folder of ViCaS (annotations/, masks/, video_frames/); default: ../../../vicas of the input
    """
    root = folder / VICAS if vicas is None else Path(vicas)
    if not root.is_dir():
        raise ConfigError(f"no ViCaS folder {root}: set --set vicas=DIR")
    read = records(root)
    videos: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(source_file(folder / TABLE, TABLE), (*COLUMNS, "mask_evidence")):
        if row.get("split", split) == split:
            videos.setdefault(row["video_id"].zfill(6), []).append(row)
    for video, rows in videos.items():
        with ledger.catching(NAME, video, examples=len(rows)):
            yield _bundle(read(video), rows, ledger)


def _bundle(record: Record, rows: Sequence[dict[str, str]], ledger: SkipLedger) -> Bundle:
    clip = record.clip([])
    size = image_size(clip.frames[0])[::-1]
    objects: dict[str, SceneObject] = {}
    examples = []
    for row in rows:
        with ledger.catching(NAME, row["entry_id"]):
            example = entry_example(row)
            oids = dict(zip(distinct(ids := mask_ids(row), "t"), dict.fromkeys(ids), strict=True))
            found = {oid: objects.get(oid) or SceneObject(oid, "", MaskTrack(size, tuple(record.track(track, size, ledger))))
                     for oid, track in oids.items()}
            if not any(obj.track.visible.any() for obj in found.values()):
                raise SampleError(f"all masks of the tracks {ids} are empty", reason="masks_empty")
            objects.update(found)
            examples.append(replace(example, targets=(tuple(oids),)))
    medium = Medium(clip.name, "frames", size[1], size[0], clip.times, clip.duration_s, objects, source={"dataset": NAME, **clip.source})
    return Bundle(medium, tuple(examples), clip.frames)
