"""A model from elsewhere that has no chat template: it continues documents, whoever asks."""

import asyncio

import httpx
import pytest
import tokenizers

from llm_jax.config import UserError
from llm_jax.hub import vocabularies
from llm_jax.sampling.chat import Chat
from llm_jax.sampling.loaded import load
from llm_jax.serve.app import Limits, make_app
from llm_jax.serve.worker import Workers
from tests.commands import run as command
from tests.conftest import drawn_params, tiny_config
from tests.serve.servers import make_run

MESSAGES = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Its tokenizer is byte-level BPE."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(initial_alphabet=letters, special_tokens=["<s>"], show_progress=False)
    bpe.train_from_iterator(["the cat sat on the mat"], trainer)
    folder, config = tmp_path_factory.mktemp("imported"), tiny_config()
    config.model.layers, config.data.sequence_length = 1, 64
    made = vocabularies.made(bpe.to_str(), "", {"eos_token": "<s>"}, [], 300, folder)
    run = make_run(folder / "run", config, made, {"imported": drawn_params(config.model, made.vocab_size)})
    (run / "data/tokenizer.model").rename(run / "data/tokenizer.json")  # its template.json lies beside it already
    return run


def ask(workdir, path: str, body: dict) -> tuple[httpx.Response, dict]:
    """(what the server answers, what it says of the model)"""

    async def asked() -> tuple[httpx.Response, dict]:
        workers = Workers(workdir, "", 1, 4)
        transport = httpx.ASGITransport(make_app(workers, Limits()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer, models = await client.post(path, json=body), await client.get("/v1/models")
        workers.stop("the test is over")
        return answer, models.json()["data"][0]

    return asyncio.run(asked())


def test_the_server_says_so_and_refuses_turns(workdir):
    refused, model = ask(workdir, "/v1/chat/completions", {"messages": MESSAGES})
    assert (refused.status_code, model["kind"]) == (400, "base")
    assert refused.json()["error"]["message"].startswith("model: 'imported' continues documents; ask /v1/completions")
    refused, _ = ask(workdir, "/tokenize", {"messages": MESSAGES})
    assert refused.status_code == 400 and "no chat template" in refused.json()["error"]["message"]


@pytest.mark.slow
def test_the_server_continues_a_document(workdir):
    text, _ = ask(workdir, "/v1/completions", {"prompt": "the cat", "max_tokens": 3, "logit_bias": {"0": -100}})
    assert text.status_code == 200 and text.json()["usage"]["completion_tokens"] == 3


def test_the_chat_takes_what_is_typed_for_the_beginning_of_a_document(workdir):
    model = load(workdir)
    chat, t = Chat(model), model.tokenizer
    try:
        assert model.is_base and chat._prompt("the cat") == ([*t.begin, *t.encode("the cat")], 0)
        with pytest.raises(UserError, match="no chat template"):
            t.render(MESSAGES)
    finally:
        model.close()


@pytest.mark.slow
def test_the_command_continues_a_document(workdir):
    done = command("llm_jax.chat", f"--workdir={workdir}", "--stage=imported", "--prompt=the cat", "--json")
    assert done.returncode == 0, done.stderr
