"""Batch generation: real processes, real kills."""

import gzip
import json
import signal
import time

import pytest

from llm_jax.config import UserError
from llm_jax.generate import BLOCK, Output, Reader, Row, encoded, line
from llm_jax.sampling.loaded import load
from llm_jax.sampling.requests import Completion
from tests.commands import DEADLINE, refused, run, start
from tests.test_chat import drawn_run

SLOTS = 4
SYSTEM = "The cat sat on the mat and the dog sat on the cat. There are 12 + 7 = 19 cats."


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("run") / "drawn", length=192)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """240 rows in 8 blocks. They begin alike, so that an engine would find beginnings that it has read."""
    path = tmp_path_factory.mktemp("input") / "many.jsonl"
    with path.open("w") as file:
        for i in range(120):
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"How many cats are {i}?"}]
            file.write(json.dumps({"id": f"row {i}", "messages": messages, "max_new_tokens": 1 + 7 * i % 40}) + "\n")
    return path


def command(workdir, source, output, *flags):
    return ("llm_jax.generate", f"--workdir={workdir}", f"--input={source}", f"--output={output}", *flags)


def of_many(workdir, many, output, *flags):
    return command(workdir, many, output, "--n=2", "--temperature=1", f"--slots={SLOTS}", *flags)


@pytest.fixture(scope="module")
def whole(workdir, many, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    result = run(*of_many(workdir, many, output))
    assert result.returncode == 0, result.stderr[-2000:]
    return output.read_bytes()


@pytest.fixture(scope="module")
def stopped(workdir, many, whole, tmp_path_factory):
    """(signal) -> a folder with what was written by then, and what the process said; `whole` has compiled before."""

    def stop(number):
        folder = tmp_path_factory.mktemp("stopped")
        process, partial = start(*of_many(workdir, many, folder / "out.jsonl")), folder / "out.jsonl.partial"
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n")):
            time.sleep(0.005)
        process.send_signal(number)
        said, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == (-number if number == signal.SIGKILL else 0)
        written = partial.read_bytes()
        assert 0 < len(written) < len(whole) and whole.startswith(written)
        return folder, said

    return stop


@pytest.fixture(scope="module")
def killed(stopped):
    return stopped(signal.SIGKILL)[0]


def records(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_answers_of_a_chat_stage(workdir, tmp_path):
    """As the chat gives them: greedy ones, and sampled ones by their seed."""
    source, output = tmp_path / "in.jsonl.gz", tmp_path / "new/out.jsonl"
    short = {"temperature": 1.5, "seed": 11, "top_k": 5, "max_new_tokens": 30}
    asked = [
        {"prompt": "Hello, Köln", "level": 3},
        {"prompt": "How many?", "id": "hot", "temperature": 1.5},
        {"messages": [{"role": "user", "content": "How many?"}], "id": "short", **short, "min_p": 0.0, "stop": []},
    ]
    with gzip.open(source, "wt") as file:
        file.write("\n\n".join(map(json.dumps, asked)))
    result = run(*command(workdir, source, output, "--stage=sft", "--n=2", "--slots=1"))
    assert result.returncode == 0, result.stderr[-2000:]
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]
    rows = records(output)
    assert [(row["id"], row["sample"]) for row in rows] == [(i, k) for i in (1, "hot", "short") for k in (0, 1)]
    assert len({row["seed"] for row in rows}) == 6 and all(row["logprob"] < 0 for row in rows)
    greedy, again, hot, other, mine, next_ = rows
    assert greedy["parts"] == again["parts"] and hot["parts"] != other["parts"]
    assert (mine["seed"], next_["seed"]) == (11, 12) and mine["parts"] != next_["parts"]
    assert mine["tokens"] <= 30 < greedy["tokens"] and greedy["finish"] == "length"
    chat = ("llm_jax.chat", f"--workdir={workdir}", "--stage=sft", "--json")
    for row, flags in (
        (greedy, ["--prompt=Hello, Köln"]),
        (hot, ["--prompt=How many?", "--temperature=1.5", f"--seed={hot['seed']}"]),
    ):
        answer = json.loads(run(*chat, *flags).stdout)
        assert answer | {"seconds": 0} == {key: row.get(key, 0) for key in answer}


def test_a_base_model_continues(workdir, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "The cat "}\n{"prompt": ""}\n')
    result = run(*command(workdir, source, output, "--stage=pretrain", "--slots=1"))
    assert result.returncode == 0, result.stderr[-2000:]
    row, empty = records(output)
    answer = json.loads(
        run("llm_jax.chat", f"--workdir={workdir}", "--stage=pretrain", "--json", "--prompt=The cat ").stdout
    )
    assert (row["text"], row["tokens"]) == (answer["text"], answer["tokens"]) and empty["tokens"] > 0


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_is_the_same_to_the_byte(workdir, many, whole, stopped, number):
    folder, said = stopped(number)
    if number != signal.SIGKILL:
        assert "of 240; the same command goes on" in said
    with (folder / "out.jsonl.partial").open("ab") as file:
        file.write(whole[file.tell() :][:1000])  # into the next block, to the middle of a line
    result = run(*of_many(workdir, many, folder / "out.jsonl"))
    assert result.returncode == 0, result.stderr[-2000:]
    done = int(result.stdout.partition("going on after ")[2].partition(" of 240")[0])
    assert done > 0 and done % (BLOCK * SLOTS) == 0
    assert (folder / "out.jsonl").read_bytes() == whole
    assert len({line.partition(b'"text"')[2] for line in whole.splitlines()}) > 200, "samples differ"
    assert [path.name for path in folder.iterdir()] == ["out.jsonl"]


def test_what_differs_is_refused_and_kept(workdir, many, killed, tmp_path):
    before, output = {path.name: path.read_bytes() for path in killed.iterdir()}, killed / "out.jsonl"
    result = run(*of_many(workdir, many, output, "--temperature=0.5", "--slots=8"))
    refused(result, "temperature: 1.0 -> 0.5", "slots: 4 -> 8", "delete")
    other = tmp_path / "other.jsonl"
    other.write_text(many.read_text().replace("How", "Who"))
    refused(run(*of_many(workdir, other, output)), "input_sha256", "delete")
    result = run(*of_many(workdir, many, output, "--stage=pretrain"))
    refused(result, "many.jsonl:1", "messages")  # the whole input is checked first
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before


def test_lines_that_are_not_of_the_input_are_refused_and_kept(tmp_path):
    output, rows = Output(tmp_path / "out.jsonl", {"n": 1}), [Row(id_, 0, None) for id_ in (1, "b", 3)]
    assert output.resume(iter(rows), block=2) == 0
    written = b"".join(encoded({"id": row.id, "sample": 0, "error": ""}) for row in rows)
    output.partial.write_bytes(written)
    assert output.resume(iter(rows), block=2) == 3
    with pytest.raises(UserError, match=r"partial:2 is of another input"):
        output.resume(iter([rows[0], *rows[2:]]), block=2)
    with pytest.raises(UserError, match=r"partial:3 is of another input"):
        output.resume(iter(rows[:2]), block=2)
    output.noted.unlink()
    with pytest.raises(UserError, match=r"no out.jsonl.partial.json beside it"):
        output.resume(iter(rows), block=2)
    assert output.partial.read_bytes() == written


def test_bad_flags_and_files(workdir, many, tmp_path):
    output = tmp_path / "out.jsonl"
    refused(run(*command(workdir, tmp_path / "none.jsonl", output)), "none.jsonl is no file")
    refused(run(*command(workdir, many, output, "--top_p=2")), "top_p is 2.0")
    refused(run(*command(workdir, many, f"{output}.gz")), "not packed")
    output.write_text("")
    refused(run(*command(workdir, many, output)), "exists", "another --output")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    refused(run(*command(workdir, tmp_path / "empty.jsonl", tmp_path / "new.jsonl")), "no lines")


def test_bad_lines_are_refused_before_anything_runs_or_answered_with_an_error(workdir, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "Hi", "max_new_tokens": 3}\n\n{"prompt": 3, "id": "three"}\n{"prompt"\n')
    refused(run(*command(workdir, source, output)), "in.jsonl:3: `prompt` must be a text", "--skip_bad")
    assert list(tmp_path.iterdir()) == [source]
    result = run(*command(workdir, source, output, "--skip_bad", "--slots=1", "--n=2"))
    assert result.returncode == 0, result.stderr[-2000:]
    first, second, three, broken = records(output)
    assert first["tokens"] == second["tokens"] == 3
    assert three == {"id": "three", "sample": 0, "error": "`prompt` must be a text"}
    assert broken["id"] == 4 and "no JSON" in broken["error"]


@pytest.fixture(scope="module")
def loaded(workdir):
    made = load(workdir, "sft")
    yield made
    made.close()


@pytest.mark.parametrize(
    "line, words",
    [
        (b"[1]", "no JSON object"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"{}", "`prompt` or `messages`"),
        (b'{"prompt": "x", "messages": []}', "one of the two"),
        (b'{"prompt": " "}', "empty"),
        (b'{"prompt": null}', "must be a text"),
        (b'{"messages": []}', "at least one"),
        (b'{"messages": ["x"]}', "messages[0].role"),
        (
            b'{"messages": [{"role": "user", "content": "x"}, {"role": "king", "content": "x"}]}',
            "messages[1].role is 'king'",
        ),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}]}', "messages[0].content"),
        (
            b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]}',
            "of the assistant",
        ),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', "no call before"),
        (b'{"messages": [{"role": "user", "content": [{"type": "think", "text": "x"}]}]}', "not all text"),
        (json.dumps({"prompt": "cat " * 300}).encode(), "this model reads 192"),
        (b'{"prompt": "x", "temperature": "hot"}', "temperature is 'hot'"),
        (b'{"prompt": "x", "temperature": NaN}', "temperature is nan"),
        (b'{"prompt": "x", "top_k": true}', "top_k is True"),
        (b'{"prompt": "x", "seed": 1.5}', "a whole number"),
        (b'{"prompt": "x", "top_p": 2}', "top_p is 2"),
        (b'{"prompt": "x", "id": [1]}', "`id`"),
        (b'{"prompt": "x", "max_tokens": "9"}', "max_tokens is '9'"),
        (b'{"prompt": "x", "max_tokens": 9, "max_new_tokens": 8}', "give one of them"),
        (b'{"prompt": "x", "stop": [1]}', "stop is [1]"),
        (b'{"prompt": "x", "stop": ["a", ""]}', "stop is"),
        (b'{"prompt": "x", "min_p": 2}', "min_p is 2"),
        (b'{"prompt": "x", "repetition_penalty": "x"}', "repetition_penalty is 'x'"),
        (b'{"prompt": "x", "logit_bias": {"999999": 1}}', "logit_bias: '999999'"),
        (b'{"prompt": "x", "logit_bias": {"5": true}}', "logit_bias: True"),
        (b'{"prompt": "x", "top_k": -2}', "top_k is -2"),
        (b'{"prompt": "x", "best_of": 3}', "best_of is 3"),
        (b'{"prompt": "x", "response_format": {"type": "xml"}}', "response_format: its type"),
        (b'{"prompt": "x", "guided_json": {"type": "wat"}}', "Invalid type: wat"),
        (b'{"prompt": "x", "guided_grammar": "a"}', "guided_grammar is"),
        (b'{"prompt": "x", "frequency_penalty": "x"}', "frequency_penalty is 'x'"),
        (b'{"prompt": "x", "n": 2}', "n is 2"),
        (b'{"prompt": "x", "tools": [{}]}', "tools is"),
        (b'{"prompt": "x", "thinking": "off"}', "thinking is 'off'"),
    ],
)
def test_a_bad_line(loaded, tmp_path, line, words):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "fine", "temperature": null}\n' + line + b"\n")
    with pytest.raises(UserError) as error:
        list(Reader(path, loaded, {}, seed=0, n=1, skip_bad=False).rows())
    assert str(error.value).startswith(f"{path}:2: ") and words in str(error.value)
    good, bad = Reader(path, loaded, {}, seed=0, n=1, skip_bad=True).rows()
    assert good.request and bad.request is None and words in bad.error


def asked(loaded, tmp_path, **fields):
    """The request of a line with these fields, where the flags want few tokens."""
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"prompt": "x", **fields}) + "\n")
    (row,) = Reader(path, loaded, {"max_new_tokens": 7, "top_k": 3}, seed=0, n=1, skip_bad=False).rows()
    return row.request


def test_settings_of_a_line(loaded, tmp_path):
    fields = {"max_tokens": 5.0, "top_k": -1, "min_p": 0.5, "repetition_penalty": 2, "seed": 4.0, "best_of": 1}
    request = asked(loaded, tmp_path, **fields, stop="a", logit_bias={"5": -1}, tools=[], guided_json=None, user="me")
    assert (request.max_new_tokens, request.top_k, request.min_p, request.repetition_penalty) == (5, 0, 0.5, 2)
    assert (request.seed, request.stop, request.bias, request.stop_in) == (4, ("a",), {5: -1}, ("text", "answer"))
    flags = asked(loaded, tmp_path)
    assert (flags.max_new_tokens, flags.top_k, flags.stop) == (7, 3, ())
    lengths = [asked(loaded, tmp_path, **{name: -1}).max_new_tokens for name in ("max_tokens", "max_new_tokens")]
    assert lengths == [192, 192] and asked(loaded, tmp_path, max_completion_tokens=6).max_new_tokens == 6


def test_a_line_may_say_what_its_answer_must_be(loaded, tmp_path):
    t, choice = loaded.tokenizer, {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    request = asked(loaded, tmp_path, response_format=choice, presence_penalty=1, temperature=1, seed=1)
    assert request.presence_penalty == 1
    (answer,) = loaded.engine.generate(loaded.params, [request])
    assert line(Row("a", 0, request), iter([answer]), t)["text"] in ('"yes"', '"no"') and answer.ids[-1] == t.end


def test_a_stop_text_and_what_follows_it_are_not_written(loaded, tmp_path):
    t, request = loaded.tokenizer, asked(loaded, tmp_path, stop=["cat", "+"])
    thought = [t.open["think"][0], *t.encode("A cat? 1+1"), t.close["think"][0]]
    ids = [*thought, t.open["answer"][0], *t.encode(" Two cats"), t.close["answer"][0], t.end]
    made = line(Row("a", 0, request), iter([Completion(ids, finish="stop")]), t)
    assert (made["text"], made["thinking"]) == ("Two", "A cat? 1+1")
    assert made["parts"] == [{"type": "think", "text": "A cat? 1+1"}, {"type": "answer", "text": " Two "}]


def test_a_gzip_file_that_was_cut_short(loaded, tmp_path):
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "x"}\n' * 1000)[:-20])
    with pytest.raises(UserError, match=r"in.jsonl.gz is no whole gzip file"):
        list(Reader(path, loaded, {}, seed=0, n=1, skip_bad=True).rows())
