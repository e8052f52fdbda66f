"""A chat-completions server for tests: answers by a function of the request, over real HTTP, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from data_tools.preference.endpoints import Endpoint
from tests.packing import jpeg
from unipixel.data.shards import ShardWriter
from unipixel.sample import Example, Medium

Answer = str | tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Text of a reply; or a status with its body, and further headers."""


@dataclass
class ChatServer:
    """``requests``: bodies in the order of their arrival; ``headers``: those of the last one, names in lower case."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def endpoint(self, **settings: Any) -> Endpoint:
        return Endpoint(**{"model": "toy", "base_url": self.url, "max_attempts": 3} | settings)

    def models(self, path: Path, *roles: str, **settings: Any) -> Path:
        """The file of roles, all played by this server."""
        path.write_text(yaml.safe_dump({role: {"model": "toy", "base_url": self.url, "max_attempts": 3} | settings for role in roles}))
        return path


def text_of(body: dict[str, Any]) -> str:
    """All texts of a request."""
    contents = [message["content"] for message in body["messages"]]
    return "\n".join(c if isinstance(c, str) else "\n".join(part["text"] for part in c if part["type"] == "text") for c in contents)


def pictures_of(body: dict[str, Any]) -> int:
    return sum(part["type"] == "image_url" for m in body["messages"] if not isinstance(m["content"], str) for part in m["content"])


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "toy-1", "usage": {"prompt_tokens": 100, "completion_tokens": 10,
            "total_tokens": 110}, "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}]}


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):  # noqa: N802 - the name that http.server wants
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.headers = {name.lower(): value for name, value in self.headers.items()}
            said = answer(body)
            status, content, *more = (200, completion(said)) if isinstance(said, str) else said
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(more[0] if more else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def write_videos(folder: Path, names: list[str], *, seconds: float = 4, fps: float = 8, dataset: str = "toy", split: str = "train",
                 examples: dict[str, list[Example]] | None = None, source: dict[str, dict] | None = None) -> Path:
    """Shards of small noise videos; without ``examples`` each has one question."""
    with ShardWriter(folder, dataset=dataset, split=split) as writer:
        for n, name in enumerate(names):
            times = tuple(i / fps for i in range(int(seconds * fps)))
            medium = Medium(name, "frames", 32, 24, times, seconds, source=(source or {}).get(name, {"video": f"{name}.mp4"}))
            own = (examples or {}).get(name) or [Example(f"{name}_q", "evidence", "What is seen?", answer="Noise")]
            writer.write(medium, own, [jpeg(100 * n + i) for i in range(len(times))])
    return folder
