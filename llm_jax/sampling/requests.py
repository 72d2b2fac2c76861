"""What the engine is asked for, and what becomes of it."""

import dataclasses
from collections.abc import Callable

from llm_jax.config import UserError
from llm_jax.sampling.decode import FORCED_ROOM, STOP_ROOM, TOP
from llm_jax.sampling.grammar import Grammar

LARGE = 1_000_000  # numbers up to this leave logits finite, and those that pad the vocabulary far below the others
Tool = Callable[[str], str]  # the text inside a span -> the text of the output span


@dataclasses.dataclass
class Request:
    prompt: list[int]
    seed: int = 0  # of this row's samples: same seed, prompt and parameters, same completion
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 64
    forced: tuple[int, ...] = ()  # put at the start of the completion
    suppress: tuple[int, ...] = ()  # ids that must not be sampled
    top_k: int = 0  # sample among the k likeliest; 0: all
    top_p: float = 1.0  # ... among the fewest whose probabilities reach p
    min_p: float = 0.0  # ... among those at least p times as likely as the likeliest
    repetition_penalty: float = 1.0  # divides positive logits of ids that prompt or completion have, multiplies others
    presence_penalty: float = 0.0  # taken from the logits of ids that the completion has
    frequency_penalty: float = 0.0  # ... as often as it has them
    bias: dict[int, float] = dataclasses.field(default_factory=dict)  # added to the logits of ids
    stop_ids: tuple[int, ...] = ()  # ids that end the completion, beside the end of a turn
    stop: tuple[str, ...] = ()  # texts that end it, once it contains one
    stop_in: tuple[str, ...] = ()  # ... in what `turns.said` makes of these kinds of parts; none: in all of it
    grammar: Grammar | None = None  # what the completion must be, its opening included; tools are not run then
    top: int = 0  # how many of the likeliest ids to tell of each token
    prompt_logprobs: int | None = None  # the first token of the prompt whose log-probability is wanted; None: of none

    def check(self, vocab_size: int, length: int) -> None:
        """Raises UserError for what the engine cannot do."""
        ids = [*self.prompt, *self.forced, *self.suppress, *self.bias, *self.stop_ids]
        ranges = (
            ("temperature", 0 <= self.temperature <= LARGE, f"0 to {LARGE:,}"),
            ("top_k", 0 <= self.top_k < 2**31, "0 (all) or more, below 2^31"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            (
                "repetition_penalty",
                1 / LARGE <= self.repetition_penalty <= LARGE,
                f"above 0 (1: none), at most {LARGE:,}",
            ),
            ("presence_penalty", abs(self.presence_penalty) <= LARGE, f"between -{LARGE:,} and {LARGE:,}"),
            ("frequency_penalty", abs(self.frequency_penalty) <= LARGE, f"between -{LARGE:,} and {LARGE:,}"),
            ("max_new_tokens", self.max_new_tokens >= 0, "0 or more"),
            ("prompt_logprobs", 0 <= (self.prompt_logprobs or 0) < max(1, len(self.prompt)), "a place in the prompt"),
            ("top", 0 <= self.top <= TOP, f"0 to {TOP}"),
        )
        for name, fine, allowed in ranges:
            if not fine:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {allowed}")
        if not self.prompt:
            raise UserError("an empty prompt cannot be continued; it needs at least one token")
        if len(self.prompt) >= length:
            raise UserError(f"the prompt is {len(self.prompt)} tokens long; this model reads {length}, answer included")
        if len(self.forced) > FORCED_ROOM:
            raise UserError(f"an opening has at most {FORCED_ROOM} tokens")
        if len(self.stop_ids) >= STOP_ROOM:
            raise UserError(f"at most {STOP_ROOM - 1} ids can end a completion")
        if any(not 0 <= i < vocab_size for i in ids):
            raise UserError(f"an id is not in the vocabulary of {vocab_size}")
        if not all(abs(b) <= LARGE for b in self.bias.values()):
            raise UserError(f"a bias is not between -{LARGE:,} and {LARGE:,}")


@dataclasses.dataclass
class Completion:
    """Tokens after the prompt; it grows while the engine runs. `logprob` is of the untempered distribution; a forced
    token has mask 0. `finish` is "stop" (an id or text that ends it), "length", "cancelled", or None while it runs.
    """

    ids: list[int] = dataclasses.field(default_factory=list)
    sampled_mask: list[int] = dataclasses.field(default_factory=list)
    sampling_logprob: list[float] = dataclasses.field(default_factory=list)
    logprob: list[float] = dataclasses.field(default_factory=list)
    top: list[list[tuple[int, float]]] | None = None  # most likely (id, log-probability) at each token, when asked
    # Of the prompt's tokens from `prompt_logprobs` on, when asked; the very first one has None.
    prompt_logprob: list[float | None] | None = None
    prompt_top: list[list[tuple[int, float]]] | None = None
    tool_calls: int = 0
    reused: int = 0  # tokens of the prompt that were in the cache already
    finish: str | None = None

    @property
    def columns(self) -> tuple[list, ...]:
        """The lists with an entry for each token, in the order of `decode.OUTPUTS`."""
        return self.ids, self.sampled_mask, self.sampling_logprob, self.logprob

    def keep(self, n: int) -> None:
        """Drops what comes after the first n tokens."""
        for values in (*self.columns, self.top or []):
            del values[n:]
