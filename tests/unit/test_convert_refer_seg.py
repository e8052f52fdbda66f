"""REFER's sets and the part sets: COCO polygons and run lengths, one bundle per picture."""

from __future__ import annotations

import pickle

import pytest

from data_tools.convert.parts import part_expression
from data_tools.convert.refer_seg import in_split
from tests.dataset_fixtures import images
from tests.packing import H, W, examples_of, jpeg, run, skipped
from unipixel.errors import ConfigError, DataError

COCO, CLEF = "images/mscoco/images/train2014", "images/saiapr_tc-12"


@pytest.mark.parametrize(("name", "split_by", "pictures"), (("refcoco", "unc", COCO), ("refcoco+", "unc", COCO), ("refcocog", "umd", COCO),
                                                            ("refclef", "unc", CLEF)))
def test_sentences_masks_and_pictures_survive(tmp_path, name, split_by, pictures):
    frames = images.refer(tmp_path / "in", name, split_by, pictures)
    data = run(name, tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert {e: (x.question, x.targets, x.form) for e, (_, x) in found.items()} == {
        "1_10": ("the left one", (("a71",),), "query"), "1_11": ("café table", (("a71",),), "query"), "2_20": ("both parts", (("a72",),), "query")}
    medium, example = found["1_10"]
    assert (medium.objects["a71"].track.decode()[0] == images.filled(images.TRIANGLE)).all()
    assert (medium.objects["a72"].track.decode()[0] == images.filled(images.TWO_PARTS)).all()
    assert data.sample(0).frames[0] == frames["7"] and medium.source["file_name"] == "COCO_train2014_000000000007.jpg"
    assert example.source["raw"] == "THE LEFT ONE" and example.source["sent_id"] == 10 and example.source["bbox_xywh"] == [1, 2, 3, 4]
    assert skipped(tmp_path / "out") == {"ref 4": "masks_empty"}


def test_damaged_references_are_listed(tmp_path):
    images.refer(tmp_path / "in", "refcoco", "unc", COCO)
    path = tmp_path / "in/refer_seg/refcoco/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    del refs[0]["ann_id"]
    refs[1]["sentences"].append({"sent": " ", "sent_id": 99})
    refs[3]["ann_id"], refs[3]["image_id"] = 12345, 7
    path.write_bytes(pickle.dumps(refs))
    assert list(examples_of(run("refcoco", tmp_path / "in", tmp_path / "out"))) == ["2_20"]
    assert skipped(tmp_path / "out") == {"ref 1": "bad_record", "ref 4": "bad_record", "ref 2, sentence 1": "empty_question"}


def test_a_list_of_run_lengths_is_one_mask(tmp_path):
    images.refer(tmp_path / "in", "refclef", "unc", CLEF)
    medium, _ = examples_of(run("refclef", tmp_path / "in", tmp_path / "out", "--split", "testA"))["3_30"]
    mask = medium.objects["a81"].track.decode()[0]
    assert mask[3:9, 2:7].all() and mask[10:20, 20:30].all() and mask.sum() == 6 * 5 + 10 * 10


def test_the_splits_of_refer():
    assert in_split("train", "train") and not in_split("train", "trainval") and not in_split("val", "testA")
    assert in_split("testA", "testA") and in_split("testB", "testBC") and in_split("testC", "testBC") and not in_split("testA", "testBC")
    assert in_split("test", "test") and in_split("test", "testBC") and not in_split("test", "val")


def test_wrong_division_split_size_and_pickle(tmp_path):
    images.refer(tmp_path / "in", "refcocog", "umd", COCO)
    with pytest.raises(ConfigError, match=r"split_by='google'; there are \['refs\(umd\).p'\]"):
        run("refcocog", tmp_path / "in", tmp_path / "a", "--set", "split_by=google")
    with pytest.raises(DataError, match=r"no references of split 'val'; it has \['testA', 'train'\]"):
        run("refcocog", tmp_path / "in", tmp_path / "b", "--split", "val")
    (tmp_path / "in/refer_seg" / COCO / "COCO_train2014_000000000007.jpg").write_bytes(jpeg(0, (W + 2, H)))
    with pytest.raises(DataError, match="'mask_size': 1"):
        run("refcocog", tmp_path / "in", tmp_path / "c")
    refs = tmp_path / "in/refer_seg/refcocog/refs(umd).p"
    refs.write_bytes(pickle.dumps([print]))
    with pytest.raises(DataError, match="wants to run .*print"):
        run("refcocog", tmp_path / "in", tmp_path / "d")


@pytest.mark.parametrize("name", ("paco_lvis", "pascal_part"))
def test_parts(tmp_path, name):
    root = tmp_path / "in"
    paths = {"paco_lvis": (root / "vlpart/paco/annotations/paco_lvis_v1_train.json", root / "coco", "train2017/"),
             "pascal_part": (root / "vlpart/pascal_part/train.json", root / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages", "")}
    frames = images.coco_parts(*paths[name])
    data = run(name, root, tmp_path / "out")
    found = examples_of(data)
    assert {e: x.question for e, (_, x) in found.items()} == {"a50": "dog ear", "a51": "ear of the dog", "a52": "trash_can",
                                                              "a61": "inner_side of the trash_can"}
    medium, example = found["a51"]
    assert example.targets == (("a51",),) and example.source["category"] == "dog_(animal):ear"
    assert (medium.objects["a50"].track.decode()[0] == images.filled(images.TRIANGLE)).all()
    assert (medium.objects["a51"].track.decode()[0] == images.filled(images.TWO_PARTS)).all()
    assert data.sample(0).frames[0] == frames["5"]
    assert skipped(tmp_path / "out") == {"annotation 53": "masks_empty", "annotation 62": "category", "9": "frame_missing"}


def test_half_of_the_parts_are_worded_either_way():
    assert {part_expression("cup:handle", n) for n in range(10)} == {"cup handle", "handle of the cup"}
    assert sum(part_expression("cup:handle", n) == "cup handle" for n in range(10)) == 5
