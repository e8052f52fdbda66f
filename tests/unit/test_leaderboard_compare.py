"""Paired comparison: differences by hand, the right test for each kind of metric, changed examples, and what is refused."""

import json

import numpy as np
import pytest

from benchmarks.leaderboard import compare as comparing
from benchmarks.leaderboard.board import Style, build_boards
from benchmarks.leaderboard.compare import compare
from benchmarks.leaderboard.entries import Entry
from benchmarks.protocol import Protocol
from tests.result_files import make_result, make_row, save_result
from unipixel.errors import EXIT_USER_ERROR, DataError
from unipixel.metrics import mcnemar_exact, permutation_test


def made(seed: int, n: int = 30, gain: float = 0.0):
    """Rows of a system; the truth of each example (its kind, its union) is the same for every seed."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    out = {}
    for i in range(n):
        kind, union = ("what", "when")[fixed.random() < 0.3], int(fixed.integers(50, 400))
        iou = float(np.clip(rng.random() + gain, 0, 1))
        right, score = bool(rng.random() < 0.5 + gain), float(rng.integers(6))
        out[f"e{i:02d}"] = make_row(right, iou, kind=kind, inter=int(iou * union), union=union, score=score)
    return out


@pytest.fixture(scope="module")
def pair():
    return made(1), made(2, gain=0.2)


@pytest.fixture(scope="module")
def found(pair):
    a, b = (Entry(name, f"{name}.json", make_result(rows)) for name, rows in zip("ab", pair))
    return compare(a, b, permutations=2000, bootstrap=300), {m.metric: m for m in compare(a, b, permutations=2000, bootstrap=300).metrics}


def test_differences_by_hand(pair, found):
    (first, second), (_, metrics) = pair, found
    sides = [[np.array([row[name] for row in rows.values()], float) for name in ("right", "iou", "inter", "union")] for rows in (first, second)]
    right, iou = sides[1][0] - sides[0][0], sides[1][1] - sides[0][1]
    assert metrics["accuracy"].difference == pytest.approx(right.mean()) and metrics["mIoU"].difference == pytest.approx(iou.mean())
    assert metrics["cIoU"].difference == pytest.approx(sides[1][2].sum() / sides[1][3].sum() - sides[0][2].sum() / sides[0][3].sum())
    what = np.array([row["kind"] == "what" for row in first.values()])
    assert metrics["by kind"].difference == pytest.approx((iou[what].mean() + iou[~what].mean()) / 2)
    assert (metrics["accuracy"].better, metrics["accuracy"].worse) == ((right > 0).sum(), (right < 0).sum())
    assert all(m.ci95[0] <= m.difference <= m.ci95[1] and m.better + m.worse + m.same == m.n == 30 for m in metrics.values())
    assert "mIoU if right" not in metrics, "each system chooses its own examples there"


def test_each_metric_has_its_test(pair, found):
    (first, second), (_, metrics) = pair, found
    rights = np.array([(row["right"], second[i]["right"]) for i, row in first.items()])
    assert metrics["accuracy"].test == "McNemar"
    assert metrics["accuracy"].p == mcnemar_exact(int((rights[:, 0] & ~rights[:, 1]).sum()), int((~rights[:, 0] & rights[:, 1]).sum()))
    assert {metrics[name].test for name in ("mIoU", "cIoU", "by kind", "score")} == {"permutation"}
    ious = [np.array([row["iou"] for row in rows.values()]) for rows in pair]
    assert metrics["mIoU"].p == permutation_test(*ious, 2000, 0)
    assert all(m.p <= m.p_holm <= 1 for m in metrics.values()) and max(m.p_holm - m.p for m in metrics.values()) > 0


def test_the_group_test_weighs_each_group_equally():
    """A large gain in the small group only: clear by group means, unclear by examples."""
    first = {f"e{i}": make_row(False, 0.5 + 0.2 * (i % 2), kind="many" if i < 40 else "few") for i in range(46)}
    second = {i: row | {"iou": row["iou"] + 0.25 * (1 if row["kind"] == "few" else (-1) ** (int(i[1:]) // 2) * 0.4)} for i, row in first.items()}
    metrics = {m.metric: m for m in compare(Entry("a", "", make_result(first)), Entry("b", "", make_result(second))).metrics}
    assert metrics["by kind"].difference == pytest.approx(0.125) and metrics["by kind"].p < 0.05 < metrics["mIoU"].p


def test_equal_results_do_not_differ():
    rows = made(3)
    result = compare(Entry("a", "", make_result(rows)), Entry("b", "", make_result(rows)))
    assert result.changes == [] and all(m.difference == 0 and m.p == 1 and m.same == 30 for m in result.metrics)


def test_changed_examples_are_listed(pair, found):
    changes = found[0].changes
    first, second = pair
    assert {c.example_id for c in changes} == {i for i in first if first[i]["right"] != second[i]["right"]} and found[0].by == "accuracy"
    assert [c.b - c.a for c in changes] == sorted(c.b - c.a for c in changes)


@pytest.mark.parametrize("facts, rows, message", [
    ({"benchmark": "revos"}, None, "benchmark 'st-evidence-gen' and 'revos'"), ({"split": "val"}, None, "split 'test' and 'val'"),
    ({"protocol": Protocol(compat="seed", frames=8)}, None, "compat='none' and 'seed', frames=0 and 8"),
    ({"judge": {"model": "x"}}, None, "judge=None and"), ({"truth": "t1"}, None, "different truths, truth0 and t1"),
    ({}, made(1, n=29), "1 are only in one of them: \\['e29'\\]")])
def test_what_is_not_comparable_is_refused(facts, rows, message):
    a, b = Entry("a", "", make_result(made(1))), Entry("b", "", make_result(rows or made(1), **facts))
    with pytest.raises(DataError, match=message):
        compare(a, b)


def test_results_without_examples_are_refused():
    """As they come from another tool, with averages only; a table still holds them."""
    a, b = (Entry(name, "", make_result(made(1)) | {"per_example": {}}) for name in "ab")
    with pytest.raises(DataError, match="a holds no examples"):
        compare(a, b)
    (board,) = build_boards([a, b], [], Style(), baseline="a")
    assert len(board.rows) == 2 and board.differences == {}


def test_the_command(pair, tmp_path, capsys):
    files = [save_result(tmp_path / f"{name}.json", rows) for name, rows in zip(("sft", "dpo"), pair)]
    assert comparing.main([*files, "--out", str(tmp_path / "c.json"), "--listed", "2", "--permutations", "500"]) == 0
    text = capsys.readouterr().out
    assert "dpo - sft" in text and "McNemar" in text and "dpo is worse in accuracy on" in text and " more" in text
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["schema"] == "unipixel-comparison/1" and (saved["a"], saved["b"]) == ("sft", "dpo") and saved["changes"]
    assert {m["metric"] for m in saved["metrics"]} == {"accuracy", "mIoU", "cIoU", "by kind", "score"}
    assert comparing.main([*files, "--metrics", "cIoU", "--by", "mIoU"]) == 0 and "in mIoU on" in capsys.readouterr().out


@pytest.mark.parametrize("more, message", [
    (["--metrics", "mIoU if right"], "cannot be paired"), (["--by", "nope"], "'nope'"), (["--permutations", "3"], "at least 100"),
    (["--names", "x"], "1 names")])
def test_wrong_settings_are_named(pair, tmp_path, capsys, more, message):
    files = [save_result(tmp_path / f"{name}.json", rows) for name, rows in zip("ab", pair)]
    assert comparing.main([*files, *more]) == EXIT_USER_ERROR and message in capsys.readouterr().err
    assert comparing.main(files[:1]) == EXIT_USER_ERROR and "exactly two" in capsys.readouterr().err
