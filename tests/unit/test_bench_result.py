"""The result file: averages over examples, sums and groups, their intervals, paired differences, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.protocol import Protocol
from benchmarks.result import FIELDS, Metric, build, differences, read_result, write_json
from unipixel.errors import DataError

METRICS = (Metric("mean", lambda row: row["x"]), Metric("ratio", lambda row: (row["x"], row["w"])),
           Metric("macro", lambda row: row["x"], by="kind"), Metric("grade", lambda row: row["x"] * 5, unit="score_0_5"),
           Metric("chosen", lambda row: row["x"] if row["w"] > 1 else None, conditional=True))


def rows(values, weights, kinds):
    return {str(i): {"x": x, "w": w, "kind": k, "status": "ok", "problems": [], "resized": False}
            for i, (x, w, k) in enumerate(zip(values, weights, kinds, strict=True))}


def result(values, weights=None, kinds=None, **more):
    weights, kinds = weights or [1] * len(values), kinds or ["a"] * len(values)
    found = build(benchmark="toy", split="test", metrics=METRICS, headline=("mean",), rows=rows(values, weights, kinds),
                  trivial_rows=list(rows([0] * len(values), weights, kinds).values()), chance={"mean": 0.25, "ratio": None}, groups={"kind": "kind"},
                  missing=[], unknown=[], **({"bootstrap": 500, "seed": 0} | more))
    return found | {"card": {}}


def test_three_ways_to_average():
    found = result([1, 0, 1, 1], [4, 2, 1, 1], ["a", "a", "a", "b"])
    metrics = found["metrics"]
    assert metrics["mean"]["value"] == 0.75 and metrics["ratio"]["value"] == 3 / 8 and metrics["grade"]["value"] == 3.75
    assert metrics["macro"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["chosen"] == {"value": 0.5, "n": 2, "ci95": [0.0, 1.0]}
    assert found["averaging"] == {"mean": "examples", "ratio": "sums", "macro": "groups:kind", "grade": "examples", "chosen": "conditional"}
    assert found["units"]["grade"] == "score_0_5" and found["groups"]["kind"]["b"]["metrics"]["mean"]["value"] == 1
    assert found["trivial"]["mean"] == 0.25 and found["chance"] == {"mean": 0.25}, "a random option, where that is not what the trivial scores"
    assert json.loads(json.dumps(found["per_example"]["0"]["values"]))["ratio"] == [1.0, 4.0]


def test_intervals_are_those_of_resampled_examples():
    rng = np.random.default_rng(0)
    over, under = rng.random(60).tolist(), (1 + rng.random(60)).tolist()
    found = result(over, under, bootstrap=4000)["metrics"]
    draws = np.random.default_rng(1).integers(60, size=(4000, 60))
    expected = np.percentile(np.array(over)[draws].sum(1) / np.array(under)[draws].sum(1), [2.5, 97.5])
    assert found["ratio"]["ci95"] == pytest.approx(expected, abs=0.01)
    assert found["mean"]["ci95"][1] - found["mean"]["ci95"][0] == pytest.approx(2 * 1.96 * np.std(over) / 60**0.5, rel=0.1)
    assert result(over, under, bootstrap=0)["metrics"]["mean"]["ci95"] is None


def test_paired_differences():
    a, b = result([1, 1, 1, 0], [2, 1, 1, 1], list("aabb")), result([1, 0, 1, 0], [1, 1, 1, 1], list("aabb"))
    change = differences(a, b, 500, 0)
    assert change["mean"]["value"] == 0.25 and change["ratio"]["value"] == pytest.approx(3 / 5 - 2 / 4) and change["macro"]["value"] == 0.25
    assert change["chosen"]["value"] is None, "two models select other examples"
    assert differences(a, a, 500, 0)["ratio"] == {"value": 0.0, "n": 4, "ci95": [0.0, 0.0]}
    with pytest.raises(DataError, match="different examples"):
        differences(a, result([1]), 0, 0)


def test_a_metric_without_truth_has_no_value():
    found = build(benchmark="toy", split="", metrics=[Metric("j", lambda row: None), Metric("c", lambda row: (0, 0))], headline=(),
                  rows=rows([1], [1], "a"), trivial_rows=[], chance={}, groups={}, missing=[], unknown=[], bootstrap=10, seed=0)
    assert found["metrics"]["j"] == {"value": None, "n": 0, "ci95": None} and found["metrics"]["c"]["value"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("change, message", [
    (lambda r: r | {"schema": "unipixel-score/1"}, "score/1"), (lambda r: {k: v for k, v in r.items() if k != "card"}, "card"),
    (lambda r: [r], "list"), (lambda r: r | {"metrics": {}}, "edited")])
def test_damaged_files_are_refused(tmp_path, change, message):
    good = result([1, 0])
    write_json(tmp_path / "good.json", good)
    assert read_result(tmp_path / "good.json") == json.loads(json.dumps(good)) and set(FIELDS) == set(good)
    write_json(tmp_path / "bad.json", change(good))
    with pytest.raises(DataError, match=message):
        read_result(tmp_path / "bad.json")


def test_a_protocol_is_told_apart_by_any_field():
    hashes = {Protocol().hash, Protocol("seed").hash, Protocol(frames=16).hash, Protocol(prompt="{question}?").hash, Protocol(version=2).hash}
    assert len(hashes) == 5 and Protocol().hash == Protocol().hash
    assert Protocol().card()["prompt_hash"] == Protocol(frames=3).prompt_hash != Protocol(prompt="x").prompt_hash
