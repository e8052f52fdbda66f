"""Multiple choice: converters of the released layouts, reading of replies, chance, letters, and the three parts of ST-Evidence."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from benchmarks import score as scoring
from benchmarks.tasks.choice import first_character, videorefer_letter
from benchmarks.tasks.evidence_mcq import read_release_mcq
from tests.bench_samples import all_perfect, packed, questions_of
from tests.dataset_fixtures import choice
from tests.packing import examples_of, run, skipped
from unipixel.errors import DataError
from unipixel.infer.predictions import Prediction


@pytest.fixture(scope="module")
def mcq(tmp_path_factory):
    return packed("st_evidence_mcq", choice.st_evidence_mcq, tmp_path_factory.mktemp("mcq"), "test")


@pytest.fixture(scope="module")
def bench_q(tmp_path_factory):
    return packed("videorefer_bench_q", choice.videorefer_bench, tmp_path_factory.mktemp("q"), "test")


def said(truths, **answers):
    return {t.example_id: Prediction(t.example_id, t.medium_id, answer=answers.get(t.example_id.replace(":", "_"), "A")) for t in truths}


# --- released layouts ------------------------------------------------------------------------------------------------------------

def test_mvbench_shows_the_part_that_is_asked_about(tmp_path):
    choice.mvbench(tmp_path / "in")
    data = run("mvbench", tmp_path / "in", tmp_path / "cut", "--split", "test")
    found = examples_of(data)
    medium, example = found["action_sequence_0"]
    assert medium.medium_id == "action_sequence/a.mp4@1-2.5" and medium.frame_times == (0, 0.5, 1, 1.5) and example.answer == "A fall"
    assert found["action_sequence_1"][0] == medium and found["episodic_reasoning_0"][0].frame_times == (0, 1 / 3, 2 / 3, 1)
    reasons = skipped(tmp_path / "cut")
    assert reasons["action_sequence_2"] == "answer_not_in_options" and reasons["action_count"] == "file_missing" and len(reasons) == 19
    whole = examples_of(run("mvbench", tmp_path / "in", tmp_path / "whole", "--split", "test", "--set", "whole=true"))
    assert len(whole["action_sequence_0"][0].frame_times) == 8 and len(whole["episodic_reasoning_0"][0].frame_times) == 9


def test_videomme(tmp_path):
    choice.videomme(tmp_path / "in")
    folder = tmp_path / "out"
    found = examples_of(run("videomme", tmp_path / "in", folder, "--split", "test"))
    (medium, example), = found.values()
    assert example.options == ("One.", "Two.", "Three.", "Four.") and example.answer == "Two." and medium.subtitles[0].text == "Hello."
    assert skipped(folder) == {"001-2": "answer_not_in_options"}
    task, protocol, _, truths = questions_of("videomme", folder)
    result = task.score(truths, said(truths, **{"001-1": "B"}), protocol, bootstrap=0)
    assert result["groups"]["duration"]["short"]["metrics"]["accuracy"]["value"] == 1 and result["chance"]["accuracy"] == 0.25


def test_videorefer_questions_point_at_their_objects(bench_q, tmp_path):
    _, _, samples, truths = questions_of("videorefer-q", bench_q)
    by_id = {e.example_id: e for s in samples for e in s.examples}
    assert by_id["q0"].question == "What does [1] do?" and by_id["q1"].question == "What is [1]?" and by_id["q0"].answer == "It sleeps"
    assert [r.label for r in by_id["q0"].regions] == ["1"] and by_id["q0"].visual_prompt == "mask"
    medium = samples[0].medium
    masks = choice.videorefer_bench(tmp_path)
    track = medium.objects[by_id["q0"].regions[0].oid].track
    numbers = medium.source["frame_numbers"]
    assert [numbers[t] for t in track.visible.nonzero()[0]] == [1, 3, 5] and (track.decode(track.visible.nonzero()[0]) == masks["q0"]).all()
    single = questions_of("videorefer-q-single", bench_q)[2][0]
    region = next(e for e in single.examples if e.example_id == "q0").regions[0]
    assert [numbers[t] for t in single.medium.objects[region.oid].track.visible.nonzero()[0]] == [1]
    assert len(truths) == 2


@pytest.mark.parametrize("columns", ["new", "old"])
def test_st_evidence_reads_both_vocabularies(tmp_path, columns):
    choice.st_evidence_mcq(tmp_path / "in", columns)
    found = examples_of(run("st_evidence_mcq", tmp_path / "in", tmp_path / "out", "--split", "test"))
    assert sorted(found) == ["e1:qa", "e1:space", "e1:time", "e2:qa", "e2:space"]
    assert found["e1:qa"][1].answer == "a cat" and found["e2:qa"][1].answer == "a box"
    time, space = found["e1:time"][1], found["e1:space"][1]
    assert time.options[2] == time.answer == "[[0.1, 0.2], [0.4, 0.5]]" and space.answer == "picture B" and found["e2:space"][1].answer == "picture A"
    pictures = [Image.open(io.BytesIO(base64.b64decode(p))) for p in space.source["option_pictures"]]
    assert len(pictures) == 4 and pictures[0].size == (32, 24)
    reasons = skipped(tmp_path / "out")
    assert reasons == {"v9.mp4": "no_frames"}


@pytest.mark.parametrize("raw, reason", [
    ({"e1": {"options": ["d1", "gt", "d3", "d2"], "answer": 0}}, "answer_not_in_options"),
    ({"e1": {"options": ["d1", "gt"], "answer": 1}}, "bad_record"),
    ({"e1": {"options": ["d1", "gt", "d3", "d2"], "answer": 1, "d1": "../x.jpg"}}, "unsafe_path"),
    ({"e1": {"options": ["d1", "gt", "d3", "d2"], "answer": 1, "d1": "lost.jpg"}}, "file_missing")])
def test_wrong_spatial_options_are_listed(tmp_path, raw, reason):
    choice.st_evidence_mcq(tmp_path / "in")
    (tmp_path / "in/mask_options.json").write_text(json.dumps(raw))
    run("st_evidence_mcq", tmp_path / "in", tmp_path / "out", "--split", "test")
    assert skipped(tmp_path / "out")["e1:space"] == reason


def test_the_real_release_packs(shared_data, tmp_path):
    found = examples_of(run("st_evidence_mcq", shared_data / "mini_real", tmp_path / "out", "--split", "test"))
    kinds = [example.question_type for _, example in found.values()]
    assert (kinds.count("qa"), kinds.count("time"), kinds.count("space")) == (14, 14, 6)
    assert found["cups_01:time"][1].answer == "[[0.0, 1.0]]" and found["cups_02:space"][1].answer == "picture B"


# --- scores ----------------------------------------------------------------------------------------------------------------------

def test_three_accuracies_coverage_and_chance(mcq):
    task, protocol, _, truths = questions_of("st-evidence-mcq", mcq)
    answers = {"e1:qa": "B", "e1:time": "The answer is C", "e2:qa": "(B)", "e2:space": "picture A"}
    predictions = {i: Prediction(i, "v1", answer=a) for i, a in answers.items()}
    result = task.score(truths, predictions, protocol, bootstrap=0)
    values = {name: m["value"] for name, m in result["metrics"].items()}
    assert values == {"qa accuracy": 0.5, "time accuracy": 1, "space accuracy": 0.5, "overall": 0.6, "qa coverage": 1, "time coverage": 1,
                      "space coverage": 0.5}
    assert result["missing"] == ["e1:space"] and result["chance"]["qa accuracy"] == pytest.approx(0.2)
    assert result["chance"]["time accuracy"] == result["chance"]["space accuracy"] == 0.25
    assert {letter: group["n"] for letter, group in result["groups"]["chosen letter"].items()} == {"A": 1, "B": 2, "C": 1, "–": 1}
    assert result["groups"]["true letter"]["B"]["n"] == 2


def test_published_prediction_files(mcq, tmp_path, capsys):
    (tmp_path / "p.json").write_text(json.dumps({
        "e1": {"answer": "B", "gt_answer": "B", "evidence_t": "C", "gt_evidence_t": "C", "evidence_s": None, "gt_evidence_s": "B"},
        "e2": {"answer": "A", "gt_answer": "A", "evidence_s": "A"}}))
    flags = ["--shards", str(mcq), "--out", str(tmp_path / "s.json"), "--allow-missing", "--bootstrap", "0"]
    values = []
    for given in (["--pred_file", str(tmp_path / "p.json")], [str(tmp_path / "p.json")]):  # both published ways to name the file
        assert scoring.main(["st-evidence-mcq", *given, *flags]) == 0
        values.append(json.loads((tmp_path / "s.json").read_text())["metrics"])
    assert values[0] == values[1] and values[0]["overall"]["value"] == 0.8 and values[0]["space coverage"]["value"] == 0.5
    assert "1 of 5 predictions are missing: e1:space" in capsys.readouterr().out
    (tmp_path / "time.json").write_text(json.dumps({"e1": {"answer": "C", "gt_answer": "C"}}))
    assert read_release_mcq(tmp_path / "time.json", ["time"])["e1:time"].answer == "C"
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DataError, match="entry_id"):
        read_release_mcq(tmp_path / "bad.json")


@pytest.mark.parametrize("reply, ours, unipixel, videorefer", [
    ("B", 1, 1, 1), ("(B) a cat", 1, 1, 1), ("The answer is C", 2, None, None), ("Answer: B", 1, 0, 0), ("a cat", 1, 0, 0), ("", None, None, None),
    ("Bicycle", None, 1, 1), ("I think (D)", None, None, 3), ("E", None, None, None)])
def test_replies_by_parser(reply, ours, unipixel, videorefer):
    from unipixel.metrics import map_option  # noqa: PLC0415

    options = ["a box", "a cat", "a dog", "a car"]
    assert (map_option(reply, options), first_character(reply, 4), videorefer_letter(reply, 4)) == (ours, unipixel, videorefer)


def test_compat_changes_the_parser_and_unmapped_is_counted(bench_q):
    task, _, samples, truths = questions_of("videorefer-q", bench_q)
    predictions = all_perfect(samples) | {"q0": Prediction("q0", "v", answer="Bicycle")}
    scores = {compat: task.score(truths, predictions, task.protocol(compat), bootstrap=0) for compat in task.protocols}
    assert scores["none"]["format_errors"] == {"unmapped": 1} and scores["none"]["metrics"]["accuracy"]["value"] == 0.5
    assert scores["unipixel"]["per_example"]["q0"]["chosen"] == "B"
