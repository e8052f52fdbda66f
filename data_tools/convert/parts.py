"""PACO-LVIS and Pascal-Part: objects and their parts, one ``refer`` example per annotated instance, all of a picture in one bundle.

COCO-style files; a category is ``object_(sense):part`` or an object alone. Half of the parts are called "object part", half "part of the
object", by the number of the annotation, so that a repacked set reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_tools.convert.base import Bundle, field, inside
from data_tools.convert.images import CocoFile, check_size, read_coco, read_picture, scene_object, still, visible_mask
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import Example


def paco_lvis(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """PACO-LVIS: 75 kinds of objects and their parts in COCO pictures; splits train, val, test."""
    return _convert("paco_lvis", folder / f"vlpart/paco/annotations/paco_lvis_v1_{split}.json", folder / "coco", ledger)


def pascal_part(folder: Path, *, split: str, ledger: SkipLedger) -> Iterator[Bundle]:
    """Pascal-Part: parts of the objects of Pascal VOC 2010; split train."""
    root = folder / "vlpart/pascal_part"
    return _convert("pascal_part", root / f"{split}.json", root / "VOCdevkit/VOC2010/JPEGImages", ledger)


def part_expression(category: str, number: int) -> str:
    """``dog_(animal):ear`` -> ``dog ear`` (even numbers) or ``ear of the dog``; the sense in brackets is dropped, underscores stay."""
    names = [name.strip().split("_(")[0] for name in category.strip().split(":")]
    if len(names) > 2 or not all(names):
        raise SampleError(f"category {category!r} is not object or object:part", reason="category")
    if len(names) == 1:
        return names[0]
    return " ".join(names) if number % 2 == 0 else f"{names[1]} of the {names[0]}"


def _convert(name: str, annotations: Path, pictures: Path, ledger: SkipLedger) -> Iterator[Bundle]:
    coco = read_coco(annotations)
    for image_id, of_image in coco.of_image.items():
        with ledger.catching(name, str(image_id), examples=len(of_image)):
            yield _bundle(name, pictures, image_id, coco, ledger)


def _bundle(name: str, pictures: Path, image_id: int, coco: CocoFile, ledger: SkipLedger) -> Bundle:
    image = field(coco.images, image_id, dict)
    data, size = read_picture(inside(pictures, field(image, "file_name", str)))
    check_size(image, size)
    objects, examples = {}, []
    for annotation in coco.of_image[image_id]:
        number = annotation["id"]
        with ledger.catching(name, f"annotation {number}"):
            category = field(coco.categories, annotation.get("category_id"), str)
            oid, expression = f"a{number}", part_expression(category, number)
            objects[oid] = scene_object(oid, expression, visible_mask(annotation.get("segmentation"), size, ledger), size)
            examples.append(Example(oid, "refer", expression, targets=((oid,),),
                                    source={"category": category, "bbox_xywh": annotation.get("bbox")}))
    return Bundle(still(str(image_id), size, objects, {"dataset": name, "image_id": image_id, "file_name": image["file_name"]}),
                  tuple(examples), (data,))
