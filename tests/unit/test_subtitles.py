"""Subtitle files of three formats and several encodings, and the text table made of them."""

from __future__ import annotations

import pytest

from data_tools.convert.srt import read_srt, read_subtitles
from unipixel.errors import SampleError
from unipixel.sample import Subtitle

SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>Où</i> est\nle café?\n\n2\n00:00:02,000 --> 00:00:03,000 X1:10\n{\\an8}Là.\n"
VTT = ("WEBVTT - film\n\nSTYLE\n::cue { color: red }\n\nNOTE nothing\n\nname\n00:01.000 --> 00:02.500 align:start\n<v Ann>Où</v> est\n"
       "le café?\n\n00:00:02.000 --> 00:00:03.000\nLà.\n")
ASS = ("[Script Info]\nTitle: x\n\n[V4+ Styles]\nFormat: Name, Start\n\n[Events]\nFormat: Layer, Start, End, Style, Name, Text\n"
       "Comment: 0,0:00:00.00,0:00:09.00,D,,no\nDialogue: 0,0:00:02.00,0:00:03.00,D,,{\\an8}Là.\n"
       "Dialogue: 0,0:00:01.00,0:00:02.50,D,Ann,Où est\\Nle café?\n")
CUES = (Subtitle(1.0, 2.5, "Où est le café?"), Subtitle(2.0, 3.0, "Là."))


@pytest.mark.parametrize(("suffix", "text"), [(".srt", SRT), (".vtt", VTT), (".ass", ASS), (".SRT", SRT.replace("\n", "\r\n"))])
@pytest.mark.parametrize(("encoding", "used"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("cp1252", "cp1252")])
def test_formats_and_encodings_give_the_same_cues(tmp_path, suffix, text, encoding, used):
    path = tmp_path / f"film{suffix}"
    path.write_bytes(text.encode(encoding))
    found = read_subtitles(path)
    assert (found.cues, found.malformed, found.encoding) == (CUES, (), used)


def test_character_references_belong_to_vtt(tmp_path):
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nR&amp;B &lt;3\n")
    (tmp_path / "a.srt").write_text("00:00:01,000 --> 00:00:02,000\nR&amp;B\n")
    assert read_subtitles(tmp_path / "a.vtt").cues[0].text == "R&B <3" and read_subtitles(tmp_path / "a.srt").cues[0].text == "R&amp;B"


@pytest.mark.parametrize(("suffix", "text", "wrong"), [
    (".srt", SRT + "\n3\n00:00:05,000 -> 00:00:06,000\nx\n\n4\n00:00:08,000 --> 00:00:07,000\ny\n\n5\n00:00:61,000 --> 00:00:62,000\nz\n",
     ["no timing line in '00:00:05,000 ->", "ends before it starts", "no timing line in '00:00:61,000"]),
    (".vtt", VTT + "\n00:01.000 -->\nx\n", ["no timing line in '00:01.000 -->'"]),
    (".vtt", VTT.removeprefix("WEBVTT - film"), ["the first line is not WEBVTT"]),
    (".ass", ASS + "Dialogue: 0,0:00:02.00\nDialogue: 0,soon,0:00:03.00,D,,x\n", ["no start, end and text", "no timing line"]),
])
def test_malformed_cues_are_listed_and_the_others_kept(tmp_path, suffix, text, wrong):
    path = tmp_path / f"film{suffix}"
    path.write_text(text)
    found = read_subtitles(path)
    assert found.cues == CUES and len(found.malformed) == len(wrong)
    assert all(part in line for part, line in zip(wrong, found.malformed))


@pytest.mark.parametrize(("name", "data", "message"), [
    ("a.srt", b"", "no subtitle with text"), ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n<i></i>\n", "no subtitle with text"),
    ("a.srt", b"hello", "no timing line in 'hello'"), ("a.srt", SRT.encode("utf-16-le"), "zero bytes"),
    ("a.srt", b"\x81\xff", "is not text in utf-8 or cp1252"),
    ("a.sub", SRT.encode(), "read from .srt, .vtt, .ass"),
])
def test_files_without_subtitles_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SampleError, match=message) as caught:
        read_subtitles(tmp_path / name)
    assert caught.value.reason == "bad_subtitles"


def test_the_strict_reader_refuses_a_malformed_cue(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(SRT)
    assert read_srt(path) == CUES
    path.write_text(SRT + "\n3\nnothing\n")
    with pytest.raises(SampleError, match="no timing line in 'nothing'"):
        read_srt(path)


def test_the_real_files_have_one_overlap_each(shared_data):
    for path in sorted((shared_data / "mini_real/subtitles").glob("*.srt")):
        found = read_subtitles(path)
        assert not found.malformed and sum(a.end_s > b.start_s for a, b in zip(found.cues, found.cues[1:])) == 1
