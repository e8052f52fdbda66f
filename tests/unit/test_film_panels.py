"""Panels: which questions and pictures they show, what is marked, what is missing, and the pages in a browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from benchmarks.film_report import choose, panels, tiles
from benchmarks.film_report.runs import RunCell, read_runs
from tests.browser import browse
from tests.film_runs import BBLF, FIELDS, FOLDERS, WA, film_item, tvqa_item, write_cell, write_pictures, write_run
from unipixel.errors import EXIT_USER_ERROR, DataError

HOSTILE = '</p><script>console.error("out")</script> & "quoted" <b>'


# --- which pictures --------------------------------------------------------------------------------------------------------------

def test_tiles_are_the_neighbours_of_the_moment_and_the_rest_evenly():
    times = [float(t) for t in range(100)]
    found = tiles.choose(times, 50.0, 36)
    assert len(found) == 36 and found == sorted(set(found)) and set(range(42, 58)) <= set(found) and 41 not in found and 58 not in found
    others = [t for t in found if not 42 <= t < 58]
    assert others[0] == 0 and others[-1] == 99 and len(others) == 20 and sum(t < 42 for t in others) in (9, 10)
    assert np.ptp(np.diff([t for t in others if t < 42])) <= 1, "evenly"
    assert tiles.choose(times, 0.5, 36)[:9] == list(range(9)), "one before, eight from the moment on"
    assert tiles.choose(times, None, 3) == [0, 50, 99] or tiles.choose(times, None, 3) == [0, 49, 99]


@pytest.mark.parametrize("n, limit", [(1, 1), (5, 36), (36, 36), (37, 36), (40, 36), (500, 36), (500, 7), (500, 1)])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0, 2.0])
def test_exactly_the_limit_where_there_are_enough(n, limit, share):
    found = tiles.choose([0.5 * i for i in range(n)], None if share is None else share * 0.5 * n, limit)
    assert len(found) == len(set(found)) == min(n, limit) and found == sorted(found) and found[0] >= 0 and found[-1] < n


def test_badges():
    assert [tiles.clock(t) for t in (0, 59.99, 61, 5025.4)] == ["00:00", "00:59", "01:01", "83:45"]


# --- which questions -------------------------------------------------------------------------------------------------------------

def group(name: str, *items, movie: str = "m"):
    return choose.Group(name, tuple(None if item is None else {"movie": movie, **item} for item in items))


def test_the_draw_is_repeatable_and_from_the_top():
    groups = [group(f"q{i:02d}", {"f1": i / 30}) for i in range(30)]
    value = {one.name: one.score("F1") for one in groups}
    drawn = choose.draw(groups, value, n=5, top=20, seed=1337, diverse=False)
    assert [one.name for one in drawn] == [one.name for one in choose.draw(groups[::-1], value, n=5, top=20, seed=1337, diverse=False)]
    assert len(drawn) == 5 and min(value[one.name] for one in drawn) >= 10 / 30
    assert drawn != choose.draw(groups, value, n=5, top=20, seed=1, diverse=False)
    assert {one.name for one in choose.draw(groups, value, n=9, top=3, seed=0, diverse=False)} == {"q27", "q28", "q29"}


def test_films_in_turn():
    groups = [group(f"a{i}", {"f1": 0.9}, movie="a") for i in range(20)] + [group("b", {"f1": 0.1}, movie="b"), group("c", {"f1": 0.2}, movie="c")]
    value = {one.name: one.score("F1") for one in groups}
    for seed in range(5):
        assert {one.source for one in choose.draw(groups, value, n=3, top=20, seed=seed, diverse=True)} == {"a", "b", "c"}
    assert {one.source for one in choose.draw(groups, value, n=3, top=20, seed=0, diverse=False)} == {"a"}


@pytest.mark.parametrize("item, found", [
    ({"pred_answer": "yes", "f1": 0.9}, set()), ({"pred_answer": "yes", "f1": 0.1}, {"low_f1"}),
    ({"pred_answer": "", "f1": 0.0}, {"parse_failure", "low_f1"}),
    ({"pred_answer": "yes", "f1": 0.3, "problems": ["no_final_answer"]}, {"parse_failure"}),
    ({"pred_answer": None, "f1": 0.0, "status": "decode_error"}, {"error_record"}), ({"pred_answer": "x", "error": "cut"}, {"error_record"}),
    ({"options": ["a", "b"], "pred_idx": 1, "correct": False}, {"wrong_option"}), ({"options": ["a", "b"], "pred_idx": 1, "correct": True}, set()),
    ({"options": ["a", "b"], "pred_idx": None, "correct": False}, {"parse_failure"}), ({"options": ["a"], "pred_idx": -1}, {"parse_failure"})])
def test_faults(item, found):
    assert choose.faults(item, 0.2) == found


def test_disagreement():
    def says(text):
        return {"pred_answer": text, "status": "ok"}

    assert not choose.disagree(group("a", says("The dog."), says("the dog"))) and choose.disagree(group("a", says("dog"), says("cat")))
    assert choose.disagree(group("a", says("dog"), None)) and choose.disagree(group("a", says("dog"), says("dog") | {"status": "time_out"}))
    pair = [{"options": ["x", "y"], "pred_idx": i, "pred_answer_raw": "B"} for i in (0, 1)]
    assert choose.disagree(group("a", *pair)) and not choose.disagree(group("a", pair[0], pair[0] | {"pred_answer_raw": "A)"}))
    assert choose.gap(group("a", {"f1": 0.2}, {"f1": 0.9}), "F1") == pytest.approx(0.7) and choose.gap(group("a", {"f1": 0.2}, None), "F1") == 0.2


def test_runs_of_other_questions_under_one_id_are_refused(tmp_path):
    write_cell(tmp_path, "base", "", WA, n=2)
    path = write_cell(tmp_path, "sft", WA, WA, n=2).with_name("predictions.jsonl")
    path.write_text(path.read_text().replace("Why 1?", "Why not?"))
    with pytest.raises(DataError, match="film_b_0 has question"):
        choose.grouped(read_runs(tmp_path))


# --- pages -----------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of 8 questions about two films; SFT fails on one, cannot be read on another and answers a third differently."""
    root = tmp_path_factory.mktemp("panels")
    write_cell(root / "runs", "base", "", BBLF, n=8)
    good = dict.fromkeys(FIELDS.values(), 0.9)
    bad = dict.fromkeys(FIELDS.values(), 0.0)
    items = [film_item(i, BBLF, good, pred_reasoning=HOSTILE) for i in range(8)]
    items[0] = film_item(0, BBLF, bad, status="decode_error", error="no frames", pred_answer=None, pred_reasoning=None)
    items[1] = film_item(1, BBLF, bad, problems=["no_final_answer"], reply=HOSTILE)
    items[2] = film_item(2, BBLF, bad, pred_answer="Because of <i>nothing</i>.")
    write_run(root / "runs" / FOLDERS["sft"] / BBLF / BBLF, items, method=BBLF, stage="sft", adapter=BBLF)
    for film in ("film_a", "film_b"):
        write_pictures(root / "films", film, (BBLF,), keys=[f"KEY_00-00-{20 + i}_{i:04d}" for i in range(4)])
    return root


def build(made, out, *more, code=0):
    flags = ["--runs", str(made / "runs"), "--pictures", str(made / "films"), "--out", str(out), *more]
    assert panels.main(flags) == code
    return (out / "index.html").read_text() if (out / "index.html").exists() else ""


def test_one_page(made, tmp_path):
    page = build(made, tmp_path / "out", "--n", "3")
    assert page.count('<section class="panel">') == 3 and page.count('<figure class="tile') == 3 * 36 and page.count('<figure class="tile key"') == 3
    assert page.count('class="box human"') == 3 and page.count('class="box model"') == 3 * 2
    assert "drawn with seed 1337 from the 8 of highest mean F1" in page
    assert "<script>console" not in page and "&lt;script&gt;console" in page and not re.search(r"https?://", page) and "../" not in page
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert len(sources) == 3 * 36 and all((tmp_path / "out" / source).is_file() for source in sources)
    lists = sorted((tmp_path / "out").glob("*.imagelist.txt"))
    assert len(lists) == 3 and all(len(path.read_text().splitlines()) == 36 for path in lists)
    assert [f"pictures/{line}" for path in lists for line in path.read_text().splitlines()] == sources
    assert build(made, tmp_path / "again", "--n", "3") == page, "deterministic"


def test_the_key_frame_stands_at_its_time_and_what_was_given_is_marked(made, tmp_path):
    page = build(made, tmp_path / "out", "--mode", "appendix") and (tmp_path / "out" / "0002_film_a_1.html").read_text()
    badges = re.findall(r'<figure class="tile([^"]*)">.*?<figcaption>(\d\d:\d\d)( ●)?<', page)
    assert len(badges) == 36 and [(time, bool(dot)) for kind, time, dot in badges if kind == " key"] == [("00:21", True)]
    assert [time for _, time, _ in badges] == sorted(time for _, time, _ in badges) and (badges[0][1], badges[-1][1]) == ("00:02", "01:01")
    assert {time for kind, time, dot in badges if dot} == {"00:02", "00:12", "00:21"}
    given = [dot for kind, time, dot in badges if time == "00:21" and not kind]
    assert given == [""], "the pooled picture of that second is another one"


def test_appendix_has_a_page_each_and_an_index(made, tmp_path):
    page = build(made, tmp_path / "out", "--mode", "appendix", "--embed", "true")
    files = re.findall(r'<a href="([^"]+)">(film_\w_\d)</a>', page)
    assert [name for _, name in files] == [f"film_{'ab'[i % 2]}_{i // 2}" for i in range(8)] and not (tmp_path / "out" / "pictures").exists()
    first, last = ((tmp_path / "out" / files[i][0]).read_text() for i in (0, -1))
    assert first.count("data:image/jpeg;base64,") == 36 and 'rel="prev"' not in first and f'href="{files[1][0]}" rel="next"' in first
    assert 'rel="next"' not in last and "no frames" in first and "decode_error" in first
    second = (tmp_path / "out" / files[1][0]).read_text()
    assert "its answer could not be read" in second and "parse_failure" in page


@pytest.mark.parametrize("more, names", [
    (["--errors", "error_record"], ["film_a_0"]), (["--errors", "parse_failure", "error_record"], ["film_a_0", "film_b_0"]),
    (["--disagree", "true", "--cells", "base:BBLF", "sft:BBLF:BBLF"], {"film_a_0", "film_a_1"})])
def test_filters(made, tmp_path, more, names):
    page = build(made, tmp_path / "out", "--mode", "appendix", *more)
    found = re.findall(r'<a href="[^"]+">(film_\w_\d)</a>', page)
    assert found == names if isinstance(names, list) else set(found) == names


def test_a_missing_picture_is_an_empty_tile_and_said(made, tmp_path, capsys):
    films = tmp_path / "films"
    for film in ("film_a", "film_b"):
        write_pictures(films, film, (BBLF,), keys=[f"KEY_00-00-{20 + i}_{i:04d}" for i in range(1 if film == "film_a" else 4)])
    (films / "film_a" / BBLF / "frame00022.jpg").unlink()
    flags = ["--runs", str(made / "runs"), "--pictures", str(films), "--out", str(tmp_path / "out"), "--mode", "appendix"]
    assert panels.main(flags) == EXIT_USER_ERROR
    assert "missing_picture" in capsys.readouterr().err
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {one["key"] for one in listed} == {f"film_a/{BBLF}/frame00022.jpg", *(
        f"film_a/KEY_FRAMES/KEY_00-00-{20 + i}_{i:04d}.jpg" for i in (1, 2, 3))}
    page = (tmp_path / "out" / "0002_film_a_1.html").read_text()
    assert page.count('<figure class="tile') == 36 and page.count("missing\"") == 2 and page.count("<img ") == 34
    assert len((tmp_path / "out" / "0002_film_a_1.imagelist.txt").read_text().splitlines()) == 34


def test_a_missing_film_and_an_unsafe_name_leave_a_page_without_pictures(tmp_path, capsys):
    items = [film_item(0, BBLF, {}, movie="../up", example_id="x/../y"), film_item(1, BBLF, {}, movie="gone")]
    write_run(tmp_path / "runs" / FOLDERS["base"] / BBLF, items, method=BBLF, stage="base")
    (tmp_path / "films").mkdir()
    flags = ["--runs", str(tmp_path / "runs"), "--pictures", str(tmp_path / "films"), "--out", str(tmp_path / "out"), "--mode", "appendix"]
    assert panels.main(flags) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "unsafe_path" in message and "no_film" in message
    assert sorted(path.name for path in (tmp_path / "out").glob("0*.html")) == ["0000_x_.._y.html", "0001_film_b_0.html"]
    assert "no pictures: no folder" in (tmp_path / "out" / "0001_film_b_0.html").read_text()


def test_a_question_that_a_run_lacks_is_said(tmp_path, capsys):
    write_cell(tmp_path / "runs", "base", "", BBLF, n=3)
    write_cell(tmp_path / "runs", "sft", BBLF, BBLF, n=2)
    for film in ("film_a", "film_b"):
        write_pictures(tmp_path / "films", film, (BBLF,), keys=["KEY_00-00-20_0000", "KEY_00-00-21_0001"])
    assert "not in this run" in build(tmp_path, tmp_path / "out", code=EXIT_USER_ERROR) and "no_prediction" in capsys.readouterr().err


def test_the_same_command_goes_on_and_another_is_refused(made, tmp_path, capsys):
    page = build(made, tmp_path / "out")
    stamp = next((tmp_path / "out" / "pictures").rglob("*.jpg"))
    before = stamp.stat().st_ino
    (tmp_path / "out" / "index.html").unlink()
    assert build(made, tmp_path / "out") == page and stamp.stat().st_ino == before, "copies are kept"
    build(made, tmp_path / "out", "--max_frames", "20", code=EXIT_USER_ERROR)
    assert "already holds something else" in capsys.readouterr().err


@pytest.mark.parametrize("more, message", [
    (["--cells", "sft:WA:BBLF"], "nearest"), (["--disagree", "true"], "name them with --cells"), (["--errors", "typo"], "'typo'"),
    (["--max_frames", "0"], "at least 1"), (["--variant", "text_only"], "no ReasonVQA runs of variant"), (["--task", "tvqa"], "no TVQA runs"),
    (["--score", "f1"], "'f1'"), (["--errors", "wrong_option"], "no question is left"), (["--pooling", "WA"], "trained and evaluated on")])
def test_wrong_settings_are_named(made, tmp_path, capsys, more, message):
    build(made, tmp_path / "out", *more, code=EXIT_USER_ERROR)
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- TVQA ------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tvqa(tmp_path_factory):
    root = tmp_path_factory.mktemp("tvqa")
    items = [tvqa_item(0, BBLF, 0), tvqa_item(1, BBLF, 2, options=["a", "b", HOSTILE, "d", "e"]), tvqa_item(2, BBLF, None),
             tvqa_item(3, BBLF, 1, ts=None)]
    write_run(root / "runs" / FOLDERS["tvqa"] / BBLF / BBLF, items, method=BBLF, stage="dpo", adapter=BBLF, dataset="TVQA")
    for i in range(4):
        write_pictures(root / "films", f"clip_{i}", (BBLF,), seconds=45, texts="tvqa")
    return root


def options(page):
    return re.findall(r'<tr class="([^"]*)"><td>(\w)\.', page)


def test_options_evidence_and_unmapped_replies(tvqa, tmp_path):
    build(tvqa, tmp_path / "out", "--task", "tvqa", "--mode", "appendix", "--cells", "dpo:BBLF:BBLF")
    right, wrong, unread, timeless = ((tmp_path / "out" / f"{i:04d}_q{i}.html").read_text() for i in range(4))
    assert options(right) == [("gold predicted", "A"), ("", "B"), ("", "C"), ("", "D"), ("", "E")]
    assert options(wrong)[1:3] == [("gold", "B"), (" predicted", "C")] and "<script>console" not in wrong and 'class="no">wrong' in wrong
    assert [kind for kind, _ in options(unread)] == ["", "", "gold", "", ""] and "parse_failure" in unread
    evidence = [re.findall(r'class="tile evidence".*?<figcaption>(\d\d:\d\d)', page) for page in (right, timeless)]
    assert evidence == [["00:03", "00:04", "00:05", "00:06", "00:07"], []] and right.count('<figure class="tile') == 36


# --- in a browser ----------------------------------------------------------------------------------------------------------------

def test_page_in_a_browser(made, tmp_path):
    build(made, tmp_path / "out", "--n", "1")
    _, console = browse(f"file://{tmp_path}/out/index.html")
    assert console == []
    browse(f"file://{tmp_path}/out/index.html", tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    red = (pixels[:, 0] > 150) & (pixels[:, 1:].max(axis=1) < 50)
    assert red.sum() > 20_000, "the copied pictures, red at the top, are drawn"


@pytest.mark.parametrize("state, shown", [("search=film_b", 4), ("fault=low_f1&search=why+2", 1)])
def test_index_filters_in_a_browser(made, tmp_path_factory, state, shown):
    out = tmp_path_factory.getbasetemp() / "index_pages"
    if not out.exists():
        build(made, out, "--mode", "appendix", "--embed", "true")
    dom, console = browse(f"file://{out}/index.html#{state}")
    assert console == [] and re.search(r'id="count">(\d+)<', dom)[1] == str(shown)
    assert len(re.findall(r"<tr data-faults=[^>]*>", dom)) - len(re.findall(r"<tr data-faults=[^>]* hidden", dom)) == shown


def test_names_of_runs():
    cell = RunCell("ReasonVQA", "sft", WA, BBLF, "text_only", None, {})
    assert cell.name == "SFT WA → BBLF (text_only)" and RunCell("ReasonVQA", "base", "", WA, "full", None, {}).name == "base → WA"
