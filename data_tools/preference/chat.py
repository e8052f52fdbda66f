"""The client that every recipe asks: looks a request up in the journal, else asks the role's backend, several at once, and counts.

Replies come back in the order of the requests, whatever the number of threads, so results do not depend on timing. Equal requests are
asked once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from data_tools.preference.endpoints import Endpoint, read_endpoints
from data_tools.preference.journal import Journal
from data_tools.preference.messages import ChatRequest, Message, Sampling
from data_tools.preference.service import Service
from unipixel.errors import DataError, SampleError

AHEAD = 4
"""Requests prepared per thread: one slow reply does not stop the others, and pictures of few requests are in memory."""
GIVE_UP = 20
"""Failures in a row, without any reply, after which the service is taken to be broken."""
Item = TypeVar("Item")


class Backend(Protocol):
    def reply(self, request: ChatRequest) -> dict[str, Any]: ...


class Recorded:
    """Backend ``recorded``: what the journal lacks is an error of its request."""

    def reply(self, request: ChatRequest) -> dict[str, Any]:
        raise SampleError(f"no recorded reply to request {request.key[:16]}", reason="not_recorded")


@dataclass(frozen=True)
class Reply:
    """What a model said, with the key of the request."""

    key: str
    text: str
    served: str = ""


def backend_of(endpoint: Endpoint) -> Backend:
    if endpoint.backend == "openai":
        return Service(endpoint)
    if endpoint.backend == "recorded":
        return Recorded()
    from data_tools.preference.local import LocalModel  # noqa: PLC0415 - imports all of transformers

    return LocalModel(endpoint)


class ChatClient:
    """One role. ``counts`` holds requests, replies from the journal, failures, and tokens as far as services report them."""

    def __init__(self, role: str, endpoint: Endpoint, journal: Journal, backend: Backend | None = None):
        self.role, self.endpoint, self.journal = role, endpoint, journal
        self.backend = backend or backend_of(endpoint)
        self.counts: Counter[str] = Counter()
        self._mutex, self._failed = Lock(), 0
        self._under_way: dict[str, Future] = {}

    def request(self, messages: tuple[Message, ...], sampling: Sampling) -> ChatRequest:
        return ChatRequest(self.endpoint.identity, messages, sampling)

    def ask_all(self, jobs: Iterable[tuple[Item, ChatRequest]], what: str) -> Iterator[tuple[Item, Future[Reply]]]:
        """(item, future) in the order of ``jobs``, which are taken as they are needed; ``future.result()`` is that of :meth:`ask`."""
        pool = ThreadPoolExecutor(self.endpoint.concurrency)
        waiting: deque[tuple[Item, Future[Reply]]] = deque()
        try:
            with tqdm(desc=f"{what} ({self.role})", unit="reply") as bar:
                for item, request in jobs:
                    waiting.append((item, pool.submit(self.ask, request)))
                    if len(waiting) > AHEAD * self.endpoint.concurrency:
                        yield self._ready(waiting, bar)
                while waiting:
                    yield self._ready(waiting, bar)
        finally:
            pool.shutdown(cancel_futures=True)  # what was sent already is awaited and stored

    def ask(self, request: ChatRequest) -> Reply:
        """The reply to one request.

        Raises:
            SampleError: this request failed; also ``cut_reply`` (raise max_tokens) and ``empty_reply``.
            DataError, ConfigError: all requests would fail; what was answered is kept.
        """
        key = request.key
        record = self.journal.get(key)
        if record is not None:
            self._count(replayed=1)
            return _checked(key, record)
        with self._mutex:
            twin = self._under_way.get(key)
            future = self._under_way.setdefault(key, Future())
        if twin is not None:
            return twin.result()
        try:
            record = self.journal.get(key)  # a twin may have ended between both looks
            if record is None:
                record = self._ask_backend(request)
                self.journal.append(key, record, request.content)
            reply = _checked(key, record)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._mutex:
                del self._under_way[key]
        future.set_result(reply)
        return reply

    @property
    def cost(self) -> float:
        """Price of the tokens of this run, in the currency of the endpoint's prices."""
        return (self.counts["prompt_tokens"] * self.endpoint.price_in + self.counts["completion_tokens"] * self.endpoint.price_out) / 1e6

    def report(self) -> dict[str, Any]:
        """Counters of this run as plain values."""
        return {"model": self.endpoint.identity, **self.counts, "cost": round(self.cost, 6)}

    def _ask_backend(self, request: ChatRequest) -> dict[str, Any]:
        self._count(requests=1)
        try:
            record = self.backend.reply(request)
        except SampleError as error:
            self._count(failed=1)
            with self._mutex:
                self._failed += 1
                hopeless = self._failed >= GIVE_UP and not isinstance(self.backend, Recorded)
            if hopeless:
                raise DataError(f"{self.role}: {GIVE_UP} requests failed in a row, the last one: {error}; mend the service and start the same "
                                "command again") from error
            raise
        with self._mutex:
            self._failed = 0
        usage = record["usage"]
        self._count(**({"replies_without_usage": 1} if usage is None else {f"{name}_tokens": n for name, n in usage.items()}))
        return record

    def _ready(self, waiting: deque, bar: tqdm) -> tuple[Any, Future[Reply]]:
        item, future = waiting.popleft()
        future.exception()  # waits
        bar.update()
        if self.cost:
            bar.set_postfix_str(f"cost {self.cost:.2f}")
        return item, future

    def _count(self, **more: int) -> None:
        with self._mutex:
            self.counts.update(more)


def _checked(key: str, record: dict[str, Any]) -> Reply:
    if record["finish"] == "length":
        raise SampleError(f"the reply {record['text'][:60]!r} was cut at its largest length: raise max_tokens", reason="cut_reply")
    if not record["text"].strip():
        raise SampleError(f"the reply is empty (finish_reason {record['finish']!r})", reason="empty_reply")
    return Reply(key, record["text"].strip(), record["served"])


@contextmanager
def clients(models: str | Path, roles: tuple[str, ...], replies: str | Path) -> Iterator[dict[str, ChatClient]]:
    """Clients of the roles that a command needs, over one journal. Roles with the same settings share a backend."""
    endpoints = read_endpoints(models, roles)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(replies, writable=any(e.backend != "recorded" for e in endpoints.values())))
        backends: dict[str, Backend] = {}
        for endpoint in endpoints.values():
            if repr(endpoint) not in backends:
                backends[repr(endpoint)] = backend_of(endpoint)
        yield {role: ChatClient(role, endpoint, journal, backends[repr(endpoint)]) for role, endpoint in endpoints.items()}
