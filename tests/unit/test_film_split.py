"""Which films are in which part, and the annotations they are counted from."""

from __future__ import annotations

import json

import pytest

from data_tools import pack
from data_tools.convert.film_questions import question_files, read_film_questions
from data_tools.convert.film_split import divide
from data_tools.film.split import main
from launch import cli
from tests.dataset_fixtures.common import write
from tests.dataset_fixtures.language import jpeg, povqa_film, povqa_item
from tests.packing import examples_of, run, skipped
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, SampleError

COUNTS = {"a_beautiful_mind": 22, "a_fistful_of_dollars": 17, "all_quiet_on_the_western_front": 30, "hero": 17, "in_the_mood_for_love": 14,
          "knives_out": 23, "parasite": 19, "police_story": 21, "spirited_away": 20, "the_intouchables": 15, "the_matrix": 24,
          "the_social_dilemma": 17}
TRAIN = ("police_story", "knives_out", "all_quiet_on_the_western_front", "spirited_away", "the_intouchables", "parasite", "the_social_dilemma",
         "hero", "in_the_mood_for_love", "a_beautiful_mind")
HASH = "be9d79865611504e"


def test_the_published_films_are_divided_as_published():
    for names in (COUNTS, tuple(COUNTS)[::-1]):
        division = divide(names)
        assert division.train == TRAIN and set(division.test) == {"a_fistful_of_dollars", "the_matrix"} and not division.validation
        assert division.hash == HASH


def test_validation_films_come_out_of_training():
    division = divide(COUNTS, validation=2)
    assert division.train + division.validation == TRAIN and division.validation == ("in_the_mood_for_love", "a_beautiful_mind")
    assert division.test == divide(COUNTS).test and division.hash != HASH
    assert divide([*COUNTS, "another"]).hash != HASH and divide(COUNTS, seed=43).test != divide(COUNTS).test


def test_one_film_is_left_out():
    for fold in ("the_matrix", "10"):
        division = divide(COUNTS, fold=fold, validation=1)
        assert division.test == ("the_matrix",) and len(division.train) == 10 and len(division.validation) == 1
        assert set(division.train + division.validation + division.test) == set(COUNTS)
    assert {divide(COUNTS, fold=str(n)).test[0] for n in range(12)} == set(COUNTS)
    assert divide(("7", "8"), fold="7").test == ("7",), "names go before places"


@pytest.mark.parametrize(("options", "message"), [
    ({"fold": "matrix"}, "fold='matrix' is neither a film.*nearest: 'the_matrix'"), ({"fold": "12"}, "place from 0 to 11"),
    ({"fold": "0", "ratio": 0.5}, "no effect"), ({"ratio": 1.0}, "split_ratio=1.0"), ({"ratio": 0.05}, "0 for training"),
    ({"validation": 10}, "validation=10"), ({"validation": -1}, "validation=-1"),
])
def test_wrong_divisions(options, message):
    with pytest.raises(ConfigError, match=message):
        divide(COUNTS, **options)
    with pytest.raises(ConfigError, match="set validation"):
        divide(COUNTS).films("validation")
    with pytest.raises(ConfigError, match="'valid' is not one of.*nearest: 'validation'"):
        divide(COUNTS).films("valid")


def annotations(root) -> None:
    for film, count in COUNTS.items():
        write(root / f"{film}.json", [povqa_item(i, "00:01:00", "00:00:10 - 00:02:10") for i in range(count)])


def test_the_command_lists_films_and_questions(tmp_path, capsys):
    annotations(tmp_path)
    assert main(["--questions", str(tmp_path), "--validation", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[2:5]] == [["train", "9", "176"], ["validation", "1", "22"], ["test", "2", "41"]]
    assert "a_fistful_of_dollars (17)" in lines[4] and lines[5] == f"split_hash {divide(COUNTS, validation=1).hash}"
    assert main(["--questions", str(tmp_path), "--fold", "hero"]) == 0 and "hero (17)" in capsys.readouterr().out
    assert main([]) == EXIT_USER_ERROR and main(["--questions", str(tmp_path / "none")]) == EXIT_USER_ERROR


GOOD = povqa_item(0, "00:00:05", "00:00:02 - 00:00:08")
BAD = {"missing field": ({k: v for k, v in GOOD.items() if k != "reasoning"}, "bad_record", "'reasoning' is None"),
       "time": (GOOD | {"timestamp": "00:61:00", "index": 7}, "bad_time", "'timestamp': time '00:61:00' is not HH:MM:SS"),
       "order": (GOOD | {"contextTimestamp": "00:00:08 - 00:00:02", "index": 8}, "bad_window", "'contextTimestamp': window of 8 s to 2 s"),
       "index": (GOOD | {"question": "Another one?"}, "duplicate_index", "'index' 0 occurs a second time"), "object": ("no", "bad_record", "None")}


@pytest.mark.parametrize(("item", "reason", "message"), BAD.values(), ids=BAD)
def test_a_bad_item_is_named_with_file_and_field(tmp_path, capsys, item, reason, message):
    write(tmp_path / "one.json", [GOOD, item, GOOD | {"index": 5}])
    write(tmp_path / "two.json", [GOOD])
    assert main(["--questions", str(tmp_path)]) == EXIT_USER_ERROR
    out, err = capsys.readouterr()
    assert f"one.json item 1: {reason}: " in err and message in err and "one (2)" in out


@pytest.mark.parametrize(("item", "reason"), [(item, reason) for item, reason, _ in BAD.values()], ids=BAD)
def test_packing_lists_a_bad_item_and_refuses_it_when_strict(tmp_path, item, reason):
    for film in ("one", "two"):
        povqa_film(tmp_path / "in", film, [GOOD], pictures=[jpeg(n) for n in range(9)], text=[])
        write(tmp_path / f"in/annotations/{film}.json", [GOOD, item, GOOD | {"index": 5}])
    (film,) = divide(("one", "two")).train
    args = ["--source", "reasonvqa", "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert pack.main([*args, "--strict", "true"]) == EXIT_USER_ERROR and skipped(tmp_path / "out") == {f"{film}.json item 1": reason}
    assert pack.main(args) == 0 and skipped(tmp_path / "out") == {f"{film}.json item 1": reason}


@pytest.mark.parametrize("wrapper", ["items", "qa", "annotations", "data", None, "jsonl"])
def test_forms_of_annotation_files(tmp_path, wrapper):
    path, ledger = tmp_path / ("a.jsonl" if wrapper == "jsonl" else "a.json"), SkipLedger()
    if wrapper == "jsonl":
        path.write_text(json.dumps(GOOD) + "\n\n{oops\n" + json.dumps(GOOD | {"index": 1}) + "\n")
    else:
        write(path, {wrapper: [GOOD]} if wrapper else [GOOD])
    found = read_film_questions(path, ledger)
    assert [q.index for q in found] == ([0, 1] if wrapper == "jsonl" else [0])
    assert ledger.counts == ({"bad_json": 1} if wrapper == "jsonl" else {})
    assert (found[0].paused_s, found[0].window.start_s, found[0].window.end_s, found[0].key_name) == (5, 2, 8, "KEY_00-00-05_0000")


def test_unreadable_annotation_files(tmp_path):
    for content, reason in ({"rows": []}, "bad_record"), (b"[{]", "bad_json"):
        with pytest.raises(SampleError) as caught:
            read_film_questions(write(tmp_path / "a.json", content), SkipLedger())
        assert caught.value.reason == reason
    write(tmp_path / "a.jsonl", b"")
    with pytest.raises(Exception, match="several files of one film"):
        question_files(tmp_path)


def test_the_twelve_published_files(tmp_path):
    """Their number of items and the fields of each, in files of the published form."""
    annotations(tmp_path)
    ledger, files = SkipLedger(), question_files(tmp_path)
    assert {film: len(read_film_questions(path, ledger)) for film, path in files.items()} == COUNTS and not len(ledger)
    assert sum(COUNTS.values()) == 239


def test_media_say_their_part(tmp_path):
    for film in ("one", "two", "three"):
        povqa_film(tmp_path / "in", film, [GOOD], pictures=[jpeg(n) for n in range(9)], text=[])
    options, seen = ("--set", "validation=1", "--set", "fold=two", "--set", "pooling=BBLF"), {}
    for part in ("train", "validation", "test"):
        found = examples_of(run("reasonvqa", tmp_path / "in", tmp_path / part, "--split", part, *options))
        for medium, _ in found.values():
            seen[medium.source["film"]] = part
            assert medium.source["part"] == part and medium.source["split_hash"] == divide(("one", "two", "three"), fold="two", validation=1).hash
            assert medium.source["method"] == "blend_blur_with_last_frame" and medium.source["frame_names"][0] == "frame00003"
    assert seen["two"] == "test" and sorted(seen.values()) == ["test", "train", "validation"]


def test_pairs_of_a_film_keep_its_division_and_test_films_make_none(tmp_path, capsys):
    answers = ("A red car leaves.", "Two dogs bark loudly.")
    for film in ("one", "two"):
        povqa_film(tmp_path / "in", film, [GOOD | {"index": i, "answer": answer} for i, answer in enumerate(answers)],
                   pictures=[jpeg(n) for n in range(9)], text=[])
    for part in ("train", "test"):
        run("reasonvqa", tmp_path / "in", tmp_path / part, "--split", part)
    table, pairs = str(tmp_path / "questions.jsonl"), str(tmp_path / "pairs")
    assert cli.main(["pairs", "make", "correctness", "--shards", str(tmp_path / "test"), "--out", table]) == EXIT_USER_ERROR
    assert "must not be learnt" in capsys.readouterr().err
    assert cli.main(["pairs", "make", "correctness", "--shards", str(tmp_path / "train"), "--out", table]) == 0
    assert cli.main(["pairs", "filter", "--questions", table, "--shards", str(tmp_path / "train"), "--out", pairs, "--max_similarity", "0"]) == 0
    data = ShardDataset(pairs)
    sources = [data.sample(i).medium.source for i in range(len(data))]
    assert len(sources) == 2 and {(s["part"], s["split_hash"]) for s in sources} == {("train", divide(("one", "two")).hash)}
