"""Rollouts of several turns: sampled, answered by the environment and sampled again, as one sequence of tokens."""

import dataclasses

from llm_jax.config import UserError
from llm_jax.prompts import Outcome, judge_all
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Completion, Request
from llm_jax.tasks.grading import discount, next_message
from llm_jax.tokenizer import Tokenizer

TURN_SEED = 2_654_435_761  # added for each turn after the first: its tokens have the places of the first one's


def play(
    engine: Engine, params, prompts: list[dict], requests: list[Request]
) -> tuple[list[Completion], list[Outcome]]:
    """Completions and outcomes of requests, each of the prompt record at its place.

    After a well-formed answer a family's `step` may say something; all who are told something are sampled again
    together, with the same settings and as much room. A completion has all of its turns: what the user said between
    them has mask 0 and log-probability 0. The outcome is that of the last turn, its score times the family's discount
    for each turn after the first. Where there is no room for one more turn, the episode is over.
    Raises UserError for a step or a grader that fails, and for a template to which no turn can be added.
    """
    episodes = [Episode(prompt, request) for prompt, request in zip(prompts, requests, strict=True)]
    going = episodes
    while True:
        done = engine.generate(params, [episode.request for episode in going])
        judged = judge_all(engine.tokenizer, [episode.prompt for episode in going], done)
        for episode, completion, outcome in zip(going, done, judged, strict=True):
            episode.take(completion, outcome)
        going = [episode for episode in going if episode.goes_on(engine)]
        if not going:
            return [episode.completion for episode in episodes], [episode.outcome for episode in episodes]


class Episode:
    """One rollout as it grows. `request` is that of its next turn."""

    def __init__(self, prompt: dict, request: Request):
        self.prompt, self.first, self.request = prompt, request, request
        self.completion, self.outcome = Completion(), Outcome(prompt, [], False, False, False, 0)
        self.answers: list[str] = []
        self._message, self._said = "", list[int]()  # what the user says before the next turn, and as ids

    def take(self, turn: Completion, outcome: Outcome) -> None:
        """The next turn is written, and judged."""
        before = self.outcome
        if self._said:
            turn = joined(self.completion, self._said, turn)
            outcome = dataclasses.replace(
                outcome,
                tokens=len(turn.ids),
                score=outcome.score * discount(self.prompt, len(self.answers) + 1),
                before=[*before.before, *before.parts, {"type": "user", "text": self._message}],
            )
        self.completion, self.outcome = turn, outcome

    def goes_on(self, engine: Engine) -> bool:
        """Whether something is said to the last turn, and there is room for an answer."""
        if not self.outcome.well_formed:
            return False
        self.answers.append(self.outcome.parts[-1]["text"].strip())
        message = next_message(self.prompt, list(self.answers))
        if message is None:
            return False
        self._message, self._said = message, between(engine.tokenizer, message)
        read = [*self.first.prompt, *self.completion.ids, *self._said]
        seed = self.first.seed + TURN_SEED * len(self.answers)
        self.request = dataclasses.replace(self.first, prompt=read, seed=seed)
        return len(read) < engine.length


def between(tokenizer: Tokenizer, message: str) -> list[int]:
    """The ids from the end of the assistant's turn on: the user's message, and the opening of the next turn.

    Raises UserError where a template writes what came before another way once something follows.
    """
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    before = tokenizer.render(talk).ids
    after = tokenizer.render([*talk, {"role": "user", "content": message}], for_generation=True).ids
    end = max(place for place, id_ in enumerate(before) if id_ in tokenizer.ends) + 1
    if after[:end] != before[:end]:
        raise UserError("this model's template changes a turn when another follows; train it on tasks of one turn")
    return after[end:]


def joined(first: Completion, said: list[int], second: Completion) -> Completion:
    """Two turns, and what was said between them, which nobody sampled."""
    nothing = [0] * len(said)
    return dataclasses.replace(
        second,
        ids=first.ids + said + second.ids,
        sampled_mask=first.sampled_mask + nothing + second.sampled_mask,
        sampling_logprob=first.sampling_logprob + nothing + second.sampling_logprob,
        logprob=first.logprob + nothing + second.logprob,
        tool_calls=first.tool_calls + second.tool_calls,
    )
