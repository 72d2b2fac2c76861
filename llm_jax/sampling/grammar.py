"""What an answer must be: JSON of a schema, or another grammar, as the ids that may come next.

llguidance reads the grammars and works out the ids, from the bytes of our tokens. A row with a grammar has a guide,
which has read what the row wrote. It gives the ids that may come next, as a mask, and those that must.
"""

import functools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask_par

from llm_jax.config import UserError
from llm_jax.model import transformer
from llm_jax.tokenizer import Tokenizer

KEPT = 64  # grammars that are kept for the next request that has the same
# About a second of work for the whole grammar, and some 20 ms for a token, where most take a tenth of one.
LIMITS = {"initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "max_grammar_size": 100_000}
# One way to write each value: white space without end is nothing that a sampled answer comes out of.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """Made by `of_schema` and the like; shared by the rows that have it."""

    def __init__(self, matcher: LLMatcher):
        self._matcher = matcher

    def begin(self) -> "Guide":
        return Guide(self._matcher.deep_copy())


class Guide:
    """Where one row is in its grammar."""

    def __init__(self, matcher: LLMatcher):
        self.matcher = matcher

    @property
    def failed(self) -> bool:
        """Whether it came to its limits, or was given what its grammar has not."""
        return self.matcher.is_error()

    def take(self, ids: Iterable[int], room: int) -> list[int]:
        """Reads what the row wrote: at most `room` ids that must come now, read already."""
        self.matcher.consume_tokens(list(ids))
        must = self.matcher.compute_ff_tokens()[:room]
        self.matcher.consume_tokens(must)
        return must


def fill(allowed_BW: np.ndarray, guides: dict[int, Guide]) -> None:
    """Puts the mask of each guide into its row: a bit for each id, as `sampler.masked` reads it."""
    if guides:
        places = [(guide.matcher, at) for at, guide in guides.items()]
        fill_next_token_bitmask_par(executor(), places, allowed_BW.view(np.int32))


@functools.cache
def executor() -> LLExecutor:
    return LLExecutor()


class Words:
    """Our tokens as llguidance asks for them, and those that pad the vocabulary, so that masks have bits for them."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, size = tokenizer, tokenizer.vocab_size
        texts = [*map(tokenizer.bytes_of, range(size)), *[b""] * (transformer.padded_vocab(size) - size)]
        self.eos_token_id, self.bos_token_id = tokenizer.end, tokenizer.bos
        self.tokens = [text or f"<|{i}|>".encode() for i, text in enumerate(texts)]
        self.special_token_ids = [i for i, text in enumerate(texts) if not text]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


@functools.lru_cache(maxsize=4)
def words_of(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(Words(tokenizer)))


@functools.lru_cache(maxsize=KEPT)
def compiled(tokenizer: Tokenizer, grammar: str) -> Grammar:
    """Raises UserError for a grammar that llguidance cannot take."""
    matcher = LLMatcher(words_of(tokenizer), grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise UserError(" ".join(matcher.get_error().split())[:300])
    matcher.reset()
    return Grammar(matcher)


def of_schema(tokenizer: Tokenizer, schema: dict[str, Any]) -> Grammar:
    """JSON that is valid against a schema. Raises UserError for one that is none, or has what llguidance has not."""
    return compiled(tokenizer, LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACING))
