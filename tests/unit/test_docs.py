"""The documents say what the program does: every command, flag and path in them exists, and their Python examples run."""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from data_tools.synth import SynthConfig, make_clip
from launch.cli import COMMANDS, find
from unipixel.data.writer import ShardWriter

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS_TRAINED_MODEL = "load_predictor"


def commands(text: str) -> list[str]:
    """Lines of shell blocks and inline code that call ``unipixel``, continuation lines joined."""
    shell = "\n".join(body for language, body in FENCE.findall(text) if language in ("bash", "console", ""))
    lines = shell.replace("\\\n", " ").splitlines() + re.findall(r"`([^`\n]+)`", text)
    starts = (re.sub(r"^\$\s+|^\.venv/bin/", "", line.strip()) for line in lines)
    return [line.split("#")[0].split("&")[0].strip() for line in starts if line.startswith("unipixel ")]


@functools.cache
def known_flags(name: str) -> set[str]:
    """Flags in the help of a command."""
    module, function = COMMANDS[name].target.split(":")
    out = io.StringIO()
    extra = ["st-evidence"] if name == "score" else []
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        getattr(importlib.import_module(module), function)([*extra, "--help"])
    flags = set(re.findall(r"--[A-Za-z][\w-]*", out.getvalue()))
    assert flags, f"`unipixel {name} --help` prints no flags"
    return flags


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_exist(page):
    for line in commands(page.read_text(encoding="utf-8")):
        words = [w for w in shlex.split(line.replace("…", "").replace("'", " "))[1:] if w != "..."]
        if not words or words[0].startswith("--") or words[0].isupper():
            continue
        name, rest = find(words)
        unknown = {w.split("=")[0] for w in rest if re.match(r"--[A-Za-z]", w)} - known_flags(name) - {"--config", "--help"}
        assert not unknown, f"{page.name}: `{line}`"


def test_the_commands_are_found():
    assert len([line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and not link.startswith("#")]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"`((?:unipixel|sam2_ext|data_tools|benchmarks|launch|deepspeed_configs|tests|examples)/(?!\d)[\w./+-]+)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders that the examples name, with synthetic clips."""
    root = tmp_path_factory.mktemp("docs")
    for name in ("mevis", "synth", "test"):
        clip = make_clip(SynthConfig(max_objects=2), name, 0)
        frames = [_jpeg(frame) for frame in clip.frames]
        with ShardWriter(root / "shards" / name, dataset=name, split="train") as writer:
            writer.write(clip.medium, clip.examples, frames)
    return root


def _jpeg(pixels) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


PYTHON = [(page, body) for page in PAGES for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize(("page", "body"), PYTHON, ids=[f"{page.stem}-{n}" for n, (page, _) in enumerate(PYTHON)])
def test_python_examples_run(page, body, folder, monkeypatch):
    if NEEDS_TRAINED_MODEL in body:
        compile(body, str(page), "exec")
        return
    monkeypatch.chdir(folder)
    if ">>>" in body:
        test = doctest.DocTestParser().get_doctest(body, {}, page.name, str(page), 0)
        assert doctest.DocTestRunner().run(test).failed == 0
    else:
        exec(compile(body, str(page), "exec"), {})  # noqa: S102 - our own documents


def test_the_readme_table_is_the_saved_result():
    result = json.loads((ROOT / "benchmarks" / "results" / "quickstart.json").read_text())
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in result["rows"]:
        cells = re.search(rf"^\| {re.escape(row['metric'])} \|(.*)\|$", text, re.MULTILINE)[1].split("|")
        shown = [None if cell.strip() == "–" else float(cell.strip(" *")) for cell in cells[:3]]
        assert shown == [None if row[side] is None else round(100 * row[side], 1) for side in ("trivial", "untrained", "trained")], row["metric"]
    assert f"({result['examples']} questions)" in text and f"{result['total_seconds']:.0f} s in all" in text
