"""Every registered source packs its written example through the command, in a fixed order, twice the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data_tools import pack
from data_tools.convert import CONVERTERS
from tests.dataset_fixtures import choice, images, language
from tests.dataset_fixtures.common import write
from tests.dataset_fixtures.language import jsonl, povqa_film, povqa_item
from tests.dataset_fixtures.video import WRITERS
from tests.packing import jpeg
from unipixel.data.shards import ShardDataset

COCO, CLEF = "images/mscoco/images/train2014", "images/saiapr_tc-12"


def semantic(labels: str, pictures: str, root: Path) -> None:
    images.semantic(root / labels, root / pictures, {"x": [0, 1, 2], "y": [2, 2]})


def mapillary(root: Path) -> None:
    semantic("mapillary/training/v2.0/labels", "mapillary/training/images", root)
    write(root / "mapillary/config_v2.0.json", {"labels": [{"readable": name} for name in ("Bird", "Curb", "Road", "Unlabeled")]})


def parts(annotations: str, pictures: str, prefix: str, root: Path) -> None:
    images.coco_parts(root / annotations, root / pictures, prefix)


def films(root: Path) -> None:
    for n, film in enumerate(("one", "two")):
        povqa_film(root, film, [povqa_item(0, "00:00:05", "00:00:02 - 00:00:08")], pictures=[jpeg(10 * n + t) for t in range(9)],
                   text=[(0.0, 2.5, "Before.")])


def folder(root: Path) -> None:
    write(root / "walk/0.jpg", jpeg(1))
    jsonl(root / "table.jsonl", [{"id": "a", "video": "walk", "question": "Who walks?", "answer": "Nobody."}])


LISTED: dict[str, Callable[[Path], object]] = {
    "folder": folder, "reason_seg": images.reason_seg, "mapillary": mapillary,
    "ade20k": partial(semantic, "ade20k/annotations/training", "ade20k/images/training"),
    "cocostuff": partial(semantic, "cocostuff/train2017", "coco/train2017"),
    "paco_lvis": partial(parts, "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco", "train2017/"),
    "pascal_part": partial(parts, "vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages", ""),
    "refcoco": partial(images.refer, name="refcoco", split_by="unc", pictures=COCO),
    "refcoco+": partial(images.refer, name="refcoco+", split_by="unc", pictures=COCO),
    "refcocog": partial(images.refer, name="refcocog", split_by="umd", pictures=COCO),
    "refclef": partial(images.refer, name="refclef", split_by="unc", pictures=CLEF),
    **dict.fromkeys(("osprey_conversation", "osprey_detail_description", "osprey_pos_neg"), images.osprey),
    "llava_videogpt_plus": language.llava, "reasonvqa": films, "tvqa": language.tvqa, "videopasta": language.videopasta,
    "llava_hound": language.llava_hound, "mvbench": choice.mvbench, "videomme": choice.videomme, "st_evidence_mcq": choice.st_evidence_mcq,
    **dict.fromkeys(("videorefer_bench_q", "videorefer_bench_d"), choice.videorefer_bench),
}
SPLITS = {"tvqa": "val"}


@pytest.mark.parametrize("source", CONVERTERS)
def test_the_command_packs_every_source(source, tmp_path, capsys):
    root, split = tmp_path / "in", SPLITS.get(source, "train")
    if source in WRITERS:
        write_example, split = WRITERS[source]
        root = write_example(root).root
    else:
        LISTED[source](root)
    out, again = tmp_path / "out", tmp_path / "again"
    assert pack.main(["--source", source, "--input", str(root), "--split", split, "--out", str(out)]) == 0
    assert f"of {json.loads((out / 'dataset.json').read_text())['bundles']} media" in capsys.readouterr().out
    data = ShardDataset(out)
    samples = [data.sample(i) for i in range(len(data))]
    assert samples and all(s.dataset == source and s.split == split for s in samples)
    assert len({(s.key, s.examples[0].example_id) for s in samples}) == len(samples)
    pack.main(["--source", source, "--input", str(root), "--split", split, "--out", str(again), "--workers", "1"])
    assert ShardDataset(again).fingerprint == data.fingerprint and (again / "skipped.jsonl").read_text() == (out / "skipped.jsonl").read_text()
