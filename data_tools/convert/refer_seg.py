"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the layout of REFER: one ``refer`` example per sentence, all of a picture in one bundle.

``refer_seg/<name>/{refs(<split_by>).p, instances.json}`` and ``refer_seg/images/...`` in the input folder. The picture's name comes from
``instances.json``: the one in the reference list carries the annotation's number. The pickles are read as plain data only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.base import Bundle, field, inside
from data_tools.convert.images import CocoFile, check_size, read_coco, read_picture, scene_object, still, visible_mask
from data_tools.convert.safe_pickle import load_pickle
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Example

COCO_PICTURES, CLEF_PICTURES = "images/mscoco/images/train2014", "images/saiapr_tc-12"


def refcoco(folder: Path, *, split: str, ledger: SkipLedger, split_by: str = "unc") -> Iterator[Bundle]:
    """RefCOCO: splits train, val, testA, testB.

    Args:
        split_by: whose division into splits, as in the name of the pickle
    """
    return _convert("refcoco", folder, COCO_PICTURES, split, ledger, split_by)


def refcoco_plus(folder: Path, *, split: str, ledger: SkipLedger, split_by: str = "unc") -> Iterator[Bundle]:
    """RefCOCO+ (expressions without places): splits train, val, testA, testB.

    Args:
        split_by: whose division into splits, as in the name of the pickle
    """
    return _convert("refcoco+", folder, COCO_PICTURES, split, ledger, split_by)


def refcocog(folder: Path, *, split: str, ledger: SkipLedger, split_by: str = "umd") -> Iterator[Bundle]:
    """RefCOCOg (long expressions): splits train, val, test; google has no test.

    Args:
        split_by: umd, or google (its validation shares pictures with its training)
    """
    return _convert("refcocog", folder, COCO_PICTURES, split, ledger, split_by)


def refclef(folder: Path, *, split: str, ledger: SkipLedger, split_by: str = "unc") -> Iterator[Bundle]:
    """RefCLEF (ImageCLEF pictures): splits train, val, test, testA, testB, testC.

    Args:
        split_by: whose division into splits, as in the name of the pickle
    """
    return _convert("refclef", folder, CLEF_PICTURES, split, ledger, split_by)


def in_split(wanted: str, own: str) -> bool:
    """REFER's rule: train and val exactly, testA/B/C by the last letter inside the reference's split, test by the word in it."""
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in own
    return "test" in own if wanted == "test" else own == wanted


def _convert(name: str, folder: Path, pictures: str, split: str, ledger: SkipLedger, split_by: str) -> Iterator[Bundle]:
    root = folder / "refer_seg"
    pickled = root / name / f"refs({split_by}).p"
    if not pickled.is_file():
        present = sorted(p.name for p in (root / name).glob("refs(*).p"))
        raise ConfigError(f"no {pickled}: check --input and split_by={split_by!r}; there are {present}")
    refs, coco = load_pickle(pickled), read_coco(root / name / "instances.json")
    by_image: dict[int, list[dict[str, Any]]] = {}
    try:
        for ref in refs:
            if in_split(split, ref["split"]):
                by_image.setdefault(ref["image_id"], []).append(ref)
    except (KeyError, TypeError) as error:
        raise DataError(f"{pickled} is not a list of references: {error!r}") from error
    if not by_image:
        raise DataError(f"{pickled} has no references of split {split!r}; it has {sorted({r['split'] for r in refs})}")
    for image_id, of_image in by_image.items():
        with ledger.catching(name, str(image_id), examples=sum(len(ref.get("sentences", ())) for ref in of_image)):
            yield _bundle(name, root / pictures, image_id, of_image, coco, ledger)


def _bundle(name: str, pictures: Path, image_id: int, refs: list[dict[str, Any]], coco: CocoFile, ledger: SkipLedger) -> Bundle:
    image = field(coco.images, image_id, dict)
    data, size = read_picture(inside(pictures, field(image, "file_name", str)))
    check_size(image, size)
    objects, examples = {}, []
    for ref in refs:
        sentences = field(ref, "sentences", list)
        with ledger.catching(name, f"ref {ref.get('ref_id')}", examples=len(sentences)):
            ref_id, ann_id = field(ref, "ref_id", int), field(ref, "ann_id", int)
            annotation = field(coco.annotations, ann_id, dict)
            oid, entry = f"a{ann_id}", visible_mask(annotation.get("segmentation"), size, ledger)
            facts = {"ref_id": ref_id, "ann_id": ann_id, "category_id": ref.get("category_id"), "split": ref["split"],
                     "bbox_xywh": annotation.get("bbox")}
            for n, sentence in enumerate(sentences):
                with ledger.catching(name, f"ref {ref_id}, sentence {n}"):
                    text, sent_id = field(sentence, "sent", str), field(sentence, "sent_id", int)
                    examples.append(Example(f"{ref_id}_{sent_id}", "refer", text, targets=((oid,),),
                                            source=facts | {"sent_id": sent_id, "raw": sentence.get("raw", "")}))
                    objects.setdefault(oid, scene_object(oid, text, entry, size))
    return Bundle(still(str(image_id), size, objects, {"dataset": name, "image_id": image_id, "file_name": image["file_name"]}),
                  tuple(examples), (data,))
