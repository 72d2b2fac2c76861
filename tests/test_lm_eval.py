"""The field's harness on our engine. lm_eval is an extra: what needs it is skipped where it is not installed."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from llm_jax import lm_eval
from llm_jax.config import UserError
from llm_jax.evals.likelihood import of_documents
from tests.commands import refused, run
from tests.conftest import drawn_params, tiny_config
from tests.serve.servers import make_run

need = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="lm_eval is not installed")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}
test_split: test
"""
CHOICES = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: '{{a}}'\n"
TEXT = "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{t}}'\n"
ANSWER = "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
PERPLEXITY = "metric_list: [{metric: bits_per_byte}]\n"
EXACT = "generation_kwargs: {until: ['.'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tokenizer):
    config = tiny_config()
    config.data.sequence_length = 64
    params = {"sft": drawn_params(config.model, tokenizer.vocab_size)}
    return make_run(tmp_path_factory.mktemp("harness") / "run", config, tokenizer, params)


@pytest.fixture(scope="module")
def model(workdir):
    from llm_jax.evals.harness import Model

    model = Model(workdir=str(workdir), stage="sft", batch_size="4")
    yield model
    model.engine.close()


def asked(kind: str, *arguments: tuple) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, 0) for each in arguments]


def test_without_lm_eval_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert lm_eval.main() == 2
    assert "pip install 'llm_jax[lm_eval]'" in capsys.readouterr().err


@need
def test_log_likelihoods_are_those_of_the_whole_text(model, tokenizer):
    """A document's is the sum over its pieces, each given what stands before it."""
    pieces = ["The cat", " sat on", " the mat", ". How many"]
    pairs = [("".join(pieces[:n]), piece) for n, piece in enumerate(pieces)]
    told = model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    whole = [tokenizer.bos, *tokenizer.encode("".join(pieces))]
    assert whole[1:] == [i for piece in pieces for i in tokenizer.encode(piece)]  # else it would be another question
    with jax.set_mesh(model.run.mesh):
        (total,) = of_documents(model.run, model.params, [whole])
    assert sum(p for p, _ in told) == pytest.approx(total, abs=1e-3)
    rolling = model.loglikelihood_rolling(asked("loglikelihood_rolling", ("".join(pieces),)), disable_tqdm=True)
    assert rolling == [pytest.approx(total, abs=1e-6)]


@need
def test_answers_end_before_a_stop_text(model, tokenizer):
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    (free,) = model.generate_until(asked("generate_until", ("The cat", settings)), disable_tqdm=True)
    end = free[len(free) // 2]
    prompts = [("The cat", settings | {"until": ["", end]}), ("The cat" * 200, settings)]
    cut, long = model.generate_until(asked("generate_until", *prompts), disable_tqdm=True)
    assert cut == free.partition(end)[0] and long
    with pytest.raises(UserError, match="'num_beams'"):
        model.generate_until(asked("generate_until", ("The cat", settings | {"num_beams": 3})), disable_tqdm=True)
    with pytest.raises(UserError, match="'wibble'"):
        model.generate_until(asked("generate_until", ("The cat", settings | {"wibble": 3})), disable_tqdm=True)


@need
def test_a_conversation_is_rendered_by_the_model_s_template(model, tokenizer):
    talk = [{"role": "user", "content": "How many cats?"}, {"role": "assistant", "content": "There"}]
    try:
        text = model.apply_chat_template(talk[:1])
        assert model.tok_encode(text) == tokenizer.render(talk[:1], for_generation=True).ids
        assert model.apply_chat_template(talk, add_generation_prompt=False) == f"{text}There"
        assert model.chat_template(True) and model.chat_template(False) is None
        assert tokenizer.sha256[:16] in model.tokenizer_name
    finally:
        model._talks = False


@need
@pytest.mark.slow
def test_the_command(workdir, tmp_path):
    """Three tasks of local files, and mistakes in one line."""
    rows = {
        "choices": [{"q": f"{n} cats", "c": [" sat", " are there", " 12"], "a": n % 3} for n in range(6)],
        "text": [{"t": "The cat sat on the mat. " * n} for n in (1, 9)],
        "answer": [{"q": "How many cats", "a": "12"}],
    }
    for (name, records), kind in zip(rows.items(), (CHOICES, TEXT + PERPLEXITY, ANSWER + EXACT), strict=True):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, folder=tmp_path) + kind)
    flags = (f"--include_path={tmp_path}", f"--output_path={tmp_path}/out.json", "--log_samples")
    of = lambda path: ("--model=llm_jax", f"--model_args=workdir={path},stage=sft")  # noqa: E731
    done = run("llm_jax.lm_eval", *of(workdir), "--tasks=choices,text,answer", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("out_*.json")
    results = json.loads(path.read_text())["results"]
    assert results["choices"]["acc,none"] is not None and results["text"]["bits_per_byte,none"] > 0
    assert np.isfinite(results["answer"]["exact_match,none"])
    refused(run("llm_jax.lm_eval", *of(tmp_path / "nowhere"), "--tasks=choices", *flags), "is no run")
