"""What an answer must be: JSON of a schema, or another grammar, as the ids that may come next.

llguidance reads the grammars and works out the ids, from the bytes of our tokens. A row with a grammar has a guide,
which has read what the row wrote. It gives the ids that may come next, as a mask, and those that must.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark
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
    """Made by `compiled`; shared by the rows that have it."""

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
        if must:
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
        self.eos_token_id, self.bos_token_id = tokenizer.end, (*tokenizer.begin, tokenizer.end)[0]
        self.tokens = [text or f"<|{i}|>".encode() for i, text in enumerate(texts)]
        self.special_token_ids = [i for i, text in enumerate(texts) if not text]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


@functools.lru_cache(maxsize=4)
def words_of(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(Words(tokenizer)))


@functools.lru_cache(maxsize=KEPT)
def compiled(tokenizer: Tokenizer, source: str) -> Grammar:
    """A grammar in llguidance's Lark. Raises UserError for one that it cannot take."""
    grammar = LLMatcher.grammar_from_lark(source)
    matcher = LLMatcher(words_of(tokenizer), grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        # It says where in the source, which nobody but us has written, and shows it in further lines.
        raise UserError(re.sub(r"^at \d+\(\d+\): ", "", matcher.get_error()).partition("\n")[0][:300])
    return Grammar(matcher)


# What requests ask for, as the right side of a rule


def asked(fields: Mapping[str, Any]) -> str:
    """What the settings of a request (those of SETTINGS) want an answer to be; empty: anything. Raises UserError."""
    given = {name: fields[name] for name in SETTINGS if fields.get(name) is not None}
    rules = {name: rule for name, value in given.items() if (rule := named(name, SETTINGS[name], value))}
    if len(rules) > 1:
        raise UserError(f"{' and '.join(rules)}: an answer can obey but one of them")
    return next(iter(rules.values()), "")


def named(name: str, rule_of: Callable[[Any], str], value: Any) -> str:
    """The rule that a setting makes of its value; what is wrong is told with its name."""
    try:
        return rule_of(value)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def of_format(response_format: Any) -> str:
    """OpenAI's `response_format`."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise UserError("its type must be 'text', 'json_object' or 'json_schema'")
    if kind != "json_schema":
        return of_schema({"type": "object"}) if kind == "json_object" else ""
    described = response_format.get("json_schema")
    if not isinstance(described, dict) or "schema" not in described:
        raise UserError("json_schema must be an object that has a `schema`")
    return of_schema(described["schema"])


def of_schema(schema: Any) -> str:
    """JSON that is valid against a schema."""
    if not isinstance(schema, dict):
        raise UserError(f"{str(schema)[:40]!r} is no JSON schema; it must be an object")
    schema = closed(schema) if '"allOf"' not in json.dumps(schema) else schema
    return f"%json {json.dumps({**schema, 'x-guidance': SPACING})}"


def closed(schema: Any) -> Any:
    """A schema whose objects have no more than the properties that they name, unless it says what others may be.

    Its values are among those of the schema itself, which a small model would fill with names of its own.
    """
    if not isinstance(schema, dict):
        return schema
    out = {**schema}
    for name in ("properties", "$defs", "definitions", "patternProperties"):
        if isinstance(parts := schema.get(name), dict):
            out[name] = {key: closed(part) for key, part in parts.items()}
    for name in ("items", "additionalProperties"):
        out |= {name: closed(schema[name])} if name in schema else {}
    for name in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(parts := schema.get(name), list):
            out[name] = [closed(part) for part in parts]
    names, required = schema.get("properties"), schema.get("required", [])
    is_open = {"additionalProperties", "patternProperties"} & schema.keys() or not isinstance(required, list)
    if not is_open and isinstance(names, dict) and set(map(str, required)) <= names.keys():
        out["additionalProperties"] = False
    return out


def of_regex(regex: Any) -> str:
    """A text that a regular expression matches from its beginning to its end."""
    if not isinstance(regex, str) or not regex:
        raise UserError("it must be a text")
    return f"/{regex_to_lark(regex, 'd')}/"


def of_choice(choices: Any) -> str:
    """One of some texts."""
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise UserError("it must be a list of texts")
    return " | ".join(map(json.dumps, choices))


SETTINGS: dict[str, Callable[[Any], str]] = {
    "response_format": of_format,
    "guided_json": of_schema,
    "guided_regex": of_regex,
    "guided_choice": of_choice,
}
