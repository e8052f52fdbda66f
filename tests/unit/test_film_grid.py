"""``unipixel film grid``: training by evaluation pooling, dashes for what is missing, in three forms."""

from __future__ import annotations

import csv

import pytest

from benchmarks.film_runs.grid import main
from tests.film_runs import BBLF, FOLDERS, METHODS, WA, film_item, tvqa_item, write_run
from unipixel.errors import EXIT_USER_ERROR


@pytest.fixture
def runs(tmp_path):
    """TVQA over all adapters and methods but one; ReasonVQA of two supervised adapters and the base."""
    for a, adapter in enumerate(METHODS):
        for m, method in enumerate(METHODS):
            if (a, m) != (1, 2):
                items = [tvqa_item(n, method, n % 5 if n < 4 * a + m else None) for n in range(20)]
                write_run(tmp_path / FOLDERS["tvqa"] / adapter / method, items, method=method, stage="dpo", adapter=adapter, dataset="TVQA")
    for adapter in (BBLF, WA):
        items = [film_item(n, WA, {"f1": 0.25}) for n in range(2)]
        write_run(tmp_path / FOLDERS["sft"] / adapter / WA, items, method=WA, stage="sft", adapter=adapter)
    write_run(tmp_path / FOLDERS["base"] / WA, [film_item(n, WA, {"f1": 0.125}) for n in range(2)], method=WA, stage="base")
    return tmp_path


def grid(runs, *flags: str) -> int:
    return main(["--runs", str(runs), *flags])


def test_accuracy_grid_with_every_cell_and_a_dash(runs, capsys):
    assert grid(runs, "--run_names", FOLDERS["tvqa"]) == 0
    title, _, head, _, *rows, _ = capsys.readouterr().out.rstrip("\n").split("\n") + [""]
    assert title == "TVQA, dpo, Accuracy; columns: evaluated on" and head.split() == ["trained", "on", "WA", "WAE", "WAR", "BBLF"]
    at = {row.split()[0]: row.split()[1:] for row in rows}
    assert at["BBLF"] == ["0.050", "0.100", "0.150", "0.000"] and at["WA"][1] == "—" and len(at) == 4
    assert at["WAR"] == ["0.650", "0.700", "0.750", "0.600"]


def test_the_base_is_a_row_and_other_methods_stay_visible(runs, capsys):
    assert grid(runs, "--run_names", FOLDERS["sft"], FOLDERS["base"], "--format", "markdown") == 0
    lines = [line.strip("|").replace(" ", "").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[2] == ["base", "0.125", "—", "—", "—"] and lines[3][:2] == ["WA", "0.250"] and lines[4] == ["WAE", "—", "—", "—", "—"]


def test_csv_keeps_all_digits(runs, tmp_path):
    assert grid(runs, "--format", "csv", "--out", str(tmp_path / "grid.csv"), "--run_names", FOLDERS["tvqa"]) == 0
    rows = list(csv.DictReader((tmp_path / "grid.csv").open()))
    assert [row["trained on"] for row in rows] == ["WA", "WAE", "WAR", "BBLF"] and rows[0]["WAE"] == "" and rows[0]["dataset"] == "TVQA"


@pytest.mark.parametrize(("flags", "message"), [
    (["--metric", "Accuracyy"], "nearest: 'Accuracy'"), (["--variant", "text_only"], "no evaluation of variant='text_only'"),
    (["--run_names", "nothing"], "is no folder of")])
def test_refusals(runs, capsys, flags, message):
    assert grid(runs, *flags) == EXIT_USER_ERROR and message in capsys.readouterr().err
