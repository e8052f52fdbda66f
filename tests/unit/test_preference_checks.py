"""Near-duplicates, leakage and style: what a set of pairs is checked for."""

from __future__ import annotations

import json
import random

import pytest

from data_tools.preference.check import main as check_main
from data_tools.preference.filter import main as filter_main
from data_tools.preference.leakage import Benchmarks, video_name
from data_tools.preference.questions import Candidate, Question, write_questions
from data_tools.preference.stats import main as stats_main
from data_tools.preference.style import by_role, compare, has_markup, is_refusal
from data_tools.preference.textual import NearDuplicates, jaccard, shingles
from tests.chat_server import write_videos
from tests.packing import skipped
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Example, Medium, PreferencePair, Turn

WORDS = [f"word{n}" for n in range(400)]


# --- near-duplicates -------------------------------------------------------------------------------------------------------------

def test_the_search_finds_what_comparing_all_with_all_finds():
    """Random texts and altered copies; the threshold lies in the middle of a gap between their similarities."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=40)) for _ in range(60)]
    for text in texts[:40]:
        changed = text.split()
        changed[rng.randrange(40)] = "other"
        texts.append(" ".join(changed))
    index = NearDuplicates(0.6)
    found, wanted = {}, {}
    for n, text in enumerate(texts):
        near = index.find(text)
        found[n] = near and near[0]
        likely = [(jaccard(shingles(text), shingles(texts[k])), k) for k in range(n)]
        best = max(likely, default=(0, 0))
        wanted[n] = str(best[1]) if best[0] >= 0.6 else None
        index.add(str(n), text)
    assert found == wanted and sum(v is not None for v in found.values()) == 40


@pytest.mark.parametrize(("first", "second", "value"), [("a b c d", "A, b; c d!", 1.0), ("w x y z", "x y z", 0.5), ("dog", "cat", 0.0),
                                                        ("one two three four", "1 2 3 4", 1.0)])
def test_similarity(first, second, value):
    assert jaccard(shingles(first), shingles(second)) == value


# --- leakage ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "same"), [("v_abc.mp4", "abc"), ("videos/abc.mkv", "abc"), ("abc", "abc"), ("Abc", "Abc"), ("a.b", "a.b")])
def test_names_of_videos(name, same):
    assert video_name(name) == same


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The same benchmark in every form in which one may be given."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "videos.txt").write_text("v_seen.mp4\nother\n")
    (folder / "table.csv").write_text("video_id,question\nseen,What does the tall man throw into the river?\n")
    (folder / "rows.jsonl").write_text(json.dumps({"video": "clips/seen.mp4", "question": "What does the tall man throw into the river?"}) + "\n")
    question = Example("e", "evidence", "What does the tall man throw into the river?", answer="A stone")
    write_videos(folder / "shards", ["seen"], examples={"seen": [question]}, split="test", seconds=1)
    return folder


@pytest.mark.parametrize("form", ["videos.txt", "table.csv", "rows.jsonl", "shards"])
def test_leaks_are_found_in_every_form(benchmark, form):
    known = Benchmarks([benchmark / form])
    assert known.leak(Medium("seen", "none"), "Who?").what == "leak_video"
    assert known.leak(Medium("v9", "none", source={"video": "v_seen.webm"}), "Who?").what == "leak_video"
    again = known.leak(Medium("v9", "none"), "What does a tall man throw into the river")
    assert (again.what if again else None) == (None if form == "videos.txt" else "leak_question")
    assert known.leak(Medium("unseen", "none"), "What colour is the house?") is None


def test_benchmarks_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.csv").write_text("id,label\n1,x\n")
    with pytest.raises(DataError, match="neither videos"):
        Benchmarks([tmp_path / "empty.csv"])
    with pytest.raises(ConfigError, match="no packed folder"):
        Benchmarks([tmp_path / "gone.csv"])


# --- style -----------------------------------------------------------------------------------------------------------------------

def test_style_of_both_sides():
    """Two pairs by hand: (4, 2) and (3, 3) words; the second side of the first refuses, the first side of the second is a list."""
    row = compare([("dog runs very fast", "I'm sorry"), ("- dog runs left", "dog runs right")])
    assert row["pairs"] == 2 and (row["chosen_words"], row["rejected_words"]) == (3.5, 2.5)
    assert row["length_ratio"] == pytest.approx(2 ** 0.5) and row["chosen_longer"] == 0.75 and row["overlap"] == 0
    assert (row["chosen_refusals"], row["rejected_refusals"], row["chosen_markup"], row["rejected_markup"]) == (0, 0.5, 0.5, 0)
    assert compare([("a b c d e", "b c d e f")])["overlap"] == pytest.approx(2 / 3)  # "b c d", "c d e"; and "d e f"


@pytest.mark.parametrize(("text", "refusal"), [("I’m sorry, but no.", True), ("I cannot see that.", True), ("It cannot be determined.", True),
                                               ("The man cannot open it.", False), ("She says sorry.", False)])
def test_refusals(text, refusal):
    assert is_refusal(text) == refusal


@pytest.mark.parametrize(("text", "markup"), [("**Yes**", True), ("## Answer", True), ("1. one\n2. two", True), ("- a", True), ("| a | b |", True),
                                              ("```x```", True), ("It is 3 - 2.", False), ("On 2 June", False)])
def test_markup(text, markup):
    assert has_markup(text) == markup


def test_the_control_sets_show_where_a_difference_comes_from():
    """Here the instruction makes replies long, and the frames do not."""
    texts = {"preferred": "it falls", "control_sampling": "it rises", "control_instruction": "it seems to rise in the end",
             "adversarial": "it surely seems to rise"}
    question = Question("q", "pasta", "m", "What?", "temporal", candidates=tuple(Candidate(role, 0, text) for role, text in texts.items()))
    longer = {role: row["chosen_longer"] for role, row in by_role([question]).items()}
    assert longer == {"control_sampling": 0.5, "control_instruction": 0.0, "adversarial": 0.0}


# --- commands --------------------------------------------------------------------------------------------------------------------

def chat(name: str, question: str, *pairs: PreferencePair) -> Example:
    return Example(name, "chat", turns=(Turn("user", question), Turn("assistant", "x")), pairs=pairs)


def test_check_and_filter_agree_on_leaks(benchmark, tmp_path, capsys):
    folder = write_videos(tmp_path / "in", ["v_seen", "new"], seconds=1)
    asked = {"toy-train-v_seen": "Who comes?", "toy-train-new": "What does the tall man throw into the river?"}
    replies = [(Candidate("preferred", 0, f"right {n}"), Candidate("adversarial", 0, "wrong")) for n in range(3)]
    questions = [Question(f"q{n}", "correctness", medium, text, "correctness", candidates=replies[n])
                 for n, (medium, text) in enumerate([*asked.items(), ("toy-train-new", "Where does the boat go?")])]
    write_questions(tmp_path / "q.jsonl", questions)
    flags = ["--questions", str(tmp_path / "q.jsonl"), "--shards", str(folder)]
    assert filter_main([*flags, "--out", str(tmp_path / "all")]) == 0
    assert check_main(["--shards", str(tmp_path / "all")]) == 0
    assert check_main(["--shards", str(tmp_path / "all"), "--benchmarks", str(benchmark / "table.csv")]) == 1
    out = capsys.readouterr().out
    assert "1 leak_video" in out and "1 leak_question" in out
    assert filter_main([*flags, "--out", str(tmp_path / "clean"), "--benchmarks", str(benchmark / "table.csv")]) == 0
    assert sorted(skipped(tmp_path / "clean").values()) == ["leak_question", "leak_video"]
    assert check_main(["--shards", str(tmp_path / "clean"), "--benchmarks", str(benchmark / "table.csv")]) == 0
    assert [e.turns[0].text for i in range(1) for e in ShardDataset(tmp_path / "clean").sample(i).examples] == ["Where does the boat go?"]


def test_check_finds_repetitions_and_equal_words(tmp_path, capsys):
    texts = "the woman in white throws the ball to the brown dog", "the dog brings it back to the man in the yard"
    own = {"a": [chat("e1", "What happens?", PreferencePair("p", *texts, "temporal"), PreferencePair("p2", texts[0], texts[1] + "!", "temporal"))]}
    folder = write_videos(tmp_path / "in", ["a"], examples=own, seconds=1)
    assert check_main(["--shards", str(folder)]) == 1 and "1 near_duplicate" in capsys.readouterr().out
    assert check_main(["--shards", str(folder), "--max_similarity", "0"]) == 0
    marked = ["--shards", str(folder), "--max_similarity", "0", "--answer_marker", "Final Answer:"]
    assert check_main(marked) == 1 and "2 marker_missing" in capsys.readouterr().out
    assert stats_main(["--shards", str(folder), "--out", str(tmp_path / "stats.json")]) == 0
    assert json.loads((tmp_path / "stats.json").read_text())["all"]["pairs"] == 2


def test_wrong_calls(tmp_path, capsys):
    folder = write_videos(tmp_path / "in", ["a"], seconds=1)
    for call, told in ((lambda: check_main([]), "--shards is empty"), (lambda: check_main(["--shards", str(folder)]), "no preference pair"),
                       (lambda: check_main(["--shards", str(folder), "--max_similarity", "0.2"]), "max_similarity"),
                       (lambda: stats_main(["--shards", str(folder), "--questions", "q"]), "either"),
                       (lambda: stats_main(["--shards", str(folder)]), "no preference pair"),
                       (lambda: filter_main(["--questions", "q"]), "--shards is empty")):
        assert call() == 2
        assert told in capsys.readouterr().err
