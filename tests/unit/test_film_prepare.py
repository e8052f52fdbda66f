"""``unipixel film prepare``: what it writes, what it keeps, and what it says when something is wrong."""

from __future__ import annotations

import json
import sys
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.film import command, prepare
from data_tools.film.command import main
from data_tools.film.table import text_table
from data_tools.film.transcribe import load_whisper
from data_tools.pooling import METHODS
from data_tools.synth_media import write_mp4
from tests.packing import examples_of, run
from unipixel.errors import EXIT_USER_ERROR
from unipixel.sample import Subtitle

SRT = "1\n00:00:00,500 --> 00:00:01,200\nHello.\n"
METADATA = "metadata_text_centric.json"


def rows(n: int) -> list[dict]:
    return [{"chunk_start_time_sec": float(i), "chunk_end_time_sec": float(i + 1), "saved_chunk_filename": f"frame{i + 1:05d}.jpg"} for i in range(n)]


def segments(table: list[dict]) -> list[tuple]:
    return [(s["text_start_time_sec"], s["text_end_time_sec"], s["text"], len(s["corresponding_chunks"])) for s in table]


def test_silences_are_segments():
    cues = [Subtitle(3, 4, "b"), Subtitle(1, 2, "a")]
    assert segments(text_table(cues, rows(5))) == [(0, 1, "", 1), (1, 2, "a", 1), (2, 3, "", 1), (3, 4, "b", 1), (4, 5, "", 1)]
    assert segments(text_table([], rows(2))) == [(0, 2, "", 2)] and text_table([], []) == []


def test_overlaps_short_gaps_and_the_end():
    cues = [Subtitle(0, 1.5, "a"), Subtitle(1, 3.0004, "b"), Subtitle(1.2, 1.4, "c"), Subtitle(3.001, 3.12345, "d"), Subtitle(9, 10, "past")]
    table = segments(text_table(cues, rows(4)))
    assert table == [(0, 1.5, "a", 2), (1, 3.0, "b", 3), (1.2, 1.4, "c", 1), (3.001, 3.123, "d", 1), (3.123, 9, "", 1), (9, 10, "past", 0)]
    longer = segments(text_table([Subtitle(0, 1, "a"), Subtitle(1.2, 2, "b")], rows(2), min_gap_s=0.2))
    assert [text for _, _, text, _ in longer] == ["a", "b"]


def film(path: Path, frames: int = 25, rate: Fraction = Fraction(10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.broadcast_to((np.arange(frames) * 8).astype(np.uint8)[:, None, None, None], (frames, 16, 16, 3))
    write_mp4(path, grey, [float(t / rate) for t in range(frames)], rate=rate, crf=1)


def item(index: int, timestamp: str) -> dict:
    return {"timestamp": timestamp, "contextTimestamp": "00:00:00 - 00:00:02", "question": "q?", "answer": "a", "reasoning": "r", "index": index}


def folders(root: Path, names=("one", "two"), srt: str = SRT, timestamp: str = "00:00:01") -> list[str]:
    for name in names:
        film(root / f"videos/{name}.mp4")
        for kind, suffix, text in (("subtitles", ".srt", srt), ("questions", ".json", json.dumps([item(0, timestamp)]))):
            (root / kind).mkdir(exist_ok=True)
            (root / kind / (name + suffix)).write_text(text)
    return [part for kind in ("videos", "subtitles", "questions") for part in (f"--{kind}", str(root / kind))] + [
        "--out", str(root / "out_preprocessed"), "--size", "16x16", "--workers", "1"]


def problems(root: Path) -> dict[str, str]:
    return {s["key"]: s["reason"] for s in map(json.loads, (root / "out_preprocessed/skipped.jsonl").read_text().splitlines())}


def load(path: Path):
    return json.loads(path.read_text())


def test_a_film_becomes_pictures_key_frames_and_texts(tmp_path, capsys):
    assert main(folders(tmp_path)) == 0 and "nothing skipped" in capsys.readouterr().out
    folder = tmp_path / "out_preprocessed/one"
    assert {p.name for p in folder.iterdir()} == {"KEY_FRAMES", *METHODS, METADATA, "run_summary.json"} | {
        f"{head}_{m}.json" for m in METHODS for head in ("metadata_text_centric", "run_summary")}
    for method in METHODS:
        assert sorted(p.name for p in (folder / method).iterdir()) == ["chunks.json", *(f"frame{n:05d}.jpg" for n in (1, 2, 3))]
    assert [p.name for p in (folder / "KEY_FRAMES").iterdir()] == ["KEY_00-00-01_0000.jpg"]
    key, mean, last = (np.asarray(Image.open(folder / p)).mean() for p in (
        "KEY_FRAMES/KEY_00-00-01_0000.jpg", "weighted_average/frame00001.jpg", "weighted_average/frame00003.jpg"))
    assert (key, mean, last) == pytest.approx((80, 36, 176), abs=2)  # frame 10; frames 0-9; frames 20-24, of grey level 8 t
    assert segments(load(folder / METADATA)) == [(0, 0.5, "", 1), (0.5, 1.2, "Hello.", 2), (1.2, 2.5, "", 2)]
    summary = load(folder / "run_summary_weighted_average_ramp.json")
    assert summary["made_by"]["parameters"] == {"power": 1.0} and summary["subtitles"]["cues"] == 1
    wanted = {"movie": "one", "video_path": "one.mp4", "fps_mode": "seconds_window", "fps_used_or_native": 10.0, "target_fps_arg": None,
              "chunk_size_arg": None, "chunk_seconds": 1.0, "skip_frames_between_chunks": 0, "resize_to": [16, 16],
              "avg_method": "weighted_average_ramp", "total_chunks": 3, "frames_processed": 25, "has_subtitles": True, "key_frames_found": 1,
              "key_frames_total_in_annotations": 1, "annotation_file": "one.json", "output_dir": "one/weighted_average_ramp"}
    assert {key: summary[key] for key in wanted} == wanted
    assert str(tmp_path) not in "".join(p.read_text() for p in folder.rglob("*.json"))


def test_the_converter_reads_what_was_prepared(tmp_path):
    """Also the clock: at 24000/1001 frames per second a published second would be taken to last 1.001 s."""
    args = folders(tmp_path)
    for name in ("one", "two"):
        film(tmp_path / f"videos/{name}.mp4", 31, Fraction(24000, 1001))
    assert main(args) == 0
    (tmp_path / "questions").rename(tmp_path / "annotations")
    medium, _ = next(iter(examples_of(run("reasonvqa", tmp_path, tmp_path / "shards")).values()))
    assert medium.frame_times == (0.0, 1.0, 1.001) and medium.source["key_frame"] == 2
    assert medium.subtitles == (Subtitle(0.5, 1.2, "Hello."),)


def test_real_clips(shared_data, tmp_path):
    real = shared_data / "mini_real"
    assert main(["--videos", str(real / "videos"), "--subtitles", str(real / "subtitles"), "--questions", str(real / "reasonvqa/annotations"),
                 "--out", str(tmp_path), "--methods", "BBLF", "--size", "64x64", "--workers", "1"]) == 0
    summary = load(tmp_path / "dog/run_summary.json")  # 30000/1001 frames per second: published readers would take chunks for 1.001 s
    assert summary["total_chunks"] == 10 and summary["chunk_clock"] == "presentation" and summary["key_frames_found"] == 4
    assert sum(load(p)["key_frames_found"] for p in tmp_path.glob("*/run_summary.json")) > 6


def stamps(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (root / "out_preprocessed").rglob("frame*")}


def test_finished_methods_are_kept_and_the_others_made(tmp_path, monkeypatch, capsys):
    args = folders(tmp_path, ("one",))
    assert main([*args, "--methods", "WA"]) == 0
    before = stamps(tmp_path)
    litter = tmp_path / "out_preprocessed/one/.weighted_average_ramp.part"
    litter.mkdir()
    (litter / "frame00009.jpg").write_text("an interrupted run left this")
    assert main([*args, "--methods", "WA", "WAR"]) == 0 and "1 methods made, 1 kept" in capsys.readouterr().out
    assert not litter.exists() and len(stamps(tmp_path)) == 6 and {p: stamps(tmp_path)[p] for p in before} == before
    monkeypatch.setattr(prepare, "FilmReader", lambda *a, **k: pytest.fail("nothing is left to decode"))
    (tmp_path / "subtitles/one.srt").write_text(SRT.replace("Hello", "Bye"))
    assert main([*args, "--methods", "WA", "WAR"]) == 0
    assert load(tmp_path / "out_preprocessed/one" / METADATA)[1]["text"] == "Bye."


def test_an_interrupted_film_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    args, save, count = folders(tmp_path, ("one",)), prepare.PictureFormat.save, iter(range(100))

    def stopping(self, picture, path):
        if next(count) == 6:
            raise KeyboardInterrupt
        save(self, picture, path)

    monkeypatch.setattr(prepare.PictureFormat, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(args)
    assert list((tmp_path / "out_preprocessed/one").iterdir()) == []
    monkeypatch.undo()
    assert main(args) == 0 and len(stamps(tmp_path)) == 12


def test_other_settings_are_not_mixed_in(tmp_path, capsys):
    args = [*folders(tmp_path, ("one",)), "--methods", "WAE"]
    assert main(args) == 0
    before = stamps(tmp_path)
    assert main([*args, "--set", "WAE.gamma=0.5"]) == EXIT_USER_ERROR and "set overwrite" in capsys.readouterr().err
    assert problems(tmp_path) == {"one/weighted_average_exponential": "other_settings"} and stamps(tmp_path) == before
    assert main([*args, "--set", "WAE.gamma=0.5", "--overwrite", "true"]) == 0 and stamps(tmp_path) != before
    assert load(tmp_path / "out_preprocessed/one/run_summary.json")["made_by"]["parameters"] == {"gamma": 0.5}


@pytest.mark.parametrize(("damage", "key", "reason"), [
    (lambda root: (root / "videos/one.mp4").write_bytes(b"no film"), "one.mp4", "video_unreadable"),
    (lambda root: (root / "subtitles/one.srt").write_text(""), "one.srt", "bad_subtitles"),
    (lambda root: (root / "subtitles/one.srt").write_text(SRT + "\n2\nno time\n"), "one.srt", "malformed_cue"),
    (lambda root: (root / "subtitles/one.srt").write_text(SRT.replace("00:00:0", "00:09:0")), "one.srt", "timestamp_past_end"),
    (lambda root: (root / "subtitles/one.srt").unlink(), "one", "no_subtitles"),
    (lambda root: (root / "subtitles/one.vtt").write_text("WEBVTT"), "one", "name_clash"),
    (lambda root: (root / "questions/one.json").write_text(json.dumps([item(0, "00:00:03")])), "one.json KEY_00-00-03_0000.jpg",
     "timestamp_past_end"),
    (lambda root: (root / "questions/one.json").write_text(json.dumps([item(0, "soon")])), "one.json item 0", "bad_time"),
    (lambda root: (root / "questions/one.json").write_text(json.dumps([item(0, "00:00:01"), item(0, "00:00:02")])), "one.json item 1",
     "duplicate_index"),
    (lambda root: (root / "questions/one.json").write_text(json.dumps([item(0, "00:00:01") | {"answer": None}])), "one.json item 0", "bad_record"),
    (lambda root: (root / "questions/one.json").write_text(json.dumps([item(0, "00:00:01") | {"contextTimestamp": "00:00:02 - 00:00:01"}])),
     "one.json item 0", "bad_window"),
    (lambda root: (root / "questions/one.json").write_text("[{]"), "one.json", "bad_json"),
    (lambda root: film(root / "videos/more/ONE.mp4"), "one", "name_clash"),
    (lambda root: (root / "videos/one.mp4").rename(root / "videos/other.txt"), "one.json", "no_video"),
])
def test_what_is_wrong_is_named_and_the_other_film_is_made(tmp_path, capsys, damage, key, reason):
    args = [*folders(tmp_path), "--methods", "WA"]
    damage(tmp_path)
    for _ in range(2):  # the second run finds the other film finished
        assert main(args) == EXIT_USER_ERROR
        assert problems(tmp_path).items() >= {(key, reason)} and f"{key}: {reason}:" in capsys.readouterr().err
    assert segments(load(tmp_path / "out_preprocessed/two" / METADATA))[1][2] == "Hello."
    if reason in ("bad_subtitles", "video_unreadable", "no_subtitles", "name_clash"):
        assert not (tmp_path / "out_preprocessed/one" / METADATA).exists()  # not a table of silence


def test_films_side_by_side_are_the_same(tmp_path):
    args = [*folders(tmp_path, ("one", "two", "three")), "--methods", "WA", "BBLF", "--lossless", "true"]
    assert main(args) == 0 and main([*args, "--out", str(tmp_path / "parallel"), "--workers", "2"]) == 0
    files = {p.relative_to(tmp_path / "parallel"): p.read_bytes() for p in (tmp_path / "parallel").rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "out_preprocessed"): p.read_bytes() for p in (tmp_path / "out_preprocessed").rglob("*") if p.is_file()}
    assert len([p for p in files if p.suffix == ".png"]) == 3 * (2 * 3 + 1)


def test_sampled_frames(tmp_path):
    assert main([*folders(tmp_path, ("one",)), "--methods", "WA", "--target_fps", "5", "--chunk_size", "4", "--skip_frames", "1"]) == 0
    summary = load(tmp_path / "out_preprocessed/one/run_summary.json")
    assert (summary["fps_mode"], summary["total_chunks"], summary["frames_processed"], summary["chunk_seconds"]) == ("target_fps", 3, 11, None)


@pytest.mark.parametrize(("more", "message"), [
    (["--methods", "median"], "unknown pooling operator 'median'"), (["--set", "BBLF.gama=1"], "has no parameter 'gama'"),
    (["--methods", "WA", "--set", "WAE.gamma=1"], "not among --methods"), (["--set", "WAE.gamma"], "name.parameter=number"),
    (["--chunk_size", "3"], "set --target_fps too"), (["--target_fps", "3", "--chunk_seconds", "1"], "exclude each other"),
    (["--lossless", "true", "--quality", "90"], "--quality belongs to JPEG"), (["--quality", "0"], "quality=0"), (["--workers", "0"], "--workers=0"),
    (["--size", "big"], "WIDTHxHEIGHT"), (["--partial", "guess"], "partial='guess'"), (["--subtitles", "nowhere"], "--subtitles 'nowhere'"),
])
def test_wrong_settings(tmp_path, capsys, more, message):
    (tmp_path / "videos").mkdir()
    assert main(["--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), *more]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_no_films(tmp_path, capsys):
    assert main(["--videos", str(tmp_path), "--out", str(tmp_path / "out")]) == EXIT_USER_ERROR and "no .mp4" in capsys.readouterr().err
    assert command.main([]) == EXIT_USER_ERROR and "--videos" in capsys.readouterr().err


def clips(root: Path, frames: int = 276) -> list[str]:
    """A clip as TVQA publishes it: pictures at 3 per second in the folder of a show."""
    folder = root / "frames_hq/show/clip_00"
    folder.mkdir(parents=True)
    for n in range(frames):
        Image.fromarray(np.full((24, 32, 3), n % 64 * 4, np.uint8)).save(folder / f"{n + 1:05d}.jpg", quality=95)
    return ["--videos", str(root / "frames_hq"), "--frames_fps", "3", "--out", str(root / "processed_tvqa"), "--size", "16x16", "--workers", "1"]


def test_tvqa_clips(tmp_path):
    (tmp_path / "tvqa_subtitles").mkdir()
    (tmp_path / "tvqa_subtitles/clip_00.srt").write_text(SRT)
    assert main([*clips(tmp_path), "--subtitles", str(tmp_path / "tvqa_subtitles")]) == 0
    folder = tmp_path / "processed_tvqa/clip_00"
    for method in METHODS:
        assert len(list((folder / method).glob("frame*.jpg"))) == 92
    assert not (folder / METADATA).exists()
    table = load(folder / "metadata_tvqa_text_centric.json")
    assert table[1]["corresponding_chunks"][1]["image_file_range"] == "source_frame00004-source_frame00006" and table[1]["text"] == "Hello."
    assert np.asarray(Image.open(folder / "weighted_average/frame00002.jpg")).mean() == pytest.approx(16, abs=1)  # pictures 3, 4, 5


def test_speech_is_transcribed_where_there_are_no_subtitles(tmp_path, monkeypatch, capsys):
    """A stand-in for the optional package: what it is asked, and that its reply is asked for once."""
    asked = []

    class Model:
        def transcribe(self, path):
            asked.append(Path(path).name)
            return iter([types.SimpleNamespace(start=0.5, end=1.25, text=" Hi there. ")]), None

    args, audio = clips(tmp_path, 9), tmp_path / "audio"
    audio.mkdir()
    (audio / "clip_00.mp3").write_bytes(b"sound")
    args += ["--audio", str(audio)]
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert main(args) == EXIT_USER_ERROR and "pip install 'unipixel-train[transcribe]'" in capsys.readouterr().err
    assert not (tmp_path / "processed_tvqa").exists()
    load_whisper.cache_clear()
    monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=lambda name: asked.append(name) or Model()))
    assert main(args) == 0 and main(args) == 0 and asked == ["base", "clip_00.mp3"]
    load_whisper.cache_clear()
    assert segments(load(tmp_path / "processed_tvqa/clip_00/metadata_tvqa_text_centric.json"))[1] == (0.5, 1.25, "Hi there.", 2)
    (audio / "clip_00.mp3").unlink()
    assert main(args) == EXIT_USER_ERROR and "clip_00: no_subtitles" in capsys.readouterr().err
