"""A tokenizer as the values of a GGUF file (`tokenizer.ggml.*`): the other way of `vocabularies.of_gguf`."""

import json
from typing import Any

from llm_jax.config import UserError
from llm_jax.hub.tokenizer import HubTokenizer
from llm_jax.hub.vocabularies import BYTE, CONTROL, CUTS, NORMALISED, UNKNOWN, UNUSED, USER_DEFINED, pre_tokenizer
from llm_jax.tokenizer import Tokenizer

NORMAL = 1
NEVER = 1e9  # the rank of a token that no merge makes


def values_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Raises UserError for an imported one of a kind that GGUF files have no name for."""
    told = imported(tokenizer) if isinstance(tokenizer, HubTokenizer) else ours(tokenizer)
    described = tokenizer.described()
    named = {text: i for i, text in tokenizer.special_names.items()}
    ids = {
        "bos": named.get(described.get("bos_token")),
        "eos": tokenizer.end,
        "eot": tokenizer.ends[1] if len(tokenizer.ends) > 1 else None,
        "padding": tokenizer.pad,
    }
    told |= {f"{name}_token_id": i for name, i in ids.items() if i is not None}
    told |= {"add_bos_token": bool(tokenizer.begin), "add_eos_token": False}
    values = {f"tokenizer.ggml.{key}": value for key, value in told.items()}
    template = described.get("chat_template")
    return values | ({"tokenizer.chat_template": template} if template else {})


def ours(tokenizer: Tokenizer) -> dict[str, Any]:
    sp = tokenizer._sp
    kind = lambda i: (  # noqa: E731
        UNKNOWN if sp.is_unknown(i) else CONTROL if sp.is_control(i) else BYTE if sp.is_byte(i) else NORMAL
    )
    ids = range(tokenizer.vocab_size)
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [sp.id_to_piece(i) for i in ids],
        "scores": [sp.get_score(i) for i in ids],
        "token_type": [kind(i) for i in ids],
        "unknown_token_id": sp.unk_id(),
        "add_space_prefix": False,
    }


def imported(tokenizer: HubTokenizer) -> dict[str, Any]:
    whole = json.loads(tokenizer.model_json)
    model = whole["model"]
    if model.get("type") != "BPE":
        raise UserError(f"the tokenizer is of the kind {model.get('type')!r}; GGUF files are written of BPE alone")
    kinds = {i: NORMAL for i in model["vocab"].values()}
    texts = {i: text for text, i in model["vocab"].items()}
    for token in whole.get("added_tokens") or ():
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    ids, said = range(tokenizer.vocab_size), {}
    if tokenizer.is_byte_level:
        said = {"model": "gpt2", "pre": cut_of(whole), "merges": merges}
    else:
        rank: dict[str, int] = {}
        for number, merge in enumerate(merges):
            rank.setdefault(merge.replace(" ", ""), number)
        said = {"model": "llama", "pre": "default", "add_space_prefix": tokenizer.adds_space}
        said["scores"] = [-float(rank.get(texts.get(i), NEVER)) for i in ids]
        kinds |= {i: BYTE for i, text in texts.items() if len(text) == 6 and text.startswith("<0x")}
    if (unknown := model["vocab"].get(model.get("unk_token"))) is not None:
        kinds[unknown], said["unknown_token_id"] = UNKNOWN, unknown
    said["tokens"] = [texts.get(i, f"[PAD{i}]") for i in ids]
    said["token_type"] = [kinds.get(i, UNUSED) for i in ids]
    return said


def cut_of(whole: dict[str, Any]) -> str:
    """The name that files have for the way in which a tokenizer.json cuts texts. Raises UserError for another way."""
    form = (parts(whole.get("pre_tokenizer")), whole.get("normalizer"), bool(whole["model"].get("ignore_merges")))
    for name in CUTS:
        if (parts(pre_tokenizer(name)), NORMALISED.get(name), name == "llama-bpe") == form:
            return name
    raise UserError(f"the tokenizer cuts texts in a way that is not one of {', '.join(CUTS)}: it cannot be a GGUF file")


def parts(cut: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Without what changes offsets alone."""
    steps = (cut or {}).get("pretokenizers", [cut])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps if step]
