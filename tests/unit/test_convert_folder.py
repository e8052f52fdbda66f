"""A plain folder with one table: own data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.convert.folder import COLUMNS
from tests.dataset_fixtures.common import write
from tests.dataset_fixtures.language import jsonl
from tests.packing import examples_of, grey_video, jpeg, run, skipped
from unipixel.data.media import decode_frames
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Subtitle

SRT = b"1\n00:00:00,000 --> 00:00:01,500\nA dog barks.\n"
TABLE = """\
id,video,question,answer,options,segments,split,subtitles,question_type,camera
a,clips/dog.mp4,What barks?,dog,"[""dog"", ""cat""]","[[0.0, 1.5]]",train,dog.srt,what,front
b,clips/dog.mp4,Why?,Nobody knows.,,,train,dog.srt,,
c,walk,Who walks?,Nobody.,,[],train,,,
d,clips/dog.mp4,What barks?,dog,,,val,,,
"""


def media(root):
    (root / "clips").mkdir(parents=True)
    grey_video(root / "clips/dog.mp4", 12, 6)
    frames = [jpeg(n) for n in range(11)]
    for n, data in enumerate(frames):
        write(root / "walk" / f"{n}.jpg", data)
    write(root / "dog.srt", SRT)
    return frames


def test_videos_can_be_kept_as_they_are(tmp_path):
    """``store=video``: the same frames at the same times, the file unchanged inside the shard."""
    media(tmp_path / "in")
    (tmp_path / "in/questions.csv").write_text(TABLE)
    frames, videos = (examples_of(run("folder", tmp_path / "in", tmp_path / store, "--set", f"store={store}")) for store in ("frames", "video"))
    assert not skipped(tmp_path / "video") and {e: m for e, (m, _) in videos.items()} == {e: m for e, (m, _) in frames.items()}
    tar = next((tmp_path / "video").glob("*.tar")).read_bytes()
    assert (tmp_path / "in/clips/dog.mp4").read_bytes() in tar
    dog = [ShardDataset(tmp_path / store).sample(0) for store in ("frames", "video")]
    kept, whole = (decode_frames(s.frames, range(4), (s.medium.height, s.medium.width), s.key).float() for s in dog)
    assert (kept - whole).abs().mean() < 3
    with pytest.raises(ConfigError, match="store"):
        run("folder", tmp_path / "in", tmp_path / "x", "--set", "store=film")


def test_documented_example(tmp_path):
    frames = media(tmp_path / "in")
    (tmp_path / "in/questions.csv").write_text(TABLE)
    data = run("folder", tmp_path / "in", tmp_path / "out")
    found = examples_of(data)
    assert sorted(found) == ["a", "b", "c"] and not skipped(tmp_path / "out")
    medium, a = found["a"]
    assert medium.frame_times == (0.0, 0.5, 1.0, 1.5) and medium.duration_s == pytest.approx(2)
    assert medium.subtitles == (Subtitle(0.0, 1.5, "A dog barks."),) and found["b"][0] == medium
    assert (a.task, a.options, a.answer, a.segments, a.question_type) == ("evidence", ("dog", "cat"), "dog", ((0.0, 1.5),), "what")
    assert a.source == {"camera": "front"} and found["b"][1].segments is None and found["b"][1].question_type == "other"
    walk, c = found["c"]
    assert c.segments == () and walk.frame_times == tuple(n / 2 for n in range(11)) and not walk.subtitles
    assert [bytes(f) for f in data.sample(2).frames] == frames  # 2.jpg before 10.jpg
    assert list(examples_of(run("folder", tmp_path / "in", tmp_path / "val", "--split", "val", "--set", "fps=6"))) == ["d"]


def test_the_documentation_is_up_to_date():
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    assert f"```csv\n{TABLE}```" in text
    assert "\n".join(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()) in text


def test_json_lines_need_no_literals_and_no_ids(tmp_path):
    media(tmp_path / "in")
    jsonl(tmp_path / "in/q.jsonl", [{"video": "clips/dog", "question": "What?", "answer": "dog", "options": ["dog", "cat"], "segments": [[0, 1]]},
                                    {"video": "walk", "question": "Who?", "answer": "me", "rationale": "I saw it.", "segments": None}])
    found = examples_of(run("folder", tmp_path / "in", tmp_path / "out"))
    assert found["1"][1].options == ("dog", "cat") and found["1"][1].segments == ((0.0, 1.0),)
    assert found["2"][1].rationale == "I saw it." and found["2"][1].segments is None


def test_bad_rows_are_listed_and_the_others_stay(tmp_path):
    media(tmp_path / "in")
    good = {"video": "walk", "question": "Who?", "answer": "me"}
    jsonl(tmp_path / "in/q.jsonl", [
        good, good | {"answer": ""}, good | {"question": None}, good | {"options": ["x"]}, good | {"options": "[x"}, good | {"segments": [1]},
        good | {"segments": [[2, 1]]}, good | {"video": ""}, good | {"video": "gone.mp4"}, good | {"video": "../x"}, good | {"subtitles": "no.srt"},
        {"video": "walk", "question": "Who?"}, good | {"split": " "}])
    assert sorted(examples_of(run("folder", tmp_path / "in", tmp_path / "out"))) == ["1", "11"]
    assert skipped(tmp_path / "out") == {
        "row 2": "empty_answer", "row 3": "empty_question", "row 4": "answer_not_in_options", "row 5": "bad_literal", "row 6": "bad_literal",
        "row 7": "segment_order", "row 8": "empty_video", "gone.mp4": "no_frames", "../x": "unsafe_path", "no.srt": "file_missing",
        "row 12": "empty_answer", "row 13": "empty_split"}


@pytest.mark.parametrize(("header", "message"), (
    ("video,question", r"lacks the columns \['answer'\]"), ("vidoe,question,answer", "nearest: 'vidoe'"),
    ("video,question,answer,segment", "column 'segment' is not known; nearest: 'segments'"),
    ("video,question", "lacks the columns")))
def test_wrong_columns_are_one_clear_error(tmp_path, header, message):
    media(tmp_path / "in")
    (tmp_path / "in/q.csv").write_text(f"{header}\n" + ",".join("x" for _ in header.split(",")) + "\n")
    with pytest.raises(DataError, match=message):
        run("folder", tmp_path / "in", tmp_path / "out")


def test_wrong_tables(tmp_path):
    media(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"holds the tables \[\]"):
        run("folder", tmp_path / "in", tmp_path / "a")
    (tmp_path / "in/q.csv").write_text("video,question,answer\nwalk,Who, exactly?,me\n")
    with pytest.raises(DataError, match="more cells than the header"):
        run("folder", tmp_path / "in", tmp_path / "b")
    (tmp_path / "in/q.csv").write_bytes("video,question,answer\nwalk,Où?,là\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it again"):
        run("folder", tmp_path / "in", tmp_path / "f")
    (tmp_path / "in/q.csv").write_text(TABLE)
    with pytest.raises(DataError, match=r"no rows of split 'test'; it has \['train', 'val'\]"):
        run("folder", tmp_path / "in", tmp_path / "c", "--split", "test")
    with pytest.raises(ConfigError, match="fps=0"):
        run("folder", tmp_path / "in", tmp_path / "d", "--set", "fps=0")
    (tmp_path / "in/x.txt").write_text(json.dumps([]))
    with pytest.raises(DataError, match="a table is one of"):
        run("folder", tmp_path / "in", tmp_path / "e", "--set", "table=x.txt")
