"""An Examiner whose engine says what a function makes of the question: real prompts, ids, parsing and grading."""

from types import SimpleNamespace

from llm_jax.evals.measure import Examiner
from llm_jax.sampling.requests import Completion, Request
from tests.conftest import tiny_config


class Scripted:
    """`answer` is of (the prompt's text, the request) -> (parts of the assistant's turn, its log-probability)."""

    def __init__(self, tokenizer, answer):
        self.tokenizer, self.answer, self.tools, self.length = tokenizer, answer, {}, 1024
        self.requests: list[Request] = []

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        self.requests += requests
        return [self.complete(request) for request in requests]

    def complete(self, request: Request) -> Completion:
        parts, logprob = self.answer(self.tokenizer.decode(request.prompt), request)
        ids = [*self.tokenizer.parts_to_ids(parts).ids, self.tokenizer.end]
        each = [logprob / len(ids)] * len(ids)
        return Completion(ids, [1] * len(ids), each, each, finish="stop")


def examiner(tokenizer, workdir, answer, trained=("sft",)) -> Examiner:
    config = tiny_config()
    run = SimpleNamespace(config=config, tokenizer=tokenizer, workdir=workdir, trained=lambda: list(trained))
    return Examiner(run, Scripted(tokenizer, answer), [])
