"""Referring-segmentation sets as released, read back from their shards: frames, masks, texts, and each trap of a layout."""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dataset_fixtures import video as written
from tests.dataset_fixtures.common import blob, box, frames, labels, rle, write
from tests.packing import H, W, examples_of, run, skipped
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Example, Medium


def union(medium: Medium, example: Example) -> np.ndarray:
    """(T, H, W) of the annotated frames of the example's only target."""
    (target,) = example.targets
    listed = np.flatnonzero(medium.objects[target[0]].track.annotated)
    return np.logical_or.reduce([medium.objects[oid].track.decode(listed) for oid in target])


def check(data, expected: written.Written, ids: list[str]) -> dict[str, tuple[Medium, Example]]:
    """The examples ``ids`` are packed, with the masks, texts and, where the medium is a whole video, frames that were written."""
    found = examples_of(data)
    assert sorted(found) == sorted(ids)
    for i in ids:
        medium, example = found[i]
        assert np.array_equal(union(medium, example), expected.masks[i]), i
        assert example.task == "refer" and example.question == expected.texts.get(i, example.question)
    for row, key in enumerate(data.rows["example_id"].to_pylist()):
        frames = expected.frames.get(found[key][0].medium_id)
        if frames is not None and len(frames) == len(found[key][0].frame_times):
            assert list(data.sample(row).frames) == frames
    return found


def test_the_documented_example(tmp_path):
    """The JSON in the documentation gives the examples that the documentation lists."""
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    worked = text[text.index("### Worked example"):text.index("## Images")]
    meta = json.loads(re.search(r"```json\n(.*?)```", worked, re.DOTALL)[1])
    root = tmp_path / "mevis/train"
    write(root / "meta_expressions.json", meta)
    write(root / "mask_dict.json", {"11": [rle(blob(1)), None], "12": [None, rle(blob(2))]})
    frames(root / "JPEGImages/v1", [f"{name}.jpg" for name in meta["videos"]["v1"]["frames"]])
    found = examples_of(run("mevis", tmp_path / "mevis", tmp_path / "out", "--set", "fps=5"))
    listed = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in worked.splitlines() if line.startswith("| `v1")]
    assert listed == [[i, e.question, json.dumps(e.targets)] for i, (_, e) in found.items()]
    assert found["v1_0"][0].frame_times == (0.0, 0.2) and skipped(tmp_path / "out") == {"v1_2": "filter_no_objects"}


@pytest.mark.parametrize("split", ["train", "valid_u"])
def test_mevis(tmp_path, split):
    layout = written.mevis(tmp_path / "in")
    data = run("mevis", layout.root, tmp_path / "out", "--split", split, "--set", "fps=5")
    if split == "train":
        found = check(data, layout, ["v1_0", "v1_1", "v2_0"])
        assert skipped(tmp_path / "out") == {"v1_2": "filter_no_objects"}
        assert found["v1_1"][0].frame_times == (0.0, 0.2, 0.4, 0.6) and found["v1_1"][1].source == {"anno_id": [11, 12], "obj_id": [1, 2]}
    else:
        assert examples_of(data)["v1_2"][1].targets == ((),) and skipped(tmp_path / "out") == {}


def test_splits_without_public_masks_are_refused_and_never_filled(tmp_path):
    layout = written.mevis(tmp_path / "in")
    with pytest.raises(DataError, match="split 'valid' of mevis lists 2 videos with 4 expressions.*not public"):
        run("mevis", layout.root, tmp_path / "out", "--split", "valid")
    with pytest.raises(ConfigError, match="--split 'valdi'.*nearest: 'valid'"):
        run("mevis", layout.root, tmp_path / "out", "--split", "valdi")
    youtube = written.ref_youtube_vos(tmp_path / "yt")
    with pytest.raises(DataError, match="lists 1 videos with 2 expressions"):  # two are in the file, one belongs to the test split
        run("ref_youtube_vos", youtube.root, tmp_path / "out", "--split", "valid")


def test_max_frames_filters_training_and_never_evaluation(tmp_path):
    layout = written.mevis(tmp_path / "in")
    with pytest.raises(DataError, match=r"\{'filter_frames': 2\}"):
        run("mevis", layout.root, tmp_path / "a", "--set", "max_frames=3")
    assert len(run("mevis", layout.root, tmp_path / "b", "--split", "valid_u", "--set", "max_frames=3")) == 4
    assert len(run("mevis", layout.root, tmp_path / "c", "--set", "max_frames=4")) == 3


def test_damage_in_a_mask_dictionary_costs_only_its_expressions(tmp_path):
    layout = written.mevis(tmp_path / "in")
    wrong = {"11": [rle(blob(1))] * 3, "12": [None] * 4}
    (layout.root / "train/mask_dict.json").write_text(json.dumps(wrong))
    written.edit_json(layout.root / "train/meta_expressions.json", lambda raw: raw["videos"]["v2"]["expressions"].update(
        {"1": {"exp": "x", "obj_id": [1, 2], "anno_id": [11]}, "2": {"exp": 3, "obj_id": [1], "anno_id": [11]}}))
    with pytest.raises(DataError, match="empty dataset"):
        run("mevis", layout.root, tmp_path / "out")
    assert skipped(tmp_path / "out") == {"v1_0": "mask_count", "v1_1": "mask_count", "v1_2": "filter_no_objects", "v2_0": "masks_empty",
                                         "v2_1": "bad_record", "v2_2": "bad_record"}


def test_masks_of_another_resolution_are_scaled_and_counted(tmp_path, capsys):
    layout = written.mevis(tmp_path / "in")
    masks = layout.masks["v1_0"]
    twice = [rle(np.kron(m, np.ones((2, 2), bool))) for m in masks]
    (layout.root / "train/mask_dict.json").write_text(json.dumps({"11": twice, "12": [rle(np.ones((W, H), bool))] * 4}))
    medium, example = examples_of(run("mevis", layout.root, tmp_path / "out"))["v1_0"]
    assert np.array_equal(union(medium, example), masks)
    assert skipped(tmp_path / "out")["v2_0"] == "mask_size"  # a turned mask is not a scaled one
    assert "4 masks scaled to the size of their frames" in capsys.readouterr().out


def test_lvvis_names_lose_their_underscores(tmp_path):
    layout = written.lvvis(tmp_path / "in")
    found = check(run("lvvis", layout.root, tmp_path / "out"), layout, ["00001_0"])
    assert found["00001_0"][1].source["exp"] == "baby_carriage" and skipped(tmp_path / "out") == {"00001_1": "filter_no_objects"}


@pytest.mark.parametrize("pictures", ["", "JPEGImages"])
def test_revos_cuts_tao_videos_to_what_is_seen(tmp_path, pictures):
    layout = written.revos(tmp_path / "in", pictures)
    data = run("revos", layout.root, tmp_path / "out")
    found = examples_of(data)
    lv, tao = "LVVIS/train/00002", "TAO/train/YFCC100M/v_1"
    assert {i: m.medium_id for i, (m, _) in found.items()} == {
        f"{lv}_0": lv, f"{lv}_1": lv, f"{tao}_0": f"{tao}/objects_1", f"{tao}_2": f"{tao}/objects_1", f"{tao}_1": f"{tao}/objects_1_2"}
    assert (found[f"{lv}_0"][1].form, found[f"{lv}_1"][1].form) == ("sentence", "query")
    assert (found[f"{lv}_0"][1].question_type, found[f"{lv}_1"][1].question_type) == ("reasoning", "referring")
    assert np.array_equal(union(*found[f"{tao}_0"]), layout.masks[f"{tao}_0"][1:3])
    assert np.array_equal(union(*found[f"{tao}_1"]), layout.masks[f"{tao}_1"])
    cut = data.rows["example_id"].to_pylist().index(f"{tao}_0")
    assert list(data.sample(cut).frames) == layout.frames[tao][1:3] and found[f"{tao}_0"][0].source["first_frame"] == 1
    assert skipped(tmp_path / "out") == {f"{lv}_2": "filter_no_objects", f"{tao}/objects_3": "filter_short_window"}


def test_revos_valid_is_whole_and_knows_the_foreground(tmp_path):
    layout = written.revos(tmp_path / "in")
    found = examples_of(run("revos", layout.root, tmp_path / "out", "--split", "valid"))
    lv, tao = "LVVIS/train/00002", "TAO/train/YFCC100M/v_1"
    assert len(found) == 7 and found[f"{tao}_3"][0].medium_id == tao and found[f"{lv}_2"][1].targets == ((),)
    medium = found[f"{tao}_0"][0]
    assert np.array_equal(medium.objects["foreground"].track.decode(), layout.masks["foreground"])
    assert medium.source["foreground_ratio"] == 0.25 and "foreground" not in found[f"{lv}_0"][0].objects


def test_pickle_numbers_follow_sorted_videos_and_text_sorted_expressions(tmp_path):
    """The file lists video b before a, and expression 10 comes before 2: both change the numbers."""
    layout = written.ref_youtube_vos(tmp_path / "in")
    found = check(run("ref_youtube_vos", layout.root, tmp_path / "out"), layout, list(layout.masks))
    assert found["a_0"][1].source == {"obj_id": "1", "pickle_index": "0"} and found["b_2"][1].source["pickle_index"] == "5"
    assert sorted(found["b_0"][0].objects) == ["o1", "o2"] and found["a_0"][0].medium_id == "a"


@pytest.mark.parametrize("order", ["file", "file, text-sorted"])
@pytest.mark.parametrize("verify", ["true", "false"])
def test_a_pickle_in_another_order_ends_the_conversion(tmp_path, order, verify):
    """Without the palettes it still shows where expressions of one object have different masks."""
    layout = written.ref_youtube_vos(tmp_path / "in", order)
    with pytest.raises(DataError, match="numbered in another order.*nothing was packed"):
        run("ref_youtube_vos", layout.root, tmp_path / "out", "--set", f"verify={verify}")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_masks_that_cannot_be_verified_are_refused_unless_accepted(tmp_path):
    layout = written.ref_youtube_vos(tmp_path / "in")
    (layout.root / "train/Annotations").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot be verified: no palette PNG.*--set verify=false"):
        run("ref_youtube_vos", layout.root, tmp_path / "a")
    assert len(run("ref_youtube_vos", layout.root, tmp_path / "b", "--set", "verify=false")) == 13
    masks = pickle.loads((layout.root / "mask_dict.pkl").read_bytes())
    (layout.root / "mask_dict.pkl").write_bytes(pickle.dumps(dict(list(masks.items())[:-1])))
    with pytest.raises(DataError, match="12 entries for 13 expressions"):
        run("ref_youtube_vos", layout.root, tmp_path / "c")


def test_palette_of_another_object_is_found_on_one_frame(tmp_path):
    layout = written.ref_davis17(tmp_path / "in")
    labels(layout.root / "DAVIS/Annotations/480p/gold-fish/00000.png", np.where(box(0, 0), 3, 0))
    with pytest.raises(DataError, match=r"object 1: mask 0 is not what .*00000\.png shows"):
        run("ref_davis17", layout.root, tmp_path / "out")


class Exploit:
    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = written.ref_youtube_vos(tmp_path / "in")
    (layout.root / "mask_dict.pkl").write_bytes(pickle.dumps({"0": Exploit()}))
    with pytest.raises(DataError, match="only plain data"):
        run("ref_youtube_vos", layout.root, tmp_path / "out")
    assert not (tmp_path / "owned").exists()


def test_davis_knows_who_said_what_and_leaves_out_expressions_without_any_mask(tmp_path):
    layout = written.ref_davis17(tmp_path / "in")
    ids = [i for i in layout.masks if i != "gold-fish_19"]
    found = check(run("ref_davis17", layout.root, tmp_path / "out"), layout, ids)
    assert skipped(tmp_path / "out") == {"gold-fish_19": "masks_empty"}
    facts = [(found[f"gold-fish_{i}"][1].source["annotator"], found[f"gold-fish_{i}"][1].source["seen"]) for i in range(4, 8)]
    assert facts == [(1, "first_frame"), (1, "full_video"), (2, "first_frame"), (2, "full_video")]
    valid = examples_of(run("ref_davis17", layout.root, tmp_path / "valid", "--split", "valid"))
    assert len(valid) == 20 and not union(*valid["gold-fish_19"]).any()


def grey(frame: bytes) -> int:
    with Image.open(io.BytesIO(frame)) as image:
        return round((np.asarray(image.convert("L")).mean() - 40) / 4)


def test_ref_sav_keeps_every_fourth_frame(tmp_path):
    layout = written.ref_sav(tmp_path / "in")
    data = run("ref_sav", layout.root, tmp_path / "out")
    found = check(data, layout, ["sav_000002_0", "sav_000002_1"])
    assert [grey(f) for f in data.sample(0).frames] == [0, 4, 8, 12, 16]
    medium, example = found["sav_000002_0"]
    assert medium.frame_times == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6]) and medium.duration_s == pytest.approx(18 / 24)
    assert (example.form, example.question) == ("description", "A long description of thing 0.")


def test_ref_sav_evaluation(tmp_path):
    layout = written.ref_sav(tmp_path / "in")
    found = check(run("ref_sav", layout.root, tmp_path / "out", "--split", "valid"), layout, ["sav_9_0", "sav_9_1"])
    assert {i: (e.form, e.question_type) for i, (_, e) in found.items()} == {"sav_9_0": ("description", "long"), "sav_9_1": ("description", "short")}


def test_ref_sav_refuses_what_does_not_belong_together(tmp_path):
    layout = written.ref_sav(tmp_path / "in")
    meta, masks = layout.root / "ref_sav/Ref-SAV-Min-Ratio-0.3.json", layout.root / "sav/sav_train/sav_000/sav_000002_manual.json"
    written.edit_json(meta, lambda raw: raw["sav_000002"]["objects"]["1"].update(obj_id=4))
    written.edit_json(masks, lambda raw: raw.update(masklet_id=[5, 6]))
    with pytest.raises(DataError, match="empty dataset"):
        run("ref_sav", layout.root, tmp_path / "a")
    assert skipped(tmp_path / "a") == {"sav_000002_1": "object_id", "sav_000002_0": "mask_missing"}
    for change, reason in ((lambda raw: raw["sav_000002"].update(anno_path="x/sav_train/sav_000/sav_000002_auto.json"), "annotation_kind"),
                           (lambda raw: raw["sav_000002"].update(anno_path="x/../../etc/a_manual.json"), "unsafe_path")):
        written.edit_json(meta, change)
        with pytest.raises(DataError, match="empty dataset"):
            run("ref_sav", layout.root, tmp_path / "b")
        assert skipped(tmp_path / "b") == {"sav_000002": reason}


def test_groundmore(tmp_path):
    layout = written.groundmore(tmp_path / "in")
    clips = ["film_0110_0115", "other_0000_0004"]
    data = run("groundmore", layout.root, tmp_path / "out")
    found = check(data, layout, [f"{c}_{i}" for c in clips for i in (0, 1)])
    medium, example = found["film_0110_0115_0"]
    assert medium.frame_times == (1 / 6, 2 / 6, 10 / 6) and medium.duration_s == 5.0  # by number: as text 10 would come before 2
    assert (example.form, example.question, example.answer, example.question_type) == ("question", "Who pushes the cart?", "the man", "Causal")
    assert example.source["action_s"] == [1.0, 3.0] and found["other_0000_0004_1"][1].targets == (("1", "2"),)
    assert list(data.sample(0).frames) == [layout.frames[clips[0]][t] for t in (1, 2, 4)]
    assert skipped(tmp_path / "out") == {"gone_0000_0004": "no_frames"}


def test_groundmore_test_clips_are_whole_and_unknown_where_no_mask_is(tmp_path):
    layout = written.groundmore(tmp_path / "in")
    data = run("groundmore", layout.root, tmp_path / "out", "--split", "test")
    medium, example = examples_of(data)["film_0110_0115_1"]
    assert len(medium.frame_times) == 6 and list(data.sample(0).frames) == layout.frames["film_0110_0115"]
    assert medium.objects["2"].track.annotated.tolist() == [False, True, True, False, True, False]
    assert np.array_equal(union(medium, example), layout.masks["film_0110_0115_1"])


def test_groundmore_damage(tmp_path):
    layout = written.groundmore(tmp_path / "in")
    first, second = (layout.root / "annotations" / c for c in ("film_0110_0115", "other_0000_0004"))
    labels(first / "masks/frame_77.png", np.zeros((H, W)))
    Image.new("RGB", (W, H)).save(second / "masks/0000001.png")
    written.edit_json(layout.root / "trainval_v2.json", lambda raw: raw["videos"]["other_0000_0004"]["questions"]["1"].update(obj_id="one"))
    with pytest.raises(DataError, match="empty dataset"):
        run("groundmore", layout.root, tmp_path / "out")
    assert skipped(tmp_path / "out") == {"film_0110_0115": "mask_frame", "other_0000_0004_0": "bad_masks", "other_0000_0004_1": "object_id",
                                         "gone_0000_0004": "no_frames"}


@pytest.mark.parametrize("inline", [False, True])
def test_vicas(tmp_path, inline):
    layout = written.vicas(tmp_path / "in", inline)
    found = check(run("vicas", layout.root, tmp_path / "out"), layout, ["010375_0", "010375_1"])
    medium, example = found["010375_1"]
    assert medium.frame_times == (0.0, 1.0, 2.0) and medium.source["is_gt"] == [True, False, True]
    assert medium.source["captions"] == {"caption_parsed_en_gpt": "Two men fall."}
    assert (example.form, example.targets) == ("sentence", (("t2", "t1"),)) and found["010375_0"][1].targets == (("t1",),)
    assert np.array_equal(medium.objects["t2"].track.decode(), layout.masks["t2"])
    assert found["010375_0"][1].question == "Where is the man who falls?"


def test_vicas_masks_that_do_not_tell_tracks_apart_are_one_object(tmp_path):
    layout = written.vicas(tmp_path / "in")
    written.edit_json(layout.root / "masks/010375/1.json", lambda raw: raw[2].pop(0))
    found = check(run("vicas", layout.root, tmp_path / "out"), layout, ["010375_0", "010375_1"])
    assert found["010375_1"][1].targets == (("r1",),)
    written.edit_json(layout.root / "masks/010375/1.json", lambda raw: raw.pop())
    (layout.root / "masks/010375/0.json").unlink()
    with pytest.raises(DataError, match="empty dataset"):
        run("vicas", layout.root, tmp_path / "b")
    assert skipped(tmp_path / "b") == {"010375_0": "mask_count", "010375_1": "mask_count"}


def test_st_evidence_questions_over_vicas(tmp_path):
    layout = written.st_evidence_vicas(tmp_path / "in")
    data = run("st_evidence_vicas", layout.root, tmp_path / "out")
    found = examples_of(data)
    assert list(found) == ["10375_0", "10375_1"]
    for i, (medium, example) in found.items():
        assert np.array_equal(union(medium, example), layout.masks[i])
    medium, example = found["10375_0"]
    assert (example.task, example.options, example.answer, example.segments) == ("evidence", ("A dog", "A man"), "A man", ((0.0, 1.5),))
    assert example.targets == (("t1", "t2"),) and list(data.sample(0).frames) == layout.frames["010375"]
    assert skipped(tmp_path / "out") == {"10375_2": "mask_missing", "10375_3": "no_mask_ids"}
    written.edit_json(layout.root.parents[2] / "vicas/masks/010375/1.json", lambda raw: [frame.__setitem__(0, None) for frame in raw])
    assert list(examples_of(run("st_evidence_vicas", layout.root, tmp_path / "empty"))) == ["10375_0"]
    assert skipped(tmp_path / "empty")["10375_1"] == "masks_empty"
    with pytest.raises(ConfigError, match="set --set vicas=DIR"):
        run("st_evidence_vicas", layout.root, tmp_path / "b", "--set", "vicas=/nowhere")
