"""Searches of the web, replayed: a server on this machine gives the answers that were recorded, and broken ones."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm_jax.tools import providers
from llm_jax.tools.passages import PASSAGE, Passage
from llm_jax.tools.providers import PROVIDERS, Failed
from llm_jax.tools.search import open_tool

TITLE, TEXT, URL = "Oslo - the capital", "Oslo is the capital of Norway & its largest city.", "https://oslo.example/a"
# In the shape of each provider's own answers, with what else a result has there.
BRAVE = {
    "title": TITLE,
    "url": URL,
    "description": "<strong>Oslo</strong> is the capital of Norway &amp; its largest city.",
}
RECORDED = {
    "brave": {"type": "search", "query": {"original": "q"}, "web": {"type": "search", "results": [BRAVE]}},
    "tavily": {"query": "q", "answer": None, "results": [{"title": TITLE, "url": URL, "content": TEXT, "score": 0.9}]},
    "serper": {
        "searchParameters": {"q": "q"},
        "organic": [{"title": TITLE, "link": URL, "snippet": TEXT, "position": 1}],
    },
    "searxng": {"query": "q", "results": [{"title": TITLE, "url": URL, "content": TEXT, "engine": "x"}], "answers": []},
}
ASKED = {  # (method, path, header with the key) that each one wants
    "brave": ("GET", "/res/v1/web/search?q=capital+of+Norway%3F&count=2", ("X-Subscription-Token", "key")),
    "tavily": ("POST", "/search", ("Authorization", "Bearer key")),
    "serper": ("POST", "/search", ("X-API-KEY", "key")),
    "searxng": ("GET", "/search?q=capital+of+Norway%3F&format=json", ("Accept", "application/json")),
}


class Replay(BaseHTTPRequestHandler):
    """Answers with what the server holds, and notes what it was asked."""

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        status, data, more = self.server.answer
        with contextlib.suppress(OSError):  # a client that has read enough leaves
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in data if isinstance(data, list) else [data]:
                piece() if callable(piece) else self.wfile.write(piece)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    running = ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    running.asked, running.daemon_threads = [], True
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    for name in PROVIDERS:
        monkeypatch.setenv(f"{name.upper()}_URL", f"http://127.0.0.1:{running.server_port}/")
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "key")
    yield running
    running.shutdown()
    running.server_close()


def said(server, name: str, answer, query: str = "capital of Norway?", status: int = 200, **headers) -> str:
    """What the model reads."""
    server.answer = status, answer if isinstance(answer, bytes | list) else json.dumps(answer).encode(), headers
    return open_tool(None, name).answer(query)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_recorded_answer_is_passages(server, name):
    assert said(server, name, RECORDED[name]) == f"{TEXT} [{TITLE}]"
    method, path, (header, value) = ASKED[name]
    [(asked_method, asked_path, headers, body)] = server.asked
    assert (asked_method, asked_path, headers[header.lower()]) == (method, path, value)
    if method == "POST":
        assert "capital of Norway?" in json.loads(body).values()
    assert PROVIDERS[name].find("capital of Norway?", 5) == [Passage(TITLE, TEXT, URL)]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"web": None},
        {"web": {"results": None}},
        {"web": {"results": [None, 3, {}, {"title": 1, "description": None, "url": []}]}},
    ],
)
def test_an_answer_without_results_says_so(server, answer):
    assert said(server, "brave", answer) == "nothing found"


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (500, b"oh no", "the server answered 500"),
        (429, {}, "the server answered 429"),
        (302, b"", "the server answered 302"),
        (200, b"<html>", "the answer is no JSON"),
        (200, b"\xff\xfe\x00", "the answer is no JSON"),
        (200, b"[" * 100_000, "the answer is no JSON"),
        (200, [], "the answer has no list of results"),
        (200, {"web": "x"}, "the answer has no list of results"),
        (200, {"web": {"results": "x"}}, "nothing found"),
        (200, b" " * 10_000_000, "the answer is longer than 1 MiB"),
    ],
)
def test_what_is_wrong_is_the_answer(server, status, answer, reason):
    answer = json.dumps(answer).encode() if not isinstance(answer, bytes) else answer
    heard = said(server, "brave", answer, status=status, Location="http://127.0.0.1:1/elsewhere")
    assert heard in (f"error: search failed ({reason})", reason)
    assert len(server.asked) == 1, "a key follows no redirection"


def test_a_server_that_is_slow_or_away(server, monkeypatch):
    monkeypatch.setattr(providers, "SECONDS", 0.2)
    hold = threading.Event()
    late = "error: search failed (no answer within 0.2 s)"
    assert said(server, "brave", [hold.wait]) == late
    drips = [piece for _ in range(100) for piece in (b" ", lambda: hold.wait(0.02))]
    assert said(server, "brave", drips) == late, "each byte in time, and the whole not"
    hold.set()
    monkeypatch.setenv("BRAVE_URL", "http://127.0.0.1:1")
    assert open_tool(None, "brave").answer("x") == "error: search failed (the server cannot be reached)"


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_unset_key_is_named(monkeypatch, name):
    variable = "SEARXNG_URL" if name == "searxng" else f"{name.upper()}_API_KEY"
    monkeypatch.delenv(variable, raising=False)
    assert open_tool(None, name).answer("x") == f"error: search failed ({variable} is not set)"


@pytest.mark.parametrize(("variable", "value"), [("BRAVE_URL", "file:///etc/passwd"), ("BRAVE_API_KEY", "a\r\nb: c")])
def test_settings_that_cannot_be_are_named(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Failed, match=variable):
        PROVIDERS["brave"].find("x", 2)
    assert not server.asked


def test_odd_queries_and_long_results(server):
    result = {"title": "A: b\n" * 99, "url": URL, "content": "word " * 999}
    answer = {"results": [result] * 9}
    for query in ("\x00\ud800é", "x" * 10_000, '"; --'):
        lines = said(server, "tavily", answer, query).split("\n")
        assert len(lines) == 2 and all(len(line) <= PASSAGE + 63 and line.count(" [") == 1 for line in lines)
    assert max(len(json.loads(body)["query"]) for *_, body in server.asked) == providers.LONGEST
    server.asked.clear()
    assert said(server, "tavily", answer, " \n ") == "nothing found" and not server.asked
