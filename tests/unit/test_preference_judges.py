"""Judging the judge: agreement against sums done by hand, tables of two judges, the sheet for a person, captions against frames."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from data_tools.preference.agree import compare, read_opinions
from data_tools.preference.agree import main as agree_main
from data_tools.preference.captions import beside, facts
from data_tools.preference.captions import main as captions_main
from data_tools.preference.judge import without
from data_tools.preference.make import hound_main, pasta_main
from data_tools.preference.parsing import parse_caption_check
from data_tools.preference.questions import Candidate, Question, read_questions, write_questions
from data_tools.preference.score import main as score_main
from data_tools.preference.sheet import draw
from data_tools.preference.sheet import main as sheet_main
from tests.chat_server import chat_server, pictures_of, text_of, write_videos
from tests.preference_roles import Player
from unipixel.errors import SampleError
from unipixel.metrics.agreement import kappa, orders, pearson, spearman, with_intervals
from unipixel.sample import MaskTrack, Medium, SceneObject

ROLES = ("captioner", "writer", "answerer", "judge")
pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of 4 s at 8 frames per second."""
    return write_videos(tmp_path_factory.mktemp("videos") / "shards", ["v1", "v2"])


def asked_of_hound(videos, folder, score=(3, 3)) -> str:
    """A table of two questions with three replies each; ``score``: of the first reply to each."""
    questions = [Question(f"q{n}", "hound", f"toy-train-v{n + 1}", "What falls?", "correctness", "The cup.", "A cup falls, then it breaks.",
                          candidates=tuple(Candidate("sample", i, f"reply {i} to {n}", score=score[n] if i == 0 else i) for i in range(3)))
                 for n in range(2)]
    path = folder / "q.jsonl"
    write_questions(path, questions)
    return str(path)


# --- statistics ------------------------------------------------------------------------------------------------------------------

def test_kappa_by_hand():
    """Fifty items, both yes 20, only the first 5, only the second 10, both no 15: 0.7 observed, 0.5 by chance."""
    first, second = np.repeat([1, 1, 0, 0], [20, 5, 10, 15]), np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa(first, second, quadratic=True) == pytest.approx(0.4), "with two levels there is only one distance"
    assert kappa(first, first) == 1 and kappa(first, 1 - first) < 0
    assert kappa(np.ones(4), np.ones(4)) is None and kappa(np.array([]), np.array([])) is None
    assert kappa(np.ones(4), np.array([1, 1, 1, 0])) == 0, "a judge that always says the same agrees by chance only"


def test_quadratic_kappa_is_one_minus_a_ratio_of_squares():
    """Mean squared difference of the pairs over that of all combinations of both judges' grades."""
    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 40)
    second = np.clip(first + rng.integers(-1, 2, 40), 1, 5)
    chance = np.mean([(a - b) ** 2 for a in first for b in second])
    assert kappa(first, second, quadratic=True) == pytest.approx(1 - np.mean((first - second) ** 2) / chance)
    assert kappa(first, second) < kappa(first, second, quadratic=True), "neighbouring grades are nearly agreement"


def test_correlations():
    grades = np.array([1, 2, 3, 4, 5])
    assert pearson(grades, 2 * grades) == pytest.approx(1) and spearman(grades, grades**3) == pytest.approx(1) and pearson(grades, grades**3) < 0.95
    assert spearman(grades, -grades) == pytest.approx(-1) and pearson(grades, np.full(5, 3)) is None and spearman(grades[:1], grades[:1]) is None


def test_orders_are_those_of_all_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 6, (2, 9))
    products = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in combinations(range(9), 2)]
    assert orders(a, b).tolist() == [products.count(1), products.count(-1), products.count(0)] and orders(a[:1], b[:1]).tolist() == [0, 0, 0]


def test_intervals_draw_whole_groups():
    """Replies to one question that always share their value are no more evidence than one reply."""
    rng = np.random.default_rng(0)
    value = rng.random(40) < 0.5
    copies, groups = np.repeat(value, 10), np.repeat(np.arange(40), 10).tolist()
    grouped = with_intervals({"mean": lambda rows: float(copies[rows].mean())}, groups)["mean"]
    single = with_intervals({"mean": lambda rows: float(value[rows].mean())}, range(40))["mean"]
    alone = with_intervals({"mean": lambda rows: float(copies[rows].mean())}, range(400))["mean"]
    width = {name: found.high - found.low for name, found in (("grouped", grouped), ("single", single), ("alone", alone))}
    assert grouped.value == single.value and width["grouped"] == pytest.approx(width["single"], rel=0.2) and width["alone"] < 0.5 * width["grouped"]
    assert grouped.low < grouped.value < grouped.high and with_intervals({"one": lambda rows: 1.0}, ["one", "one"])["one"] == (1.0, None, None)
    never = with_intervals({"never": lambda rows: None, "some": lambda rows: 1.0 if 0 in rows else None}, "abc")
    assert never == {"never": (None, None, None), "some": (1.0, 1.0, 1.0)}, "draws where it is not defined are left out"


# --- two judges ------------------------------------------------------------------------------------------------------------------

def test_two_tables_by_hand():
    """Grades 5, 4, 1 against 4, 5, 2 at one question and 3, 3 against 3, 1 at another; one reply judged by one side only."""
    def opinions(first, second):
        return {("q", "sample", i): {"score": s} for i, s in enumerate(first)} | {("r", "sample", i): {"score": s} for i, s in enumerate(second)}

    report = compare(opinions((5, 4, 1), (3, 3, 2)), opinions((4, 5, 2), (3, 1)))
    assert report["judged"] == {"score": {"both": 5, "only_first": 1, "only_second": 0, "questions": 2, "ordered_pairs": 3, "tied_pairs": 1}}
    found = {name: value["value"] for name, value in report["statistics"]["score"].items()}
    assert found["order"] == pytest.approx(2 / 3), "5 > 4 is turned round; both are above the last one"
    assert found["agreement_right"] == 0.8 and found["kappa_right"] == pytest.approx((0.8 - 0.56) / 0.44)
    assert found["pearson"] == pytest.approx(np.corrcoef([5, 4, 1, 3, 3], [4, 5, 2, 3, 1])[0, 1])
    flags = {"misaligned": True, "different": True, "preferred_sane": True}
    verdicts = [{("q", "adversarial", i): flags | {"different": i > n} for i in range(4)} for n in (0, 1)]
    report = compare(*verdicts)
    assert report["statistics"]["keep"]["agreement"]["value"] == report["statistics"]["different"]["agreement"]["value"] == 0.75
    assert {name: found["value"] for name, found in report["statistics"]["misaligned"].items()} == {"agreement": 1.0, "kappa": None}


def test_caption_against_frames(videos, tmp_path, capsys):
    """The same replies graded with the caption and with the frames: same draw of questions, and no grade of one judge in the other's table."""
    player = Player()
    with chat_server(player) as server:
        models = str(server.models(tmp_path / "m.yaml", *ROLES))
        table, by_caption, by_frames = (str(tmp_path / name) for name in ("q.jsonl", "caption.jsonl", "frames.jsonl"))
        assert hound_main(["--shards", str(videos), "--models", models, "--out", table]) == 0
        assert score_main(["--questions", table, "--by", "caption", "--models", models, "--out", by_caption]) == 0
        drawn = ["--by", "frames", "--shards", str(videos), "--frames", "3", "--width", "16", "--sample", "4", "--models", models]
        assert score_main(["--questions", by_caption, *drawn, "--out", by_frames]) == 0
        seen = [body for body in server.requests if "question about this video is graded" in text_of(body)]
        assert score_main(["--questions", table, *drawn, "--out", str(tmp_path / "again.jsonl")]) == 0
        assert len([body for body in server.requests if "graded" in text_of(body)]) == 36 + 24, "the same draw, and its replies are stored"
    assert {pictures_of(body) for body in seen} == {3} and len(seen) == 4 * 6 and not any("Description" in text_of(body) for body in seen)
    first, second = read_opinions(by_caption).opinions, read_opinions(by_frames).opinions
    assert len(first) == 36 and len(second) == 24 and len({q for q, *_ in second}) == 4
    (judged,) = {c.judged["score"]["prompt"]["name"] for q in read_questions(by_frames) for c in q.of("sample") if c.score is not None}
    assert judged == "frames_score"
    capsys.readouterr()
    assert agree_main(["--first", by_caption, "--second", by_frames, "--out", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["judged"]["score"]["both"] == 24 and "12 replies judged by the first only" in out and "kappa_quadratic" in out
    equal = np.mean([(first[place]["score"] >= 3) == (found["score"] >= 3) for place, found in second.items()])
    assert report["statistics"]["score"]["agreement_right"]["value"] == pytest.approx(equal)
    assert agree_main(["--first", by_caption, "--second", by_caption]) == 0 and "1.000" in capsys.readouterr().out


def test_a_verdict_before_frames(videos, tmp_path):
    with chat_server(Player()) as server:
        models = str(server.models(tmp_path / "m.yaml", *ROLES))
        table = str(tmp_path / "q.jsonl")
        assert pasta_main(["--shards", str(videos), "--models", models, "--out", table, "--queries", "1", "--dense_fps", "4"]) == 0
        for name, more in (("blind", []), ("seeing", ["--shards", str(videos), "--frames", "5"])):
            assert score_main(["--questions", table, "--by", "verdict", "--models", models, "--out", str(tmp_path / f"{name}.jsonl"), *more]) == 0
        seen = [body for body in server.requests if "Reply B was meant to be wrong" in text_of(body)]
    assert [pictures_of(body) for body in seen] == [0] * 18 + [5] * 18
    assert all(("You do not see the video" in text_of(body)) == (pictures_of(body) == 0) for body in seen)
    assert agree_main(["--first", str(tmp_path / "blind.jsonl"), "--second", str(tmp_path / "seeing.jsonl")]) == 0


@pytest.mark.parametrize(("argv", "told"), [
    (["--by", "frames"], "needs --shards"), (["--by", "caption", "--shards", "x"], "--by frames shows them"),
    (["--by", "caption", "--frames", "4"], "--frames has no effect"),
    (["--by", "verdict", "--width", "99"], "no effect with --by verdict without --shards"),
    (["--by", "implicit", "--tries", "3"], "--tries has no effect with --by implicit"), (["--by", "caption", "--seed", "1"], "without --sample"),
    (["--by", "captions"], "nearest: 'caption'"), (["--by", "caption", "--sample", "3"], "holds 2 questions")])
def test_score_settings(videos, tmp_path, capsys, argv, told):
    models = tmp_path / "m.yaml"
    models.write_text("judge: {model: m, base_url: 'http://127.0.0.1:9/v1'}")
    assert score_main(["--questions", asked_of_hound(videos, tmp_path), "--models", str(models), "--out", str(tmp_path / "o.jsonl"), *argv]) == 2
    assert told in capsys.readouterr().err


def test_a_table_keeps_nothing_of_an_earlier_judge():
    candidate = Candidate("sample", 0, "x", score=4, reward=0.5, tokens=7, judged={"score": {"judge": "a"}, "reward": {"judge": "b"}})
    question = Question("q", "hound", "m", "?", "correctness", candidates=(candidate,))
    ((kept,),) = (q.candidates for q in without([question], "reward"))
    assert (kept.reward, kept.tokens, kept.score, kept.judged) == (None, None, 4, {"score": {"judge": "a"}})


def test_a_video_that_is_not_there_is_listed(videos, tmp_path):
    table = asked_of_hound(videos, tmp_path)
    write_questions(table, [*read_questions(table), Question("gone", "hound", "toy-train-gone", "What?", "correctness", "x",
                                                             candidates=(Candidate("sample", 0, "x"),))])
    with chat_server(Player()) as server:
        models = str(server.models(tmp_path / "m.yaml", "judge"))
        argv = ["--questions", table, "--by", "frames", "--shards", str(videos), "--models", models, "--out", str(tmp_path / "o.jsonl")]
        assert score_main(argv) == 0
    assert [json.loads(line)["reason"] for line in (tmp_path / "o.jsonl.skipped.jsonl").read_text().splitlines()] == ["no_medium"]
    assert [c.score is None for q in read_questions(tmp_path / "o.jsonl") for c in q.candidates] == [False] * 6 + [True]


# --- a person --------------------------------------------------------------------------------------------------------------------

def test_a_sheet_is_filled_in_and_compared(videos, tmp_path, capsys):
    table, page = asked_of_hound(videos, tmp_path, score=(5, 4)), tmp_path / "sheet.html"
    assert sheet_main(["--questions", table, "--shards", str(videos), "--out", str(page), "--frames", "2"]) == 0
    html, sheet = page.read_text(), tmp_path / "sheet.csv"
    assert html.count("data:image/jpeg") == 4 and "reply 2 to 1" in html and "The cup." in html and "misaligned" not in html
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    assert len(rows) == 6 and list(rows[0]) == ["question_id", "role", "number", "reply", "score", "comment"]
    assert not any(row["score"] for row in rows), "who sees the judge's opinion does not check it"
    assert agree_main(["--first", table, "--second", str(sheet)]) == 2 and "same kind of opinion" in capsys.readouterr().err
    for row, score in zip(rows, (5, 1, 2, 4, 1, "")):
        row["score"] = score
    with sheet.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet program writes it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert agree_main(["--first", table, "--second", str(sheet), "--out", str(tmp_path / "a.json")]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["judged"]["score"]["both"] == 5 and report["judged"]["score"]["only_first"] == 1
    assert report["statistics"]["score"]["pearson"]["value"] == pytest.approx(1)
    assert sheet_main(["--questions", table, "--shards", str(videos), "--out", str(page)]) == 2
    assert "somebody may have filled it in" in capsys.readouterr().err and read_opinions(str(sheet)).opinions["q0", "sample", 0] == {"score": 5}
    write_questions(table, [replace(q, candidates=tuple(replace(c, text=c.text + "!") for c in q.candidates)) for q in read_questions(table)])
    assert agree_main(["--first", table, "--second", str(sheet)]) == 2 and "6 replies have other words" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "told"), [
    ("q0,sample,0,,6", "score='6' must be a whole number from 1 to 5"), ("q0,sample,0,,good", "score='good'"),
    ("q0,sampled,0,,5", "nearest: 'sample'"), ("q0,sample,x,,5", "number='x'"), ("q0,sample,0,,\nq0,sample,0,,5", "line 3: .* stands here twice")])
def test_wrong_cells_are_errors(videos, tmp_path, capsys, line, told):
    sheet = tmp_path / "s.csv"
    sheet.write_text(f"question_id,role,number,reply,score\n{line}\n")
    assert agree_main(["--first", asked_of_hound(videos, tmp_path), "--second", str(sheet)]) == 2
    error = capsys.readouterr().err
    assert f"{sheet}, line " in error and re.search(told, error)


def test_verdicts_of_a_person(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("question_id,role,number,reply,misaligned,different,preferred_sane\nq,adversarial,0,ab,yes,TRUE,no\nq,adversarial,1,cd,,,\n")
    assert read_opinions(str(sheet)).opinions == {("q", "adversarial", 0): {"misaligned": True, "different": True, "preferred_sane": False}}


def test_a_draw_is_even_over_the_modes():
    sizes = {"spatial": 20, "temporal": 3, "cross_frame": 9}
    questions = [Question(f"{mode}{n}", "pasta", "m", "?", mode) for mode, count in sizes.items() for n in range(count)]
    drawn = draw(questions, 12, seed=0)
    counts = {mode: sum(q.mode == mode for q in drawn) for mode in sizes}
    assert len(drawn) == 12 and counts["temporal"] == 3 and sorted(counts.values()) == [3, 4, 5]
    assert drawn == draw(questions, 12, seed=0) != draw(questions, 12, seed=1) and draw(questions, 0, 0) == draw(questions, 99, 0) == questions
    assert [questions.index(q) for q in drawn] == sorted(questions.index(q) for q in drawn)


# --- captions --------------------------------------------------------------------------------------------------------------------

def test_words_of_a_caption():
    found = facts("First a dog runs to the left of the tree. Then it jumps over it.")
    assert (found["words"], found["time_words"], found["place_words"], found["refusal"]) == (12, 2, 2, False), "articles are no words"
    assert facts("I'm sorry, I cannot see it.")["refusal"] and not facts("")["repeated"]
    assert facts("up b c up b c up b c")["repeated"] == pytest.approx(4 / 7), "three of seven runs of three words are new"


def test_named_objects():
    track = MaskTrack((4, 4), (None,))
    objects = {str(n): SceneObject(str(n), text, track) for n, text in enumerate(("the brown dog", "a red ball", "the fast old man"))}
    medium = Medium("m", "frames", 4, 4, (0.0,), 2.5, objects)
    assert beside("A dog, brown and fast, follows a ball.", medium) == {"seconds": 2.5, "objects": 3, "named": 2}, "one word of three is not the man"


def test_captions_against_frames(videos, tmp_path, capsys):
    player = Player()
    table, out = asked_of_hound(videos, tmp_path), tmp_path / "captions.jsonl"
    more = write_videos(tmp_path / "more", ["v3"])
    with chat_server(player) as server:
        models = str(server.models(tmp_path / "m.yaml", "judge"))
        argv = ["--questions", table, "--models", models, "--frames", "4"]
        assert captions_main([*argv, "--shards", str(videos), str(more), "--out", str(out)]) == 0
        assert player.asked == [("caption_check", 4)] * 2
        assert captions_main([*argv, "--shards", str(videos), "--out", str(tmp_path / "b.jsonl")]) == 0
        assert len(player.asked) == 2, "the journal has the replies"
    summary = json.loads((tmp_path / "captions.jsonl.report.json").read_text())["captions"]
    assert summary["captions"] == summary["checked_by_judge"] == 2 and summary["without_caption"] == ["toy-train-v3"]
    assert (summary["claims_contradicted"], summary["missing_per_caption"], summary["captions_with_contradiction"]) == (0.25, 2.0, 1.0)
    assert (summary["median_words"], summary["with_time_words"], summary["same_as_another"]) == (5.0, 1.0, 1.0)
    assert summary["median_words_per_second"] == pytest.approx(5 / 4, rel=0.05)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["medium"] for row in rows] == ["toy-train-v1", "toy-train-v2"] and rows[0]["contradicted"] == ["it falls"]
    assert "claims contradicted" in capsys.readouterr().out


def test_captions_without_a_judge_and_with_one_that_talks(videos, tmp_path, capsys):
    table = asked_of_hound(videos, tmp_path)
    assert captions_main(["--questions", table, "--out", str(tmp_path / "a.jsonl")]) == 0
    assert "claims" not in capsys.readouterr().out
    for argv, told in ((["--frames", "3"], "no effect without --models"), (["--models", "m.yaml"], "without --shards")):
        assert captions_main(["--questions", table, "--out", str(tmp_path / "b.jsonl"), *argv]) == 2
        assert told in capsys.readouterr().err
    write_questions(tmp_path / "gone.jsonl", [*read_questions(table), Question("x", "hound", "toy-train-gone", "?", "correctness", caption="A cat.")])
    with chat_server(Player()) as server:
        models = str(server.models(tmp_path / "m.yaml", "judge"))
        argv = ["--questions", str(tmp_path / "gone.jsonl"), "--shards", str(videos), "--models", models, "--out", str(tmp_path / "d.jsonl")]
        assert captions_main(argv) == 0
    assert [json.loads(line)["reason"] for line in (tmp_path / "d.jsonl.skipped.jsonl").read_text().splitlines()] == ["no_medium"], "listed once"
    (tmp_path / "replies.jsonl").unlink()
    with chat_server(Player(spoil={"Compare it": "It is fine."})) as server:
        models = str(server.models(tmp_path / "m.yaml", "judge"))
        assert captions_main(["--questions", table, "--shards", str(videos), "--models", models, "--out", str(tmp_path / "c.jsonl")]) == 2
    assert "the judge checked no caption" in capsys.readouterr().err and len((tmp_path / "c.jsonl").read_text().splitlines()) == 2
    assert [json.loads(line)["reason"] for line in (tmp_path / "c.jsonl.skipped.jsonl").read_text().splitlines()] == ["bad_check"] * 2
    assert "claims_contradicted" not in json.loads((tmp_path / "c.jsonl.report.json").read_text())["captions"]


@pytest.mark.parametrize("text", [
    "[]", '{"claims": 3}', '{"claims": "3", "contradicted": [], "unseen": [], "missing": []}',
    '{"claims": true, "contradicted": [], "unseen": [], "missing": []}',
    '{"claims": 1, "contradicted": ["a"], "unseen": ["b"], "missing": []}', '{"claims": 2, "contradicted": [""], "unseen": [], "missing": []}',
    '{"claims": 0, "contradicted": [], "unseen": [], "missing": []}'])
def test_checks_that_cannot_be_read(text):
    with pytest.raises(SampleError) as error:
        parse_caption_check(text)
    assert error.value.reason == "bad_check"
