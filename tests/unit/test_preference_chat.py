"""The chat client: names of requests, the journal, retries and their end, counters."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from data_tools.preference import chat
from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.endpoints import Endpoint, read_endpoints
from data_tools.preference.journal import Journal
from data_tools.preference.messages import ChatRequest, Picture, Sampling, user
from tests.chat_server import chat_server, completion, pictures_of, text_of
from tests.packing import jpeg
from unipixel.errors import ConfigError, DataError, SampleError

pytestmark = pytest.mark.usefixtures("no_waiting")


def request(text: str = "Hello?", **sampling) -> ChatRequest:
    return ChatRequest("toy", user(text), Sampling(**sampling))


def client(server, path, **settings) -> ChatClient:
    return ChatClient("judge", server.endpoint(**settings), Journal(path))


# --- names of requests -----------------------------------------------------------------------------------------------------------

def test_a_request_is_named_by_all_that_its_reply_depends_on():
    base = ChatRequest("toy", user(Picture(jpeg(1)), "Hello?"), Sampling())
    others = [replace(base, model="toy@2"), replace(base, messages=user(Picture(jpeg(2)), "Hello?")),
              replace(base, messages=user("Hello?", Picture(jpeg(1)))), replace(base, messages=user(Picture(jpeg(1)), "Hello!")),
              *(replace(base, sampling=Sampling(**{name: value})) for name, value in
                {"temperature": 1.0, "top_p": 0.9, "max_tokens": 9, "seed": 1, "sample": 1}.items())]
    assert len({r.key for r in (base, *others)}) == 1 + len(others)
    assert replace(base, messages=user(Picture(jpeg(1)), "Hello?")).key == base.key


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}])
def test_sampling_is_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- the journal -----------------------------------------------------------------------------------------------------------------

def test_a_cut_line_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "r.jsonl"
    with Journal(path) as journal:
        journal.append("a", {"text": "1"}, {})
        journal.append("b", {"text": "é\u2028"}, {"model": "toy"})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:17])
    with Journal(path) as journal:
        assert len(journal) == 2 and journal.get("b") == {"text": "é\u2028"}
        journal.append("c", {"text": "3"}, {})
    assert [json.loads(line)["key"] for line in path.read_bytes().split(b"\n")[:-1]] == ["a", "b", "c"]


@pytest.mark.parametrize(("line", "told"), [(b"not json\n", "line 2"), (b"[]\n", "line 2"), (b'{"key": "a", "record": {}}\n', "second time")])
def test_a_damaged_journal_is_an_error(tmp_path, line, told):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"key": "a", "record": {}, "request": {}}\n' + line)
    with pytest.raises(DataError, match=told):
        Journal(path)
    Journal(path.with_name("other.jsonl")).close()


def test_one_writer_at_a_time(tmp_path):
    with Journal(tmp_path / "r.jsonl"), pytest.raises(ConfigError, match="another process"):
        Journal(tmp_path / "r.jsonl")
    Journal(tmp_path / "r.jsonl").close()


def test_a_recording_must_exist(tmp_path):
    with pytest.raises(DataError, match="no recorded replies"):
        Journal(tmp_path / "r.jsonl", writable=False)


# --- settings --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "told"), [
    ("judge: {model: m}", "base_url"),
    ("judge: {model: m, base_url: 'http://x/v1', modle: 3}", "nearest: 'model'"),
    ("jugde: {model: m, base_url: 'http://x/v1'}", "nearest: 'judge'"),
    ("writer: {model: m, base_url: 'http://x/v1'}", r"no \['judge'\]"),
    ("judge: {model: m, backend: local, key_env: X}", "no effect"),
    ("judge: {model: m, backend: remote}", "backend='remote'"),
    ("judge: {model: m, base_url: 'http://x/v1', concurrency: many}", "not of type int"),
    ("judge: {model: m, base_url: 'http://x/v1', concurrency: 0}", "at least 1"),
    ("judge: {model: m, base_url: 'http://x/v1', omit: [topp]}", "topp"),
    ("judge: m", "mapping"),
    ("judge: [", "not YAML"),
])
def test_the_file_of_roles_is_checked(tmp_path, text, told):
    (tmp_path / "models.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_endpoints(tmp_path / "models.yaml", ("judge",))


def test_the_key_comes_from_the_named_variable_only(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    monkeypatch.setenv("MY_KEY", "secret")
    with chat_server(lambda body: "ok") as server:
        for settings, sent in (({}, "Bearer none"), ({"key_env": "MY_KEY"}, "Bearer secret")):
            journal = tmp_path / f"{len(settings)}.jsonl"
            assert client(server, journal, **settings).ask(request()).text == "ok"
            assert server.headers["authorization"] == sent
            assert "secret" not in journal.read_text()
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(ConfigError, match="MY_KEY.*not set"):
            client(server, tmp_path / "x.jsonl", key_env="MY_KEY")


# --- what a server can do --------------------------------------------------------------------------------------------------------

def test_the_request_as_it_arrives(tmp_path):
    with chat_server(lambda body: "ok") as server:
        asked = ChatRequest("toy@7", user(Picture(jpeg(1)), Picture(jpeg(2)), "What?"), Sampling(temperature=1.0, top_p=0.95, max_tokens=7, seed=5))
        client(server, tmp_path / "a.jsonl", revision="7").ask(asked)
        client(server, tmp_path / "b.jsonl", omit=["seed", "top_p"]).ask(request("Text?"))
    first, second = server.requests
    assert (first["model"], first["temperature"], first["top_p"], first["max_completion_tokens"], first["seed"]) == ("toy", 1.0, 0.95, 7, 5)
    assert pictures_of(first) == 2 and text_of(first) == "What?"
    assert first["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert second["messages"] == [{"role": "user", "content": "Text?"}] and not {"seed", "top_p"} & second.keys()


@pytest.mark.parametrize("trouble", [(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}), (500, b"oops"), (503, b"loading")])
def test_what_may_pass_is_tried_again(tmp_path, trouble):
    answers = [trouble, trouble, "ok"]
    with chat_server(lambda body: answers.pop(0)) as server:
        asked = client(server, tmp_path / "r.jsonl")
        assert asked.ask(request()).text == "ok"
    assert len(server.requests) == 3
    assert json.loads((tmp_path / "r.jsonl").read_text())["record"]["attempts"] == 3


@pytest.mark.parametrize(("answer", "error", "told", "sent"), [
    ((400, {"error": {"message": "too long"}}), SampleError, "too long", 1),
    ((422, {"error": {"message": "no seed here"}}), SampleError, "no seed", 1),
    ((500, b"oops"), SampleError, "server failed", 3),
    ((200, b"<html>"), SampleError, "cannot be read|no chat completion", 1),
    ((200, {"choices": []}), SampleError, "no chat completion", 1),
    ((200, {"hello": 1}), SampleError, "no chat completion", 1),
    ((200, [1, 2]), SampleError, "no chat completion", 1),
    ((200, completion(None)), SampleError, "empty", 1),
    ((200, completion("half a", "length")), SampleError, "max_tokens", 1),
    ((401, {"error": {"message": "who?"}}), ConfigError, "key_env", 1),
    ((403, {"error": {"message": "no"}}), ConfigError, "key_env", 1),
    ((404, {"error": {"message": "no model"}}), ConfigError, "model='toy'", 1),
    ((429, {"error": {"message": "slow down"}}), DataError, "rate", 3),
    ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), DataError, "rate", 1),
])
def test_each_failure_has_its_error(tmp_path, answer, error, told, sent):
    with chat_server(lambda body: answer) as server, pytest.raises(error, match=told) as caught:
        client(server, tmp_path / "r.jsonl").ask(request())
    assert type(caught.value) is error
    assert len(server.requests) == sent


def test_a_server_that_is_down(tmp_path):
    with chat_server(lambda body: "ok") as server:
        endpoint = server.endpoint(max_attempts=2)
    with pytest.raises(DataError, match="cannot be reached") as caught:
        ChatClient("judge", endpoint, Journal(tmp_path / "r.jsonl")).ask(request())
    assert not isinstance(caught.value, SampleError)


def test_a_server_that_does_not_answer(tmp_path):
    done = threading.Event()
    with chat_server(lambda body: str(done.wait(5))) as server:
        with pytest.raises(SampleError, match="timeout_s"):
            client(server, tmp_path / "r.jsonl", timeout_s=0.1, max_attempts=1).ask(request())
        done.set()


def test_a_service_that_only_fails_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "GIVE_UP", 4)
    with chat_server(lambda body: (400, b"no")) as server:
        asked = client(server, tmp_path / "r.jsonl", concurrency=1)
        errors = [future.exception() for _, future in asked.ask_all(((n, request(str(n))) for n in range(6)), "x")]
    assert [type(e) for e in errors[:4]] == [SampleError] * 3 + [DataError]


# --- the client ------------------------------------------------------------------------------------------------------------------

def test_replies_keep_their_order_and_are_asked_once(tmp_path):
    """Whatever the threads do: the first requests are answered last."""
    gate = threading.Barrier(4)

    def answer(body):
        if text_of(body) in "0123":
            gate.wait(5)  # four at a time, or not at all
        return f"re {text_of(body)}"

    with chat_server(answer) as server:
        asked = client(server, tmp_path / "r.jsonl", concurrency=4, price_in=1.0, price_out=10.0)
        jobs = [(n, request(str(n % 9))) for n in range(30)]
        got = [(n, future.result().text) for n, future in asked.ask_all(jobs, "x")]
        assert got == [(n, f"re {n % 9}") for n in range(30)]
        assert sorted(map(text_of, server.requests)) == [str(n) for n in range(9)]
        assert asked.report() == {"model": "toy", "requests": 9, "replayed": asked.counts["replayed"], "prompt_tokens": 900, "completion_tokens": 90,
                                  "cost": 0.0018}
        asked.journal.close()
        again = client(server, tmp_path / "r.jsonl", concurrency=4)
        assert [f.result().text for _, f in again.ask_all(jobs, "x")] == [text for _, text in got]
        assert len(server.requests) == 9 and again.counts == {"replayed": 30}


def test_equal_requests_under_way_are_one(tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def answer(body):
        entered.set()
        leave.wait(5)
        return "ok"

    with chat_server(answer) as server, ThreadPoolExecutor(3) as pool:
        asked = client(server, tmp_path / "r.jsonl")
        futures = [pool.submit(asked.ask, request()) for _ in range(3)]
        entered.wait(5)
        leave.set()
        assert [f.result().text for f in futures] == ["ok"] * 3
    assert len(server.requests) == 1


def test_a_fatal_error_keeps_what_was_answered(tmp_path):
    with chat_server(lambda body: (401, b"") if text_of(body) == "5" else "ok") as server:
        asked = client(server, tmp_path / "r.jsonl", concurrency=1)
        with pytest.raises(ConfigError):
            for _, future in asked.ask_all(((n, request(str(n))) for n in range(9)), "x"):
                future.result()
        asked.journal.close()
    with Journal(tmp_path / "r.jsonl") as journal:
        assert all(journal.get(request(str(n)).key) for n in range(5))


def test_usage_is_counted_as_unknown_when_the_server_does_not_say(tmp_path):
    silent = completion("ok") | {"usage": None}
    with chat_server(lambda body: (200, silent)) as server:
        asked = client(server, tmp_path / "r.jsonl", price_in=1.0)
        asked.ask(request())
    assert asked.counts["replies_without_usage"] == 1 and asked.cost == 0


def test_recorded_replies_need_no_server(tmp_path):
    models = tmp_path / "m.yaml"
    with chat_server(lambda body: "ok") as server, clients(server.models(models, "judge", "writer"), ("judge",), tmp_path / "r") as asked:
        asked["judge"].ask(request())
    (tmp_path / "m.yaml").write_text("judge: {model: toy, backend: recorded}")
    with clients(tmp_path / "m.yaml", ("judge",), tmp_path / "r") as asked:
        assert asked["judge"].ask(request()).text == "ok"
        with pytest.raises(SampleError, match="no recorded reply"):
            asked["judge"].ask(request("Other?"))


def test_an_endpoint_needs_a_model():
    with pytest.raises(ConfigError, match="model is empty"):
        Endpoint(base_url="http://x/v1")
