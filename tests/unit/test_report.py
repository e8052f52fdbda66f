"""Report pages: what they show, that they stand alone, and that files which do not belong together are refused."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from benchmarks import report, report_pictures, report_views
from benchmarks import score as scoring
from benchmarks.st_evidence import from_samples
from tests.evidence_samples import discs, predict, small_sample
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR
from unipixel.infer.predictions import Prediction, write_predictions

HOSTILE = 'Answer: </pre><script>alert("x")</script>. Temporal Evidence: [[1, 3]]. Spatial Evidence: <|seg|>.'


class Page(HTMLParser):
    """Tags with their attributes, in order, and all text outside scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self._code = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._code = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._code = False

    def handle_data(self, data):
        self.text += "" if self._code else data

    def all(self, tag, **attrs):
        return [found for name, found in self.tags if name == tag and all(found.get(key) == value for key, value in attrs.items())]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three examples; the model is right on two, the baseline on one and lost one."""
    folder = tmp_path_factory.mktemp("report")
    samples = [small_sample(name, discs(8), [t != 3 for t in range(8)]) for name in ("a", "b", "c")]
    with ShardWriter(folder / "shards", dataset="made", split="test") as writer:
        for sample in samples:
            writer.write(sample.medium, sample.examples, sample.frames)
    write_predictions(folder / "model.jsonl", [predict(samples[0]), predict(samples[1], shift_px=4),
                                               predict(samples[2], answer="B", reply=HOSTILE)])
    write_predictions(folder / "base.jsonl", [predict(samples[0], answer="C", shift_px=20),
                                              Prediction("b", "b", "no_reply", error="time-out"),
                                              predict(samples[2], shift_s=9.0)])
    for name in ("model", "base"):
        assert scoring.main(["st-evidence", "--predictions", str(folder / f"{name}.jsonl"), "--shards", str(folder / "shards"),
                             "--out", str(folder / f"{name}.json")]) == 0
    return folder


def flags(files, *more, model="model", score="model"):
    return ["--predictions", str(files / f"{model}.jsonl"), "--score", str(files / f"{score}.json"), "--shards", str(files / "shards"),
            "--out", str(files / "report.html"), *more]


def build(files, *more):
    assert report.main(flags(files, *more)) == 0
    html = (files / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


def both(files):
    return ["--baseline-predictions", str(files / "base.jsonl"), "--baseline-score", str(files / "base.json")]


def test_page_of_two_models(files):
    html, page = build(files, *both(files), "--frames", "4")
    sections = page.all("section", **{"class": "example"})
    assert [s["data-right"] for s in sections] == ["10", "10", "01"]
    assert len([d for d in page.all("div") if (d.get("class") or "").startswith("stack")]) == 3 * 2 * 4
    assert len(page.all("img", **{"class": "errors"})) == 3 * 2 * 4 and len(page.all("img", **{"class": "prediction"})) == 3 * 2 * 4 - 4
    assert html.count("data:image/jpeg") == 3 * 4, "a frame is stored once, for both models"
    assert {b["data-show"] for b in page.all("button") if "data-show" in b} == {"all", "right", "wrong", "fixed", "broken"}
    assert [b["data-layer"] for b in page.all("button") if "data-layer" in b] == ["errors", "truth", "prediction", "none"]
    text = " ".join(page.text.split())
    assert "accuracy 66.7" in text and "33.3" in text and "+33.3" in text
    assert "no_reply" in text and "time-out" in text and "(no reply)" in text and "no prediction" in text
    assert "B. A box← trained" in text and "A. A disc← untrained" in text and "1.0 – 3.0 s" in text and "10.0 – 12.0 s" in text
    assert build(files, *both(files), "--frames", "4")[0] == html, "deterministic"


def test_page_of_one_model(files):
    _, page = build(files, "--limit", "2")
    assert len(page.all("section", **{"class": "example"})) == 2
    assert {b["data-show"] for b in page.all("button") if "data-show" in b} == {"all", "right", "wrong"}
    assert "2 of 2 shown (of 3 scored)" in " ".join(page.text.split())


def test_stands_alone_and_escapes(files):
    html, page = build(files, *both(files))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not page.all("link") and not any("src" in tag for tag in page.all("script")) and len(page.all("script")) == 1
    assert not re.search(r"https?://", html)
    assert HOSTILE in page.text


@pytest.mark.parametrize("change, message", [
    ({"score": "base"}, "made from other predictions"), ({"model": "lost", "score": "lost"}, "not a readable result file")])
def test_files_must_belong_together(files, capsys, change, message):
    assert report.main(flags(files, **change)) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_results_of_another_version_are_refused(files, capsys):
    result = json.loads((files / "model.json").read_text())
    del result["averaging"]
    (files / "old.json").write_text(json.dumps(result))
    assert report.main(flags(files, score="old")) == EXIT_USER_ERROR
    assert "lacks" in (error := capsys.readouterr().err) and "'averaging'" in error


def test_other_shards_are_refused(files, tmp_path, capsys):
    sample = small_sample("z", discs(4))
    with ShardWriter(tmp_path / "other", dataset="made", split="test") as writer:
        writer.write(sample.medium, sample.examples, sample.frames)
    command = flags(files)
    command[command.index("--shards") + 1] = str(tmp_path / "other")
    assert report.main(command) == EXIT_USER_ERROR
    assert "different examples" in capsys.readouterr().err


@pytest.mark.parametrize("more, message", [
    (["--panel", "x.png"], "--panel-example"), (["--baseline-score", "x"], "belong together"), (["--frames", "0"], "at least 1"),
    (["--panel", "x.png", "--panel-example", "nope"], "'nope'")])
def test_settings_are_checked(files, more, message, capsys):
    assert report.main(flags(files, *more)) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_layers_say_what_is_right_wrong_and_missed():
    frame = np.full((40, 60, 3), 100, np.uint8)
    truth, pred = np.zeros((2, 40, 60), bool)
    truth[10:30, 10:40], pred[10:30, 25:55] = True, True

    def tint(name):
        return tuple((0.3 * 100 + 0.7 * np.array(report_pictures.COLOURS[name])).astype(np.uint8).tolist())

    drawn = report_pictures.paint(frame, report_pictures.error_layer(truth, pred))
    at = {name: tuple(drawn[20, x].tolist()) for name, x in (("missed", 15), ("hit", 30), ("false", 50))}
    assert at == {name: tint(name) for name in at} and len(set(at.values())) == 3
    assert tuple(drawn[9, 20]) == report_pictures.COLOURS["truth"] and tuple(drawn[35, 5]) == (100, 100, 100)
    only_outline = report_pictures.paint(frame, report_pictures.error_layer(truth, None))
    assert (only_outline[truth] == 100).all() and tuple(only_outline[20, 41]) == report_pictures.COLOURS["truth"]
    assert tuple(report_pictures.paint(frame, report_pictures.error_layer(None, pred))[20, 50]) == tint("hit")
    found = report_pictures.layers(truth, pred)
    assert list(found) == ["errors", "truth", "prediction"] and ((found["truth"] > 0) == truth).all() and ((found["prediction"] > 0) == pred).all()
    assert report_pictures.layers(None, None) == {} and (frame == 100).all()


def test_a_layer_is_transparent_where_nothing_is():
    layer = np.zeros((4, 6), np.uint8)
    layer[1, 2] = report_pictures.LAYER.index("hit")
    data = base64.b64decode(report_pictures.layer_uri(layer).partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert tuple(pixels[1, 2]) == (*report_pictures.COLOURS["hit"], round(0.7 * 255)) and pixels[..., 3].astype(bool).sum() == 1


def test_panel(files):
    frames = [np.full((30, 50, 3), 40 * t, np.uint8) for t in range(3)]
    masks = np.zeros((3, 30, 50), bool)
    masks[:, 10:20, 10:20] = True
    sheet = np.asarray(report_pictures.mask_panel(frames, ~masks, masks, ["0 s", "1 s", "2 s"]))
    assert sheet.shape == (22 + 3 * 34, 90 + 3 * 54, 3)
    centre = [sheet[22 + 15 + 34 * row, 90 + 54 + 15].tolist() for row in range(3)]
    assert centre[0] == centre[1] == [40] * 3 and centre[2] == (0.3 * 40 + 0.7 * np.array(report_pictures.COLOURS["missed"])).astype(int).tolist()
    with pytest.raises(ValueError, match="2 frames"):
        report_pictures.mask_panel(frames[:2], masks, masks)
    build(files, "--panel", str(files / "panel.png"), "--panel-example", "b", "--frames", "5", "--width", "64")
    with Image.open(io.BytesIO((files / "panel.png").read_bytes())) as image:
        assert image.size == (90 + 5 * 68, 22 + 3 * 52)


def test_chosen_frames_are_scored_ones_and_visible_where_possible():
    masks = discs(12)
    masks[[4, 9]] = False
    (truth,) = from_samples([small_sample("a", masks, [t not in (0, 1) for t in range(12)])])
    assert report_views.choose_frames(truth, 12, 2) == [3, 8]
    assert report_views.choose_frames(truth, 12, 100) == list(range(2, 12))
    (bare,) = from_samples([small_sample("b", masks, targets=())])
    assert report_views.choose_frames(bare, 12, 3) == [2, 6, 10]
