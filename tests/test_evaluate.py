"""Files of one's own, asked of a run that has nothing but a model, as one that was imported."""

import json

import pytest

from tests.commands import refused, run
from tests.conftest import drawn_params, tiny_config
from tests.serve.servers import make_run

QUESTION = {"question": "Who sat?", "choices": ["cat", "dog"], "answer": 0}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tokenizer):
    config = tiny_config()
    config.data.sequence_length, config.eval.slots, config.eval.max_new_tokens = 64, 8, 4
    params = {"sft": drawn_params(config.model, tokenizer.vocab_size)}
    return make_run(tmp_path_factory.mktemp("evaluated") / "run", config, tokenizer, params)


def test_texts_and_questions(workdir, tmp_path):
    (tmp_path / "a.md").write_text("The cat sat on the mat.")
    (tmp_path / "cats.jsonl").write_text(json.dumps(QUESTION))
    command = ("llm_jax.evaluate", f"--workdir={workdir}", f"--questions={tmp_path}/*.jsonl")
    done = run(*command, f"--texts={tmp_path}/*.md")
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told) == ["texts", "questions"] and told["texts"]["bpb"]["bytes"] == 23
    assert told["questions"]["cats"]["accuracy"]["n"] == 1
    refused(run(*command, f"--texts={tmp_path}/*.txt"), "no text in the files of", "*.txt")
    (tmp_path / "more.jsonl").write_text(json.dumps(QUESTION) + "\n\n" + json.dumps(QUESTION | {"answer": "C"}))
    refused(run(*command), "more.jsonl line 3: `answer` is 'C'")
    refused(run(*command[:2], "--tasks=sft"), "held-out prompts")


def test_the_map_needs_nothing_but_a_model(workdir):
    done = run("llm_jax.evaluate", f"--workdir={workdir}", "--tasks=map", "--items=2")
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])["map"]
    assert set(told["capitals"]["3 letters"]) == {"direct", "tool"}
    assert told["capitals"]["3 letters"]["tool"]["n"] == 2 and told["families_working"]["value"] == 0
    assert "10 pairs is left out" in done.stdout  # this model reads 64 tokens
    refused(run("llm_jax.evaluate", f"--workdir={workdir}", "--tasks=map", "--items=0"), "--items")
