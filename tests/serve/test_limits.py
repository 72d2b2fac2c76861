"""Keys, limits, models that do not load, and how a server begins and ends."""

import shutil
import signal
import socket
import time

import httpx
import pytest

from llm_jax.config import UserError
from llm_jax.runs import Run
from llm_jax.serve.worker import Workers
from tests.commands import DEADLINE, refused, run
from tests.serve.servers import events, serving

HELLO = [{"role": "user", "content": "How many cats are there?"}]
CHAT = "/v1/chat/completions"
KEY = {"Authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def strict(workdir):
    """Little room, little time, and a key."""
    flags = ("--slots=4", "--max_queue=2", "--timeout=1", "--max_n=8", "--hosts=chat.example,[::2]")
    flags += ("--cors=https://page.example,http://localhost:3000",)
    with serving(workdir, *flags, LLM_JAX_API_KEY="sesame") as server:
        yield server


def test_time_goes_by_while_the_model_loads(strict):
    """First of all, since loading takes longer than the limit."""
    assert strict.health()["status"] == "loading"
    response = strict.post(CHAT, {"messages": HELLO}, headers=KEY)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")


def test_v1_wants_the_key_and_the_page_does_not(strict):
    for headers in (
        {},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer sesam\xfc".encode("latin-1")},
        {"Authorization": "Bearer sesamü".encode()},
    ):
        response = strict.post(CHAT, b"no JSON", headers=headers)
        assert response.status_code == 401 and "API key" in response.json()["error"]["message"]
        assert strict.http.get(f"{strict.url}/v1/models", headers=headers).status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for words in ("Bearer sesame", "bearer sesame", "BEARER  sesame", "sesame"):
        given = {"Authorization": words}
        assert strict.http.get(f"{strict.url}/v1/models", headers=given).status_code == 200
    assert strict.http.get(strict.url).status_code == strict.http.get(f"{strict.url}/metrics").status_code == 200


def test_pages_and_names_that_were_named_may_ask_and_no_others(strict):
    models = f"{strict.url}/v1/models"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, allowed in (("https://page.example", True), ("http://localhost:3000", True), ("https://x.test", False)):
        before = strict.http.options(f"{strict.url}{CHAT}", headers={"Origin": origin, **asks})
        assert (before.status_code == 200) == allowed
        for headers in (KEY, {}):  # what is refused can be read, too
            after = strict.http.get(models, headers={"Origin": origin, **headers})
            assert (after.headers.get("access-control-allow-origin") == origin) == allowed
    for host, status in (("chat.example:80", 200), ("[::2]", 200), ("localhost", 200), ("evil.example", 403)):
        assert strict.http.get(models, headers={**KEY, "Host": host}).status_code == status


def test_more_rows_than_there_is_room_for_are_refused(strict, tokenizer):
    strict.wait()
    body, refused = {"messages": HELLO, "n": 6, "stream": True, "logit_bias": {str(tokenizer.end): -100}}, None
    deadline = time.monotonic() + DEADLINE
    while refused is None:  # an answer takes no longer than the limit, and none comes while programs are compiled
        assert time.monotonic() < deadline
        with strict.http.stream("POST", f"{strict.url}{CHAT}", json=body, headers=KEY) as response:
            if response.status_code == 200:
                second = strict.post(CHAT, {"messages": HELLO}, headers=KEY)
                refused = second if second.status_code == 429 else None
    assert refused.headers["retry-after"] and refused.json()["error"]["type"] == "rate_limit_error"
    for n, reason in ((7, "more than this server holds"), (9, "more than 8")):  # never, however idle it is
        response = strict.post(CHAT, {"messages": HELLO, "n": n}, headers=KEY)
        assert response.status_code == 400 and response.json()["error"]["message"].startswith(f"n: {n} choices")
        assert reason in response.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_waited_for(strict):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", strict.port), timeout=DEADLINE) as s:
        s.sendall(head.encode())
        assert s.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_takes_too_long_is_cut(strict, tokenizer):
    strict.wait()
    body = {"messages": HELLO, "n": 6, "logit_bias": {str(tokenizer.end): -100}, "logprobs": True, "top_logprobs": 20}
    response = strict.post(CHAT, body, headers=KEY)
    while response.status_code == 504:  # programs are still compiled
        response = strict.post(CHAT, body, headers=KEY)
    choices = response.json()["choices"]
    assert response.status_code == 200 and {c["finish_reason"] for c in choices} == {"length"}
    strict.until("running_rows", 0)


@pytest.fixture(scope="module")
def damaged(workdir, tmp_path_factory):
    """A run whose sft cannot be read, and whose rl is still being written."""
    copy = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "sft/checkpoints/1/params")
    (copy / "rl/checkpoints/5.orbax-checkpoint-tmp-0").mkdir(parents=True)
    return copy


def test_a_stage_that_does_not_load_is_no_end_and_a_signal_is(damaged, tokenizer):
    with serving(damaged, "--stage=pretrain", "--host=0.0.0.0", "--slots=4") as server:
        server.wait()
        assert [m["id"] for m in server.http.get(f"{server.url}/v1/models").json()["data"]] == ["pretrain", "sft"]
        for _ in range(2):
            response = server.post(CHAT, {"messages": HELLO, "model": "sft"})
            assert response.status_code == 503 and "damaged" in response.json()["error"]["message"]
        assert server.post(CHAT, {"messages": HELLO, "model": "rl"}).status_code == 404
        assert server.post("/v1/completions", {"prompt": "The cat", "max_tokens": 3}).status_code == 200
        assert server.health()["status"] == "ok"

        body = {"prompt": "The", "max_tokens": 100, "n": 16, "stream": True, "logit_bias": {str(tokenizer.end): -100}}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=DEADLINE) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            *_, last = events(lines)
        assert "stopped" in last["error"]["message"] or last == "[DONE]"
        assert server.stop() == 0
        assert [line for line in server.errors if "warning" in line and "--api_key" in line]
        assert not [line for line in server.errors if "Traceback" in line]


def test_a_stage_whose_first_checkpoint_is_being_written_is_not_there_yet(damaged):
    assert Run.open(damaged).choose() == "sft"


def test_a_server_that_cannot_start_says_why(server, workdir, tmp_path):
    refused(run("llm_jax.serve", f"--workdir={workdir}", "--api_key=sesame ü"), "API key", "ASCII")
    refused(run("llm_jax.serve", f"--workdir={workdir}", f"--port={server.port}"), f"port {server.port}", "--port")
    refused(run("llm_jax.serve", f"--workdir={workdir}", "--cors=chat.example"), "--cors=chat.example", "https://")
    refused(run("llm_jax.serve", f"--workdir={workdir}", "--hosts=https://a.example"), "--hosts=https://a.example")
    for folder, stage, reason in ((tmp_path, "", "no run"), (workdir, "rl", "'rl'"), (workdir, "king", "'king'")):
        with pytest.raises(UserError, match=reason):
            Workers(folder, stage, slots=1, max_queue=0)


def test_ctrl_c_while_the_model_loads_ends_the_server(workdir):
    with serving(workdir) as server:
        assert server.stop(signal.SIGINT) == 0
