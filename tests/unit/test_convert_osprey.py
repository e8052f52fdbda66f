"""Osprey: region tags, their misspellings, and which masks go with which text."""

from __future__ import annotations

import pytest

from data_tools.convert.dialogue import read_regions
from tests.dataset_fixtures import images
from tests.packing import examples_of, run, skipped
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError
from unipixel.sample import Region, Turn


def test_conversation(tmp_path):
    frames = images.osprey(tmp_path / "in")
    data = run("osprey_conversation", tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert sorted(found) == ["0", "1"]
    medium, example = found["0"]
    assert example.turns == (Turn("user", "What is [2]?"), Turn("assistant", "A cup beside [1]."), Turn("user", "And [1]?"),
                             Turn("assistant", "A hat."))
    assert example.regions == (Region("2", "r2"), Region("1", "r1")) and example.visual_prompt == "mask" and not example.targets
    assert sorted(medium.objects) == ["r1", "r2"]
    assert (medium.objects["r1"].track.decode()[0] == images.filled(images.TRIANGLE)).all()
    assert (medium.objects["r2"].track.decode()[0] == images.filled(images.TWO_PARTS)).all()
    assert data.sample(0).frames[0] == frames["0_1"] and data.rows["kind"][0].as_py() == "image_regions"
    repaired = found["1"][1]
    assert [t.text for t in repaired.turns] == ["Is [1] near [2], [3] or [4]?", "[1] is near [2], not [3]."]
    assert skipped(tmp_path / "out") == {"2": "region_range", "3": "region_tag", "4": "region_range", "5": "region_range"}
    assert data.manifests[0]["notes"] == {"region tags repaired": 7}  # what was dropped is not counted as repaired


def test_descriptions_are_one_example_per_region(tmp_path):
    images.osprey(tmp_path / "in")
    found = examples_of(run("osprey_detail_description", tmp_path / "in", tmp_path / "out"))
    assert {e: [t.text for t in x.turns] for e, (_, x) in found.items()} == {
        "0_0": ["[1]", "A red hat."], "0_1": ["[2]", "A cup left of [1]."]}
    assert found["0_1"][1].regions == (Region("2", "r2"), Region("1", "r1")) and found["0_1"][1].question_type == "region_description"
    assert skipped(tmp_path / "out") == {"0_2": "region_tag", "0_3": "region_tag", "record 1": "frame_missing"}


def test_positive_negative_and_the_size_of_the_picture(tmp_path):
    images.osprey(tmp_path / "in")
    found = examples_of(run("osprey_pos_neg", tmp_path / "in", tmp_path / "out"))
    assert [t.text for t in found["0"][1].turns] == ["Is [1] a hat? Answer yes or no.", "Yes"]
    assert skipped(tmp_path / "out") == {"record 1": "mask_size"}


@pytest.mark.parametrize(("text", "said", "numbers"), (
    ("<region12 is", "[12] is", [12]), ("<region1>2", "[1]2", [1]), ("<region 1 >.", "[1].", [1]), ("<region1,<region2>", "[1],[2]", [1, 2]),
    ("<region3> <region1> <region3>", "[3] [1] [3]", [3, 1]), ("the region 4 is a region", "the region 4 is a region", [])))
def test_a_tag_takes_its_digits_and_nothing_else(text, said, numbers):
    assert read_regions(text, 12, SkipLedger()) == (said, numbers)


@pytest.mark.parametrize(("text", "reason"), (("<region>", "region_tag"), ("</region1>", "region_tag"), ("<regions1>", "region_tag"),
                                              ("<region13>", "region_range"), ("<region0>", "region_range")))
def test_what_is_no_region(text, reason):
    with pytest.raises(SampleError) as caught:
        read_regions(text, 12, SkipLedger())
    assert caught.value.reason == reason
