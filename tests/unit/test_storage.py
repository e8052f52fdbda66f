"""Shards behind a protocol: the same bytes as from a disk, each transferred once per machine, and every fault of a server a typed error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest
from tenacity import wait_none

from tests.unit.test_shards import bundles, clip
from unipixel.data import frames as frames_module
from unipixel.data import index, shards, storage
from unipixel.data.shards import ShardDataset
from unipixel.data.storage import ATTEMPTS, Storage, is_remote, join
from unipixel.data.writer import ShardWriter
from unipixel.errors import DataError, SampleError

DATA = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()


class Server(ThreadingHTTPServer):
    """Files in memory over HTTP, with ranges.

    Attributes:
        files: path -> contents; ``marks``: path -> headers that tell versions apart (default: an ``ETag`` of the contents).
        requests: (method, path, range) of every request.
        faults: path -> statuses that the next requests for it get instead.
        cut: bytes that each body lacks; ``ranges``: whether ranges are honoured; ``pause``: seconds before a body's second half;
            ``down``: connections end without an answer.
    """

    daemon_threads = True

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.marks: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.faults: dict[str, list[int]] = {}
        self.cut, self.ranges, self.pause, self.down = 0, True, 0.0, False
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def gets(self, path: str) -> list[str]:
        """Ranges of the GET requests for a file."""
        return [asked for method, name, asked in self.requests if method == "GET" and name == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range", "")
        server.requests.append((self.command, self.path, asked))
        if server.down:
            self.close_connection = True
            return
        data, faults = server.files.get(self.path), server.faults.get(self.path, [])
        status = faults.pop(0) if faults else 404 if data is None else 200
        if status != 200:
            data = b""
        elif (found := re.fullmatch(r"bytes=(\d+)-(\d+)", asked)) and server.ranges:
            status, data = 206, data[int(found[1]):int(found[2]) + 1]
        sent = data[:len(data) - server.cut] if body else data
        self.send_response(status)
        for name, value in server.marks.get(self.path, {"ETag": f'"{hashlib.md5(server.files.get(self.path, b"")).hexdigest()}"'}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if body:
            half = len(sent) // 2
            with contextlib.suppress(OSError):  # the client was killed
                self.wfile.write(sent[:half])
                self.wfile.flush()
                time.sleep(server.pause)
                self.wfile.write(sent[half:])

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage._ask.retry, "wait", wait_none())


@pytest.fixture
def server():
    with Server() as server:
        yield server
        server.shutdown()


@pytest.fixture
def packed(tmp_path):
    with ShardWriter(tmp_path / "packed", dataset="toy", split="train", max_bundles=2) as writer:
        for bundle in bundles():
            writer.write(*bundle)
    return tmp_path / "packed"


def publish(server: Server, folder: Path, at: str = "/data") -> str:
    server.files |= {f"{at}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return server.url(at)


def content(data: ShardDataset) -> list:
    samples = [data.sample(i) for i in range(len(data))]
    return [(s.key, s.medium, s.examples, list(s.frames)) for s in samples]


def copies(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix != ".lock"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_names():
    assert is_remote("s3://b/x") and not is_remote("/a/b") and not is_remote(Path("a"))
    assert join("s3://b/x/", "y") == "s3://b/x/y" and join("/a", "y") == "/a/y"


# --- the same bytes -------------------------------------------------------------------------------------------------------------------

def test_memory_files_are_read_like_local_ones(packed):
    filesystem = fsspec.filesystem("memory")
    for path in packed.iterdir():
        filesystem.pipe_file(f"/toy/{path.name}", path.read_bytes())
    data = ShardDataset("memory://toy")
    assert content(data) == content(ShardDataset(packed)) and data.fingerprint == ShardDataset(packed).fingerprint
    with pytest.raises(DataError, match="no packed dataset at memory://nothing"):
        ShardDataset("memory://nothing")
    filesystem.rm("/toy/shard-000001.tar")
    with pytest.raises(DataError, match="missing"):
        ShardDataset("memory://toy")
    filesystem.rm("/toy", recursive=True)


@pytest.mark.parametrize("cached", [False, True])
def test_http_shards_are_read_like_local_ones(server, packed, tmp_path, cached):
    url = publish(server, packed)
    data = ShardDataset(url, Storage(str(tmp_path / "cache") if cached else ""))
    assert content(data) == content(ShardDataset(packed))
    asked = [part for name in server.files if name.endswith(".tar") for part in server.gets(name)]
    assert asked == ["", ""] if cached else all(part.startswith("bytes=") for part in asked)


def test_frames_of_a_large_bundle_cost_one_request_per_run(server, packed, monkeypatch):
    monkeypatch.setattr(shards, "WHOLE", 0)
    monkeypatch.setattr(frames_module, "GAP", 0)
    data = ShardDataset(publish(server, packed))
    sample = data.sample(0)
    assert len(server.gets("/data/shard-000000.tar")) == 2, "texts, and the directory of the frames"
    server.requests.clear()
    assert sample.frames.read([4, 0, 1]) == [bundles()[0][2][t] for t in (4, 0, 1)]
    assert len(server.gets("/data/shard-000000.tar")) == 2, "frames 0 and 1 together"
    monkeypatch.setattr(frames_module, "GAP", 1 << 20)
    server.requests.clear()
    sample.frames.read([0, 4])
    assert len(server.gets("/data/shard-000000.tar")) == 1, "what lies between costs less than a request"


def test_exclusions_count_over_http_too(server, packed):
    key = ShardDataset(packed).rows["key"][0].as_py()
    (packed / index.EXCLUDED).write_text(f'{{"key": "{key}"}}\n')
    url = publish(server, packed)
    assert ShardDataset(url).excluded == [[key]]
    server.faults[f"/data/{index.EXCLUDED}"] = [503, 503]  # must not pass for "there is no list"
    assert ShardDataset(url).excluded == [[key]]


# --- the cache ------------------------------------------------------------------------------------------------------------------------

def test_equal_names_do_not_mix(server, tmp_path):
    server.files |= {"/a/x.tar": DATA, "/b/x.tar": DATA[::-1]}
    server.marks = {path: {"ETag": '"same"'} for path in server.files}
    cache = Storage(str(tmp_path))
    assert [cache.read(server.url(path), 3, 9) for path in ("/a/x.tar", "/b/x.tar")] == [DATA[3:12], DATA[::-1][3:12]]
    assert len(copies(tmp_path)) == 2


@pytest.mark.parametrize("mark", ["ETag", "Last-Modified"])
def test_a_replaced_file_is_copied_anew(server, tmp_path, mark):
    for number, contents in enumerate((DATA, DATA[::-1])):
        server.files["/x.tar"], server.marks["/x.tar"] = contents, {mark: f"version {number}"}
        for _ in range(2):
            assert Storage(str(tmp_path)).read(server.url("/x.tar"), 0, 99) == contents[:99]
    assert len(server.gets("/x.tar")) == len(copies(tmp_path)) == 2


def _read(url: str, cache: str, queue) -> None:
    queue.put(hashlib.sha256(Storage(cache).read(url, 0, len(DATA))).hexdigest())


def test_processes_share_one_download(server, tmp_path):
    server.files["/x.tar"], server.pause = DATA, 0.3
    context = get_context("fork")
    queue = context.Queue()
    readers = [context.Process(target=_read, args=(server.url("/x.tar"), str(tmp_path), queue)) for _ in range(4)]
    for reader in readers:
        reader.start()
    assert {queue.get(timeout=60) for _ in readers} == {hashlib.sha256(DATA).hexdigest()}
    for reader in readers:
        reader.join()
    assert server.gets("/x.tar") == [""] and len(copies(tmp_path)) == 1


def test_a_killed_download_leaves_no_copy(server, tmp_path):
    server.files["/x.tar"], server.pause = DATA * 200, 30
    context = get_context("fork")
    reader = context.Process(target=_read, args=(server.url("/x.tar"), str(tmp_path), context.Queue()))
    reader.start()
    deadline = time.monotonic() + 30
    while not any(p.suffix == ".tmp" and p.stat().st_size for p in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(reader.pid, signal.SIGKILL)
    reader.join()
    assert [p.suffix for p in copies(tmp_path)] == [".tmp"]
    server.pause = 0
    assert Storage(str(tmp_path)).read(server.url("/x.tar"), len(DATA) * 199, 50) == DATA[:50]
    assert [p.suffix for p in copies(tmp_path)] == [".tar"]


def test_a_short_download_is_an_error(server, tmp_path):
    server.files["/x.tar"], server.cut = DATA, 10
    with pytest.raises(OSError, match=r"has 49990 bytes, the server announced 50000"):
        Storage(str(tmp_path)).read(server.url("/x.tar"), 0, 9)
    assert not copies(tmp_path)


def test_the_cache_stays_within_its_bound(server, tmp_path):
    server.files |= {f"/{n}.tar": bytes([n]) * 1000 for n in range(4)}
    cache = Storage(str(tmp_path), cache_bytes=2500)
    for n in (0, 1, 2):
        assert cache.read(server.url(f"/{n}.tar"), 0, 5) == bytes([n]) * 5
        time.sleep(0.02)
    assert sorted(p.name[-5] for p in copies(tmp_path)) == ["1", "2"]
    assert cache.read(server.url("/0.tar"), 990, 10) == bytes(10), "removed, but still open here"
    assert len(server.gets("/0.tar")) == 1
    again = Storage(str(tmp_path), cache_bytes=2500)
    assert again.read(server.url("/1.tar"), 0, 1) == b"\1" and len(server.gets("/1.tar")) == 1
    time.sleep(0.02)
    again.read(server.url("/3.tar"), 0, 1)
    assert sorted(p.name[-5] for p in copies(tmp_path)) == ["1", "3"], "1 was opened after 2"


# --- faults ---------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cached", [False, True])
def test_a_busy_server_is_asked_again(server, tmp_path, cached):
    server.files["/x.tar"], server.faults = DATA, {"/x.tar": [503, 503, 429]}
    assert Storage(str(tmp_path) if cached else "").read(server.url("/x.tar"), 7, 5) == DATA[7:12]
    assert not server.faults["/x.tar"]


def test_attempts_are_bounded(server):
    server.files["/x.tar"], server.faults = DATA, {"/x.tar": [503] * 100}
    with pytest.raises(OSError, match="503"):
        Storage().read(server.url("/x.tar"), 0, 5)
    assert Counter(method for method, *_ in server.requests) == {"GET": ATTEMPTS}


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionError), (404, FileNotFoundError), (410, FileNotFoundError), (400, OSError)])
def test_what_cannot_succeed_is_asked_once(server, status, kind):
    server.faults = {"/x.tar": [status] * 9}
    with pytest.raises(kind, match=f"{status}|x.tar"):
        Storage().read(server.url("/x.tar"), 0, 5)
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_not_a_missing_dataset(server, packed):
    url = publish(server, packed)
    data = ShardDataset(url)
    server.down = True
    with pytest.raises(SampleError) as caught:
        data.sample(0)
    assert caught.value.reason == "io" and len(server.gets("/data/shard-000000.tar")) >= ATTEMPTS
    for gone in (url, f"http://127.0.0.1:{free_port()}"):
        with pytest.raises(ConnectionError):
            Storage().is_file(f"{gone}/dataset.json")


def test_a_server_without_ranges_is_named(server):
    server.files["/x.tar"], server.ranges = DATA, False
    with pytest.raises(OSError, match="ignores ranges.*set cache_dir"):
        Storage().read(server.url("/x.tar"), 0, 5)


def test_damage_on_the_way_is_found(server, packed):
    data = ShardDataset(publish(server, packed))
    raw = bytearray(server.files["/data/shard-000000.tar"])
    raw[700] ^= 1
    server.files["/data/shard-000000.tar"] = bytes(raw)
    with pytest.raises(SampleError) as caught:
        data.sample(0)
    assert caught.value.reason == "checksum"


def test_a_missing_package_is_named(monkeypatch):
    def needs_package(name):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", needs_package)
    with pytest.raises(DataError, match="cannot read s3://bucket/x/dataset.json: Install s3fs"):
        ShardDataset("s3://bucket/x")
    monkeypatch.undo()
    with pytest.raises(DataError, match="cannot read nonsense://x/dataset.json: .*nonsense"):
        ShardDataset("nonsense://x")


def test_local_files_need_no_cache(tmp_path):
    with ShardWriter(tmp_path / "d", dataset="d", split="s") as writer:
        writer.write(*clip("c", 1))
    data = ShardDataset(tmp_path / "d", Storage(str(tmp_path / "cache")))
    data.sample(0)
    assert not list((tmp_path / "cache").iterdir())
