"""ADE20K, COCO-Stuff and Mapillary Vistas 2.0: label maps, one ``refer`` example per class present, its target the whole class.

The pixel value of a label map is a class number. All classes of a picture are kept; how many of them become one dialogue is a matter of
training (``max_turns``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.convert.base import Bundle, one_of, source_json
from data_tools.convert.class_tables import ADE20K, COCO_STUFF, COCO_UNUSED
from data_tools.convert.images import read_picture, scene_object, still
from data_tools.convert.masks import read_labels
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError, SampleError
from unipixel.sample import Example, encode_mask

LONG_SPLIT = {"train": "training", "val": "validation"}
CHECKED_MAPS = 100
"""Label maps of COCO-Stuff that are looked at before any is used."""


def ade20k(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """ADE20K (scene parsing, 150 classes): splits train, val."""
    part = LONG_SPLIT[one_of("split", split, LONG_SPLIT)]
    root = folder / "ade20k"
    return _convert("ade20k", root / "annotations" / part, root / "images" / part, dict(enumerate(ADE20K, 1)), {0, 255}, ledger)


def cocostuff(folder: Path, *, split: str, ledger: SkipLedger, legacy_ignore: bool = False) -> Iterator[Bundle]:
    """COCO-Stuff (182 classes counted from 0): splits train, val; classes with a hyphen, such as wall-brick, are not used.

    Args:
        legacy_ignore: leave out the number after each hyphenated class, and person, instead, as an often used data loader does
    """
    part = one_of("split", split, ("train", "val")) + "2017"
    hyphenated = {value for value, name in enumerate(COCO_STUFF) if "-" in name}
    ignored = {0, *(value + 1 for value in hyphenated)} if legacy_ignore else hyphenated
    labels = folder / "cocostuff" / part
    _check_label_base(sorted(labels.glob("*.png")))
    return _convert("cocostuff", labels, folder / "coco" / part, dict(enumerate(COCO_STUFF)), ignored | {255}, ledger)


def mapillary(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Mapillary Vistas 2.0 (street scenes, 123 classes): splits train, val; names from the release's config_v2.0.json."""
    part = folder / "mapillary" / LONG_SPLIT[one_of("split", split, LONG_SPLIT)]
    config = folder / "mapillary" / "config_v2.0.json"
    try:
        names = [label["readable"].lower() for label in source_json(config, "class names of the release")["labels"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{config} is not the configuration of Mapillary Vistas 2.0: {error!r}") from error
    unlabelled = {value for value, name in enumerate(names) if name == "unlabeled"}
    return _convert("mapillary", part / "v2.0" / "labels", part / "images", dict(enumerate(names)), unlabelled | {255}, ledger)


def _convert(name: str, labels: Path, pictures: Path, classes: Mapping[int, str], ignored: Iterable[int],
             ledger: SkipLedger) -> Iterator[Bundle]:
    maps = sorted(labels.glob("*.png"))
    if not maps:
        raise DataError(f"no label maps in {labels}: check --input and --split")
    for path in maps:
        with ledger.catching(name, path.stem):
            yield _bundle(name, path, pictures / f"{path.stem}.jpg", classes, frozenset(ignored))


def _bundle(name: str, path: Path, picture: Path, classes: Mapping[int, str], ignored: frozenset[int]) -> Bundle:
    data, size = read_picture(picture)
    labels = read_labels(path, size)
    objects, examples = {}, []
    for value in np.unique(labels).tolist():
        if value in ignored:
            continue
        if value not in classes:
            raise SampleError(f"pixel value {value} is no class: the numbers go to {max(classes)}", reason="unknown_class")
        oid = f"c{value}"
        objects[oid] = scene_object(oid, classes[value], encode_mask(labels == value), size)
        examples.append(Example(f"{path.stem}_{value}", "refer", classes[value], targets=((oid,),), source={"class": value}))
    if not examples:
        raise SampleError("no pixel belongs to a class that is used", reason="no_classes")
    return Bundle(still(path.stem, size, objects, {"dataset": name, "file_name": picture.name}), tuple(examples), (data,))


def _check_label_base(maps: Iterable[Path]) -> None:
    """Names are looked up by a number counted from 0: a release that counts from 1 would get every name wrong."""
    seen: set[int] = set()
    for path in islice(maps, CHECKED_MAPS):
        try:
            with Image.open(path) as image:
                seen |= set(np.unique(np.asarray(image)).tolist())
        except OSError:  # listed when it is converted
            continue
    wrong = sorted(seen & (COCO_UNUSED | {len(COCO_STUFF)}))
    if wrong:
        raise DataError(f"the label maps hold the values {wrong}, which no class counted from 0 has: they seem to count from 1; "
                        "use the pixel maps of the COCO-Stuff release (stuffthingmaps_trainval2017)")
