"""A synthetic world on disk: what is written is what is read, runs resume, other settings are refused, videos keep their times."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_tools.synth import SynthConfig, corpus, main, make_clip, plan_clip, read_world, write_mp4, write_srt, write_world
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError
from unipixel.sample import Sample, Subtitle

CONFIG = SynthConfig(max_objects=3, pairs_per_question=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("synth") / "world", CONFIG, {"train": 3, "test": 2}, workers=2, media="both")


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_world_reads_back_what_was_made(world):
    for split, count in (("train", 3), ("test", 2)):
        clips = list(read_world(world, split))
        assert len(clips) == count
        for index, (medium, examples, files) in enumerate(clips):
            clip = make_clip(CONFIG, split, index)
            assert (medium, examples) == (clip.medium, clip.examples)
            assert [f.name for f in files] == [f"{t:05d}.jpg" for t in range(36)]
            stored = np.stack([np.asarray(Image.open(f)) for f in files]).astype(int)
            assert np.abs(stored - clip.frames).mean() < 6
            Sample(medium.medium_id, medium, examples, [f.read_bytes() for f in files])


def test_layout(world):
    folder = world / "test" / "test_00001"
    assert sorted(p.name for p in folder.iterdir()) == ["clip.json", "frames", "subtitles.srt", "video.mp4"]
    stored = json.loads((folder / "clip.json").read_text())
    assert stored["meta"]["dataset"] == "synth" and stored["meta"]["split"] == "test" and set(stored) == {"meta", "masks"}
    assert json.loads((world / "world.json").read_text())["config"]["max_objects"] == 3


def test_number_of_workers_does_not_matter(world, tmp_path):
    single = write_world(tmp_path / "single", CONFIG, {"train": 3, "test": 2}, workers=1, media="both")
    assert tree(single) == tree(world)


def test_interrupted_world_is_completed_and_finished_clips_are_kept(world, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    shutil.rmtree(copy / "train" / "train_00001")
    (copy / "train" / ".train_00001" / "frames").mkdir(parents=True)
    (copy / "train" / ".train_00001" / "frames" / "00000.jpg").write_bytes(b"half")
    (copy / "train" / "train_00000" / "subtitles.srt").write_text("kept")
    write_world(copy, CONFIG, {"train": 3, "test": 2}, workers=1, media="both")
    again, wanted = tree(copy), tree(world)
    assert again.pop("train/train_00000/subtitles.srt") == b"kept" and wanted.pop("train/train_00000/subtitles.srt")
    assert again == wanted


def test_other_settings_are_refused(world):
    with pytest.raises(ConfigError, match="other settings.*max_objects: 3 -> 4"):
        write_world(world, SynthConfig(pairs_per_question=1), {"train": 1}, media="both")
    with pytest.raises(ConfigError, match="media: 'both' -> 'mp4'"):
        write_world(world, CONFIG, {"train": 1}, media="mp4")


def test_wrong_calls_are_named(world, tmp_path):
    with pytest.raises(ConfigError, match="media='gif'"):
        write_world(tmp_path / "a", CONFIG, {"train": 1}, media="gif")
    with pytest.raises(ConfigError, match="workers=0"):
        write_world(tmp_path / "a", CONFIG, {"train": 1}, workers=0)
    with pytest.raises(DataError, match="no split 'val'.*'test', 'train'"):
        next(read_world(world, "val"))
    with pytest.raises(DataError, match="not a synthetic world"):
        next(read_world(tmp_path, "train"))


def test_missing_picture_is_an_error(world, tmp_path):
    shutil.copytree(world, tmp_path / "w")
    (tmp_path / "w" / "train" / "train_00000" / "frames" / "00007.jpg").unlink()
    with pytest.raises(DataError, match="35 pictures, expected 36"):
        next(read_world(tmp_path / "w", "train"))


def test_world_of_videos_has_no_pictures(tmp_path):
    root = write_world(tmp_path / "w", CONFIG, {"train": 1}, workers=1, media="mp4")
    (medium, _, files), = read_world(root, "train")
    assert files == [] and len(medium.frame_times) == 36
    assert not (root / "train" / "train_00000" / "frames").exists()


@pytest.mark.parametrize(("setting", "rate"), [
    ({}, Fraction(6)), ({"fps": "24000/1001"}, Fraction(24000, 1001)), ({"variable_fps": True}, None)])
def test_video_keeps_the_true_times(setting, rate, tmp_path):
    clip = make_clip(SynthConfig(**setting, duration_s=3.0, max_objects=2), "train", 1)
    write_mp4(tmp_path / "v.mp4", clip.frames, clip.times, rate=rate)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.codec_context.name == "h264"
        frames = list(container.decode(stream))
        if rate is not None:
            assert stream.average_rate == rate
            assert [frame.pts * frame.time_base for frame in frames] == [k / rate for k in range(len(clip.times))]
    assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx(clip.times, abs=1e-5)
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
    assert np.abs(pixels - clip.frames).mean() < 6


def test_video_times_must_fit_the_rate(tmp_path):
    clip = make_clip(SynthConfig(variable_fps=True), "train", 0)
    with pytest.raises(ValueError, match="fixed rate 6"):
        write_mp4(tmp_path / "v.mp4", clip.frames, clip.times, rate=Fraction(6))


def test_srt_text(tmp_path):
    write_srt([Subtitle(0.0, 1.2, "The red circle leaves."), Subtitle(3661.5, 3662.007, "Again.")], tmp_path / "s.srt")
    assert (tmp_path / "s.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,200\nThe red circle leaves.\n\n2\n01:01:01,500 --> 01:01:02,007\nAgain.\n")


def test_corpus_has_the_words_of_unseen_clips():
    words = {word for text in corpus(SynthConfig(), 60) for word in text.replace("[", " ").replace("]", " ").split()}
    unseen = [plan_clip(SynthConfig(), "test", index) for index in range(20)]
    needed = {word for plan in unseen for e in plan.examples for text in (e.question, *e.options) for word in text.split()}
    assert len(needed) > 60 and needed <= words
    assert list(corpus(SynthConfig(), 2)) == list(corpus(SynthConfig(), 2))


def test_corpus_holds_prompts_replies_and_pairs():
    texts = list(corpus(SynthConfig(), 3))
    example = next(e for e in plan_clip(SynthConfig(), "train", 0).examples if e.pairs)
    assert example.pairs[0].rejected in texts and example.rationale in texts
    assert any("Options:" in t for t in texts) and any("Temporal Evidence: [[" in t for t in texts) and any("<|seg|>" in t for t in texts)


def test_command_writes_a_world(tmp_path, capsys):
    args = ["--out", str(tmp_path / "w"), "--train", "2", "--test", "1", "--workers", "1", "--max_objects", "2",
            "--shapes", "circle", "star"]
    assert main(args) == 0
    assert "2 train and 1 test" in capsys.readouterr().out
    names = {obj.expression.split()[2] for medium, _, _ in read_world(tmp_path / "w", "train") for obj in medium.objects.values()}
    assert names <= {"circle", "star"}
    assert main([*args, "--seed", "5"]) == EXIT_USER_ERROR
    assert "seed: 0 -> 5" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "x"), "--question_types", "wher"]) == EXIT_USER_ERROR
    assert "nearest: 'where'" in capsys.readouterr().err
