"""ReasonVQA and TVQA: two labelled lines read in every order, text scores, the baseline that says the question back."""

from __future__ import annotations

import pytest

from benchmarks.tasks.povqa import parse_two_lines
from tests.bench_samples import packed, questions_of
from tests.dataset_fixtures import language
from unipixel.infer.predictions import Prediction


@pytest.mark.parametrize("text, reasoning, answer", [
    ("Reasoning: He runs at 3 s.\nFinal Answer: a dog", "He runs at 3 s.", "a dog"),
    ("reasoning: one\ntwo lines\nFINAL ANSWER: a dog.", "one\ntwo lines", "a dog."), ("**Reasoning:** x\n**Final Answer:** a dog", "x", "a dog"),
    ("Final Answer: a dog\nReasoning: x", "x", "a dog"), ("So my Final Answer: a dog", None, "a dog"), ("Reasoning: x", "x", None),
    ("A dog.", None, None), ("", None, None), ("Final Answer:", None, None), ("Final Answer: a dog\nand more", None, "a dog"),
    ("Reasoning: the final answer: none yet\nFinal Answer: a dog", "the final answer: none yet", "a dog")])
def test_two_lines(text, reasoning, answer):
    assert parse_two_lines(text) == (reasoning, answer)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    def write(root):
        items = [language.povqa_item(0, "00:00:05", "00:00:02 - 00:00:08", question="What did the man hide under the grave?",
                                     answer="the man buries the gold under the grave")]
        for film in ("one", "the_matrix"):
            language.povqa_film(root, film, items, pictures=[language.jpeg(t) for t in range(9)], text=[(0.0, 2.5, "Before.")])

    return packed("reasonvqa", write, tmp_path_factory.mktemp("films"), "test")


def value(films, reply, compat="none"):
    task, protocol, samples, truths = questions_of("reasonvqa", films, compat)
    (truth,) = truths
    predictions = {} if reply is None else {truth.example_id: Prediction(truth.example_id, "m", reply=reply)}
    return task.score(truths, predictions, protocol, bootstrap=0)


def test_answers_as_text(films):
    result = value(films, "Reasoning: Because of 0.\nFinal Answer: The man hides the gold, under a grave.")
    values = {name: m["value"] for name, m in result["metrics"].items()}
    assert values == {"EM": 0, "F1": 0.75, "BLEU-1": 0.75, "BLEU-4": 0, "ROUGE-L": 0.75, "ROUGE-L reasoning": 1} and not result["format_errors"]
    cut = value(films, "Final Answer: The man hides the gold, under a grave.", "seed")
    assert cut["metrics"]["BLEU-1"]["value"] == pytest.approx(5 / 6), "six words: the man hides the gold under"
    assert value(films, "no labels")["format_errors"] == {"no_final_answer": 1, "no_reasoning": 1}
    assert all(m["value"] == 0 for m in value(films, None)["metrics"].values())
    assert 0 < result["trivial"]["F1"] < 0.75, "the question said back"


def test_general_models_read_the_subtitles(films):
    task, protocol, samples, _ = questions_of("reasonvqa", films)
    prompt = task.prompt(samples[0], samples[0].examples[0], protocol)
    assert prompt.startswith("[") and "Before." in prompt and prompt.endswith("Final Answer: <a short answer>")


def test_tvqa_maps_the_final_answer(tmp_path):
    shards = packed("tvqa", language.tvqa, tmp_path, "val")
    task, protocol, samples, truths = questions_of("tvqa", shards)
    assert "evidence" not in task.prompt(samples[0], samples[0].examples[0], protocol).lower()
    replies = {t.example_id: f"Reasoning: A man says so.\nFinal Answer: {'ABCDE'[t.options.index(t.answer)]}" for t in truths}
    predictions = {i: Prediction(i, "m", reply=reply, answer="E") for i, reply in replies.items()}
    result = task.score(truths, predictions, protocol, bootstrap=0)
    assert result["metrics"]["accuracy"]["value"] == 1 and result["chance"]["accuracy"] == pytest.approx(0.2)
