"""``unipixel preview``: the page shows what the shards hold, escapes it, and tells absent from not annotated."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from data_tools import preview
from tests.film_scenes import scene as film_scene
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.data.template import render
from unipixel.errors import EXIT_USER_ERROR
from unipixel.sample import Example, MaskTrack, Medium, PreferencePair, SceneObject, Subtitle, Turn

W, H = 64, 48


def grey_jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (W, H), (128, 128, 128)).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture
def packed(tmp_path):
    masks = np.zeros((4, H, W), bool)
    masks[0, 10:30, 20:40] = True
    track = MaskTrack.from_masks(masks, annotated=[True, True, False, True])
    times = (0.0, 0.5, 1.0, 1.5)
    medium = Medium("v", "frames", W, H, times, 2.0, {"a": SceneObject("a", "the <b>cup</b>", track)}, (Subtitle(0.2, 0.9, "here & now"),))
    pair = PreferencePair("p", "left", "right", "spatial", chosen_segments=((0.0, 0.5),))
    examples = [Example("q", "evidence", "Where <script>?", ("left", "right"), "left", ((0.0, 0.5),), (("a",),), rationale="seen", pairs=(pair,))]
    with ShardWriter(tmp_path / "d", dataset="toy", split="train") as writer:
        writer.write(medium, examples, [grey_jpeg()] * 4)
        for i in range(9):
            chat = Example(f"c{i}", "chat", turns=(Turn("user", f"ask {i}"), Turn("assistant", f"reply {i}")))
            writer.write(Medium(f"t{i}", "none"), [chat], [])
    return tmp_path / "d"


def test_page_is_self_contained_and_escaped(packed, tmp_path, capsys):
    out = tmp_path / "p.html"
    assert preview.main([str(packed), "--out", str(out), "--limit", "3"]) == 0
    page = out.read_text(encoding="utf-8")
    assert page.count('<section class="sample">') == 3 and "3 of 10 examples" in page
    assert "<script" not in page and "Where &lt;script&gt;?" in page and "the &lt;b&gt;cup&lt;/b&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)
    for text in ("seen", "here &amp; now", "0.00 - 0.50 s", "spatial", "reply 3", "reply 8", "toy/train: 10 examples of 10 media"):
        assert text in page
    assert str(out) in capsys.readouterr().out


def test_frames_tell_visible_from_absent_from_unknown(packed):
    sample = ShardDataset(packed).sample(0)
    example = sample.examples[0]
    views = preview.frame_views(sample, example, preview.shown_objects(example, sample))
    assert [v["badges"][0]["state"] for v in views] == ["visible", "empty", "unknown", "empty"]
    assert [v["evidence"] for v in views] == [True, True, False, False]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(v["uri"].split(",")[1])))).astype(int) for v in views]
    tinted = np.abs(pictures[0] - pictures[1]).sum(-1) > 30
    scale = tinted.shape[1] / W
    rows, columns = np.nonzero(tinted)
    assert abs(rows.min() / scale - 10) < 4 and abs(rows.max() / scale - 30) < 4
    assert abs(columns.min() / scale - 20) < 4 and abs(columns.max() / scale - 40) < 4
    assert np.abs(pictures[1] - pictures[2]).max() == 0


def test_lanes_show_segments_pairs_subtitles_and_annotation(packed):
    sample = ShardDataset(packed).sample(0)
    example = sample.examples[0]
    rows = {row["name"]: row["parts"] for row in preview.lanes(sample, example, preview.shown_objects(example, sample))}
    assert list(rows) == ["segments", "p chosen", "subtitles", "a: the <b>cup</b>"]
    assert [(p["left"], p["width"]) for p in rows["segments"]] == [(0.0, 25.0)]
    assert [(p["left"], p["width"], p["empty"]) for p in rows["a: the <b>cup</b>"]] == [(0, 25, False), (25, 25, True), (75, 25, True)]


def test_supervised_text_is_what_the_template_supervises(packed):
    data = ShardDataset(packed)
    page = preview.build_page(data, 1)
    expected = [text for text, supervised in render(data.sample(0)).spans if supervised]
    shown = re.findall(r'<span class="supervised">(.*?)</span>', page.split('class="dialogue', 1)[1], re.DOTALL)
    assert expected and [t.replace("&lt;", "<").replace("&gt;", ">") for t in shown] == expected


def test_the_dialogue_is_that_of_a_recipe(tmp_path):
    scene = film_scene()
    with ShardWriter(tmp_path / "film", dataset="films", split="train") as writer:
        writer.write(scene.medium, scene.examples, scene.frames)
    recipe = tmp_path / "film.yaml"
    recipe.write_text("prompt: film_interleaved\nanswer_style: rationale\nuse_subtitles: true\nnum_frames: 3\nframe_sampling: uniform\n"
                      "key_frame: true\nlearning_rate: 1.0e-4\n")
    assert preview.main([str(tmp_path / "film"), "--recipe", str(recipe), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("&lt;|video_pad|&gt;") == 4 and "picture #4 shows that moment" in page and "Final Answer: The key" in page
    recipe.write_text("prompt: poem\n")
    assert preview.main([str(tmp_path / "film"), "--recipe", str(recipe)]) == EXIT_USER_ERROR


def test_frames_are_spread_and_prefer_visible_ones():
    entries = [None] * 80
    entries[12] = entries[71] = "x"
    obj = SceneObject("a", "", MaskTrack((H, W), tuple(entries)))
    assert preview.choose_frames(80, [obj]) == [5, 12, 25, 35, 45, 55, 65, 71]
    assert preview.choose_frames(3, []) == [0, 1, 2]


def test_damaged_sample_shows_its_error(packed):
    data = ShardDataset(packed)
    tar = packed / "shard-000000.tar"
    raw = bytearray(tar.read_bytes())
    raw[data.rows["offset"][1].as_py() + 600] ^= 1
    tar.write_bytes(raw)
    page = preview.build_page(data, 10)
    assert page.count('<section class="sample error">') == 1 and "checksum: toy-train-t0" in page


@pytest.mark.parametrize("more,message", [([], "no dataset folder"), (["--limit", "0"], "--limit=0"),
                                          (["--tokenizer", "/nowhere"], "no dataset folder")])
def test_unusable_arguments(tmp_path, capsys, more, message):
    assert preview.main([str(tmp_path / "none"), *more]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_token_counts(packed):
    page = preview.build_page(ShardDataset(packed), 1, count_tokens=lambda text: len(text.split()))
    words = [(len(t.split()), s) for t, s in render(ShardDataset(packed).sample(0)).spans]
    assert f"{sum(n for n, _ in words)} text tokens" in page and f"{sum(n for n, s in words if s)} supervised" in page
