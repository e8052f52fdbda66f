"""Film tables: values against hand computation, marks, differences with their tests, ablations, and what is refused."""

from __future__ import annotations

import csv
import json
import os
from statistics import fmean

import pytest

from benchmarks.film_report import tables
from benchmarks.film_report.ablation import ablations
from benchmarks.film_report.delta import deltas, win_loss
from benchmarks.film_report.leaderboard import leaderboards
from benchmarks.film_report.runs import METRICS, read_runs
from benchmarks.film_runs.scoring import NAMES
from tests.film_runs import BBLF, FIELDS, FOLDERS, WA, WAR, film_item, write_cell, write_run, write_tree
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError

HOW = {"permutations": 1000, "bootstrap": 200, "seed": 0}


def flat(value):
    """Scores of which every item has the same."""
    return lambda number: dict.fromkeys(FIELDS.values(), value)


def texts(grid, metric="F1"):
    return {line.label: [line.values[column].cell.text for column in grid.columns] for line in grid.lines if line.metric == metric}


def marks(grid, label, metric="F1"):
    line = next(line for line in grid.lines if (line.metric, line.label) == (metric, label))
    return [line.values[column].cell.mark for column in grid.columns]


def by_title(grids):
    return {grid.title: grid for grid in grids}


# --- leaderboard -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def small(tmp_path):
    """Base and SFT on two poolings; one cell is missing, two are equal as they are displayed."""
    made = {("base", "", BBLF): 0.2, ("sft", BBLF, BBLF): 0.50001, ("sft", WA, BBLF): 0.50002, ("sft", WAR, BBLF): 0.3, ("sft", BBLF, WA): 0.4}
    for (stage, trained, evaluated), value in made.items():
        write_cell(tmp_path, stage, trained, evaluated, scores=flat(value))
    return tmp_path


def test_rows_columns_marks_and_missing_cells(small):
    (grid,) = leaderboards(read_runs(small))
    assert list(grid.columns.values()) == ["base", "BBLF", "WA", "WAR"]
    assert texts(grid) == {"BBLF": ["0.200", "0.500", "0.500", "0.300"], "WA": ["—", "0.400", "—", "—"],
                           "trivial: question": ["0.250"] * 4, "ceiling": ["1.000"] * 4}
    assert marks(grid, "BBLF") == ["", "best", "best", "second"], "ties as displayed share a mark"
    assert marks(grid, "WA") == [""] * 4, "a single value is not the best of anything"
    assert marks(grid, "ceiling") == [""] * 4
    assert {line.label: line.shaded for line in grid.blocks[0]} == {"BBLF": (BBLF,), "WA": (WA,), "trivial: question": (), "ceiling": ()}
    assert [block[0].metric for block in grid.blocks] == ["F1", "BLEU1", "BLEU4_BP", "ROUGE_L", "ROUGE_L_Reasoning"], "EM and null metrics left out"


def test_exact_match_intervals_and_chosen_metrics(small):
    (grid,) = leaderboards(read_runs(small), em=True, ci=True)
    assert grid.blocks[0][0].metric == "EM" and grid.blocks[1][0].values["base"].cell.interval == "0.150 – 0.250"
    assert [block[0].metric for block in leaderboards(read_runs(small), metrics=["ROUGE_L", "EM"])[0].blocks] == ["ROUGE_L", "EM"]
    with pytest.raises(ConfigError, match="'ROUGE_L'"):
        leaderboards(read_runs(small), metrics=["ROUGEL"])


def test_the_newest_summary_counts_and_is_named(small):
    folder = write_cell(small, "base", "", BBLF).parent
    old = write_run(folder, [film_item(0, BBLF, flat(0.9)(0))], method=BBLF, stage="base", name="older")
    os.utime(old, (1, 1))
    (grid,) = leaderboards(read_runs(small))
    assert any("newest of 2 summaries, predictions.summary.json" in note for note in grid.notes)
    os.utime(old, (2e9, 2e9))
    cell = next(cell for cell in read_runs(small) if cell.stage == "base")
    assert cell.value("F1") == 0.9 and cell.older == (folder / "predictions.summary.json",)


def test_without_training_the_base_stands_alone(tmp_path):
    write_cell(tmp_path, "base", "", WA, scores=flat(0.5))
    (grid,) = leaderboards(read_runs(tmp_path))
    assert texts(grid)["WA"] == ["0.500"] and list(grid.columns) == ["base"]


def test_summaries_without_their_identity_are_told_by_their_folders(tmp_path):
    """POVQA's own summaries say neither stage nor adapter nor split."""
    path = write_run(tmp_path / FOLDERS["dpo"] / BBLF / WA, [film_item(0, WA, {})], method=WA, stage="dpo")
    summary = json.loads(path.read_text())
    for name in ("stage", "adapter", "variant", "dataset", "split_hash", "trivial", "ceiling", "ci95"):
        del summary[name]
    path.write_text(json.dumps(summary | {"metrics": {"F1": 0.5}, "output_file": "/elsewhere/predictions.jsonl"}))
    (cell,) = read_runs(tmp_path)
    assert (cell.dataset, cell.stage, cell.trained, cell.evaluated, cell.variant) == ("ReasonVQA", "dpo", BBLF, WA, "full")
    assert list(cell.items) == ["film_a_0"] and cell.entry.result["metrics"] == {}
    assert texts(leaderboards([cell])[0])["WA"] == ["0.500", "—"]


def test_fields_of_items_are_those_that_evaluation_writes():
    assert {metric: field for field, metric in NAMES.items() if field != "accuracy"} == {m: f for m, f in METRICS.items() if m != "Accuracy"}


# --- differences -----------------------------------------------------------------------------------------------------------------

def test_differences_equal_hand_computation(tmp_path):
    runs = write_tree(tmp_path, (BBLF, WA))
    cells = {cell.key: cell for cell in read_runs(runs) if cell.dataset == "ReasonVQA" and cell.variant == "full"}
    grid, best = deltas(read_runs(runs), how=HOW)
    for line in grid.lines:
        for trained in (BBLF, WA):
            before, after = (fmean(item[METRICS[line.metric]] for item in cells[f"{stage}:{trained}:{line.evaluated}"].items.values())
                             for stage in ("sft", "dpo"))
            assert line.values[trained].cell.value == pytest.approx(after - before) and line.values[trained].cell.text == f"{after - before:+.3f}"
            assert 0 < line.values[trained].test.p <= line.values[trained].test.p_holm <= 1
    assert best.title == "ReasonVQA, best DPO - best SFT over training poolings"
    for line in best.lines:
        for evaluated in (BBLF, WA):
            tops = [max(cells[f"{stage}:{trained}:{evaluated}"].value(line.metric) for trained in (BBLF, WA)) for stage in ("dpo", "sft")]
            assert line.values[evaluated].cell.value == pytest.approx(tops[0] - tops[1]) and line.values[evaluated].test is None


def test_p_values_and_axes(tmp_path):
    """Eight of nine items that change change for the better: two-sided p = 20 / 512. DPO of WA on BBLF only, so nothing else has a value."""
    write_cell(tmp_path, "sft", WA, BBLF, n=9, scores=lambda i: dict.fromkeys(FIELDS.values(), float(i == 8)))
    write_cell(tmp_path, "dpo", WA, BBLF, n=9, scores=lambda i: dict.fromkeys(FIELDS.values(), float(i != 8)))
    grid, _ = deltas(read_runs(tmp_path), metrics=["F1"], how=HOW, ci=True)
    (line,) = grid.lines
    assert line.label == "BBLF" and list(grid.columns.values()) == ["BBLF", "WA"] and grid.heads == ("metric", "evaluated on")
    assert [line.values[column].cell.text for column in (BBLF, WA)] == ["—", "+0.778"]
    test = line.values[WA].test
    assert test.test == "McNemar" and test.p == pytest.approx(20 / 512) and (test.better, test.worse) == (8, 1)
    rows = list(win_loss(read_runs(tmp_path)))
    assert [row[8] for row in rows] == ["win"] * 8 + ["loss"] and {row[3] for row in rows} == {"F1"}


def test_no_pair_gives_no_grid(tmp_path):
    write_cell(tmp_path, "sft", WA, BBLF)
    write_cell(tmp_path, "dpo", BBLF, BBLF)
    assert deltas(read_runs(tmp_path), how=HOW) == []


def test_runs_without_scores_per_item_have_differences_without_p(tmp_path):
    for stage, value in (("sft", 0.5), ("dpo", 0.4)):
        write_run(tmp_path / FOLDERS[stage] / WA / WA, [film_item(0, WA, {})], method=WA, stage=stage, adapter=WA, metrics={"F1": value})
    grid = deltas(read_runs(tmp_path), how=HOW)[0]
    assert texts(grid) == {"WA": ["-0.100"]} and grid.lines[0].values[WA].test is None and "no p values" in grid.notes[-1]


# --- ablation --------------------------------------------------------------------------------------------------------------------

def test_ablations_may_be_positive_or_negative(tmp_path):
    write_cell(tmp_path, "dpo", WA, WA, scores=flat(0.5))
    write_cell(tmp_path, "dpo", WA, WA, scores=flat(0.6), variant="keyframe_only", max_frames=1)
    write_cell(tmp_path, "dpo", WA, WA, scores=flat(0.2), variant="frames_only")
    write_cell(tmp_path, "dpo", WA, BBLF, scores=flat(0.2), variant="frames_only")
    write_cell(tmp_path, "base", "", WA, scores=flat(0.2))
    (grid,) = ablations(read_runs(tmp_path), how=HOW)
    assert grid.title == "ReasonVQA, ablation of DPO" and list(grid.columns.values()) == ["full", "Δ keyframe_only", "Δ frames_only"]
    assert texts(grid) == {"WA → BBLF": ["—", "—", "—"], "WA → WA": ["0.500", "+0.100", "-0.300"]}
    assert "DPO WA → BBLF (frames_only): its full evaluation is missing" in grid.notes
    with pytest.raises(ConfigError, match="max_frames=16"):
        write_cell(tmp_path, "dpo", WA, WA, variant="frames_only", max_frames=16)
        ablations(read_runs(tmp_path), how=HOW)


# --- what is refused -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("facts", [{"split_hash": "other"}, {"max_frames": 16}, {"n": 11}, {"split_hash": None}])
def test_cells_of_other_settings_are_named_or_marked(tmp_path, facts):
    for evaluated in (BBLF, WA):
        write_cell(tmp_path, "sft", BBLF, evaluated)
    odd = write_cell(tmp_path, "sft", WA, WA, **facts)
    with pytest.raises(ConfigError, match=str(odd)):
        leaderboards(read_runs(tmp_path))
    (grid,) = leaderboards(read_runs(tmp_path), mixed=True)
    assert [line.values[WA].mixed for line in grid.blocks[0] if not line.reference] == [False, True]
    assert any(note.startswith("† SFT WA → WA: ") for note in grid.notes)


def test_other_trivial_values_are_named(tmp_path):
    write_cell(tmp_path, "sft", WA, BBLF)
    write_cell(tmp_path, "sft", WA, WA, trivial={"question": {"F1": 0.9}})
    with pytest.raises(ConfigError, match=r"trivial: question scores 0\.25"):
        leaderboards(read_runs(tmp_path))


def test_two_run_folders_of_one_kind_are_ambiguous(tmp_path):
    write_cell(tmp_path, "sft", WA, WA)
    write_cell(tmp_path, "sft", WA, WA, run="sft-qwen3")
    with pytest.raises(ConfigError, match="--run_names"):
        read_runs(tmp_path)
    assert len(read_runs(tmp_path, ["sft-qwen3"])) == 1
    with pytest.raises(ConfigError, match="'sft-qwen3'"):
        read_runs(tmp_path, ["sft-qwen"])


@pytest.mark.parametrize("change, message", [
    (lambda text: text.replace('"f1"', '"f1": 0.1, "x"', 1), "its items average"), (lambda text: text.partition("\n")[2], "has 11 items"),
    (lambda text: text + text.partition("\n")[0] + "\n", "repeats the item 'film_a_0'"), (lambda text: text[:-5], ":12 is not an item")])
def test_items_that_do_not_belong_to_their_summary_are_refused(tmp_path, change, message):
    for stage in ("sft", "dpo"):
        path = write_cell(tmp_path, stage, WA, WA).with_name("predictions.jsonl")
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message):
        deltas(read_runs(tmp_path), how=HOW)


@pytest.mark.parametrize("text", ["{}", "[]", "nothing", '{"metrics": {"F1": "high"}, "runs": 3, "method": "x"}'])
def test_malformed_summaries_are_named(tmp_path, capsys, text):
    write_cell(tmp_path, "sft", WA, WA).write_text(text)
    assert tables.main(["--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == EXIT_USER_ERROR
    assert "predictions.summary.json is not the summary of a run" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags, message", [(["--runs", "nowhere", "--out", "x"], "no *.summary.json"), (["--runs", "x"], "--out DIR"),
                                            (["--out", "x", "--bootstrap", "0"], "bootstrap=0")])
def test_settings_are_checked(flags, message, capsys):
    assert tables.main(flags) == EXIT_USER_ERROR and message in capsys.readouterr().err


def test_a_wrong_metric_of_the_win_list_is_named(tmp_path, capsys):
    runs = write_tree(tmp_path / "runs", (WA,), n=4)
    flags = ["--runs", str(runs), "--out", str(tmp_path / "out"), "--permutations", "100"]
    assert tables.main([*flags, "--by", "F2"]) == EXIT_USER_ERROR and "'F1'" in capsys.readouterr().err
    assert tables.main([*flags, "--by", "ROUGE_L"]) == 0
    assert {row["metric"] for row in csv.DictReader((tmp_path / "out" / "win_loss.csv").open())} == {"ROUGE_L"}


def test_worked_example_of_the_documentation(tmp_path):
    for (stage, trained), value in {("sft", BBLF): 0.50, ("sft", WA): 0.54, ("dpo", BBLF): 0.53, ("dpo", WA): 0.53}.items():
        write_cell(tmp_path, stage, trained, BBLF, scores=flat(value))
    cells, best = deltas(read_runs(tmp_path), metrics=["F1"], how=HOW)
    assert texts(cells) == {"BBLF": ["+0.030", "-0.010"]} and texts(best) == {"best DPO - best SFT": ["-0.010"]}


def test_worked_example_of_p(tmp_path):
    for stage, values in (("sft", [0.5] * 4), ("dpo", [0.7, 0.6, 0.8, 0.5])):
        write_cell(tmp_path, stage, WA, WA, n=4, scores=lambda i, values=values: dict.fromkeys(FIELDS.values(), values[i]))
    (line,) = deltas(read_runs(tmp_path), metrics=["F1"], how=HOW)[0].lines
    assert (line.values[WA].cell.text, line.values[WA].test.p) == ("+0.150", 0.25)
