"""A round with each of the clients that people use: an answer whole and streamed, and a tool that the client runs.

Those that are not installed are skipped by name: `pip install -e '.[clients]'`, and `npm install openai` beside it with
NODE_PATH at its node_modules.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import openai
import pydantic
import pytest

from tests.commands import DEADLINE, ROOT
from tests.serve.scripted import CODE, HELLO, OUTPUT, RESULT, THOUGHT, scripted
from tests.serve.servers import serving

TRAINED = Path(os.environ.get("LLM_JAX_RUN", ROOT / "runs/speedrun"))
ASK = [{"role": "user", "content": "How many cats are there?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"source": {"type": "string"}},
    "required": ["source"],
    "additionalProperties": False,
}
FUNCTION = {"name": "python", "description": "Runs a program.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": {**FUNCTION, "strict": True}}]


@pytest.fixture(scope="module")
def url(workdir, tokenizer):
    with scripted(workdir, tokenizer) as address:
        yield address


def ran(arguments: str | dict) -> str:
    """What the client's own tool says."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert given == {"source": CODE}
    return OUTPUT


def python(source: str) -> str:
    """Runs a program."""
    return ran({"source": source})


def test_openai(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    def whole(**fields):
        return client.chat.completions.create(model="sft", **fields).choices[0].message

    def helped(**fields):
        with client.chat.completions.stream(model="sft", **fields) as stream:
            return stream.get_final_completion().choices[0].message

    for say in (whole, helped):
        said = say(messages=ASK)
        assert (said.content, said.reasoning_content) == (HELLO, THOUGHT)
        again = say(messages=[*ASK, said, *ASK])
        assert again.content == HELLO
        called = say(messages=ASK, tools=TOOLS)
        (call,) = called.tool_calls
        output = {"role": "tool", "tool_call_id": call.id, "content": ran(call.function.arguments)}
        assert say(messages=[*ASK, called, output], tools=TOOLS).content == RESULT


NPM = """
const OpenAI = require("openai").default ?? require("openai");
const [url, messages, tools] = process.argv.slice(-3).map((text, i) => (i ? JSON.parse(text) : text));
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const whole = async (fields) => (await client.chat.completions.create({ model: "sft", ...fields })).choices[0].message;
const helped = async (fields) => await client.chat.completions.stream({ model: "sft", ...fields }).finalMessage();
(async () => {
  const told = [];
  for (const say of [whole, helped]) {
    const said = await say({ messages });
    const again = await say({ messages: [...messages, said, ...messages] });
    const called = await say({ messages, tools });
    const [call] = called.tool_calls;
    const output = { role: "tool", tool_call_id: call.id, content: "42" };
    const result = await say({ messages: [...messages, called, output], tools });
    const { content, reasoning_content } = said;
    told.push([content, reasoning_content, again.content, call.function.arguments, result.content]);
  }
  console.log(JSON.stringify(told));
})();
"""


@pytest.mark.slow
def test_openai_of_npm(url, tmp_path):
    node = shutil.which("node")
    if not node or subprocess.run([node, "-e", "require('openai')"], capture_output=True).returncode:
        pytest.skip("openai of npm is not installed")
    command = [node, "-e", NPM, url, json.dumps(ASK), json.dumps(TOOLS)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert made.returncode == 0, made.stderr
    for content, thought, again, arguments, result in json.loads(made.stdout):
        assert (content, thought, again, result) == (HELLO, THOUGHT, HELLO, RESULT) and ran(arguments) == OUTPUT


@pytest.mark.slow
def test_langchain_openai(url):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(model="sft", base_url=url, api_key="none", max_retries=0)
    turns = [("user", "How many cats are there?")]
    assert model.invoke(turns).content == HELLO
    assert "".join(chunk.content for chunk in model.stream(turns)) == HELLO
    armed = model.bind_tools(TOOLS)
    whole, bits = armed.invoke(turns), list(armed.stream(turns))
    streamed = bits[0]
    for bit in bits[1:]:
        streamed += bit
    for called in (whole, streamed):
        (call,) = called.tool_calls
        output = {"role": "tool", "tool_call_id": call["id"], "content": ran(call["args"])}
        assert armed.invoke([*turns, called, output]).content == RESULT
    documents = langchain.OpenAI(model="pretrain", base_url=url, api_key="none", max_retries=0)
    assert len(documents.generate([f"{i} cats" for i in range(20)]).generations) == 20


@pytest.mark.slow
def test_litellm(url):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    where = {"model": "openai/sft", "api_base": url, "api_key": "none", "num_retries": 0}

    def whole(**fields):
        return litellm.completion(**where, **fields).choices[0].message

    def streamed(**fields):
        chunks = list(litellm.completion(**where, **fields, stream=True))
        return litellm.stream_chunk_builder(chunks, messages=fields["messages"]).choices[0].message

    for say in (whole, streamed):
        said = say(messages=ASK)
        assert (said.content, said.reasoning_content) == (HELLO, THOUGHT)
        called = say(messages=ASK, tools=TOOLS)
        (call,) = called.tool_calls
        output = {"role": "tool", "tool_call_id": call.id, "content": ran(call.function.arguments)}
        assert say(messages=[*ASK, called.model_dump(), output], tools=TOOLS).content == RESULT
    with pytest.raises(litellm.ContextWindowExceededError):
        whole(messages=[{"role": "user", "content": "cat " * 300}])


@pytest.mark.slow
def test_pydantic_ai(url):
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("sft", provider=OpenAIProvider(base_url=url, api_key="none"))
    assert Agent(model).run_sync("How many cats are there?").output == HELLO
    agent = Agent(model, tools=[python])
    first = agent.run_sync("How many cats are there?")
    assert first.output == RESULT
    assert agent.run_sync("And now?", message_history=first.all_messages()).output == RESULT
    assert agent.run_stream_sync("How many cats are there?").get_output() == RESULT


@pytest.mark.slow
def test_llama_index(url):
    like = pytest.importorskip("llama_index.llms.openai_like", reason="llama-index-llms-openai-like is not installed")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    named = {"model": "sft", "api_base": url, "api_key": "none", "max_retries": 0, "context_window": 128}
    model = like.OpenAILike(**named, is_chat_model=True, is_function_calling_model=True)
    asked = ChatMessage(role="user", content="How many cats are there?")
    assert model.chat([asked]).message.content == HELLO
    assert "".join(bit.delta or "" for bit in model.stream_chat([asked])) == HELLO
    tools = [FunctionTool.from_defaults(fn=python)]
    whole = model.chat_with_tools(tools, user_msg=asked)
    *_, streamed = model.stream_chat_with_tools(tools, user_msg=asked)
    for called in (whole, streamed):
        (call,) = model.get_tool_calls_from_response(called)
        output = ChatMessage(
            role="tool", content=ran(call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
        )
        assert model.chat_with_tools(tools, chat_history=[asked, called.message, output]).message.content == RESULT


class Cat(pydantic.BaseModel):
    """A cat."""

    kind: str = pydantic.Field(max_length=5)
    lives: int = pydantic.Field(ge=0, le=9)


def openai_modes(url: str) -> dict[str, Callable[[], Cat]]:
    """Ways to ask for a Cat."""
    asked = {"model": "sft", "messages": ASK}
    completions = openai.OpenAI(base_url=url, api_key="none", max_retries=0).chat.completions

    def streamed() -> Cat:
        with completions.stream(**asked, response_format=Cat) as stream:
            return stream.get_final_completion().choices[0].message.parsed

    def tool() -> Cat:
        tools = [openai.pydantic_function_tool(Cat)]
        answer = completions.parse(**asked, tools=tools, tool_choice="required")
        return answer.choices[0].message.tool_calls[0].function.parsed_arguments

    parse = lambda: completions.parse(**asked, response_format=Cat).choices[0].message.parsed  # noqa: E731
    return {"parse": parse, "stream": streamed, "tool": tool}


def instructor_modes(url: str) -> dict[str, Callable[[], Cat]]:
    instructor = pytest.importorskip("instructor", reason="instructor is not installed")

    def ask(mode) -> Cat:
        client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=mode)
        return client.chat.completions.create(model="sft", messages=ASK, response_model=Cat, max_retries=0)

    modes = (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA)
    return {mode.value: functools.partial(ask, mode) for mode in modes}


def pydantic_ai_modes(url: str) -> dict[str, Callable[[], Cat]]:
    ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("sft", provider=OpenAIProvider(base_url=url, api_key="none"))
    run = lambda kind: ai.Agent(model, output_type=kind(Cat)).run_sync("A cat?").output  # noqa: E731
    return {kind.__name__: functools.partial(run, kind) for kind in (ai.ToolOutput, ai.NativeOutput)}


def langchain_modes(url: str) -> dict[str, Callable[[], Cat]]:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(model="sft", base_url=url, api_key="none", max_retries=0)
    run = lambda method: model.with_structured_output(Cat, method=method).invoke("A cat?")  # noqa: E731
    return {method: functools.partial(run, method) for method in ("json_schema", "function_calling")}


def llama_index_modes(url: str) -> dict[str, Callable[[], Cat]]:
    like = pytest.importorskip("llama_index.llms.openai_like", reason="llama-index-llms-openai-like is not installed")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate

    named = {"model": "sft", "api_base": url, "api_key": "none", "max_retries": 0, "context_window": 128}
    model = like.OpenAILike(**named, is_chat_model=True, is_function_calling_model=True)
    asked = [ChatMessage(role="user", content="A cat?")]
    predict = lambda: model.structured_predict(Cat, PromptTemplate("A cat?"))  # noqa: E731
    return {"predict": predict, "structured_llm": lambda: model.as_structured_llm(Cat).chat(asked).raw}


@pytest.mark.slow
@pytest.mark.parametrize(
    "modes", [openai_modes, instructor_modes, pydantic_ai_modes, langchain_modes, llama_index_modes]
)
def test_every_mode_of_structured_output(server, modes):
    """Against a real engine with a random model, which says nothing of itself that could be a cat."""
    for name, ask in modes(f"{server.url}/v1").items():
        assert isinstance(ask(), Cat), name


@pytest.mark.slow
def test_lm_eval_reads_log_probabilities(server, tokenizer):
    """Through its remote tokenizer: what it adds up is what the server told of each token."""
    models = pytest.importorskip("lm_eval.models.openai_completions", reason="lm_eval is not installed")
    from lm_eval.api.instance import Instance

    where = {"base_url": f"{server.url}/v1/completions", "model": "pretrain", "tokenizer_backend": "remote"}
    model = models.LocalCompletionsAPI(**where, num_concurrent=1, max_retries=1, max_length=100)
    pairs = [("The cat", " sat"), ("How many", " cats are")]
    told = model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    for (context, rest), (total, _) in zip(pairs, told, strict=True):
        ids, begins = tokenizer.encode(context + rest), len(tokenizer.encode(context))
        body = {"model": "pretrain", "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 0}
        lp = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]["token_logprobs"]
        assert abs(total - sum(lp[begins:])) < 1e-4
    (rolling,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("The cat sat.",), 0)], True)
    assert rolling < 0
    settings = {"until": ["."], "max_gen_toks": 5, "do_sample": False}
    assert model.generate_until([Instance("generate_until", {}, ("The cat", settings), 0)], disable_tqdm=True)


@pytest.mark.slow
def test_lm_eval(url):
    models = pytest.importorskip("lm_eval.models.openai_completions", reason="lm_eval is not installed")
    from lm_eval.api.instance import Instance

    model = models.LocalChatCompletion(base_url=f"{url}/chat/completions", model="sft", num_concurrent=1, max_retries=1)
    prompt = model.apply_chat_template(ASK)
    settings = {"until": ["\n\n", "</s>", "Q:", "###", "Question:"], "max_gen_toks": 64, "do_sample": False}
    (answer,) = model.generate_until([Instance("generate_until", {}, (prompt, settings), 0)], disable_tqdm=True)
    assert answer == HELLO


@pytest.mark.slow
@pytest.mark.skipif(not (TRAINED / "rl").is_dir(), reason=f"no trained run at {TRAINED}: make speedrun, or LLM_JAX_RUN")
def test_tool_rounds_of_a_trained_run():
    """Whole and with the client's streaming helper; what it cannot work out in its head."""
    sums = [(4788, "*", 5235), (9596, "*", 8082), (1875, "*", 3616), (5563, "+", 8861), (7412, "-", 2948)]
    sums += [(3921, "+", 6087), (871, "*", 964), (6003, "-", 1999), (2345, "*", 678), (9021, "+", 1234)]
    sums += [(777, "*", 888), (8765, "-", 4321)]
    with serving(TRAINED, "--slots=4") as server:
        client = server.wait().client()

        def whole(**fields):
            return client.chat.completions.create(**fields).choices[0].message

        def helped(**fields):
            with client.chat.completions.stream(**fields) as stream:
                return stream.get_final_completion().choices[0].message

        for say in (whole, helped):
            right = 0
            for a, sign, b in sums:
                fields = {"model": "rl", "temperature": 0, "tools": TOOLS}
                talk = [{"role": "user", "content": f"What is {a}{sign}{b}?"}]
                called = say(messages=talk, **fields)
                value = str({"*": a * b, "+": a + b, "-": a - b}[sign])
                if not called.tool_calls:
                    continue
                (call,) = called.tool_calls
                assert set(json.loads(call.function.arguments)) == {"source"}
                output = {"role": "tool", "tool_call_id": call.id, "content": value}
                right += say(messages=[*talk, called, output], **fields).content == value
            assert right >= 11, (say.__name__, right)
