"""``unipixel film sample``: exact sizes, fair shares, the same bytes for the same seed, and the published allocation by name."""

from __future__ import annotations

import csv
import json
import random

import pytest

from data_tools.film.sample import allocate, allocate_as_seed, main
from tests.dataset_fixtures.language import jsonl
from unipixel.errors import EXIT_USER_ERROR

SHOWS = {"The Big Bang Theory": 40, "Castle": 25, "Friends": 17, "House M.D.": 9, "Grey's Anatomy": 6, "How I Met You Mother": 3}


@pytest.mark.parametrize(("strata", "size", "n", "total", "seed_total"), [(6, 15, 9, 9, 12), (8, 7, 13, 13, 16)])
def test_exact_totals_where_the_published_script_takes_too_many(strata, size, n, total, seed_total):
    pools = dict.fromkeys(range(strata), size)
    assert sum(allocate(pools, n).values()) == total and sum(allocate_as_seed(pools, n).values()) == seed_total


def test_takes_are_near_their_share_whatever_the_pools():
    rng = random.Random(0)
    for _ in range(500):
        pools = {i: rng.randint(1, 60) for i in range(rng.randint(1, 12))}
        total = sum(pools.values())
        n = rng.randint(1, total + 20)
        takes = allocate(pools, n)
        assert sum(takes.values()) == min(n, total)
        assert all(0 <= takes[i] <= pools[i] and abs(takes[i] - min(n, total) * pools[i] / total) < 1 for i in pools)
    assert allocate({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}, "the earlier one first"
    assert allocate_as_seed({"a": 5, "b": 5, "c": 3}, 2) == {"a": 1, "b": 1, "c": 0} and allocate_as_seed({"a": 2, "b": 1}, 9) == {"a": 2, "b": 1}
    assert allocate_as_seed(dict.fromkeys(range(8), 3), 13) == dict.fromkeys(range(8), 2)  # 1.625 each: 16 of 13
    assert allocate_as_seed({0: 10, 1: 10, 2: 10, 3: 10}, 10) == {0: 3, 1: 3, 2: 2, 3: 2}, "2.5 each is rounded to 2, then handed out in turn"


def table(tmp_path, shows=SHOWS):
    names = [name for name, count in shows.items() for _ in range(count)]
    random.Random(3).shuffle(names)
    return jsonl(tmp_path / "tvqa_val.jsonl", [{"qid": 100 + i, "show_name": name, "q": f"Où {i}?", "ts": "1.5-2", "part": i % 2}
                                              for i, name in enumerate(names)])


def sampled(tmp_path, name: str, *more: str):
    out = tmp_path / "processed" / f"{name}.jsonl"
    assert main(["--input", str(tmp_path / "tvqa_val.jsonl"), "--out", str(out), "--n", "33", *more]) == 0
    return {suffix: out.with_suffix(suffix).read_bytes() for suffix in (".jsonl", ".stats.json", ".qids.txt", ".weights.csv")}


def test_all_files_agree(tmp_path):
    rows = {row["qid"]: row for row in map(json.loads, table(tmp_path).read_text().splitlines())}
    files = sampled(tmp_path, "a")
    chosen = [json.loads(line) for line in files[".jsonl"].decode().splitlines()]
    assert len(chosen) == 33 == len({row["qid"] for row in chosen}) and all(rows[row["qid"]] == row for row in chosen)
    assert files[".qids.txt"].decode().split() == [str(row["qid"]) for row in chosen]
    stats = json.loads(files[".stats.json"])
    assert (stats["total_pool"], stats["target_n"], stats["taken"], stats["seed"]) == (100, 33, 33, 42)
    assert {show: s["pool"] for show, s in stats["by_show"].items()} == SHOWS
    for show, s in stats["by_show"].items():
        assert s["take"] == sum(row["show_name"] == show for row in chosen)
    weights = list(csv.DictReader(files[".weights.csv"].decode().splitlines()))
    assert [int(w["qid"]) for w in weights] == [row["qid"] for row in chosen]
    assert sum(float(w["weight"]) for w in weights) == pytest.approx(100), "the weights of a sample add up to the pool"
    assert {w["stratum"]: float(w["weight"]) for w in weights}["Castle"] == pytest.approx(25 / 8)


def test_the_seed_decides(tmp_path):
    table(tmp_path)
    assert sampled(tmp_path, "a") == sampled(tmp_path, "b") != sampled(tmp_path, "c", "--seed", "43")
    shows = [json.loads(line)["show_name"] for line in sampled(tmp_path, "d")[".jsonl"].decode().splitlines()]
    assert shows != sorted(shows, key=list(SHOWS).index), "shows are mixed"


def test_the_published_allocation_draws_as_the_published_script(tmp_path):
    """Buckets in the order of first appearance, a sample of each, then a shuffle, all from one generator."""
    buckets: dict[str, list[int]] = {}
    for row in map(json.loads, table(tmp_path, dict.fromkeys("abcdef", 15)).read_text().splitlines()):
        buckets.setdefault(row["show_name"], []).append(row["qid"])
    generator = random.Random(42)
    wanted = [qid for qids in buckets.values() for qid in generator.sample(qids, 2)]
    generator.shuffle(wanted)
    files = sampled(tmp_path, "a", "--n", "9", "--set_compat", "seed")
    assert files[".qids.txt"].decode().split() == list(map(str, wanted)) and json.loads(files[".stats.json"])["taken"] == 12


def test_any_fields_make_strata_and_small_tables_are_taken_whole(tmp_path, capsys):
    table(tmp_path)
    stats = json.loads(sampled(tmp_path, "a", "--by", "show_name", "part")[".stats.json"])
    assert len(stats["by_stratum"]) > len(SHOWS) and sum(s["take"] for s in stats["by_stratum"].values()) == 33
    assert "Castle / 0" in stats["by_stratum"] and "by_show" not in stats
    assert json.loads(sampled(tmp_path, "b", "--n", "5000")[".stats.json"])["taken"] == 100
    capsys.readouterr()
    sampled(tmp_path, "c", "--n", "2")
    assert "nothing was drawn from" in capsys.readouterr().out


def test_wrong_tables_and_calls(tmp_path, capsys):
    args = ["--input", str(tmp_path / "tvqa_val.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert main(args) == EXIT_USER_ERROR and "no table at" in capsys.readouterr().err
    jsonl(tmp_path / "tvqa_val.jsonl", [{"qid": 1, "show_name": "a"}, {"qid": 2}, {"qid": 1, "show_name": "b"}])
    assert main(args) == EXIT_USER_ERROR
    assert "2 questions cannot be drawn from: line 2 has no ['show_name']; line 3: qid 1 occurred before" in capsys.readouterr().err
    jsonl(tmp_path / "tvqa_val.jsonl", [])
    assert main(args) == EXIT_USER_ERROR and "holds no question" in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()
    table(tmp_path)
    assert main(args) == 0 and main(args) == EXIT_USER_ERROR and "exists" in capsys.readouterr().err and main([*args, "--force", "true"]) == 0
    for more, message in ((["--n", "0"], "--n=0"), (["--set_compat", "old"], "'old'"), (["--out", "x.csv"], ".jsonl"), (["--by", ""], "line 1 has")):
        assert main([*args, "--force", "true", *more]) == EXIT_USER_ERROR and message in capsys.readouterr().err
