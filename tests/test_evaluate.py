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
    config.data.sequence_length, config.eval.slots = 64, 4
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
    refused(run(*command[:2], "--tasks=grid"), "held-out prompts")
