"""VideoPASTA and LLaVA-Hound: pairs by question, failure modes, provenance."""

from __future__ import annotations

import json

import pytest

from tests.dataset_fixtures import language
from tests.packing import examples_of, run, skipped
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Turn


def test_videopasta(tmp_path):
    language.videopasta(tmp_path / "in")
    data = run("videopasta", tmp_path / "in", tmp_path / "out", "--set", "fps=3")
    found = examples_of(data)
    assert sorted(found) == ["p1", "p4", "p5", "p6"]
    medium, example = found["p1"]
    assert medium.frame_times == pytest.approx([n / 3 for n in range(6)]) and example.task == "chat"
    assert example.turns == (Turn("user", "What about spatial?"), Turn("assistant", "It is so."))
    assert [(p.pair_id, p.rejected) for p in example.pairs] == [("p1", "It is not so (p1)."), ("p2", "It is not so (p2)."), ("p2@3", "Other.")]
    assert {p.failure_mode for p in example.pairs} == {"spatial"} and all(p.chosen == "It is so." for p in example.pairs)
    assert example.pairs[1].origin == {"table": "videopasta_7k.jsonl", "row": 2, "extra": {"candidate_no": 1}}
    assert [found[e][1].pairs[0].failure_mode for e in ("p4", "p5", "p6")] == ["temporal", "cross_frame", "other"]
    assert found["p4"][0].medium_id == "v_b" and all(data.rows["has_pairs"].to_pylist())
    assert skipped(tmp_path / "out") == {"row 7": "failure_mode", "v_gone.mp4": "no_frames", "row 9": "equal_sides", "row 10": "bad_record",
                                         "row 11": "bad_record", "row 12": "empty_split"}
    assert data.manifests[0]["notes"]["pairs without a failure mode: taken as other"] == 1


def test_llava_hound(tmp_path):
    frames = language.llava_hound(tmp_path / "in")
    data = run("llava_hound", tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert sorted(found) == ["x_1", "x_2", "y_1"]
    medium, example = found["x_1"]
    assert medium.frame_times == tuple(n / 2 for n in range(11)) and medium.duration_s == 5.5
    assert [bytes(f) for f in data.sample(0).frames] == frames["activitynet_v_x"]  # 2 before 10
    assert example.turns == (Turn("user", "Who sings?"), Turn("assistant", "A woman sings."))
    assert found["x_2"][1].turns == (Turn("user", "When?"), Turn("assistant", "A woman."))
    pair, = example.pairs
    assert (pair.chosen, pair.rejected, pair.failure_mode) == ("A woman.", "A man.", "correctness")
    assert pair.origin["extra"] == {"chosen_score": 4, "rejected_score": 2}
    assert skipped(tmp_path / "out") == {"row 4": "score_order", "row 5": "bad_record"}


def test_sources_that_cannot_be_read(tmp_path):
    language.videopasta(tmp_path / "in")
    with pytest.raises(ConfigError, match="no folder .*clips: set it with --set videos"):
        run("videopasta", tmp_path / "in", tmp_path / "a", "--set", "videos=clips")
    language.jsonl(tmp_path / "in/more.jsonl", [{"split": "val"}])
    with pytest.raises(ConfigError, match="name one with --set table"):
        run("videopasta", tmp_path / "in", tmp_path / "b")
    with pytest.raises(DataError, match=r"no rows of split 'train'; it has \['val'\]"):
        run("videopasta", tmp_path / "in", tmp_path / "c", "--set", "table=more.jsonl")
    with pytest.raises(ConfigError, match="stay inside"):
        run("videopasta", tmp_path / "in", tmp_path / "d", "--set", "table=../x.jsonl")
    (tmp_path / "in/more.jsonl").write_text("{}\n{")
    with pytest.raises(DataError, match="line 2 is not JSON"):
        run("videopasta", tmp_path / "in", tmp_path / "e", "--set", "table=more.jsonl")


def test_real_pairs(shared_data, tmp_path):
    root = shared_data / "mini_real"
    raw = {r["id"]: r for r in map(json.loads, (root / "preferences.jsonl").read_text(encoding="utf-8").splitlines())}
    data = run("videopasta", root, tmp_path / "out", "--split", "test", "--set", "table=preferences.jsonl", "--set", "fps=1")
    pairs = {p.pair_id: (p, x) for _, x in examples_of(data).values() for p in x.pairs}
    assert set(pairs) == {i for i, r in raw.items() if r["split"] == "test"} and pairs and not skipped(tmp_path / "out")
    for pair_id, (pair, example) in pairs.items():
        row = raw[pair_id]
        assert (pair.chosen, pair.rejected, pair.failure_mode, example.turns[0].text) == (
            row["chosen"], row["rejected"], row["failure_mode"], row["prompt"])
