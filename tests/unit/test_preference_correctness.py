"""Wrong answers without a model: where distractors come from, how they differ, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.preference import correctness
from data_tools.preference.correctness import HINT, UNSEEN, CorrectnessSettings, question_kind
from data_tools.preference.make import correctness_main
from data_tools.preference.steps import Media
from data_tools.preference.textual import equivalent, normal
from tests.chat_server import write_videos
from unipixel.data.ledger import SkipLedger
from unipixel.data.template import FINAL_ANSWER as ANSWER
from unipixel.errors import ConfigError
from unipixel.metrics.text import token_f1
from unipixel.sample import Example

WHO = ("The old teacher of the boy", "A guard at the gate", "His younger sister from town", "Nobody but the dog")
WHERE = ("Under the wooden bridge", "In front of the station", "On the roof of the house", "Inside a dark cave")


def example(name: str, question: str, answer: str, **more) -> Example:
    return Example(name, "evidence", question, answer=answer, **{"rationale": f"The pictures of {name} show it."} | more)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four films with a who and a where question each."""
    examples = {f"film{n}": [example(f"film{n}_who", "Who opens the door?", WHO[n]), example(f"film{n}_where", "Where's the money hidden?", WHERE[n])]
                for n in range(4)}
    source = {name: {"film": name} for name in examples}
    return write_videos(tmp_path_factory.mktemp("films") / "train", list(examples), examples=examples, source=source, seconds=1)


def make(folder, **settings):
    ledger = SkipLedger()
    return correctness.make(Media([folder]), CorrectnessSettings(**settings), ledger), ledger


def sides(question):
    (preferred,), (adversarial,) = question.of("preferred"), question.of("adversarial")
    return preferred, adversarial


def test_every_question_gets_a_wrong_answer_of_its_own_type(films):
    questions, ledger = make(films)
    assert len(questions) == 8 and not ledger.skips
    for q in questions:
        preferred, adversarial = sides(q)
        pool = WHO if "who" in q.example_id else WHERE
        said = adversarial.text.split(ANSWER)[1].strip()
        assert preferred.text == f"Reasoning: The pictures of {q.example_id} show it.\nFinal Answer: {q.reference}"
        assert said in pool and not equivalent(said, q.reference) and token_f1(said, q.reference) <= 0.5
        assert adversarial.origin["distractor"]["film"] != q.origin["source"]["film"]  # each film has one answer of a type
        assert q.mode == "correctness"


def test_the_draws_depend_on_the_seed_only(films):
    first, again, other = (make(films, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again and first != other


def test_variants(films):
    """In ``same_reasoning`` only the final answer differs; the shares of the variants are counted."""
    seen = Counter()
    for seed in range(6):
        questions, ledger = make(films, seed=seed)
        assert sum(n for what, n in ledger.notes.items() if "variant" in what) == 8
        for preferred, adversarial in map(sides, questions):
            variant = adversarial.origin["variant"]
            seen[variant] += 1
            reasoning, gold = (part.strip() for part in preferred.text.removeprefix("Reasoning:").split(ANSWER))
            why, wrong = (part.strip() for part in adversarial.text.removeprefix("Reasoning:").split(ANSWER))
            assert wrong != gold
            assert why == {"same_reasoning": reasoning, "hinted": f"{reasoning} {HINT}", "unseen": UNSEEN}[variant]
    assert set(seen) == {"same_reasoning", "hinted", "unseen"} and min(seen.values()) > 5


def test_form_violations_are_named_and_of_another_mode(films):
    questions, _ = make(films, variants=["swapped", "overlong"])
    texts = {sides(q)[1].origin["variant"]: sides(q)[1].text for q in questions}
    assert {q.mode for q in questions} == {"other"}
    assert texts["swapped"].startswith(ANSWER) and "\nReasoning:" in texts["swapped"]
    assert len(texts["overlong"].split(ANSWER)[1].split()) > 20
    assert all("distractor" not in sides(q)[1].origin for q in questions)


def test_a_test_split_is_refused(tmp_path):
    folder = write_videos(tmp_path / "test", ["a"], split="test", seconds=1)
    with pytest.raises(ConfigError, match=r"not of the splits \['train'\]"):
        make(folder)
    with pytest.raises(ConfigError, match="test"):
        correctness.make(Media([folder, write_videos(tmp_path / "train", ["b"], seconds=1)]), CorrectnessSettings(), SkipLedger())


def test_answers_that_mean_the_same_are_no_distractors(tmp_path):
    """Every other answer is equal in other words, a part of the right one, or nearly the same: nothing is left, and that is listed."""
    said = ["The two guards", "2 guards.", "two of the guards", "guards", "the two old guards"]
    folder = write_videos(tmp_path / "t", ["a"], examples={"a": [example(f"e{n}", "Who comes?", text) for n, text in enumerate(said)]}, seconds=1)
    questions, ledger = make(folder)
    assert not questions and ledger.counts == {"no_distractor": 5}


def test_length_bounds_and_films(films, tmp_path):
    long = example("long", "Who waits?", " ".join(f"word{n}" for n in range(40)))
    folder = write_videos(tmp_path / "t", ["a"], examples={"a": [long, example("short", "Who sleeps?", "Anna")]}, seconds=1)
    assert make(folder)[1].counts == {"no_distractor": 2}
    assert len(make(folder, max_length_ratio=100.0)[0]) == 2
    assert len(make(folder, max_length_ratio=100.0, distractor_films="same")[0]) == 2
    assert make(folder, max_length_ratio=100.0, distractor_films="other")[1].counts == {"no_distractor": 2}


def test_questions_without_a_rationale(tmp_path):
    own = {"a": [example(f"e{n}", "Who comes?", WHO[n], rationale="") for n in range(3)]}
    folder = write_videos(tmp_path / "t", ["a"], examples=own, seconds=1)
    questions, ledger = make(folder)
    assert {sides(q)[0].text for q in questions} == {f"{ANSWER} {w}" for w in WHO[:3]}
    assert {sides(q)[1].origin["variant"] for q in questions} == {"same_reasoning"}
    assert make(folder, variants=["unseen"])[1].counts == {"no_rationale": 3}


def test_what_is_no_question_is_counted(tmp_path):
    refer = Example("r", "evidence", "Who?", answer="")
    folder = write_videos(tmp_path / "t", ["a"], examples={"a": [refer, replace(example("e", "Who?", WHO[0]))]}, seconds=1)
    _, ledger = make(folder)
    assert ledger.notes["examples that are no question with an answer: passed over"] == 1 and ledger.counts == {"no_distractor": 1}


@pytest.mark.parametrize(("question", "kind"), [("Who is it?", "who"), ("What's in the box?", "what"), ("How many cups are there?", "how many"),
                                                ("In the end, where does he go?", "where"), ("Describe the scene.", "other")])
def test_types_of_questions(question, kind):
    assert question_kind(example("e", question, "x")) == kind
    assert question_kind(replace(example("e", question, "x"), question_type="count")) == "count"


@pytest.mark.parametrize(("first", "second", "same"), [("The man.", "man", True), ("Neo", "It's Neo, of course", True), ("two dogs", "2 dogs", True),
                                                       ("dog runs", "runs dog", True), ("A man", "A woman", False), ("left", "right", False)])
def test_equivalent_answers(first, second, same):
    assert equivalent(first, second) == equivalent(second, first) == same


def test_normal_form():
    assert normal("The  Man’s TWO hats, an apple!") == "man 2 hats apple"


@pytest.mark.parametrize("settings", [{"variants": ["wrong"]}, {"variants": []}, {"distractor_films": "none"}, {"max_overlap": 2.0},
                                      {"max_length_ratio": 0.5}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        CorrectnessSettings(**settings)


def test_real_questions(shared_data, tmp_path):
    """Written questions about real clips: wrong answers come from the four clips for training and are wrong; the two others are refused."""
    def shards(names: list[str], split: str) -> Path:
        items = {name: json.loads((shared_data / "mini_real" / "reasonvqa" / "annotations" / f"{name}.json").read_text()) for name in names}
        examples = {name: [example(f"{name}_{i['index']}", i["question"], i["answer"], rationale=i["reasoning"]) for i in its]
                    for name, its in items.items()}
        return write_videos(tmp_path / split, names, examples=examples, source={name: {"film": name} for name in names}, seconds=1, split=split)

    train, test = shards(["dog", "blocks", "coffee", "bedroom"], "train"), shards(["cups", "juggle"], "test")
    questions, ledger = make(train, max_overlap=0.6)
    assert len(questions) + len(ledger) == 13 and len(questions) >= 6 and set(ledger.counts) <= {"no_distractor"}
    assert {sides(q)[1].origin["distractor"]["film"] for q in questions} <= {"dog", "blocks", "coffee", "bedroom"}
    assert all(not equivalent(sides(q)[1].text.split(ANSWER)[1], q.reference) for q in questions)
    with pytest.raises(ConfigError, match="test"):
        make(test)


def test_the_command(films, tmp_path, capsys):
    out = tmp_path / "q.jsonl"
    assert correctness_main(["--shards", str(films), "--out", str(out)]) == 0
    assert "8 questions with 16 replies" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 8 and (tmp_path / "q.jsonl.skipped.jsonl").read_text() == ""
    assert correctness_main(["--shards", str(films), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert correctness_main(["--shards", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert correctness_main(["--out", str(tmp_path / "x")]) == 2
