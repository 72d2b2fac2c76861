"""An Examiner whose engine says what a function makes of a question: real prompts, ids, parsing and grading."""

from types import SimpleNamespace

from llm_jax.evals.measure import Examiner
from llm_jax.sampling.requests import Completion, Request
from tests.conftest import tiny_config


class Scripted:
    """`answer` is of (the prompt's text, request, parameters) -> (parts of the turn, its log-probability)."""

    def __init__(self, tokenizer, answer, likely=None):
        self.tokenizer, self.answer, self.likely, self.tools, self.length = tokenizer, answer, likely, {}, 1024
        self.requests: list[Request] = []

    def generate(self, params, requests: list[Request]) -> list[Completion]:
        self.requests += requests
        return [self.complete(request, params) for request in requests]

    def complete(self, request: Request, params) -> Completion:
        parts, logprob = self.answer(self.tokenizer.decode(request.prompt), request, params)
        ids = [*self.tokenizer.parts_to_ids(parts).ids, self.tokenizer.end]
        each = [logprob / len(ids)] * len(ids)
        return Completion(ids, [1] * len(ids), each, each, finish="stop")

    def score(self, params, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Of each (prompt, what follows): `likely` of the prompt's text, the parts that follow and the parameters."""
        read = [(self.tokenizer.decode(prompt), self.tokenizer.parse(after)[0]) for prompt, after in pairs]
        return [(self.likely(prompt, parts, params), False) for prompt, parts in read]


def examiner(tokenizer, workdir, answer, likely=None, trained=("sft",)) -> Examiner:
    config = tiny_config()
    run = SimpleNamespace(config=config, tokenizer=tokenizer, workdir=workdir)
    run.trained, run.load_params = lambda: list(trained), lambda stage, *_: stage
    return Examiner(run, Scripted(tokenizer, answer, likely), [])
