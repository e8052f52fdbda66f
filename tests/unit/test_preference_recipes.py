"""VideoPASTA and LLaVA-Hound against a scripted server, from packed videos to packed pairs that the training reads."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter

import pytest
from PIL import Image

from data_tools.preference import hound, pasta
from data_tools.preference.chat import clients
from data_tools.preference.check import main as check_main
from data_tools.preference.filter import main as filter_main
from data_tools.preference.frames import FrameRule
from data_tools.preference.make import hound_main, pasta_main
from data_tools.preference.questions import read_questions
from data_tools.preference.score import main as score_main
from data_tools.preference.stats import main as stats_main
from data_tools.preference.steps import Media
from data_tools.validate import main as validate_main
from tests.chat_server import chat_server, text_of, write_videos
from tests.preference_roles import Player
from unipixel.data.ledger import SkipLedger
from unipixel.data.pair_groups import PairGroups
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.errors import ConfigError
from unipixel.sample import Example, Medium

ROLES = ("captioner", "writer", "answerer", "judge")
pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of 4 s at 8 frames per second."""
    return write_videos(tmp_path_factory.mktemp("videos") / "shards", ["v1", "v2"])


def run_pasta(server, videos, folder, **settings):
    ledger = SkipLedger()
    with clients(server.models(folder / "m.yaml", *ROLES), ("writer", "answerer"), folder / "replies.jsonl") as asked:
        chosen = pasta.PastaSettings(**{"queries": 1, "dense_fps": 4.0} | settings)
        made = pasta.make(Media([videos]), chosen, asked["writer"], asked["answerer"], ledger)
    return made, ledger


def run_hound(server, videos, folder, **settings):
    ledger = SkipLedger()
    with clients(server.models(folder / "m.yaml", *ROLES), ROLES[:3], folder / "replies.jsonl") as asked:
        made = hound.make(Media([videos]), hound.HoundSettings(**settings), asked["captioner"], asked["writer"], asked["answerer"], ledger)
    return made, ledger


# --- frames ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("rule", "chosen"), [
    (FrameRule(), list(range(12))), (FrameRule(fps=1), [0, 4, 8]), (FrameRule(fps=32), list(range(12))), (FrameRule(fps=2), [0, 2, 4, 6, 8, 10]),
    (FrameRule(count=3), [0, 6, 11]), (FrameRule(fps=2, count=2), [0, 10]), (FrameRule(fps=0.1), [0]), (FrameRule(count=1), [6])])
def test_frames_of_a_rule(rule, chosen):
    """Three seconds at 4 frames per second."""
    assert rule.choose([n / 4 for n in range(12)]) == chosen


def test_uneven_times():
    assert FrameRule(fps=1).choose([5.0, 5.2, 5.9, 6.4, 7.1]) == [0, 2, 4]


# --- VideoPASTA ------------------------------------------------------------------------------------------------------------------

def test_two_videos_three_modes_one_question(videos, tmp_path):
    """6 preferred replies and 18 candidates, all in distinct requests; the modes are asked for separately."""
    player = Player()
    with chat_server(player) as server:
        made, ledger = run_pasta(server, videos, tmp_path)
    assert not ledger.skips and len(made) == 6
    assert Counter(q.mode for q in made) == {"spatial": 2, "temporal": 2, "cross_frame": 2}
    assert sum(len(q.of("preferred")) for q in made) == 6 and sum(len(q.of("adversarial")) for q in made) == 18
    assert (player.count("queries"), player.count("answer"), player.count("mislead")) == (6, 6, 18)
    assert Counter(player.asked) == {("queries", 32): 6, ("answer", 16): 2, ("answer", 32): 4, ("mislead", 4): 18}
    for q in made:
        word, fps, count = {"spatial": ("nearer", 4.0, 128), "temporal": ("order", 0.0, 128), "cross_frame": ("same", 0.0, 32)}[q.mode]
        assert q.question_id.startswith(f"{q.medium}/{q.mode}/") and word in q.prompt
        (preferred,) = q.of("preferred")
        assert preferred.origin["frames"]["rule"] == {"fps": fps, "count": count, "width": 0}
        for n, candidate in enumerate(q.of("adversarial")):
            assert candidate.number == n and candidate.origin["frames"]["times"] == [0.0, 1.0, 2.0, 3.0]
            assert candidate.origin["frames"]["effective_fps"] == 1.0 and candidate.origin["prompt"]["name"] == "pasta_mislead"
            assert candidate.origin["sampling"]["temperature"] == 0.7 and candidate.origin["generator"] == "toy"
        assert len({c.origin["sampling"]["seed"] for c in q.of("adversarial")}) == 3
        assert q.origin["source"] == {"video": f"{q.medium.rsplit('-', 1)[1]}.mp4"}


def test_a_second_run_asks_nothing_and_gives_the_same(videos, tmp_path):
    player = Player()
    with chat_server(player) as server:
        first, _ = run_pasta(server, videos, tmp_path)
        asked = len(server.requests)
        second, _ = run_pasta(server, videos, tmp_path)
        assert first == second and len(server.requests) == asked == 30
        run_pasta(server, videos, tmp_path, seed=1)
        assert len(server.requests) == asked + 18  # the greedy ones do not depend on it


def test_the_controls_change_one_cause_each(videos, tmp_path):
    player = Player()
    with chat_server(player) as server:
        made, _ = run_pasta(server, videos, tmp_path, controls=True, modes=["temporal"])
    assert Counter(player.asked) == {("queries", 32): 2, ("answer", 32): 2, ("mislead", 4): 6, ("mislead", 32): 6, ("answer", 4): 6}
    for q in made:
        instruction, sampling, adversarial = (q.of(role)[0].origin for role in ("control_instruction", "control_sampling", "adversarial"))
        (preferred,) = q.of("preferred")
        assert instruction["prompt"] == adversarial["prompt"] and instruction["frames"] == preferred.origin["frames"]
        assert sampling["frames"] == adversarial["frames"] and sampling["prompt"] == preferred.origin["prompt"]


def test_bad_replies_are_listed_and_lose_only_themselves(videos, tmp_path):
    player = Player(spoil={"same time": "", "nearer, which is left": "I cannot.", "stays the same and what changes": '["Where is the broken one?"]',
                           "Where is the broken one?": (400, {"error": {"message": "too many pictures"}})})
    with chat_server(player) as server:
        made, ledger = run_pasta(server, videos, tmp_path)
    assert [q.mode for q in made] == ["temporal", "temporal"]
    assert [len(q.of("adversarial")) for q in made] == [2, 2]
    assert ledger.counts == {"refused": 8, "bad_queries": 2, "empty_reply": 2, "no_preferred": 2}
    assert {s.key.rsplit("/", 1)[-1] for s in ledger.skips if s.reason == "empty_reply"} == {"0"}


def test_a_video_that_is_too_sparse_is_listed(tmp_path):
    folder = write_videos(tmp_path / "shards", ["v1"], fps=1)
    with chat_server(Player()) as server:
        made, ledger = run_pasta(server, folder, tmp_path)
    assert not made and ledger.counts == {"sampling_equal": 3} and not server.requests


def test_text_and_images_have_no_frames_to_leave_out(tmp_path):
    with ShardWriter(tmp_path / "shards", dataset="toy", split="train") as writer:
        writer.write(Medium("words", "none"), [Example("e", "evidence", "What?", answer="x")], [])
    with chat_server(Player()) as server:
        assert run_pasta(server, tmp_path / "shards", tmp_path)[1].counts == {"no_video": 1}
        assert run_hound(server, tmp_path / "shards", tmp_path)[1].counts == {"no_frames": 1}


# --- LLaVA-Hound -----------------------------------------------------------------------------------------------------------------

def test_captions_questions_candidates(videos, tmp_path):
    player = Player()
    with chat_server(player) as server:
        made, ledger = run_hound(server, videos, tmp_path)
        drawn = [body for body in server.requests if body["temperature"]]
    assert not ledger.skips and len(made) == 6 and all(len(q.of("sample")) == 6 for q in made)
    assert Counter(player.asked) == {("caption", 8): 2, ("dialogues", 0): 2, ("answer", 8): 36}  # 2 per second would be 8 of 4 s
    assert len(drawn) == 36 and {(b["temperature"], b["top_p"]) for b in drawn} == {(1.0, 0.95)} and len({b["seed"] for b in drawn}) == 36
    for q in made:
        assert q.reference.startswith("It falls") and "scene" in q.caption and q.mode == "correctness"
        assert q.origin["caption"]["prompt"]["name"] == "hound_caption" and q.origin["question"]["prompt"]["name"] == "hound_questions"


def test_a_caption_without_three_questions_is_dropped(videos, tmp_path):
    player = Player()

    def answer(body):
        said = player(body)
        return said.rsplit("\n", 1)[0] if "This describes" in text_of(body) and "Q3" in said and player.count("dialogues") == 1 else said

    with chat_server(answer) as server:
        made, ledger = run_hound(server, videos, tmp_path)
    assert len(made) == 3 and ledger.counts == {"bad_questions": 1}


def test_wide_frames_are_made_smaller(videos, tmp_path):
    with chat_server(Player()) as server:
        run_hound(server, videos, tmp_path, width=16, frames=1)
        url = next(part["image_url"]["url"] for part in server.requests[0]["messages"][0]["content"] if part["type"] == "image_url")
    assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size == (16, 12)


# --- all steps -------------------------------------------------------------------------------------------------------------------

def test_pasta_from_videos_to_training(videos, tmp_path, capsys):
    """make, score, filter, stats, check as commands; every pair has an all-true verdict, and the training reads them all."""
    player = Player()
    with chat_server(player) as server:
        models = str(server.models(tmp_path / "m.yaml", *ROLES, price_in=1.0))
        table, judged, out = (str(tmp_path / name) for name in ("q.jsonl", "judged.jsonl", "pairs"))
        assert pasta_main(["--shards", str(videos), "--models", models, "--out", table, "--queries", "4", "--controls", "true"]) == 0
        assert "cost 0.0" in capsys.readouterr().out
        assert score_main(["--questions", table, "--by", "verdict", "--models", models, "--out", judged]) == 0
        assert player.count("verdict") == 24 * 9
    assert stats_main(["--questions", judged]) == 0
    assert {"adversarial", "control_instruction", "control_sampling"} <= set(capsys.readouterr().out.split())
    assert filter_main(["--questions", judged, "--shards", str(videos), "--out", out, "--total", "15", "--dataset", "mine"]) == 0
    data = ShardDataset(out)
    groups = PairGroups(data)
    assert groups.modes == {"spatial": 5, "temporal": 5, "cross_frame": 5} and not groups.left_out and len(groups) == 15
    pairs = [groups.sample(n).examples[0].pairs[0] for n in range(15)]
    assert all(p.origin["rejected"]["verdict"]["misaligned"] and p.origin["chosen"]["role"] == "preferred" for p in pairs)
    assert all({"generator", "prompt", "sampling", "request", "frames"} <= p.origin[side].keys() for p in pairs for side in ("chosen", "rejected"))
    assert all(p.origin["rejected"]["judged"]["verdict"]["prompt"]["name"] == "pasta_filter" for p in pairs)
    listed = Counter(json.loads(line)["reason"] for line in (tmp_path / "pairs/skipped.jsonl").read_text().splitlines())
    questions = read_questions(judged)
    refused = sum(not c.verdict["misaligned"] for q in questions for c in q.of("adversarial"))
    assert listed["verdict"] == refused > 10
    assert validate_main(["--folders", out, "--workers", "1"]) == 0
    assert stats_main(["--shards", out]) == 0 and check_main(["--shards", out]) == 0


def test_hound_from_videos_to_training(videos, tmp_path, capsys):
    player = Player()

    def answer(body):
        return "Score: 4.5" if "graded" in text_of(body) and "thing 2 of" in text_of(body) else player(body)

    with chat_server(answer) as server:
        models = str(server.models(tmp_path / "m.yaml", *ROLES))
        table, judged, out = (str(tmp_path / name) for name in ("q.jsonl", "judged.jsonl", "pairs"))
        assert hound_main(["--shards", str(videos), "--models", models, "--out", table]) == 0
        assert score_main(["--questions", table, "--by", "caption", "--models", models, "--out", judged]) == 0
        grades = [body for body in server.requests if "graded" in text_of(body)]
    assert len(grades) == 24 + 2 * 12  # the twelve that cannot be read are asked once more
    graded = {q.question_id: [c.score for c in q.of("sample")] for q in read_questions(judged)}
    assert all((score is None) == name.endswith("/1") for name, scores in graded.items() for score in scores)
    assert filter_main(["--questions", judged, "--shards", str(videos), "--out", out]) == 0
    groups = PairGroups(ShardDataset(out))
    mixed = [scores for scores in graded.values() if None not in scores and min(scores) < 3 <= max(scores)]
    assert len(groups) == len(mixed) > 0
    for n in range(len(groups)):
        (pair,) = groups.sample(n).examples[0].pairs
        assert pair.origin["chosen"]["score"] >= 3 > pair.origin["rejected"]["score"]
    reasons = Counter(json.loads(line)["reason"] for line in (tmp_path / "pairs/skipped.jsonl").read_text().splitlines())
    assert reasons["unscored"] == 2
    assert score_main(["--questions", table, "--by", "verdict", "--models", models, "--out", str(tmp_path / "x")]) == 2
    assert "nothing was scored by verdict" in capsys.readouterr().err


def test_a_run_that_makes_nothing_fails_and_says_why(videos, tmp_path, capsys):
    with chat_server(Player(spoil={"Write": "no"})) as server:
        models = str(server.models(tmp_path / "m.yaml", *ROLES))
        assert pasta_main(["--shards", str(videos), "--models", models, "--out", str(tmp_path / "q.jsonl")]) == 2
    assert "bad_queries" in capsys.readouterr().err and not (tmp_path / "q.jsonl").exists()
    assert len((tmp_path / "q.jsonl.skipped.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(("settings", "told"), [({"modes": ["space"]}, "modes"), ({"sparse_fps": 40.0}, "dense_fps"), ({"queries": 0}, "queries")])
def test_pasta_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        pasta.PastaSettings(**settings)


@pytest.mark.parametrize(("settings", "told"), [({"candidates": 1}, "at least 2"), ({"temperature": 0.0}, "greedy"), ({"top_p": 2.0}, "top_p")])
def test_hound_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        hound.HoundSettings(**settings)
