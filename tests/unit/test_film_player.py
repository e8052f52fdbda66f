"""The player: four methods in step with what is said, in a browser; windows, missing methods and pictures."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest

from benchmarks.film_report import player
from tests.browser import browse
from tests.film_runs import BBLF, METHODS, WA, WAR, write_pictures
from unipixel.errors import EXIT_USER_ERROR


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Ten seconds of a film, paused at the fourth."""
    return write_pictures(tmp_path_factory.mktemp("films"), "the film #1 & <b>", seconds=10, keys=["KEY_00-00-04_0000"])


def build(films, out, *more, code=0, film="the film #1 & <b>"):
    assert player.main(["--pictures", str(films), "--film", film, "--out", str(out), *more]) == code
    return out / "index.html"


def scene(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def shown(dom):
    """Method -> number of the picture on the screen."""
    return {method: int(number) for method, number in re.findall(r'<img alt="(\w+)" src="[^"]*frame(\d+)\.jpg"(?! hidden)', dom)}


def said(dom):
    return re.search(r'<div id="said"[^>]*>(.*?)</div>', dom, re.DOTALL)[1]


@pytest.fixture(scope="module")
def page(films, tmp_path_factory):
    return build(films, tmp_path_factory.mktemp("player") / "out")


def test_files_and_data(page):
    text, found = page.read_text(), scene(page)
    assert [track["method"] for track in found["tracks"]] == list(METHODS) and {len(track["pictures"]) for track in found["tracks"]} == {10}
    assert all((page.parent / unquote(address)).is_file() for track in found["tracks"] for address in track["pictures"])
    assert (found["start"], found["end"], found["keys"]) == (0.0, 10.0, [4.0])
    assert [one["text"] for one in found["said"]] == ["Hello <i>you</i>.", "Go!"]
    assert "<i>you" not in text and "<h1>the film #1 &amp; &lt;b&gt;</h1>" in text and not re.search(r"https?://", text) and 'src="' not in text


@pytest.mark.parametrize("time, number, text", [("4.99", 5, "Hello &lt;i&gt;you&lt;/i&gt;."), ("5", 6, ""), ("99", 10, "")])
def test_all_methods_and_the_words_follow_the_time(page, time, number, text):
    dom, console = browse(f"file://{page}#t={time}")
    assert console == [] and shown(dom) == dict.fromkeys(METHODS, number) and said(dom) == text
    assert len(re.findall(r'class="mark" title="00:04" style="left: 40%;"|class="mark" style="left: 40%;" title="00:04"', dom)) == 1


def test_it_plays(page):
    """Five virtual seconds at double speed reach the end, all methods together, and the player stops there."""
    dom, console = browse(f"file://{page}#play=1&speed=4")
    assert console == [] and shown(dom) == dict.fromkeys(METHODS, 10) and 'id="play">play<' in dom and "00:10 of 00:10" in dom
    dom, _ = browse(f"file://{page}#play=1&speed=0.5")
    (number,) = set(shown(dom).values())
    assert 1 < number < 10 and len(shown(dom)) == 4 and 'id="play">pause<' in dom


def test_a_window_embedded(films, tmp_path):
    page = build(films, tmp_path / "out", "--start", "3.5", "--end", "6", "--embed", "true", "--methods", "WAR", "BBLF")
    found = scene(page)
    assert [track["method"] for track in found["tracks"]] == [WAR, BBLF] and not (tmp_path / "out" / "pictures").exists()
    assert {(track["start"], len(track["pictures"])) for track in found["tracks"]} == {(3.0, 3)} and found["end"] == 6
    assert all(address.startswith("data:image/jpeg;base64,") for track in found["tracks"] for address in track["pictures"])
    assert [one["text"] for one in found["said"]] == ["Hello <i>you</i>."]
    dom, console = browse(f"file://{page}")
    assert console == [] and dom.count('src="data:image/jpeg') == 2


def test_what_is_missing_is_shown_and_said(tmp_path, capsys):
    films = write_pictures(tmp_path / "films", "f", (BBLF, WA), seconds=6)
    (films / "f" / WA / "frame00003.jpg").unlink()
    page = build(films, tmp_path / "out", code=EXIT_USER_ERROR, film="f")
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {(one["reason"], one["key"].rpartition("/")[2]) for one in listed} == {
        ("missing_picture", "frame00003.jpg"), ("no_frames", "weighted_average_exponential"), ("no_frames", WAR)}
    assert "3 problems" in capsys.readouterr().err and page.read_text().count("this method is missing") == 2
    dom, console = browse(f"file://{page}#t=2.5")
    assert console == [] and shown(dom) == {BBLF: 3}, "never the neighbour's picture"


def test_clips_of_tvqa_and_films_without_texts(tmp_path, capsys):
    films = write_pictures(tmp_path / "films", "clip", (BBLF,), seconds=8, texts="tvqa")
    assert len(scene(build(films, tmp_path / "out", "--methods", "BBLF", film="clip"))["said"]) == 2
    (films / "clip" / "metadata_tvqa_text_centric.json").unlink()
    assert scene(build(films, tmp_path / "other", "--methods", "BBLF", film="clip", code=EXIT_USER_ERROR))["said"] == []
    assert "no_subtitles" in capsys.readouterr().err


@pytest.mark.parametrize("film, more, message", [
    ("gone", [], "no folder 'gone'"), ("../up", [], "stay inside"), ("the film #1 & <b>", ["--start", "5", "--end", "4"], "--end=4"),
    ("the film #1 & <b>", ["--start", "50"], "no pictures"), ("the film #1 & <b>", ["--methods", "WAX"], "WAX")])
def test_wrong_settings_are_named(films, tmp_path, capsys, film, more, message):
    build(films, tmp_path / "out", *more, code=EXIT_USER_ERROR, film=film)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
