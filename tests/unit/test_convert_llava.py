"""LLaVA-665K with VideoGPT+: dialogues with and without a medium."""

from __future__ import annotations

import pytest

from data_tools.convert.dialogue import without_placeholders
from tests.dataset_fixtures import language
from tests.packing import examples_of, run, skipped
from unipixel.errors import SampleError
from unipixel.sample import Turn


def test_rows_about_pictures_videos_and_nothing(tmp_path):
    frames = language.llava(tmp_path / "in")
    data = run("llava_videogpt_plus", tmp_path / "in", tmp_path / "out", "--set", "fps=5")
    found = examples_of(data)
    assert sorted(found) == ["row_0", "row_1", "row_2", "row_3", "row_4"]
    medium, image = found["row_0"]
    assert medium.kind == "image" and image.source["id"] == "1" and found["row_2"][0] == medium  # both rows in one bundle
    assert [t.text for t in image.turns] == ["What is it?", "Noise.", "Of what colour?", "All.", "Why?", "Chance.", "Sure?", "Yes."]
    assert data.sample(0).frames[0] == frames["coco/train2017/1.jpg"]
    clip, video = found["row_1"]
    assert clip.kind == "frames" and clip.frame_times == tuple(i / 5 for i in range(10)) and clip.duration_s == pytest.approx(2)
    assert video.turns == (Turn("user", "What happens?"), Turn("assistant", "It gets lighter."))
    assert found["row_3"][0].kind == "none" and data.rows["kind"].to_pylist().count("text") == 2
    assert [t.text for t in found["row_4"][1].turns] == ["1 + 1?", "2."]
    assert skipped(tmp_path / "out") == {"row 5": "filter_duration", "ocr_vqa/2.jpg": "frame_missing", "row 7": "placeholder", "row 8": "no_medium",
                    "row 9": "empty_turn", "row 10": "roles", "row 11": "roles", "../1.jpg": "unsafe_path", "row 13": "bad_record"}
    notes = data.manifests[0]["notes"]
    assert notes["first turns cut: a reply without a question"] == notes["last turns cut: a question without a reply"] == 1


def test_the_length_filter_is_an_option(tmp_path):
    language.llava(tmp_path / "in")
    assert "row_5" in examples_of(run("llava_videogpt_plus", tmp_path / "in", tmp_path / "out", "--set", "max_duration_s=0"))


@pytest.mark.parametrize(("text", "clean"), (("<image>\nx", "x"), ("x\n<video>", "x"), ("<video><image>\n x\n", "x\n"), (" x ", " x ")))
def test_placeholders_are_cut_at_the_ends_only(text, clean):
    assert without_placeholders(text) == clean
    with pytest.raises(SampleError, match="inside the text"):
        without_placeholders("a <image> b")
