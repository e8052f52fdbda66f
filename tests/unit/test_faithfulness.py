"""Asking again with only the cited evidence, without it, and with something else: what is shown, and what the scores mean."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import faithfulness
from benchmarks.evidence_views import Frames, pixel_views, time_views
from launch.cli import main
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR, SampleError
from unipixel.infer.predictions import Prediction, PredictionWriter
from unipixel.sample import Example, MaskTrack, Medium, Sample, SceneObject, Subtitle, encode_mask

SIZE, FRAMES = 16, 12
SHOWN = (3, 4, 5)
"""Frames on which the answer can be seen, in a corner of them."""


def picture(t: int) -> bytes:
    pixels = np.full((SIZE, SIZE, 3), 40 + t, np.uint8)
    if t in SHOWN:
        pixels[:8, :8] = (200, 0, 0)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def corner() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:8, :8] = True
    return mask


def clip(name: str = "clip") -> Sample:
    masks = np.stack([corner() & (t in SHOWN) for t in range(FRAMES)])
    medium = Medium(name, "frames", SIZE, SIZE, tuple(map(float, range(FRAMES))), float(FRAMES),
                    {"o": SceneObject("o", "a red square", MaskTrack.from_masks(masks))}, (Subtitle(3.2, 3.9, "red"), Subtitle(8.0, 9.5, "grey")))
    example = Example(f"{name}_q", "evidence", "Which colour?", ("red", "blue"), "red", ((3.0, 5.5),), (("o",),))
    return Sample(name, medium, (example,), [picture(t) for t in range(FRAMES)])


def cites(sample: Sample, segments=((3.0, 5.5),), answer: str = "A") -> Prediction:
    track = {t: encode_mask(corner()) if t in SHOWN else "" for t in range(FRAMES)}
    return Prediction(sample.examples[0].example_id, sample.key, reply=f"Answer: {answer}.", answer=answer, segments=segments, size=(SIZE, SIZE),
                      frame_times=sample.medium.frame_times, masks=(track,))


def red(sample: Sample) -> list[bool]:
    """Whether the answer can be seen on each frame."""
    return [(np.asarray(Image.open(io.BytesIO(bytes(f))))[:8, :8] == (200, 0, 0)).all() for f in sample.frames]


# --- what is shown ----------------------------------------------------------------------------------------------------------------------

def test_views_in_time():
    views = time_views(clip(), clip().examples[0], cites(clip()), seed=0)
    assert views["only"].medium.frame_times == (3.0, 4.0, 5.0) and red(views["only"]) == [True] * 3
    assert views["without"].medium.frame_times == (0.0, 1.0, 2.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0) and not any(red(views["without"]))
    elsewhere = views["elsewhere"].medium.frame_times
    assert len(elsewhere) == 3 and np.diff(elsewhere).tolist() == [1, 1] and not set(elsewhere) & {3.0, 4.0, 5.0}
    assert [s.text for s in views["only"].medium.subtitles] == ["red"] and [s.text for s in views["without"].medium.subtitles] == ["grey"]
    assert views["only"].medium.objects["o"].track.visible.all() and not views["without"].medium.objects["o"].track.visible.any()
    drawn = {time_views(clip(), clip().examples[0], cites(clip()), seed)["elsewhere"].medium.frame_times for seed in range(30)}
    assert len(drawn) == 5, "0-2 and the four places behind the evidence"


def test_without_room_the_others_are_drawn_singly():
    views = time_views(clip(), clip().examples[0], cites(clip(), ((2.0, 9.0),)), seed=0)
    assert len(views["only"].frames) == 8 and views["elsewhere"].medium.frame_times == views["without"].medium.frame_times == (0.0, 1.0, 10.0, 11.0)


@pytest.mark.parametrize(("segments", "reason"), [(None, "no_citation"), ((), "no_citation"), (((0.0, 12.0),), "cites_all"),
                                                  (((3.2, 3.4),), "cites_nothing")])
def test_what_cannot_be_cut_out(segments, reason):
    with pytest.raises(SampleError) as error:
        time_views(clip(), clip().examples[0], cites(clip(), segments), seed=0)
    assert error.value.reason == reason


def test_views_in_pixels():
    views = pixel_views(clip(), clip().examples[0], cites(clip()), seed=0)
    only, without, elsewhere = (np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in views[v].frames]) for v in ("only", "without", "elsewhere"))
    shown = np.stack([corner() & (t in SHOWN) for t in range(FRAMES)])
    original = np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in clip().frames])
    assert (only == np.where(shown[..., None], original, 128)).all() and (without == np.where(shown[..., None], 128, original)).all()
    assert ((elsewhere != 128).any(-1).sum((1, 2)) == shown.sum((1, 2))).all() and not (elsewhere == (200, 0, 0)).all(-1)[:, :4, :4].any()
    blank = dataclasses.replace(cites(clip()), masks=({0: ""},))
    with pytest.raises(SampleError, match="no pixel is cited"):
        pixel_views(clip(), clip().examples[0], blank, seed=0)


def test_only_frames_that_are_read_are_made():
    made = []
    frames = Frames([b"a", b"b", b"c", b"d"], [1, 3], lambda frame, t: made.append(t) or frame.upper())
    assert len(frames) == 2 and frames[1] == b"D" and made == [3] and list(frames) == [b"B", b"D"] and list(frames[:1]) == [b"B"]


# --- what the scores mean ---------------------------------------------------------------------------------------------------------------

class Honest:
    """Answers right exactly when it sees the red square."""

    def __init__(self):
        self.asked, self.batches = [], []

    def predict(self, samples):
        self.batches.append(len(samples))
        for sample in samples:
            (example,) = sample.examples
            self.asked.append(example.example_id)
            yield Prediction(example.example_id, sample.key, status="no_mask", reply="x", answer="A" if any(red(sample)) else "B")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """(flags, the model) of four clips, one of which cites everything."""
    clips = [clip(f"c{n}") for n in range(4)]
    with ShardWriter(tmp_path / "shards", dataset="d", split="test") as writer:
        for sample in clips:
            writer.write(sample.medium, sample.examples, sample.frames)
    with PredictionWriter(tmp_path / "predictions.jsonl") as writer:
        for n, sample in enumerate(clips):
            writer.write(cites(sample, ((0.0, 12.0),) if n == 3 else ((3.0, 5.5),), answer="B" if n == 2 else "A"))
        writer.finish()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    model = Honest()
    monkeypatch.setattr(faithfulness, "load_predictor", lambda *_, **__: model)
    return ["faithfulness", "--checkpoint", str(tmp_path / "model"), "--predictions", str(tmp_path / "predictions.jsonl"), "--shards",
            str(tmp_path / "shards"), "--out", str(tmp_path / "out")], model, tmp_path


def test_scores_of_a_model_that_uses_what_it_cites(asked, capsys):
    flags, model, root = asked
    assert main(flags) == 0
    found = json.loads((root / "out/faithfulness.json").read_text())
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert values == {"all": pytest.approx(2 / 3), "only": 1.0, "without": 0.0, "elsewhere": 0.0, "sufficiency": 1.0, "specificity": 1.0,
                      "necessity": pytest.approx(2 / 3)}
    assert found["n"] == 3 and found["left_out"] == {"cites_all": 1} and found["metrics"]["specificity"]["p"] == pytest.approx(0.25)
    assert model.batches == [8, 1], "questions are asked together"
    assert "c3_q" in (root / "out/left_out.jsonl").read_text() and len(model.asked) == 9
    printed = capsys.readouterr().out
    assert "only the evidence: sufficiency" in printed and "Left out: cites_all 1." in printed
    assert main(flags) == 0 and len(model.asked) == 9, "kept"


def test_an_interrupted_run_goes_on(asked):
    flags, model, root = asked
    assert main(flags) == 0
    lines = (root / "out/replies.jsonl").read_text().splitlines(keepends=True)
    (root / "out/replies.jsonl").unlink()
    (root / "out/replies.jsonl.part").write_text("".join(lines[:4]) + lines[4][:30])
    model.asked.clear()
    assert main(flags) == 0 and len(model.asked) == 5
    assert sorted((root / "out/replies.jsonl").read_text().splitlines()) == sorted(map(str.strip, lines))


def test_pixels(asked):
    flags, _, root = asked
    assert main([*flags, "--by", "pixels"]) == 0
    found = json.loads((root / "out/faithfulness.json").read_text())
    assert found["n"] == 4 and found["metrics"]["sufficiency"]["value"] == 1.0 and found["metrics"]["without"]["value"] == 0.0


def test_refusals(asked, capsys):
    flags, _, root = asked
    assert main([*flags, "--limit", "1"]) == 0
    assert main(flags) == EXIT_USER_ERROR and "choose another folder" in capsys.readouterr().err
    lines = (root / "predictions.jsonl").read_text().splitlines(keepends=True)
    (root / "predictions.jsonl").write_text("".join(lines[:3]))
    assert main([*flags[:-1], str(root / "b")]) == EXIT_USER_ERROR and "has no prediction of 'c3_q'" in capsys.readouterr().err
    (root / "predictions.jsonl").write_text(lines[3])
    assert main([*flags[:-1], str(root / "c")]) == EXIT_USER_ERROR
    assert main(["faithfulness", "--shards", "x"]) == EXIT_USER_ERROR and "must be set" in capsys.readouterr().err
