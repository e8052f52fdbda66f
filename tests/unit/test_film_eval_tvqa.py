"""TVQA in ``unipixel film eval``: which option a reply names, records, accuracy, and what scores without looking."""

from __future__ import annotations

import json

import pytest

from benchmarks.film_runs.command import main
from benchmarks.film_runs.scoring import score
from benchmarks.tasks import get_task
from benchmarks.truth import GroundTruth
from tests.film_models import METHODS, models, trained, tvqa_shards  # noqa: F401 - a fixture
from unipixel.infer.predictions import Prediction

LINE = {"qid", "show_name", "vid_name", "ts", "question", "options", "gold_idx", "gold_text", "pred_reasoning", "pred_answer_raw", "pred_idx",
        "pred_letter", "pred_text", "correct", "method", "frames_used", "frame_times", "subtitle_segments"}
OPTIONS = ("A red scarf", "Blue boots", "Nothing at all", "A man in a coat", "Two small dogs")


@pytest.mark.parametrize(("answer", "letter"), [
    ("B", "B"), ("(B)", "B"), ("B) Blue boots", "B"), ("The answer is C", "C"), ("two small dogs", "E"), ("A man in a coat", "D"),
    ("he wears blue boots here", "B"), ("boots", None), ("blue boots and a red scarf", None), ("a scarf", None), ("none of them", None)])
def test_options_that_a_reply_names(answer, letter):
    """A part of an option counts when it is unique and of two words or more; the article "A" is no letter."""
    truth = GroundTruth("q1", "clip", "Blue boots", OPTIONS, facts={"question": "What?", "rationale": ""})
    (scored,) = score(get_task("tvqa"), get_task("tvqa").protocol(), [truth], {"q1": Prediction("q1", "clip", reply=f"Final Answer: {answer}")})
    assert (None if scored.chosen is None else "ABCDE"[scored.chosen]) == letter
    assert scored.values["accuracy"] == scored.values["em"] == (letter == "B") and scored.values["rouge_l_reasoning"] is None


def test_runs_of_tvqa(models, tmp_path):  # noqa: F811
    shards, out = tvqa_shards(tmp_path / "tvqa"), tmp_path / "runs/tvqa_dpo"
    trained(tmp_path / "models" / "weighted_average", stage="dpo")
    models.replies |= {"q1": "Reasoning: He says so.\nFinal Answer: C", "q2": "Final Answer: some option"}
    assert main(["--task", "tvqa", "--models", str(tmp_path / "models"), "--shards", str(shards), "--methods", *METHODS, "--out", str(out),
                 "--bootstrap", "20", "--embed", "none"]) == 0
    folder = out / "weighted_average" / METHODS[0]
    found = json.loads((folder / "predictions.summary.json").read_text())
    lines = {line["qid"]: line for line in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())}
    assert (found["dataset"], found["stage"], found["metrics"]["Accuracy"], found["metrics"]["ROUGE_L_Reasoning"]) == (
        "TVQA", "dpo", 0.5, None)
    assert found["trivial"]["random_option"] == {"Accuracy": pytest.approx(0.2)}
    assert set(found["trivial"]) == {"longest_option", "most_like_question", "random_option"} and found["ceiling"]["Accuracy"] == 1
    first, other = lines[1], lines[2]
    assert first.keys() >= LINE and (first["pred_idx"], first["pred_letter"], first["pred_text"], first["correct"], first["ts"]) == (
        2, "C", "option 2 of 1", True, "0.5-1.25")
    assert (first["show_name"], first["vid_name"], first["gold_idx"], first["pred_reasoning"]) == (
        "The Big Bang Theory", "s01e01_seg01_clip_00", 2, "He says so.")
    assert (other["pred_idx"], other["pred_text"], other["correct"], other["f1"]) == (None, None, False, 0)
    assert (other["pred_answer_raw"], other["ts"]) == ("some option", None)
    assert (found["problems"]["unmapped"], found["parse_failures"], found["errors"]) == (1, 0, 0)


def test_answers_are_not_cut_by_words(models, tmp_path, capsys):  # noqa: F811
    assert main(["--task", "tvqa", "--models", "x", "--shards", "x", "--out", "x", "--compat", "seed"]) == 2
    assert "compat='seed' cuts open answers; tvqa has options" in capsys.readouterr().err
