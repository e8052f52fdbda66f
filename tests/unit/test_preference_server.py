"""End to end against ``transformers serve`` with a tiny model of text and pictures, and a client that is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_tools.preference.filter import main as filter_main
from data_tools.preference.journal import Journal
from data_tools.preference.make import hound_main
from data_tools.preference.score import main as score_main
from tests.chat_server import chat_server, write_videos
from tests.preference_roles import Player
from tests.tiny_chat_model import write_chat_model
from tests.tiny_run import free_port
from unipixel.data.pair_groups import PairGroups
from unipixel.data.shards import ShardDataset

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")  # the server's
ROOT = Path(__file__).parents[2]
CONCURRENCY = 3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, model, list of the bodies that arrived)."""
    from transformers.cli.serve import Serve  # noqa: PLC0415 - imports fastapi
    from transformers.cli.serving.chat_completion import ChatCompletionHandler  # noqa: PLC0415

    model = str(write_chat_model(tmp_path_factory.mktemp("model")))
    port = free_port()
    arrived, handle = [], ChatCompletionHandler.handle_request

    async def counted(self, body, request_id):
        arrived.append(json.dumps(body, sort_keys=True))
        return await handle(self, body, request_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatCompletionHandler, "handle_request", counted)
        server = Serve(force_model=model, host="127.0.0.1", port=port, device="cpu", log_level="error", non_blocking=True)
        address = f"http://127.0.0.1:{port}/v1"
        try:
            listening(address.replace("/v1", "/health"))
            yield address, model, arrived
        finally:
            server.kill_server()


def listening(address: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address):
                return
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos") / "shards", ["v1", "v2"], seconds=2)


def write_roles(path: Path, served, scripted: str, **settings) -> Path:
    """Candidates come from the real model; captions, questions and grades need a sense that it lacks."""
    address, model, _ = served
    real = {"model": model, "base_url": address, "concurrency": CONCURRENCY} | settings
    toy = {"model": "toy", "base_url": scripted}
    path.write_text(yaml.safe_dump({"answerer": real, "captioner": toy, "writer": toy, "judge": toy}))
    return path


def make_flags(videos: Path, folder: Path) -> list[str]:
    return ["--shards", str(videos), "--models", str(folder / "m.yaml"), "--out", str(folder / "q.jsonl"), "--max_tokens", "24", "--frames", "2"]


def test_a_real_server_from_videos_to_pairs(served, videos, tmp_path):
    with chat_server(Player()) as scripted:
        write_roles(tmp_path / "m.yaml", served, scripted.url)
        assert hound_main(make_flags(videos, tmp_path)) == 0
        assert score_main(["--questions", str(tmp_path / "q.jsonl"), "--by", "caption", "--models", str(tmp_path / "m.yaml"),
                           "--out", str(tmp_path / "judged.jsonl")]) == 0
    assert filter_main(["--questions", str(tmp_path / "judged.jsonl"), "--shards", str(videos), "--out", str(tmp_path / "pairs")]) == 0
    groups = PairGroups(ShardDataset(tmp_path / "pairs"))
    origin = groups.sample(0).examples[0].pairs[0].origin
    assert origin["chosen"]["generator"] == served[1] and origin["chosen"]["score"] >= 3 > origin["rejected"]["score"]
    assert origin["chosen"]["frames"]["times"] == [0.0, 1.5]
    report = json.loads((tmp_path / "q.jsonl.report.json").read_text())
    made = sum(len(json.loads(line)["candidates"]) for line in (tmp_path / "q.jsonl").read_text().splitlines())
    lost = {reason: n for reason, n in report["skipped"].items() if reason not in ("cut_reply", "empty_reply", "too_few_candidates")}
    assert not lost and report["roles"]["answerer"]["requests"] == 36 and report["roles"]["answerer"]["completion_tokens"] > 36
    assert made + report["skipped"].get("cut_reply", 0) + report["skipped"].get("empty_reply", 0) >= 36


def test_a_killed_client_asks_nothing_twice_and_loses_nothing(served, videos, tmp_path):
    """What the journal holds when the process dies is not asked again; what it lacks is: at most the requests under way were sent twice."""
    _, model, arrived = served
    arrived.clear()
    journal = tmp_path / "replies.jsonl"
    with chat_server(Player()) as scripted:
        write_roles(tmp_path / "m.yaml", served, scripted.url, revision="another")  # replies of the other test do not count
        code = f"import sys; from data_tools.preference.make import hound_main; sys.exit(hound_main({make_flags(videos, tmp_path)!r}))"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 60
            while len(arrived) < 18 and time.monotonic() < end:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (tmp_path / "q.jsonl").exists()
        stored = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
        with open(journal, "ab") as file:
            file.write(b'{"key": "half a li')
        asked = len(arrived)
        assert hound_main(make_flags(videos, tmp_path)) == 0
    with Journal(journal) as records:
        assert len(records) == 2 + 2 + 36  # captions, lists of questions, candidates
        assert all(records.get(entry["key"]) is not None for entry in stored)
    kept = {entry["request"]["sampling"]["seed"] for entry in stored if entry["request"]["model"] == f"{model}@another"}
    sent = Counter(json.loads(body)["seed"] for body in arrived)
    assert 18 <= asked <= len(kept) + CONCURRENCY, "a reply was not stored when it arrived"
    assert len(sent) == 36 and all(sent[seed] == 1 for seed in kept), "asked again although its reply was stored"
    assert sum(sent.values()) - 36 <= CONCURRENCY
