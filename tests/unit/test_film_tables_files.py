"""Film tables as files: four formats of one tree, escaped, compiled, opened in a browser, with the sources of every value."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.film_report import tables
from tests.browser import browse
from tests.film_runs import BBLF, METHODS, WA, write_cell, write_tree

HOSTILE = r"a&b_50%<i>|#1"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All tables of a whole tree, with one adapter of an awkward name and one cell of another split."""
    root = tmp_path_factory.mktemp("tables")
    write_tree(root / "runs", n=8)
    write_cell(root / "runs", "sft", HOSTILE, WA, n=8, split_hash="other")
    assert tables.main(["--runs", str(root / "runs"), "--out", str(root / "out"), "--ci", "true", "--mixed", "true", "--permutations", "200",
                        "--bootstrap", "100"]) == 0
    return root / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_files(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [f"{kind}.{suffix}" for kind in ("leaderboard", "delta", "ablation") for suffix in ("md", "csv", "tex", "html")]
        + ["win_loss.csv", "sources.json"])


def test_markdown(written):
    text = (written / "leaderboard.md").read_text()
    assert "## ReasonVQA, base model and SFT" in text and "## TVQA, base model and DPO" in text and "a&b\\_50%&lt;i>\\|\\#1" in text
    assert re.search(r"\*\*0\.\d{3}\*\* \(", text) and re.search(r"<u>0\.\d{3}</u> \(", text) and "—" in text and re.search(r"\)†( ▪)? +\|", text)
    assert "| F1          | BBLF " in text and text.index("| F1 ") < text.index("| BLEU-1 ") < text.index("| ROUGE-L-R ") and "EM" not in text
    assert re.search(r"\| [+-]0\.\d{3} \([+-]0\.\d{3} – [+-]0\.\d{3}\) p = 0\.\d{3} ▪", (written / "delta.md").read_text())


def test_csv_has_every_value(written):
    found = rows(written / "leaderboard.csv")
    mine = [row for row in found if (row["dataset"], row["stage"], row["metric"], row["evaluated_on"], row["column"]) == (
        "ReasonVQA", "sft", "F1", "BBLF", "WA")]
    (row,) = mine
    assert len(row["value"]) > 5 and row["n"] == "8" and row["source"].endswith(f"{WA}/{BBLF}/predictions.summary.json")
    assert {row["kind"] for row in found} == {"score", "trivial: question", "trivial: longest option", "ceiling"}
    missing = [row["value"] for row in found if (row["stage"], row["column"], row["evaluated_on"]) == ("sft", HOSTILE, "BBLF")]
    assert missing == [""] * 5, "empty, not 0"
    assert {row["mixed"] for row in found if row["column"] == HOSTILE and row["evaluated_on"] == "WA"} == {"True"}
    assert all(float(row["p"]) <= float(row["p_holm"]) for row in rows(written / "delta.csv") if row["p"])
    assert {row["kind"] for row in rows(written / "delta.csv")} == {"difference", "difference of best"}
    items = rows(written / "win_loss.csv")
    assert len(items) == 4 * 4 * 8 and {row["outcome"] for row in items} <= {"win", "loss", "tie"}
    assert all((float(row["change"]) > 0) == (row["outcome"] == "win") for row in items)


def test_sources_of_every_value(written):
    found = json.loads((written / "sources.json").read_text())
    delta = next(one for one in found if (one["table"], one["metric"], one["row"], one["column"]) == ("ReasonVQA, DPO - SFT", "F1", "BBLF", "WA"))
    assert [source["run"].split(":")[0] for source in delta["sources"]] == ["dpo", "sft"]
    for source in delta["sources"]:
        for name in ("summary", "predictions"):
            assert source[name]["sha256"] == hashlib.sha256(Path(source[name]["path"]).read_bytes()).hexdigest()
    values = [row for kind in ("leaderboard", "delta", "ablation") for row in rows(written / f"{kind}.csv") if row["value"] and row["source"]]
    assert len([one for one in found if one["value"] is not None]) == len(values)


def test_latex_is_escaped_and_regular(written):
    text = "".join((written / f"{kind}.tex").read_text() for kind in ("leaderboard", "delta", "ablation"))
    assert r"a\&b\_50\%\textless{}i\textgreater{}\textbar{}\#1" in text and "---" in text
    assert re.search(r"\\filmshade \\shortstack\[r\]\{\\textbf\{0\.", text)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\begin{tabular}")
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.rstrip().endswith(r"\\")]
        assert len(lines) <= 50 and all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in lines)


@pytest.mark.parametrize("package", ["", r"\usepackage{colortbl}"])
def test_latex_compiles(written, tmp_path, package):
    """With the package that shades and without it."""
    engine = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("no LaTeX engine (tectonic or pdflatex) on this machine")
    inputs = "".join(rf"\input{{{written / kind}}}\clearpage " for kind in ("leaderboard", "delta", "ablation"))
    (tmp_path / "main.tex").write_text(rf"\documentclass{{article}}{package}\begin{{document}}{inputs}\end{{document}}")
    command = [engine, "main.tex"] if engine == "tectonic" else [engine, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if package and "colortbl.sty' not found" in done.stdout:
        pytest.skip("no colortbl on this machine")
    assert done.returncode == 0 and (tmp_path / "main.pdf").stat().st_size > 1000, done.stdout[-2000:]


def test_html_in_a_browser(written):
    text = (written / "leaderboard.html").read_text()
    assert "<i>|" not in text and "&lt;i&gt;|#1" in text and "<script" not in text and not re.search(r"https?://", text)
    assert re.search(r'class="best shaded">0\.\d{3}', text) and '<tr class="reference">' in text
    for kind in ("leaderboard", "delta"):
        dom, console = browse(f"file://{written}/{kind}.html")
        assert console == [] and dom.count("<table") >= 1
    assert len(METHODS) == 4 and 'rowspan="4"' in (written / "delta.html").read_text()
