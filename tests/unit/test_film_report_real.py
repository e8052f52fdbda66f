"""Panels and player of films that ``unipixel film prepare`` made: a real clip with its questions, and a clip of TVQA's kind."""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image

from benchmarks.film_report import panels, player
from data_tools.convert.film_questions import read_film_questions
from data_tools.film.command import main as prepare
from tests.film_runs import BBLF, FOLDERS, METHODS, WA, film_item, write_run
from unipixel.data.ledger import SkipLedger


def scene(out):
    return json.loads(re.search(r'id="data">(.*?)</script>', (out / "index.html").read_text(), re.DOTALL)[1])


def test_a_real_clip(shared_data, tmp_path):
    real, films = shared_data / "mini_real", tmp_path / "out_preprocessed"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "dog.mp4").symlink_to(real / "videos" / "dog.mp4")
    (tmp_path / "questions").mkdir()
    annotations = tmp_path / "questions" / "dog.json"
    annotations.write_text((real / "reasonvqa" / "annotations" / "dog.json").read_text())
    assert prepare(["--videos", str(tmp_path / "videos"), "--subtitles", str(real / "subtitles"), "--questions", str(tmp_path / "questions"),
                    "--out", str(films), "--size", "64x64", "--workers", "1"]) in (0, 2)  # 2: subtitles of the other clips have no film
    assert player.main(["--pictures", str(films), "--film", "dog", "--out", str(tmp_path / "player")]) == 0
    found = scene(tmp_path / "player")
    assert {len(track["pictures"]) for track in found["tracks"]} == {10} and len(found["said"]) > 1 and found["tracks"][0]["step"] == 1.0
    questions = read_film_questions(annotations, SkipLedger())
    assert found["keys"] == sorted({float(question.paused_s) for question in questions})
    items = [film_item(0, BBLF, {"f1": 0.5}, example_id=f"dog_{q.index}", movie="dog", index=q.index, timestamp=q.timestamp,
                       contextTimestamp=q.context, question=q.question, gold_answer=q.answer) for q in questions]
    write_run(tmp_path / "runs" / FOLDERS["base"] / BBLF, items, method=BBLF, stage="base")
    assert panels.main(["--runs", str(tmp_path / "runs"), "--pictures", str(films), "--out", str(tmp_path / "panels"), "--mode", "appendix"]) == 0
    for number, question in enumerate(questions):
        page = (tmp_path / "panels" / f"{number:04d}_dog_{question.index}.html").read_text()
        assert page.count('<figure class="tile') == question.window.length_s + 1 and page.count('class="tile key"') == 1 and "<img" in page


def test_a_clip_of_pictures(tmp_path):
    """Twelve pictures at three per second are four pooled ones, with the text table under TVQA's name."""
    (tmp_path / "frames" / "clip").mkdir(parents=True)
    for i in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / "frames" / "clip" / f"{i + 1:05d}.jpg")
    (tmp_path / "srt").mkdir()
    (tmp_path / "srt" / "clip.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello.\n")
    assert prepare(["--videos", str(tmp_path / "frames"), "--frames_fps", "3", "--subtitles", str(tmp_path / "srt"), "--out", str(tmp_path / "tvqa"),
                    "--size", "16x16", "--workers", "1", "--methods", "BBLF", "WA"]) == 0
    assert player.main(["--pictures", str(tmp_path / "tvqa"), "--film", "clip", "--out", str(tmp_path / "out"), "--methods", "BBLF", "WA"]) == 0
    found = scene(tmp_path / "out")
    assert [(track["method"], len(track["pictures"])) for track in found["tracks"]] == [(BBLF, 4), (WA, 4)] and set(METHODS) > {BBLF, WA}
    assert found["said"] == [{"start": 1.0, "end": 2.0, "text": "Hello."}] and found["end"] == 4.0
