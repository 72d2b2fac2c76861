"""What a model's folder or GGUF file says of its tokenizer -> `hub.tokenizer.HubTokenizer`."""

import concurrent.futures
import json
from pathlib import Path
from typing import Any

from llm_jax.config import UserError
from llm_jax.files import read_json
from llm_jax.hub import template
from llm_jax.hub.gguf_file import File
from llm_jax.hub.tokenizer import HubTokenizer

# How byte-level BPE of a GGUF file cuts texts, by the name that the file has for it (llama.cpp's list of names).
DIGIT = {"type": "Digits", "individual_digits": True}
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    "smollm": [DIGIT, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
    "gpt-2": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
    "llama-bpe": LETTERS + r"\p{N}{1,3}" + REST,
    "smaug-bpe": LETTERS + r"\p{N}{1,3}" + REST,
    "qwen2": LETTERS + r"\p{N}" + REST,
}
NORMALISED = {"qwen2": {"type": "NFC"}}
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6  # kinds of tokens in a GGUF file


def of_folder(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> HubTokenizer:
    """Raises UserError when the folder has no tokenizer.json, or one that is none, or not that of the model."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json; save its tokenizer with Transformers, which makes one")
    noted = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    jinja = folder / "chat_template.jinja"
    source = jinja.read_text(encoding="utf-8") if jinja.is_file() else named_template(noted.get("chat_template"))
    special = {name: spelled(noted[name]) for name in ("bos_token", "eos_token", "pad_token") if noted.get(name)}
    ends = [config.get("eos_token_id"), generation.get("eos_token_id")]
    return made(path.read_text(encoding="utf-8"), source, special, flat(ends), config["vocab_size"], path)


def named_template(found: Any) -> str:
    """Some configs have several templates by name; that of a conversation is the default one."""
    if isinstance(found, list):
        found = next((one.get("template") for one in found if one.get("name") == "default"), "")
    return found or ""


def spelled(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def flat(ids: list[Any]) -> list[int]:
    return [i for one in ids for i in (one if isinstance(one, list) else [one]) if isinstance(i, int)]


def made(
    model_json: str, source: str, special: dict[str, str], ends: list[int], vocab_size: int, path: Path
) -> HubTokenizer:
    """Puts it together. Raises UserError for what is no tokenizer, has ids that the model has not, or no end, and for
    a template that is not to be trusted."""
    with concurrent.futures.ThreadPoolExecutor(1) as other:  # the template's trial takes as long as all the rest
        trial = other.submit(template.check, source, special) if source else None
        beside = described(model_json, special, ends, vocab_size, path)
        if trial:
            trial.result()
    return HubTokenizer(model_json, beside | {"template": source})


def described(model_json: str, special: dict[str, str], ends: list[int], vocab_size: int, path: Path) -> dict[str, Any]:
    """What `HubTokenizer` needs to know beside the tokenizer and the template."""
    import tokenizers

    try:
        read = tokenizers.Tokenizer.from_str(model_json)
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path} is no tokenizer ({error}); fetch it again") from None
    most = max(read.get_vocab(with_added_tokens=True).values(), default=-1)
    if most >= vocab_size:
        what = f"{path} has ids up to {most}, and the model's embedding {vocab_size} rows"
        raise UserError(f"{what}; take tokenizer and weights of one model")
    id_of = lambda name: read.token_to_id(special[name]) if special.get(name) else None  # noqa: E731
    first = [id_of("eos_token")] if id_of("eos_token") is not None else []
    ends = list(dict.fromkeys([*first, *ends]))
    if not ends:
        raise UserError(f"{path.parent} does not say which token ends a turn (eos_token); add it to its config.json")
    begins = read.encode("a").ids[:1] != read.encode("a", add_special_tokens=False).ids[:1]
    pad = id_of("pad_token")
    return {
        "special": special,
        "begin": read.encode("a").ids[:1] if begins else [],
        "ends": ends,
        "pad": ends[0] if pad is None else pad,
        "vocab_size": vocab_size,
    }


def of_gguf(file: File, vocab_size: int) -> HubTokenizer:
    """Raises UserError for a kind of tokenizer that cannot be rebuilt."""
    kind, cut = file.value("tokenizer.ggml.model"), file.value("tokenizer.ggml.pre", "default")
    tokens, kinds = file.value("tokenizer.ggml.tokens"), file.value("tokenizer.ggml.token_type")
    if not tokens:
        raise UserError(f"{file.path} holds no tokenizer; give the folder of the model")
    if kind == "gpt2":
        body = byte_level_bpe(file, tokens, cut)
    elif kind == "llama":
        body = scored_bpe(tokens, file.value("tokenizer.ggml.scores"), kinds)
    else:
        raise UserError(f"{file.path} has a tokenizer of the kind {kind!r}; supported are 'gpt2' and 'llama'")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, **flags, "special": kinds[i] == CONTROL}
        for i, token in enumerate(tokens)
        if kinds[i] in (CONTROL, USER_DEFINED)
    ]
    ids = {name: file.value(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in
           (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))}  # fmt: skip
    special = {name: tokens[i] for name, i in ids.items() if i is not None}
    bos = special.get("bos_token")
    begins = bos and file.value("tokenizer.ggml.add_bos_token", kind == "llama")
    first = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}, "single": [{"Sequence": PIECE}]}
    if begins:
        first["single"].insert(0, {"SpecialToken": {"id": bos, "type_id": 0}})
        first["special_tokens"] = {bos: {"id": bos, "ids": [ids["bos_token"]], "tokens": [bos]}}
    model = {"version": "1.0", "added_tokens": added, **body} | ({"post_processor": first} if begins else {})
    turn_end = file.value("tokenizer.ggml.eot_token_id")
    source = file.value("tokenizer.chat_template", "")
    return made(json.dumps(model), source, special, flat([turn_end]), vocab_size, file.path)


PIECE = {"id": "A", "type_id": 0}


def byte_level_bpe(file: File, tokens: list[str], cut: str) -> dict[str, Any]:
    if cut not in CUTS:
        raise UserError(f"{file.path} cuts texts as {cut!r}; supported are {', '.join(CUTS)}: give the model's folder")
    merges = [pair.split(" ", 1) for pair in file.value("tokenizer.ggml.merges")]
    return {
        "normalizer": NORMALISED.get(cut),
        "pre_tokenizer": pre_tokenizer(cut),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
            "ignore_merges": cut == "llama-bpe",
        },
    }


def pre_tokenizer(cut: str) -> dict[str, Any]:
    cuts = CUTS[cut]
    if isinstance(cuts, str):
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": cuts}, "behavior": "Isolated", "invert": False}
        cuts = [split, byte_level]
    return {"type": "Sequence", "pretokenizers": cuts}


def scored_bpe(tokens: list[str], scores: list[float], kinds: list[int]) -> dict[str, Any]:
    """SentencePiece's BPE: it merges the pair whose union has the best score, so merges are ranked by that."""
    ids = {token: i for i, token in enumerate(tokens)}
    plain = [i for i, kind in enumerate(kinds) if kind not in (UNKNOWN, CONTROL, UNUSED, BYTE)]
    known = {tokens[i] for i in plain}
    merges: list[list[str]] = []
    for token in (tokens[i] for i in sorted(plain, key=lambda i: -scores[i])):
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        whole = [list(pair) for pair in halves if known.issuperset(pair)]
        merges += sorted(whole, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    mark = "\u2581"
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": mark},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": mark}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": merges,
            "unk_token": "<unk>" if "<unk>" in ids else None,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }
