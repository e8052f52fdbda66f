"""Leaderboards: what shares a table, marks, baselines, published numbers, escaping, and the four formats."""

import csv
import json
import re
import shutil
import subprocess

import pytest

from benchmarks.leaderboard import command
from benchmarks.leaderboard.board import Style, build_boards
from benchmarks.leaderboard.entries import Entry, load_entries
from benchmarks.leaderboard.published import FOLDER, published_numbers, read_published
from benchmarks.leaderboard.render import latex, latex_escape, markdown
from benchmarks.lmms_eval import EXTERNAL
from benchmarks.protocol import Protocol
from benchmarks.tasks import TASKS
from tests.browser import browse
from tests.result_files import make_result, make_row, save_result
from unipixel.errors import EXIT_USER_ERROR, DataError

HOSTILE = r"<script>alert(1)</script> & 50%_of #1 $x$ {a} ~^\ | `b`"


def rows(right: int, n: int = 10, iou: float = 0.5):
    return {f"e{i}": make_row(i < right, iou) for i in range(n)}


def entry(name, right, **facts):
    iou = facts.pop("iou", 0.5)
    return Entry(name, f"{name}.json", make_result(rows(right, iou=iou), **facts))


def board_of(*entries, **more):
    (board,) = build_boards(entries, [], Style(), **more)
    return board


def test_marks_and_ties():
    board = board_of(entry("a", 7), entry("b", 9), entry("c", 9, iou=0.7), entry("d", 3))
    assert [row.cells["accuracy"].mark for row in board.rows] == ["second", "best", "best", ""]
    assert [row.cells["mIoU"].mark for row in board.rows] == ["second", "second", "best", "second"]
    assert [row.cells["accuracy"].text for row in board.rows] == ["70.0", "90.0", "90.0", "30.0"]
    assert board_of(entry("a", 7)).rows[0].cells["accuracy"].mark == "", "nothing to be best of"
    equal_as_shown = board_of(entry("a", 5, iou=0.70001), entry("b", 5, iou=0.70002))
    assert {row.cells["mIoU"].mark for row in equal_as_shown.rows} == {"best"}


def test_intervals_and_baselines_stand_beside_the_values():
    board = board_of(entry("a", 7))
    cell = board.rows[0].cells["accuracy"]
    low, high = cell.bounds
    assert low < 0.7 < high and cell.interval == f"{100 * low:.1f} – {100 * high:.1f}" and cell.n == 10
    assert [(row.name, row.cells["accuracy"].text, row.cells["mIoU"].text) for row in board.baselines] == [
        ("trivial prediction", "20.0", "25.0"), ("chance", "20.0", "—")]


def test_other_protocols_truths_splits_and_judges_get_their_own_table():
    entries = [entry("a", 7), entry("b", 8, protocol=Protocol(compat="seed")), entry("c", 9, truth="truth1"), entry("d", 9, split="val"),
               entry("e", 9, judge={"model": "j"}), entry("f", 6), entry("g", 6, benchmark="revos")]
    boards = build_boards(entries, [], Style())
    assert "prompt" not in boards[0].own and len(boards[0].protocol["prompt"]) == 16, "by its hash"
    assert [[row.name for row in board.rows] for board in boards] == [["a", "f"], ["b"], ["c"], ["d"], ["e"], ["g"]]
    assert boards[0].own == {"compat": "none", "truth": "truth0", "judge": None} and boards[1].own["compat"] == "seed"
    assert boards[3].own == {} and boards[3].title == "st-evidence-gen / val" and boards[5].title == "revos / test"


def test_missing_predictions_are_said():
    board = board_of(entry("a", 7, missing=["e8", "e9"]))
    assert board.rows[0].note == "2 of 10 predictions missing, counted as wrong"


def test_columns_can_be_chosen_and_other_units_stay():
    board = board_of(entry("a", 7), metrics=["score", "cIoU"])
    assert board.metrics == ["score", "cIoU"] and board.rows[0].cells["score"].text == "2.50"
    assert board_of(entry("a", 7)).rows[0].cells["accuracy"].text == "70.0"
    (board,) = build_boards([entry("a", 7)], [], Style(percent=False))
    assert board.rows[0].cells["accuracy"].text == "0.700"


def test_differences_to_a_baseline():
    board = board_of(entry("sft", 5), entry("dpo", 9, iou=0.4), baseline="sft")
    (found,) = board.differences.values()
    assert [(d.metric, round(d.difference, 9), d.better, d.worse) for d in found] == [("accuracy", 0.4, 4, 0), ("mIoU", -0.1, 0, 10)]
    text = markdown([board], Style())
    assert "Paired differences to sft" in text and "+40.0" in text and "-10.0" in text and "4 / 0" in text


def test_published_numbers_stay_apart():
    entries = [entry("ours", 7, benchmark="revos", headline=("accuracy",))]
    entries[0].result["metrics"]["J&F"] = {"value": 0.5, "n": 10, "ci95": None}
    entries[0].result["units"]["J&F"] = "share"
    (board,) = build_boards(entries, published_numbers(), Style(), metrics=["J&F"])
    assert [row.name for row in board.rows] == ["ours"] and board.rows[0].cells["J&F"].mark == ""
    found = {row.name: row.cells["J&F"].text for source, some in board.published for row in some}
    assert found["UniPixel-3B"] == "62.1" and found["X2SAM-4B"] == "69.9"
    text = markdown([board], Style())
    assert text.index("ours") < text.index("Published elsewhere") < text.index("UniPixel-3B") and "quoted, not read in the original" in text


def test_published_numbers_belong_to_tasks_and_metrics():
    elsewhere = {"reasonvqa", "tvqa", *(f"lmms-eval/{name}" for name in EXTERNAL)}
    for source in published_numbers():
        assert source.source and source.read and source.entries
        for one in source.entries:
            assert all(0 <= value <= 5 for value in one.values.values()), one
            if one.benchmark not in elsewhere:
                metrics = {metric.name for metric in TASKS[one.benchmark].metrics}
                assert set(one.values) <= metrics, one


@pytest.mark.parametrize("text", ["- a", "source: a\nread: b\n", "source: a\nread: b\npercent: {x: {y: 3}}\n", "source: [",
                                  "source: a\nread: b\npercent: {}\nextra: 1\n"])
def test_malformed_published_files_are_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match="a.yaml"):
        read_published(tmp_path / "a.yaml")
    assert len(list(FOLDER.glob("*.yaml"))) >= 5


# --- files -----------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def written(tmp_path):
    files = [save_result(tmp_path / "a.json", rows(7), model=HOSTILE), save_result(tmp_path / "b.json", rows(9, iou=0.6), model="Größe — 3B")]
    assert command.main([*files, "--out", str(tmp_path / "out"), "--baseline", HOSTILE]) == 0
    return tmp_path / "out"


def test_markdown(written):
    text = (written / "leaderboard.md").read_text()
    assert "| Größe — 3B" in text and "**90.0**" in text and "<u>70.0</u>" in text and "| trivial prediction" in text
    assert "<script>" not in text and "&lt;script>" in text and r"\| \`b\`" in text


def test_html(written):
    text = (written / "leaderboard.html").read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text and 'class="best"' in text and not re.search(r"https?://", text)
    dom, console = browse(f"file://{written}/leaderboard.html")
    assert console == [] and dom.count("<table") >= 3


def test_csv_has_every_value_unrounded(written):
    lines = list(csv.DictReader((written / "leaderboard.csv").open()))
    mine = next(line for line in lines if line["system"] == "Größe — 3B" and line["metric"] == "accuracy")
    assert (mine["kind"], mine["value"], mine["n"], mine["unit"]) == ("measured", "0.9", "10", "share") and float(mine["ci95_low"]) < 0.9
    assert {line["kind"] for line in lines} >= {"measured", "baseline"} and len({line["protocol"] for line in lines}) == 1
    board = board_of(entry("=1+1", 7), entry("b", 8))
    assert "\n" + ",".join(["st-evidence-gen", "test", board.entries[0].key[-1], "truth0", "measured", "'=1+1"]) in "\n" + _csv([board])


def _csv(boards):
    from benchmarks.leaderboard.render import csv_text

    return csv_text(boards)


def test_latex_is_balanced_and_escaped(written):
    text = (written / "leaderboard.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2 == text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
    assert r"\textbf{90.0}" in text and r"\underline{70.0}" in text and "---" in text
    assert r"\textless{}script\textgreater{}" in text and r"\& 50\%\_of \#1 \$x\$ \{a\} \textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    for body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in (line for line in body[1].splitlines() if line.rstrip().endswith(r"\\")):
            assert len(re.findall(r"(?<!\\)&", line)) == len(body[0]) - 1, line
    opened = re.sub(r"\\[{}]", "", text)
    assert opened.count("{") == opened.count("}")


def test_latex_compiles(written, tmp_path):
    engine = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("no LaTeX engine (tectonic or pdflatex) on this machine")
    (tmp_path / "main.tex").write_text("\\documentclass{article}\\begin{document}\\input{out/leaderboard}\\end{document}")
    command_line = [engine, "main.tex"] if engine == "tectonic" else [engine, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and (tmp_path / "main.pdf").stat().st_size > 1000, done.stdout[-2000:]


def test_escapes():
    assert latex_escape("a\n b_c") == r"a b\_c" and latex_escape("—–") == "-----"
    assert r"\textbf" not in latex([board_of(entry("a", 3))], Style())


# --- what is refused -------------------------------------------------------------------------------------------------------------

def test_results_of_the_old_schema_are_read(tmp_path):
    """A file as ``unipixel score`` wrote it before rows carried their values."""
    new = make_result(rows(6))
    row = {"question_type": "what", "status": "ok", "correct": True, "iou": 0.5, "iop": 0.7, "t_mean": 0.6, "j": 0.4, "f": 0.6, "jf": 0.5,
           "n_frames": 3, "resized": False, "joint@0.3": True, "joint@0.5": True, "problems": []}
    names = [metric.name for metric in TASKS["st-evidence-gen"].metrics]
    old = {name: new[name] for name in ("n", "missing", "unknown", "status", "format_errors", "resized")} | {
        "schema": "unipixel-score/1", "benchmark": "st-evidence", "metrics": {name: {"value": 0.5, "n": 2, "ci95": None} for name in names},
        "trivial": dict.fromkeys(names, 0.1), "by_question_type": {}, "per_example": {"a": row, "b": row | {"correct": False, "iou": 0.1}},
        "card": {"protocol": {"name": "unipixel", "on_size_mismatch": "resize", "bound_th": 0.008}, "bootstrap": 0, "seed": 0,
                 "predictions": {"path": "p", "sha256": "00"}, "truth": {"path": ["x"], "masks": None, "id": "t"}}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    (one,) = load_entries([str(tmp_path / "old.json")], [])
    assert one.name == "old" and one.result["per_example"]["b"]["values"]["TIoU@0.3"] is False
    assert board_of(one).metrics == ["accuracy", "t-mean", "J&F", "joint@0.5"]
    del old["per_example"]["a"]["iou"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match="'iou'"):
        load_entries([str(tmp_path / "old.json")], [])


@pytest.mark.parametrize("more, message", [
    (["--names", "x"], "1 names for 2"), (["--names", "x", "x"], "called 'x'"), (["--metrics", "mIou"], "'mIoU'"),
    (["--baseline", "nope"], "none of")])
def test_wrong_settings_are_named(tmp_path, capsys, more, message):
    files = [save_result(tmp_path / f"{name}.json", rows(5)) for name in "ab"]
    assert command.main([*files, "--out", str(tmp_path / "out"), *more]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_files_that_are_no_results_are_refused(tmp_path, capsys):
    for text in ("{}", "[1]", "nothing", json.dumps(make_result(rows(3)) | {"card": {}})):
        (tmp_path / "a.json").write_text(text)
        assert command.main([str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]) == EXIT_USER_ERROR
    assert command.main(["--out", "x"]) == EXIT_USER_ERROR and "--out DIR are needed" in capsys.readouterr().err
