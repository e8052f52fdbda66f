"""TVQA as POVQA asks it: pooled pictures, and the annotated moment of a question as a medium of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from data_tools import pack
from data_tools.film.command import main as prepare
from tests.dataset_fixtures import language
from tests.dataset_fixtures.common import write
from tests.dataset_fixtures.language import jsonl
from tests.packing import examples_of, jpeg, run, skipped
from unipixel.errors import EXIT_USER_ERROR
from unipixel.sample import Subtitle

CLIP, BBLF = "castle_s01e07_seg02_clip_00", "blend_blur_with_last_frame"


def row(qid: int, ts: str, **more) -> dict:
    return {"qid": qid, "vid_name": CLIP, "show_name": "Castle", "q": f"Question {qid}?", "answer_idx": 1, "ts": ts,
            **{f"a{n}": f"option {n}" for n in range(5)}} | more


def published(root, seconds: int = 70, rows=()):
    """A clip as POVQA's preprocessing leaves it: neither chunk table nor summary, segments that share chunks with their neighbours."""
    for n in range(1, seconds + 1):
        write(root / f"processed_tvqa/{CLIP}/{BBLF}/frame{n:05d}.jpg", jpeg(n))
    cues = [(0.4, 2.6, "One."), (2.6, 4.5, "Two."), (4.5, 5.2, ""), (10.5, 19.5, "Long.")]
    write(root / f"processed_tvqa/{CLIP}/metadata_tvqa_text_centric.json",
          [{"text": text, "text_start_time_sec": start, "text_end_time_sec": end, "corresponding_chunks": []} for start, end, text in cues])
    jsonl(root / "tvqa_qa_release/tvqa_val.jsonl", rows or [row(1, "10.0-20.0"), row(2, "0.0-60.0"), row(3, "5.2-5.6"), row(4, "12.5-20.1")])


def ts(root, out, *more):
    return examples_of(run("tvqa", root, out, "--split", "val", "--set", "pooling=BBLF", "--set", "context=ts", *more))


def test_a_moment_holds_every_second_once(tmp_path):
    """Ten pictures for 10-20 s and sixty for 0-60 s; a shorter moment than a picture still shows one."""
    published(tmp_path)
    found = ts(tmp_path, tmp_path / "out")
    assert {name: len(medium.frame_times) for name, (medium, _) in found.items()} == {"q1": 10, "q2": 60, "q3": 1, "q4": 9}
    medium, example = found["q1"]
    assert medium.medium_id == f"{CLIP}_q1" and medium.frame_times == tuple(map(float, range(10))) and medium.duration_s == 10
    assert medium.source == {"dataset": "tvqa", "vid_name": CLIP, "show_name": "Castle", "method": BBLF, "window_s": [10.0, 20.0],
                             "frame_names": [f"frame{n:05d}" for n in range(11, 21)]}
    assert medium.subtitles == (Subtitle(0.5, 9.5, "Long."),) and example.segments is None and example.source == {"ts": "10.0-20.0"}
    cut, _ = found["q4"]
    assert cut.frame_times == pytest.approx((0.0, *(n - 12.5 for n in range(13, 21)))) and cut.source["frame_names"][0] == "frame00013"
    assert cut.duration_s == pytest.approx(7.6) and found["q3"][0].subtitles == ()


def test_questions_without_a_usable_moment_are_listed(tmp_path):
    rows = [row(1, "10-20"), row(2, "nan-nan"), row(3, "20-20"), row(4, "99-100"), row(5, "soon"), row(6, "69.5-80")]
    published(tmp_path, rows=rows)
    found = ts(tmp_path, tmp_path / "out")
    assert skipped(tmp_path / "out") == {"row 2": "no_ts", "row 3": "bad_window", "row 4": "bad_window", "row 5": "bad_time"}
    assert sorted(found) == ["q1", "q6"] and found["q6"][0].source["window_s"] == [69.5, 70.0]


def test_the_whole_clip_with_pooled_pictures(tmp_path):
    published(tmp_path)
    (medium, first), *_ = examples_of(run("tvqa", tmp_path, tmp_path / "out", "--split", "val", "--set", f"pooling={BBLF}")).values()
    assert medium.medium_id == CLIP and medium.frame_times == tuple(map(float, range(70))) and medium.duration_s == 70
    assert medium.subtitles[:2] == (Subtitle(0.4, 2.6, "One."), Subtitle(2.6, 4.5, "Two.")) and len(medium.subtitles) == 3
    assert first.segments == ((10.0, 20.0),) and "window_s" not in medium.source


def test_what_film_prepare_makes_is_read(tmp_path):
    """Seven pictures at three per second: two full seconds and a third of one."""
    for n in range(1, 8):
        write(tmp_path / f"frames_hq/castle_frames/{CLIP}/{n:05d}.jpg", jpeg(n))
    (tmp_path / "srt").mkdir()
    (tmp_path / f"srt/{CLIP}.srt").write_text("1\n00:00:00,500 --> 00:00:01,200\nHello.\n")
    assert prepare(["--videos", str(tmp_path / "frames_hq"), "--frames_fps", "3", "--subtitles", str(tmp_path / "srt"), "--workers", "1",
                    "--out", str(tmp_path / "processed_tvqa"), "--methods", "WA", "WAR", "--size", "16x16"]) == 0
    jsonl(tmp_path / "tvqa_qa_release/tvqa_val.jsonl", [row(1, "0.9-2.3")])
    for method in ("WA", "WAR"):
        data = run("tvqa", tmp_path, tmp_path / method, "--split", "val", "--set", f"pooling={method}")
        medium, _ = examples_of(data)["q1"]
        assert medium.frame_times == (0.0, 1.0, 2.0) and medium.duration_s == pytest.approx(2.333) and medium.subtitles[0].text == "Hello."
    late, _ = examples_of(run("tvqa", tmp_path, tmp_path / "ts", "--split", "val", "--set", "pooling=WA", "--set", "context=ts"))["q1"]
    assert late.frame_times == pytest.approx((0.0, 0.1, 1.1)) and late.duration_s == pytest.approx(1.4)
    table = tmp_path / f"processed_tvqa/{CLIP}/weighted_average/chunks.json"
    table.write_text(json.dumps({"chunks": json.loads(table.read_text())["chunks"][:2]}))
    assert pack.main(["--source", "tvqa", "--input", str(tmp_path), "--out", str(tmp_path / "no"), "--split", "val", "--set", "pooling=WA"]) == 2
    assert skipped(tmp_path / "no") == {CLIP: "no_chunk"}


def test_moments_of_the_published_frames(tmp_path):
    frames = language.tvqa(tmp_path / "in")
    found = examples_of(data := run("tvqa", tmp_path / "in", tmp_path / "out", "--split", "val", "--set", "context=ts"))
    medium, _ = found["q1"]
    assert medium.frame_times == pytest.approx((0.0, 2 / 3 - 0.5, 0.5)) and medium.source["window_s"] == [0.5, 1.25]
    assert [bytes(f) for f in data.sample(0).frames] == list(frames[1:4]) and skipped(tmp_path / "out")["row 2"] == "no_ts"
    assert medium.subtitles == (Subtitle(0.0, 0.5, "(Penny:)A café."),)


def test_wrong_options(tmp_path, capsys):
    published(tmp_path)
    for option, message in (("pooling=median", "unknown pooling operator 'median'"), ("context=scene", "this source has ['clip', 'ts']")):
        args = ["--source", "tvqa", "--input", str(tmp_path), "--out", str(tmp_path / "out"), "--split", "val", "--set", option]
        assert pack.main(args) == EXIT_USER_ERROR and message in capsys.readouterr().err


def test_276_frames_make_92_pictures(tmp_path):
    """The castle clips' number of frames; the last second is full."""
    folder = tmp_path / f"frames_hq/castle_frames/{CLIP}"
    folder.mkdir(parents=True)
    for n in range(276):
        Image.fromarray(np.full((8, 8, 3), n % 64 * 4, np.uint8)).save(folder / f"{n + 1:05d}.jpg")
    assert prepare(["--videos", str(tmp_path / "frames_hq"), "--frames_fps", "3", "--out", str(tmp_path / "processed_tvqa"), "--methods", "BBLF",
                    "--size", "16x16", "--workers", "1"]) == 0
    jsonl(tmp_path / "tvqa_qa_release/tvqa_val.jsonl", [row(1, "0-60"), row(2, "10-20"), row(3, "91.5-92.5")])
    found = ts(tmp_path, tmp_path / "out")
    assert [len(found[name][0].frame_times) for name in ("q1", "q2", "q3")] == [60, 10, 1] and found["q3"][0].duration_s == 0.5
