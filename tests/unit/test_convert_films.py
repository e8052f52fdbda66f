"""Film and TV questions: windows, pooled pictures, key frames, subtitles, splits."""

from __future__ import annotations

import json

import pytest

from data_tools.convert.film_questions import clock_s
from data_tools.convert.film_split import divide
from data_tools.convert.tvqa import read_span
from tests.dataset_fixtures import language
from tests.dataset_fixtures.common import write
from tests.dataset_fixtures.language import POOLING, povqa_film, povqa_item
from tests.packing import examples_of, jpeg, run, skipped
from unipixel.errors import SampleError
from unipixel.sample import Subtitle

TWO = divide(("one", "two"))


def two_films(root, **more):
    """Of two films the first after shuffling is the training set."""
    pictures = [jpeg(n) for n in range(12)]
    text = [(0.0, 2.5, "Before."), (2.5, 4.0, ""), (4.0, 5.5, " Inside. "), (7.5, 9.0, "Over the end."), (8.0, 8.5, "Last.")]
    (train,), (test,) = TWO.train, TWO.test
    items = [povqa_item(0, "00:00:05", "00:00:02 - 00:00:08"), povqa_item(3, "00:00:10", "00:00:09 - 00:05:00")]
    povqa_film(root, train, items, **{"pictures": pictures, "text": text, "keys": {0: jpeg(99)}} | more)
    povqa_film(root, test, items, pictures=pictures, text=text)
    return train, pictures


def test_a_window_is_a_medium(tmp_path, capsys):
    train, pictures = two_films(tmp_path / "in")
    data = run("reasonvqa", tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert sorted(found) == [f"{train}_0", f"{train}_3"]
    medium, example = found[f"{train}_0"]
    assert (example.task, example.question, example.answer, example.rationale) == (
        "evidence", "What happens at 00:00:05?", "Thing 0.", "Because of 0.")
    assert example.segments is None and not example.options and not example.targets
    assert medium.frame_times == (0.0, 1.0, 2.0, 3.0, 3.001, 4.0, 5.0) and medium.duration_s == 6.0
    assert medium.source["paused_s"] == 3 and medium.source["key_frame"] == 4 and medium.source["window_s"] == [2, 8]
    assert [bytes(f) for f in data.sample(0).frames] == [*pictures[2:6], jpeg(99), *pictures[6:8]]
    assert medium.subtitles == (Subtitle(0.0, 0.5, "Before."), Subtitle(2.0, 3.5, "Inside."), Subtitle(5.5, 6.0, "Over the end."))
    late, _ = found[f"{train}_3"]
    assert late.frame_times == (0.0, 1.0, 2.0) and late.duration_s == 3.0 and "key_frame" not in late.source
    assert "1 questions whose key frame is not in the release" in capsys.readouterr().out
    assert len(examples_of(run("reasonvqa", tmp_path / "in", tmp_path / "test", "--split", "test"))) == 2
    plain = examples_of(run("reasonvqa", tmp_path / "in", tmp_path / "plain", "--set", "keyframes=false"))
    assert plain[f"{train}_0"][0].frame_times == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_a_key_frame_outside_the_window_is_not_shown(tmp_path):
    train, pictures = two_films(tmp_path / "in")
    povqa_film(tmp_path / "in", train, [povqa_item(0, "00:00:09", "00:00:02 - 00:00:08")], pictures=pictures, text=[], keys={0: jpeg(99)})
    medium, _ = examples_of(run("reasonvqa", tmp_path / "in", tmp_path / "out"))[f"{train}_0"]
    assert len(medium.frame_times) == 6 and "key_frame" not in medium.source and medium.source["paused_s"] == 7


def test_chunks_are_as_long_as_their_frames(tmp_path):
    """A "second" of 24 frames at 23.976 frames per second lasts 1.001 s: after two hours that is 7.2 s."""
    pictures = {n: jpeg(n % 7) for n in range(7190, 7201)}
    item = povqa_item(0, "02:00:00", "01:59:58 - 02:00:02")
    (train,), (test,) = TWO.train, TWO.test
    povqa_film(tmp_path / "in", test, [item], pictures=[jpeg(0)], text=[])
    povqa_film(tmp_path / "in", train, [item], pictures=[], text=[], rate=24000 / 1001)
    for n, data in pictures.items():
        write(tmp_path / "in/out_preprocessed" / train / POOLING / f"frame{n:05d}.jpg", data)
    medium, _ = examples_of(run("reasonvqa", tmp_path / "in", tmp_path / "out"))[f"{train}_0"]
    # picture n starts at (n - 1) * 1.001 s: 7192 at 7198.19 s, ... 7195 at 7201.19 s
    assert medium.frame_times == pytest.approx([(n - 1) * 1.001 - 7198 for n in range(7192, 7196)], abs=1e-6)


def test_films_without_summary_with_wrapped_annotations_or_odd_key_frames(tmp_path):
    train, _ = two_films(tmp_path / "in", rate=None, wrapped=True, keys={0: jpeg(1, (16, 16))})
    data = run("reasonvqa", tmp_path / "in", tmp_path / "out")
    assert examples_of(data)[f"{train}_0"][0].frame_times == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert data.manifests[0]["notes"]["films without run_summary.json: chunks taken to last 1 s"] == 1
    assert skipped(tmp_path / "out") == {f"{train}/KEY_00-00-05_0000.jpg": "frame_size"}


@pytest.mark.parametrize(("change", "reason"), (({"contextTimestamp": "00:00:08 - 00:00:02"}, "bad_window"), ({"timestamp": "5 s"}, "bad_time"),
                                                ({"contextTimestamp": "00:10:00 - 00:11:00"}, "no_frames"), ({"reasoning": None}, "bad_record"),
                                                ({"question": " "}, "empty_question"), ({"answer": ""}, "empty_answer"),
                                                ({"index": True}, "bad_record"), ({"contextTimestamp": "00:00:02"}, "bad_time")))
def test_damaged_items_are_listed(tmp_path, change, reason):
    train, _ = two_films(tmp_path / "in")
    path = tmp_path / "in/annotations" / f"{train}.json"
    items = json.loads(path.read_text())
    path.write_text(json.dumps([items[0] | change, items[1]]))
    assert list(examples_of(run("reasonvqa", tmp_path / "in", tmp_path / "out"))) == [f"{train}_3"]
    assert skipped(tmp_path / "out") == {f"{train}_0" if reason == "no_frames" else f"{train}.json item 0": reason}


def test_a_film_of_unknown_chunk_times_is_left_out_with_its_questions(tmp_path):
    train, _ = two_films(tmp_path / "in")
    summary = tmp_path / "in/out_preprocessed" / train / "run_summary.json"
    summary.write_text(json.dumps({"fps_mode": "target_fps", "fps_used_or_native": 3}))
    with pytest.raises(Exception, match="'fps_mode': 1"):
        run("reasonvqa", tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out/skipped.jsonl").read_text())["examples"] == 2


def test_real_annotations(shared_data, tmp_path):
    """Six real clips in the role of films; every sixth of their 6-per-second frames is a pooled picture."""
    root = shared_data / "mini_real"
    names = sorted(p.stem for p in (root / "reasonvqa/annotations").glob("*.json"))
    for name in names:
        frames = sorted((root / "frames_6fps" / name).glob("*.jpg"))[::6]
        povqa_film(tmp_path / "in", name, json.loads((root / "reasonvqa/annotations" / f"{name}.json").read_text()),
                   pictures=[p.read_bytes() for p in frames], text=[(0, 2, "Some words.")], rate=30.0)
    train, test = (examples_of(run("reasonvqa", tmp_path / "in", tmp_path / split, "--split", split)) for split in ("train", "test"))
    assert len(names) == 6 and len(train) + len(test) == 19 and {m.source["film"] for m, _ in test.values()} == {divide(names).test[0]}
    for medium, example in (train | test).values():
        start, end = example.source["contextTimestamp"].split(" - ")
        assert medium.frame_times[0] >= 0 and medium.frame_times[-1] < clock_s(end) - clock_s(start) and example.rationale


def test_tvqa(tmp_path):
    frames = language.tvqa(tmp_path / "in")
    data = run("tvqa", tmp_path / "in", tmp_path / "out", "--split", "val")
    found = examples_of(data)
    assert sorted(found) == ["q1", "q2"]
    medium, example = found["q1"]
    assert medium.frame_times == pytest.approx([n / 3 for n in range(7)]) and medium.duration_s == pytest.approx(7 / 3)
    assert [bytes(f) for f in data.sample(0).frames] == list(frames)
    assert medium.subtitles == (Subtitle(0.2, 1.0, "(Penny:)A café."), Subtitle(1.5, 2.0, "Yes."))
    assert example.options == tuple(f"option {n} of 1" for n in range(5)) and example.answer == "option 2 of 1"
    assert example.segments == ((0.5, 1.25),) and not example.targets
    assert found["q2"][1].answer == "option 4 of 2" and found["q2"][1].segments is None
    assert skipped(tmp_path / "out") == {
        "row 3": "duplicate_options", "row 4": "answer_not_in_options", "row 10": "answer_not_in_options",
        "row 11": "answer_not_in_options", "row 5": "no_answer", "row 6": "bad_time",
        "castle_s01e01_seg02_clip_01": "no_frames", "q8": "segment_range", "../x": "unsafe_path"}


def test_tvqa_subset_and_times(tmp_path):
    language.tvqa(tmp_path / "in")
    rows = (tmp_path / "in/tvqa_qa_release/tvqa_val.jsonl").read_text().splitlines()
    (tmp_path / "in/processed_tvqa").mkdir()
    (tmp_path / "in/processed_tvqa/val_5000_seed42.jsonl").write_text(rows[1] + "\n")
    options = ("--split", "val", "--set", "table=processed_tvqa/val_5000_seed42.jsonl")
    assert list(examples_of(run("tvqa", tmp_path / "in", tmp_path / "out", *options))) == ["q2"]
    assert read_span("12-20.5") == ((12.0, 20.5),) and read_span("nan-3.0") is None
    for text in ("12", "-1-2", "", "1.0-2.0-3.0"):
        with pytest.raises(SampleError):
            read_span(text)
