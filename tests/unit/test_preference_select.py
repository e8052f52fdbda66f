"""Pairs from judged replies: the published rules, margins, the balanced part, and what becomes of the rest."""

from __future__ import annotations

from collections import Counter

import pytest

from data_tools.preference.filter import main as filter_main
from data_tools.preference.filter import without_repetitions
from data_tools.preference.questions import Candidate, Question, read_questions, write_questions
from data_tools.preference.select import Made, SelectSettings, balance, divide, select
from tests.chat_server import write_videos
from tests.packing import skipped
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Example, PreferencePair

GOOD = {"misaligned": True, "different": True, "preferred_sane": True, "why": ""}


def ranked(name: str, scores, rewards=None, words=None, tokens: int = 4) -> Question:
    """A question with sampled replies."""
    texts = [f"reply {n} {'so ' * (words[n] if words else 0)}" for n in range(len(scores))]
    candidates = tuple(Candidate("sample", n, texts[n], score=score, reward=None if rewards is None else rewards[n], tokens=tokens)
                       for n, score in enumerate(scores))
    return Question(name, "hound", "m", f"Question {name}?", "correctness", candidates=candidates)


def judged(name: str, mode: str, verdicts, texts=None, recipe="pasta") -> Question:
    """A question with a preferred reply and adversarial ones."""
    wrong = tuple(Candidate("adversarial", n, (texts or [f"wrong {name} {k}" for k in range(9)])[n], verdict=v) for n, v in enumerate(verdicts))
    return Question(name, recipe, "m", f"Question {name}?", mode, candidates=(Candidate("preferred", 0, f"right {name}"), *wrong))


def run(questions, **settings):
    ledger = SkipLedger()
    return select(questions, SelectSettings(**settings), ledger), ledger


def numbers(made) -> list[tuple[int, int]]:
    return [(m.pair.origin["chosen"]["number"], m.pair.origin["rejected"]["number"]) for m in made]


# --- LLaVA-Hound -----------------------------------------------------------------------------------------------------------------

def test_scores_become_pairs():
    """[5, 4, 2, 1, 3, 2]: right are 5, 4, 3, wrong are 2, 1, 2; exactly one pair per question; over many questions every combination."""
    scores = [5, 4, 2, 1, 3, 2]
    made, ledger = run([ranked(f"q{n}", scores) for n in range(200)])
    assert len(made) == 200 and not ledger.skips
    assert Counter(numbers(made)).keys() == {(c, r) for c in (0, 1, 4) for r in (2, 3, 5)}
    assert made == run([ranked(f"q{n}", scores) for n in range(200)])[0]
    assert numbers(made) != numbers(run([ranked(f"q{n}", scores) for n in range(200)], select_seed=1)[0])
    assert (made[0].pair.origin["chosen"]["score"], made[0].pair.failure_mode) == (scores[numbers(made)[0][0]], "correctness")


@pytest.mark.parametrize(("scores", "reason"), [([3, 4, 5], "all_right"), ([2, 1, 1], "all_wrong"), ([None, None, 4], "unscored"),
                                                ([4, None, 5], "all_right")])
def test_questions_without_two_sides_are_dropped(scores, reason):
    """A missing score is none: it makes no reply wrong."""
    made, ledger = run([ranked("q", scores)])
    assert not made and ledger.counts == {reason: 1}
    assert ledger.notes["replies without a score: not ranked"] == scores.count(None)


def test_margins_and_choices():
    question = ranked("q", [5, 3, 2, 1], words=[0, 9, 9, 30])
    assert numbers(run([question], choice="max_margin")[0]) == [(0, 3)]
    assert numbers(run([question], choice="length_matched")[0]) == [(1, 2)]
    many = [ranked(f"q{n}", [5, 3, 2, 1]) for n in range(50)]
    assert set(numbers(run(many, min_margin=3.0)[0])) == {(0, 2), (0, 3)}
    assert run([question], min_margin=4.5)[1].counts == {"margin": 1}


def test_equal_texts_make_no_pair():
    question = ranked("q", [5, 1])
    same = Question(**vars(question) | {"candidates": tuple(Candidate("sample", c.number, "The Same!" if c.number else "the same", score=c.score)
                                                            for c in question.candidates)})
    assert run([same])[1].counts == {"margin": 1}


def test_rewards_rank_without_a_threshold():
    question = ranked("q", [None] * 3, rewards=[-3.0, -8.0, -4.5])
    assert numbers(run([question], rank_by="reward", choice="max_margin")[0]) == [(0, 1)]
    assert run([question], rank_by="reward", min_margin=6.0)[1].counts == {"margin": 1}
    candidates = Candidate("sample", 0, "a", reward=-8.0, tokens=2), Candidate("sample", 1, "b", reward=-9.0, tokens=9)
    per_token = Question(**vars(question) | {"candidates": candidates})
    chosen = {normalize: numbers(run([per_token], rank_by="reward", choice="max_margin", normalize=normalize)[0]) for normalize in (False, True)}
    assert chosen == {False: [(0, 1)], True: [(1, 0)]}


# --- VideoPASTA ------------------------------------------------------------------------------------------------------------------

def test_only_judged_and_agreed_replies_are_rejected_sides():
    bad = [GOOD | {name: False} for name in ("misaligned", "different", "preferred_sane")]
    made, ledger = run([judged("q1", "spatial", [*bad, GOOD, None]), judged("q2", "spatial", [None, bad[0]])], per_question=0)
    assert numbers(made) == [(0, 3)]
    assert ledger.counts == {"verdict": 4, "unjudged": 2, "no_rejected": 1}


def test_the_same_words_are_no_other_reply():
    texts = ["RIGHT q!", "wrong one", "Wrong, one."]
    made, ledger = run([judged("q", "spatial", [GOOD] * 3, texts)], per_question=0)
    assert [m.pair.rejected for m in made] == ["wrong one"] and ledger.counts == {"equal_sides": 2}


def test_an_empty_side_is_listed():
    made, ledger = run([judged("q", "spatial", [GOOD] * 2, [" ", "wrong"])], per_question=0)
    assert len(made) == 1 and ledger.counts == {"empty_side": 1}


def test_pairs_per_question():
    made, ledger = run([judged("q", "spatial", [GOOD] * 3)], per_question=2)
    assert len(made) == 2 and sum(ledger.notes.values()) == 1
    assert {numbers(run([judged(f"q{n}", "spatial", [GOOD] * 3)])[0])[0][1] for n in range(30)} == {0, 1, 2}


def test_controls_may_be_rejected_instead():
    question = judged("q", "spatial", [GOOD])
    both = Question(**vars(question) | {"candidates": (*question.candidates, Candidate("control_sampling", 0, "sparse", verdict=GOOD))})
    assert [m.pair.rejected for m in run([both], rejected="control_sampling")[0]] == ["sparse"]


def pool(**sizes) -> list[Made]:
    return [Made(q, PreferencePair(f"{mode}{n}", "right", f"wrong {mode} {n}", mode)) for mode, size in sizes.items() for n in range(size)
            for q in [judged(f"{mode}{n // 3}", mode, [])]]


def test_7020_pairs_of_three_modes():
    """Exactly 7,020 = 3 x 2,340 of a larger pool, the same ones each time."""
    large = pool(spatial=4000, temporal=2340, cross_frame=5123)
    taken = balance(large, SelectSettings(total=7020), SkipLedger())
    assert Counter(m.pair.failure_mode for m in taken) == {"spatial": 2340, "temporal": 2340, "cross_frame": 2340}
    assert taken == balance(large, SelectSettings(total=7020), SkipLedger())
    assert taken != balance(large, SelectSettings(total=7020, select_seed=1), SkipLedger())
    assert len({m.pair.pair_id for m in taken}) == 7020
    shares = balance(large, SelectSettings(total=7020, mode_shares=["spatial=2", "temporal=1", "cross_frame=3"]), SkipLedger())
    assert Counter(m.pair.failure_mode for m in shares) == {"spatial": 2340, "temporal": 1170, "cross_frame": 3510}


def test_a_balanced_part_takes_every_question_first():
    taken = balance(pool(spatial=30), SelectSettings(total=10), SkipLedger())
    assert len({m.question.question_id for m in taken}) == 10


def test_a_mode_that_is_too_small_is_an_error():
    with pytest.raises(DataError, match=r"'temporal': '5 of 10'.*at most 15"):
        balance(pool(spatial=30, temporal=5, cross_frame=30), SelectSettings(total=30), SkipLedger())


@pytest.mark.parametrize(("total", "shares", "parts"), [
    (7020, {"a": 1, "b": 1, "c": 1}, {"a": 2340, "b": 2340, "c": 2340}), (10, {"a": 1, "b": 1, "c": 1}, {"a": 4, "b": 3, "c": 3}),
    (7, {"b": 0.5, "a": 0.25, "c": 0.25}, {"b": 3, "a": 2, "c": 2}), (1, {"a": 1, "b": 3}, {"a": 0, "b": 1})])
def test_division(total, shares, parts):
    assert divide(total, shares) == parts


@pytest.mark.parametrize(("settings", "told"), [
    ({"rejected": "sample"}, "rejected"), ({"choice": "best"}, "choice"), ({"min_margin": 0.0}, "min_margin"),
    ({"mode_shares": ["spatial=1"]}, "without total"), ({"total": 3, "mode_shares": ["space=1"]}, "space"),
    ({"total": 3, "mode_shares": ["spatial"]}, "MODE=SHARE"), ({"normalize": True}, "rank_by"),
    ({"rank_by": "length"}, "rank_by"), ({"total": -1}, "total")])
def test_settings_are_checked(settings, told):
    with pytest.raises(ConfigError, match=told):
        SelectSettings(**settings)


# --- repetitions, and writing ----------------------------------------------------------------------------------------------------

def test_repetitions_are_left_out():
    long = "the woman in white throws the ball to the brown dog that waits beside the tall tree"
    made = [Made(judged("q", "spatial", []), PreferencePair(f"p{n}", text, "another reply", "spatial"))
            for n, text in enumerate([long, long.upper() + "!", "a man sits", long + " and barks"])]
    ledger = SkipLedger()
    assert [m.pair.pair_id for m in without_repetitions(made, 0.65, ledger)] == ["p0", "p2"]
    assert ledger.counts == {"near_duplicate": 2}
    assert [m.pair.pair_id for m in without_repetitions(made, 0.99, SkipLedger())] == ["p0", "p2", "p3"]


def filtered(folder, tmp_path, *more: str) -> int:
    return filter_main(["--questions", str(tmp_path / "q.jsonl"), "--shards", str(folder), "--out", str(tmp_path / "out"), *more])


def test_pairs_of_an_annotated_question_keep_its_evidence(tmp_path):
    """The example stays what it is, so that its prompt asks for evidence; both sides give it."""
    question = Example("e", "evidence", "Where?", answer="Left", segments=((0.5, 1.0),))
    folder = write_videos(tmp_path / "in", ["m"], examples={"m": [question, Example("other", "evidence", "Who?", answer="x")]}, seconds=1)
    made = Question("q", "correctness", "toy-train-m", "Where?", "correctness", "Left", example_id="e",
                    candidates=(Candidate("preferred", 0, "Final Answer: Left"), Candidate("adversarial", 0, "Final Answer: Right")))
    write_questions(tmp_path / "q.jsonl", [made])
    assert filtered(folder, tmp_path) == 0
    sample = ShardDataset(tmp_path / "out").sample(0)
    (example,), (pair,) = sample.examples, sample.examples[0].pairs
    assert (example.example_id, example.task, example.question, example.segments) == ("e", "evidence", "Where?", ((0.5, 1.0),))
    assert pair.chosen_segments == pair.rejected_segments == ((0.5, 1.0),) and len(sample.frames) == 8
    assert pair.origin["recipe"] == "correctness"


def test_bad_tables(tmp_path, capsys):
    folder = write_videos(tmp_path / "in", ["m"], seconds=1)
    good = judged("q", "spatial", [GOOD])
    gone = Question(**vars(good) | {"question_id": "gone", "medium": "toy-train-gone"})
    none = Question(**vars(good) | {"question_id": "none", "medium": "toy-train-m", "example_id": "no"})
    there = Question(**vars(good) | {"medium": "toy-train-m"})
    write_questions(tmp_path / "q.jsonl", [gone, none])
    assert filtered(folder, tmp_path, "--max_similarity", "0") == 2
    assert "nothing was packed" in capsys.readouterr().err
    write_questions(tmp_path / "q.jsonl", [there, gone])
    assert filtered(folder, tmp_path, "--max_similarity", "0", "--choice", "max_margin") == 2
    assert "--choice has no effect" in capsys.readouterr().err
    assert filtered(folder, tmp_path, "--max_similarity", "0") == 0
    assert skipped(tmp_path / "out") == {"toy-train-gone": "no_medium"}
    assert filtered(folder, tmp_path) == 2 and "already holds" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["no json", "{}", '{"schema": "other"}'])
def test_damaged_tables_are_named(tmp_path, line):
    write_questions(tmp_path / "q.jsonl", [judged("q", "spatial", [GOOD])])
    (tmp_path / "q.jsonl").write_text((tmp_path / "q.jsonl").read_text() + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        read_questions(tmp_path / "q.jsonl")


def test_tables_come_back_as_written(tmp_path):
    questions = [judged("q", "spatial", [GOOD, None]), ranked("r", [5, None], rewards=[-1.0, 2.0])]
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    write_questions(tmp_path / "q.jsonl", [*questions, questions[0]])
    with pytest.raises(DataError, match="occurs twice"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="no questions"):
        read_questions(tmp_path / "gone.jsonl")
