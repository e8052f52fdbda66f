"""The prediction file: strict reading, resumable writing, and the two JSON forms of the ST-Evidence release."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import score as scoring
from benchmarks.st_evidence import GroundTruth, from_samples
from tests.evidence_samples import discs, predict, small_sample, write_masks
from unipixel.errors import DataError
from unipixel.infer import predictions as pred_file
from unipixel.infer.predictions import (
    Prediction,
    PredictionWriter,
    completed_ids,
    load_predictions,
    part_path,
    read_predictions,
    write_predictions,
)
from unipixel.sample import encode_mask


@pytest.fixture
def sample():
    return small_sample("clip", discs(10))


def test_file_round_trip(tmp_path, sample):
    predictions = [predict(sample, shift_px=3), Prediction("b", "clip", "no_reply", error="time-out"),
                   Prediction("ü", "m", "no_mask", reply="x")]
    write_predictions(tmp_path / "p.jsonl", predictions)
    assert not part_path(tmp_path / "p.jsonl").exists()
    read = load_predictions(tmp_path / "p.jsonl")
    assert [dataclasses.replace(p, problems=()) for p in read.values()] == predictions
    assert read["clip"].problems == () and read["ü"].problems == ("no_answer_label", "no_segments", "no_mask_token")


def test_a_run_goes_on_after_a_torn_line(tmp_path, sample):
    path = tmp_path / "p.jsonl"
    with PredictionWriter(path) as writer:
        writer.write(predict(sample))
        writer.write(Prediction("b", "clip"))
    with open(part_path(path), "a", encoding="utf-8") as file:
        file.write('{"schema": "unipixel-prediction/1", "example_id": "c')
    with pytest.raises(DataError, match="unfinished run"):
        load_predictions(path)
    with PredictionWriter(path) as writer:
        assert writer.completed == {"clip", "b"}
        with pytest.raises(DataError, match="already written"):
            writer.write(Prediction("b", "clip"))
        writer.write(Prediction("c", "clip"))
        writer.finish()
    assert list(read_predictions(path)) == ["clip", "b", "c"]
    with pytest.raises(DataError, match="already exists"):
        PredictionWriter(path)
    assert completed_ids(tmp_path / "absent") == set()


@pytest.mark.parametrize("change, message", [
    ({"schema": "other/1"}, "schema='other/1'"), ({"status": "OK"}, "status='OK'"), ({"segments": [[2, 1]]}, r"segments="),
    ({"segments": [1, 2]}, "segments="), ({"answer": 3}, "answer='3'"), ({"example_id": ""}, "example_id=''"),
    ({"seconds": -1}, "seconds='-1'"),
    ({"masks": [{"0": 1}]}, "counts or an empty"), ({"masks": [{"0": False}]}, "counts or an empty"), ({"masks": [{"-1": ""}]}, "frame positions"),
    ({"masks": [{"2": ""}], "frame_times": [0, 1]}, "below 2"), ({"masks": [{"0": "aa"}], "size": None}, "size='None'"),
    ({"size": [3]}, "size="),
    ({"masks": {}}, "masks="), ({"extra": 1}, "unknown fields"), ({"frame_times": ["0"]}, "frame_times="),
])
def test_malformed_records_are_refused_with_their_line(tmp_path, change, message):
    good = pred_file.to_record(Prediction("a", "m", size=(2, 3)))
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"example_id": "b"} | change) + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_predictions(path)
    assert f"{path}:2" in str(error.value)


def test_damaged_lines_and_repeats(tmp_path):
    line = json.dumps(pred_file.to_record(Prediction("a", "m")))
    for text, message in ((line + "\n" + line, "p.jsonl:2: .*already"), (line + "\n\n", "p.jsonl:2"), (line[:-9], "p.jsonl:1"),
                          ("[]", "JSON object"),
                          (line.replace('"seconds": 0.0', '"seconds": NaN'), "NaN is not a number")):
        (tmp_path / "p.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(DataError, match="missing fields"):
        pred_file.from_record({"schema": pred_file.SCHEMA})


def test_both_release_forms_give_equal_results(tmp_path, sample):
    masks = discs(10)
    write_masks(tmp_path / "masks" / "clip" / "masks", {t: np.roll(mask, 2, axis=1) for t, mask in enumerate(masks)})
    segments = [{"start": 0.5, "end": 2.0}, {"start_time": 1.5, "end_time": 2.5}]
    nested = {"clip": {"video_id": "v", "parsed_response": {"answer": "A", "segments": segments, "referring_expressions": ["the disc"]}},
              "lost": {"video_id": "v", "parsed_response": None, "error": "quota"}}
    flat = {"clip": {"answer": "A", "gt_answer": "A disc", "time_segments": [0.5, 2.0, 1.5, 2.5], "gt_time_segments": [[1, 3]],
                     "referring_expressions": ["the disc"], "mask_dir": "ignored"},
            "lost": {"answer": None, "time_segments": None, "error": "quota"}}
    results = []
    for name, content in (("nested.json", nested), ("flat.json", flat)):
        (tmp_path / name).write_text(json.dumps(content))
        read = load_predictions(tmp_path / name, tmp_path / "masks")
        results.append(scoring.score([*from_samples([sample]), GroundTruth("lost", "v", "x", segments=((0, 1),))], read, bootstrap=0))
    assert results[0] == results[1]
    row = results[0]["per_example"]["clip"]
    assert row["correct"] and row["iou"] == pytest.approx(1.5 / 2.5) and row["iop"] == pytest.approx(0.75) and 0.5 < row["j"] < 1
    assert results[0]["status"] == {"error": 1, "ok": 1}


@pytest.mark.parametrize("content, message", [
    ([], "expected an object"), ({"a": {"x": 1}}, "neither"), ({"a": {"parsed_response": "B"}}, "object or null"),
    ({"../a": {"answer": "B"}}, "folder name")])
def test_unreadable_release_files(tmp_path, content, message):
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_predictions(tmp_path / "p.json", tmp_path)


def test_png_masks(tmp_path):
    mask = discs(1)[0]
    write_masks(tmp_path / "grey", {7: mask, 8: mask & False})
    size, entries = pred_file.read_png_masks(tmp_path / "grey")
    assert size == mask.shape and entries == {7: encode_mask(mask), 8: ""}
    labels = Image.fromarray(mask.astype(np.uint8) * 3)
    labels.putpalette([0] * 768)
    (tmp_path / "others").mkdir()
    labels.save(tmp_path / "others" / "00000.png")
    Image.fromarray(np.stack([mask * 0, mask * 0, mask * 255, mask * 0 + 255], 2).astype(np.uint8)).save(tmp_path / "others" / "00001.png")
    assert set(pred_file.read_png_masks(tmp_path / "others")[1].values()) == {encode_mask(mask)}, "labels count, colours and opacity do not"
    write_masks(tmp_path / "mixed", {0: mask, 1: mask[:10]})
    with pytest.raises(DataError, match="64x10 px"):
        pred_file.read_png_masks(tmp_path / "mixed")
    (tmp_path / "grey" / "cover.png").write_bytes((tmp_path / "grey" / "00007.png").read_bytes())
    with pytest.raises(DataError, match="frame number"):
        pred_file.read_png_masks(tmp_path / "grey")
    assert pred_file.read_png_masks(tmp_path / "nowhere") == (None, {})
