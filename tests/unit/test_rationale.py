"""Rationales by a model: what it is asked, what is kept, and that citations of what is not there are found."""

from __future__ import annotations

import json
import re

import pytest

from data_tools.preference.command import EXIT_FOUND
from data_tools.rationale.command import main
from data_tools.rationale.context import Context, Shown, context_of
from data_tools.rationale.generate import parse_rationale
from data_tools.rationale.verify import verify
from launch import cli
from tests.chat_server import chat_server, pictures_of, text_of
from tests.dataset_fixtures.language import jpeg, povqa_film, povqa_item
from tests.film_scenes import ASKED, scene
from tests.packing import examples_of, run, skipped
from tests.unit.test_convert_tvqa_pooled import published
from unipixel.data.film_context import user_text
from unipixel.data.template import TemplateSettings
from unipixel.errors import EXIT_USER_ERROR, SampleError
from unipixel.sample import Subtitle

SAID = Subtitle(62.0, 64.5, "Put the gun down, Neo!"), Subtitle(64.5, 66.0, "[No speech]"), Subtitle(66.0, 70.0, "Follow the white rabbit.")
SCENE = Context(60.0, 72.0, (Shown(1, 60.0, "frame00061", ()), Shown(2, 64.0, "frame00065", SAID[:1]), Shown(3, 68.0, "frame00069", SAID[1:]),
                             Shown(4, 66.001, "KEY_00-01-06_0003", SAID[2:], key=True)))

HOLDS = ["Picture #2 shows him.", "In pictures 1, 2 and #4 he runs.", "Frames #1-3 show it.", "As #3 shows, he falls.",
         "Picture #2 (t=64.0s) is dark.", "frame00065.jpg and KEY_00-01-06_0003 show it.", "Segment (62.0-64.5s) says so.", "segment 66.0–70.0 s",
         "At 63.2 s he turns.",
         "Between 61 and 63 seconds; 60.0-72.0s.", "At 00:01:05 he stops, and again at 1:10.", "t=66.0", "He says \"Follow the white rabbit\" (#3).",
         "“put the gun down” is heard in picture 2", "He asks \"what is the matrix\" (#1).",
         "Picture 2: the sign says \"X\", and it lasts 300 seconds.",
         "Picture 1, and 500 s later, for about 90 s", "At 64.0s after the fall (#2).",
         "In the 1990s, as #1 shows, the late 1980s were over.", "A 300 second pause in #1.", "Picture #1's light, 2 pictures of 16:9."]
FAILS = {
    "no_picture": ["Picture #5 shows him.", "In pictures 1, 2 and #9 he runs.", "Frames 2-6 show it.", "#0 is dark.", "image 17",
                   "Picture number 8."],
    "no_file": ["frame00062.jpg shows it.", "KEY_00-01-07_0003 shows it."], "picture_time": ["Picture #2 (t=68.0s) is dark.", "Frame 1 (at 64 s)"],
    "no_segment": ["Segment (62.0-64.9s) says so.", "segments 1.0-2.0 s"],
    "outside_window": ["At 12.0s he turns.", "from 71.0 to 75.0 s", "At 00:10:00 he stops.", "t=90",
                       "At 73.5 s after the fall, in #2.", "In #1, at 1990s."],
    "not_said": ["He says \"Follow the black rabbit\" (#3).", "“down the gun put”, says picture 2", "\"Neo follow the white rabbit\" in #1"],
    "no_citation": ["He is sad because he lost.", "It lasts for 5 seconds.", "The sign says \"X\"."],
}


@pytest.mark.parametrize("text", HOLDS)
def test_citations_that_hold(text):
    verdict = verify(text, SCENE, told="What is the matrix? / A man in a coat")
    assert verdict.ok and sum(verdict.cited.values()), verdict


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in FAILS.items() for text in texts])
def test_citations_that_do_not(reason, text):
    verdict = verify(text, SCENE, told="What is the matrix?")
    assert {f.reason for f in verdict.findings} == {reason} and not verdict.ok, verdict


def test_a_context_survives_its_record():
    assert Context.read(json.loads(json.dumps(SCENE.plain()))) == SCENE and SCENE.segments == sorted(SAID, key=lambda s: s.start_s)
    for raw in (None, {}, {"window_s": [0, 1], "pictures": [{}]}, {"window_s": ["a", 1], "pictures": []}):
        with pytest.raises(SampleError, match="no context"):
            Context.read(raw)


def test_replies_are_read_strictly():
    assert parse_rationale("Reasoning: one\n two ") == parse_rationale("**Reasoning:** one two") == "one two"
    for text in ("He runs.", "Reasoning:", "So. Reasoning: x"):
        with pytest.raises(SampleError, match="does not begin with"):
            parse_rationale(text)


pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Of two films one trains, with two questions."""
    root = tmp_path_factory.mktemp("films")
    for film in ("one", "two"):
        items = [povqa_item(0, "00:00:05", "00:00:02 - 00:00:08"), povqa_item(1, "00:00:06", "00:00:04 - 00:00:09")]
        povqa_film(root / "in", film, items, pictures=[jpeg(n) for n in range(9)], text=[(2.5, 4.5, "Hide the gold.")], keys={0: jpeg(50)})
    for split in ("train", "test"):
        run("reasonvqa", root / "in", root / split, "--split", split)
    return root


def rationales(server, folder, shards, *more: str) -> int:
    return main(["--shards", str(shards), "--out", str(folder / "cot.jsonl"), "--models", str(server.models(folder / "m.yaml", "writer")), *more])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def good(body) -> str:
    segment = re.search(r"Segment \([\d.]+-[\d.]+s\): (?!\[)", text_of(body))
    return f"Reasoning: Picture #2 shows it, and {segment[0] if segment else 'picture 1'} agrees."


def test_records_have_the_published_fields(films, tmp_path):
    with chat_server(good) as server:
        assert rationales(server, tmp_path, films / "train", "--frames", "3") == 0
    first, second = rows(tmp_path / "cot.jsonl")
    film = first["vid_name"]
    assert list(first)[:14] == ["qid", "vid_name", "timestamp", "query_start_sec", "query_end_sec", "question", "answer_options",
                                "correct_answer_idx", "correct_answer_text", "context_summary", "final_instruction_prompt",
                                "relevant_chunk_filenames", "model_used", "generated_cot"]
    assert (first["qid"], first["timestamp"], first["query_start_sec"], first["query_end_sec"]) == (f"{film}_0", "00:00:05", 2, 8)
    assert (first["answer_options"], first["correct_answer_idx"], first["correct_answer_text"], first["model_used"]) == ([], None, "Thing 0.", "toy")
    assert first["relevant_chunk_filenames"] == ["frame00003", "frame00005", "frame00008", "KEY_00-00-05_0000"]
    assert "Segment (2.5-4.5s): Hide the gold." in first["context_summary"] and "paused at picture #4" in first["final_instruction_prompt"]
    assert "Right answer: Thing 0." in first["final_instruction_prompt"] and "paused" not in second["final_instruction_prompt"]
    assert [r["verdict"]["ok"] for r in (first, second)] == [True, True] and first["context"]["window_s"] == [2.0, 8.0]
    assert [pictures_of(body) for body in server.requests] in ([4, 3], [3, 4])
    assert rows(tmp_path / "cot.jsonl.rejected.jsonl") == []


def test_a_stopped_run_goes_on_and_a_recording_answers_without_a_model(films, tmp_path, capsys):
    def failing(body):
        return good(body) if "Thing 0" in text_of(body) else (401, {"error": {"message": "no"}})

    with chat_server(failing) as server:
        assert rationales(server, tmp_path, films / "train") == EXIT_USER_ERROR and not (tmp_path / "cot.jsonl").exists()
    kept = len(rows(tmp_path / "replies.jsonl"))
    with chat_server(good) as server:
        assert rationales(server, tmp_path, films / "train") == 0 and len(server.requests) == 2 - kept and kept <= 1
    first = (tmp_path / "cot.jsonl").read_text()
    (tmp_path / "recorded.yaml").write_text("writer: {model: toy, backend: recorded}\n")
    args = ["--shards", str(films / "train"), "--models", str(tmp_path / "recorded.yaml"), "--replies", str(tmp_path / "replies.jsonl")]
    assert main([*args, "--out", str(tmp_path / "again.jsonl")]) == 0 and (tmp_path / "again.jsonl").read_text() == first
    assert main([*args, "--out", str(tmp_path / "again.jsonl")]) == EXIT_USER_ERROR and "exists" in capsys.readouterr().err


def test_retries_are_bounded_and_what_fails_is_kept_apart(films, tmp_path):
    seen = []

    def spoilt(body):
        seen.append("Thing 0" in text_of(body))
        return "Reasoning: Picture #99 shows it." if seen[-1] and sum(seen) == 1 else "No label."

    with chat_server(spoilt) as server:
        assert rationales(server, tmp_path, films / "train", "--tries", "3") == 0
    assert len(server.requests) == 6 and rows(tmp_path / "cot.jsonl") == []
    (bad,) = rows(tmp_path / "cot.jsonl.rejected.jsonl")
    assert bad["verdict"]["reasons"][0]["reason"] == "no_picture" and bad["attempt"] == 0
    (skip,) = rows(tmp_path / "cot.jsonl.skipped.jsonl")
    assert skip["reason"] == "no_reasoning" and skip["key"].endswith("_1")
    assert json.loads((tmp_path / "cot.jsonl.report.json").read_text())["notes"] == {"rationales that fail: no_picture": 1}


def test_a_second_try_may_hold(films, tmp_path):
    seen = []

    def second(body):
        key = re.search(r"Thing \d", text_of(body))[0]
        seen.append(key)
        return good(body) if seen.count(key) > 1 else "Reasoning: At 900 s it is seen."

    with chat_server(second) as server:
        assert rationales(server, tmp_path, films / "train") == 0
    assert [r["attempt"] for r in rows(tmp_path / "cot.jsonl")] == [1, 1] and len(server.requests) == 4


def test_films_for_testing_are_refused(films, tmp_path, capsys):
    with chat_server(good) as server:
        assert rationales(server, tmp_path, films / "test") == EXIT_USER_ERROR and "must not be learnt" in capsys.readouterr().err
        assert not server.requests


def test_an_existing_file_is_checked(films, tmp_path, capsys):
    with chat_server(good) as server:
        rationales(server, tmp_path, films / "train")
    records = rows(tmp_path / "cot.jsonl")
    records[1]["generated_cot"] = "At 500 s he says \"we are doomed\"."
    foreign = {key: records[0][key] for key in ("qid", "question", "generated_cot")}  # as POVQA's generator writes them
    (tmp_path / "edited.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records, foreign]))
    capsys.readouterr()
    args = ["film", "rationales", "--verify_only", "true", "--records", str(tmp_path / "edited.jsonl"), "--out", str(tmp_path / "checked.jsonl")]
    assert cli.main(args) == EXIT_FOUND
    out = capsys.readouterr().out
    assert "outside_window: '500 s'" in out and "not_said" in out and "no_context" in out and "1 rationales in" in out
    assert [r["qid"] for r in rows(tmp_path / "checked.jsonl")] == [records[0]["qid"]]
    assert len(rows(tmp_path / "checked.jsonl.rejected.jsonl")) == 2
    args[-1] = str(tmp_path / "fine.jsonl")
    args[5] = str(tmp_path / "checked.jsonl")
    assert cli.main(args) == 0


def test_tvqa_questions_get_verified_rationales_only(tmp_path):
    published(tmp_path / "in", rows=None)
    (tmp_path / "in/tvqa_qa_release/tvqa_val.jsonl").rename(tmp_path / "in/tvqa_qa_release/tvqa_train.jsonl")
    options = ("--set", "pooling=BBLF", "--set", "context=ts")
    run("tvqa", tmp_path / "in", tmp_path / "train", *options)
    with chat_server(lambda body: "Reasoning: Picture #50 shows it." if "Question 2?" in text_of(body) else good(body)) as server:
        assert rationales(server, tmp_path, tmp_path / "train", "--tries", "1") == 0
    records = rows(tmp_path / "cot.jsonl")
    assert [r["qid"] for r in records] == [1, 4] and [r["qid"] for r in rows(tmp_path / "cot.jsonl.rejected.jsonl")] == [2, 3]
    first = records[0]
    assert first["vid_name"] == "castle_s01e07_seg02_clip_00"
    assert (first["timestamp"], first["query_start_sec"], first["query_end_sec"]) == ("10.0-20.0", 10, 20)
    assert first["answer_options"][1] == "option 1" == first["correct_answer_text"] and first["correct_answer_idx"] == 1
    both = tmp_path / "both.jsonl"
    both.write_text((tmp_path / "cot.jsonl").read_text() + (tmp_path / "cot.jsonl.rejected.jsonl").read_text())
    found = examples_of(run("tvqa", tmp_path / "in", tmp_path / "with", *options, "--set", f"rationales={both}"))
    assert found["q1"][1].rationale == first["generated_cot"] and found["q2"][1].rationale == ""
    assert skipped(tmp_path / "with") == {"both.jsonl record 3": "rationale_unverified", "both.jsonl record 4": "rationale_unverified"}


@pytest.mark.parametrize(("more", "message"), [
    (["--verify_only", "true"], "--records ''"), (["--records", "x"], "is for --verify_only"), (["--shards", "x"], "models is empty"),
    (["--verify_only", "true", "--records", "r.jsonl", "--limit", "1"], "['--limit'] have no effect"),
    (["--shards", "x", "--models", "m.yaml", "--tries", "0"], "tries=0"),
    (["--verify_only", "true", "--records", "r.jsonl", "--frames", "3"], "have no effect"),
    ([], "--shards is empty")])
def test_wrong_calls(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text("")
    assert main(["--out", "o.jsonl", *more]) == EXIT_USER_ERROR and message in capsys.readouterr().err


def test_pictures_are_called_as_in_training():
    """What a rationale cites is what the training prompt shows, card by card."""
    context, positions = context_of(scene().medium, frames=4, max_segments=99)
    settings = TemplateSettings(prompt="film_interleaved", answer_style="rationale", use_subtitles=True)
    told = user_text(ASKED, scene().medium, positions, settings, "<picture>")
    assert told.split("<picture>\n")[1:] == [picture.text + ("\n" if i + 1 < len(positions) else "") for i, picture in enumerate(context.pictures)]
