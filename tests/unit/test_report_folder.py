"""Reports as folders, opened in a real browser: index, pages, filters, and a console without errors; for masks without answers too."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from benchmarks import report
from benchmarks import score as scoring
from tests.browser import browse
from tests.evidence_samples import discs, predict, small_sample
from unipixel.data.shards import ShardWriter
from unipixel.errors import EXIT_USER_ERROR
from unipixel.infer.predictions import Prediction, write_predictions
from unipixel.sample import Example

HOSTILE = '</script><script>console.error("broken out")</script> & "quoted" <b>'


def write(folder, samples, predictions, task):
    """Shards, one prediction file per model and their results."""
    with ShardWriter(folder / "shards", dataset="made", split="test") as writer:
        for sample in samples:
            writer.write(sample.medium, sample.examples, sample.frames)
    for name, some in predictions.items():
        write_predictions(folder / f"{name}.jsonl", some)
        assert scoring.main([task, "--predictions", str(folder / f"{name}.jsonl"), "--shards", str(folder / "shards"),
                             "--out", str(folder / f"{name}.json")]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five examples, wrong in the third, failed in the fifth, and the folder of their report."""
    folder = tmp_path_factory.mktemp("folder")
    samples = [small_sample(f"clip{i}", discs(8), question=f"What moves in {i}? {HOSTILE}") for i in range(5)]
    model = [predict(sample, answer="B" if i == 2 else None, shift_px=i, reply=HOSTILE) for i, sample in enumerate(samples[:4])]
    failed = Prediction("clip4", "clip4", "decode_error", error="no frames")
    write(folder, samples, {"model": [*model, failed], "base": [predict(s, answer="C", shift_px=12) for s in samples]}, "st-evidence")
    assert report.main([*flags(folder), "--out", str(folder / "report"), "--frames", "3"]) == 0
    return folder


def flags(folder):
    return ["--predictions", str(folder / "model.jsonl"), "--score", str(folder / "model.json"), "--shards", str(folder / "shards"),
            "--baseline_predictions", str(folder / "base.jsonl"), "--baseline_score", str(folder / "base.json"), "--name", "ours <1>"]


def shown_lines(dom):
    return re.findall(r'<a href="items/(\d{6})\.html">(\w+)</a>', dom)


def test_files(made):
    assert sorted(path.name for path in (made / "report" / "items").iterdir()) == [f"{i:06d}.html" for i in range(5)]
    index = (made / "report" / "index.html").read_text()
    lines = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', index, re.DOTALL)[1])
    assert [line["id"] for line in lines] == [f"clip{i}" for i in range(5)]
    assert [line["right"][0] for line in lines] == [True, True, False, True, False]
    assert lines[4]["status"] == ["decode_error", "ok"] and lines[0]["values"][0] == [100.0, 100.0, 100.0, 100.0]
    item = (made / "report" / "items" / "000002.html").read_text()
    assert 'href="000001.html" rel="prev"' in item and 'href="000003.html" rel="next"' in item and item.count("data:image/jpeg") == 3
    last = (made / "report" / "items" / "000004.html").read_text()
    assert 'rel="next"' not in last and "no frames" in last
    for page in (index, item):
        assert "<script>console" not in page and not re.search(r"https?://", page)


def test_index_in_a_browser(made):
    dom, console = browse(f"file://{made}/report/index.html")
    assert console == [] and [name for _, name in shown_lines(dom)] == [f"clip{i}" for i in range(5)] and ">ours &lt;1&gt;<" in dom


@pytest.mark.parametrize("state, names", [
    ("show=%5E0", ["clip2", "clip4"]), ("show=%5E10", ["clip0", "clip1", "clip3"]), ("status=decode_error", ["clip4"]),
    ("search=moves+in+3", ["clip3"]), ("show=%5E1&search=clip0", ["clip0"]), ("type=what&search=zebra", [])])
def test_filters_in_a_browser(made, state, names):
    dom, console = browse(f"file://{made}/report/index.html#{state}")
    assert console == [] and [name for _, name in shown_lines(dom)] == names
    assert re.search(r'id="count">(\d+)<', dom)[1] == str(len(names))


def test_a_page_in_a_browser(made, tmp_path):
    """A screenshot, kept beside the test's files: pictures are drawn, and errors are in their colours."""
    dom, console = browse(f"file://{made}/report/items/000003.html")
    assert console == [] and dom.count('class="stack') == 6 and "decode" not in dom
    browse(f"file://{made}/report/items/000003.html", tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert len(np.unique(pixels, axis=0)) > 50
    blue = (pixels[:, 2] > pixels[:, 0] + 60).sum()
    assert blue > 500, "hits are tinted blue"


def test_thousands_of_lines_are_drawn_step_by_step(made, tmp_path):
    """The index holds all lines as data and draws the first 200."""
    index = (made / "report" / "index.html").read_text()
    lines = json.loads(re.search(r'id="data">(.*?)</script>', index, re.DOTALL)[1])
    many = [line | {"id": f"e{n}"} for n in range(1000) for line in lines]
    page = tmp_path / "index.html"
    page.write_text(re.sub(r'(id="data">).*?(</script>)', lambda m: m[1] + json.dumps(many).replace("<", "\\u003c") + m[2], index, count=1,
                           flags=re.DOTALL))
    dom, console = browse(f"file://{page}")
    assert console == [] and len(shown_lines(dom)) == 200 and 'id="count">5000<' in dom and page.stat().st_size < 3e6


def test_one_file_in_a_browser(made, tmp_path):
    assert report.main([*flags(made), "--out", str(tmp_path / "report.html"), "--frames", "2"]) == 0
    dom, console = browse(f"file://{tmp_path}/report.html")
    assert console == [] and dom.count('class="example"') == 5


def test_a_benchmark_of_masks_only(tmp_path):
    """No question, options or segments: the first headline value decides what counts as right, and there is no time bar."""
    facts = {"task": "refer", "question": "the disc", "options": (), "answer": "", "segments": None, "targets": (("a",),)}
    samples = [small_sample(f"clip{i}", discs(6)) for i in range(2)]
    samples = [type(s)(s.key, s.medium, (Example(f"{s.key}/0", **facts),), s.frames, "made", "test") for s in samples]
    some = [Prediction(s.examples[0].example_id, s.medium.medium_id, size=(48, 64), masks=(dict(enumerate(s.medium.objects["a"].track.entries)),))
            for s in samples[:1]] + [Prediction("clip1/0", "clip1", "no_mask")]
    write(tmp_path, samples, {"model": some}, "mevis")
    assert report.main(["--predictions", str(tmp_path / "model.jsonl"), "--score", str(tmp_path / "model.json"), "--shards", str(tmp_path / "shards"),
                        "--out", str(tmp_path / "report"), "--limit", "2"]) == 0
    first, second = ((tmp_path / "report" / "items" / f"{n:06d}.html").read_text() for n in range(2))
    assert 'class="yes">right' in first and "J 100.0" in first and 'class="bar"' not in first and 'class="no">wrong' in second


def test_folders_with_content_are_left_alone(made, capsys):
    assert report.main([*flags(made), "--out", str(made / "report")]) == EXIT_USER_ERROR
    assert "already holds something" in capsys.readouterr().err
