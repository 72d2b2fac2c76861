"""SentencePiece, the special tokens, and the only place that turns a conversation into ids and a loss mask.

Special tokens are control symbols: text can never produce them, so `encode` is safe on any input. Plain BPE encode,
lossless on any Unicode: bytes fall back, nothing is normalised, U+2581 (SentencePiece's own space mark) becomes its
three bytes.
"""

import functools
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm

from llm_jax.config import UserError
from llm_jax.tokenizer import SPANS, TURNS, Rendered, Tokenizer

SPARE = 16
SPECIALS = (
    "<|pad|>",
    "<|bos|>",
    *(f"<|{name}|>" for name in TURNS),
    "<|end|>",
    *(f"<|{slash}{name}|>" for name in SPANS for slash in ("", "/")),
    *(f"<|spare_{i}|>" for i in range(SPARE)),
)
MARK = "\u2581"
RESERVED = "\u2585"  # SentencePiece skips a training text that has it
MARK_BYTES = ("<0xE2>", "<0x96>", "<0x81>")
PART_CHARACTERS = 20_000  # of a long text, encoded at a time
SAMPLE_CHARACTERS = 4000  # longer training samples are cut here: SentencePiece silently skips very long ones


# Our chat format (`SentencePiece.render`) for those who have a template. A thought comes as `reasoning_content`, the
# call of a tool as `tool_calls` with one argument, its output as a message of the role `tool`.
TEMPLATE = """<|bos|>{% for m in messages %}
{% set before = messages[loop.index0 - 1].role if loop.index0 else '' %}
{% if m.role == 'tool' %}<|output|>{{ m.content }}<|/output|>
{% else %}
{% if m.role != 'assistant' or before != 'tool' %}{{ '<|' + m.role + '|>' }}{% endif %}
{% if m.reasoning_content %}<|think|>{{ m.reasoning_content }}<|/think|>{% endif %}
{{ m.content or '' }}
{% for call in m.tool_calls or [] %}
{% set f = call.function or call %}
{% for text in f.arguments.values() %}{{ '<|' + f.name + '|>' + text + '<|/' + f.name + '|>' }}{% endfor %}
{% endfor %}
{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|end|>{% endif %}
{% endif %}
{% endfor %}
{% if add_generation_prompt and messages[-1].role != 'tool' %}<|assistant|>{% endif %}"""
TEMPLATE = TEMPLATE.replace("\n", "")


class SentencePiece(Tokenizer):
    def __init__(self, model_bytes: bytes):
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self._sp = spm.SentencePieceProcessor(model_proto=model_bytes)
        ids = {name: self._sp.piece_to_id(name) for name in SPECIALS}
        self.pad, self.bos = ids["<|pad|>"], ids["<|bos|>"]
        self.begin, self.ends = (self.bos,), (ids["<|end|>"],)
        self.turn = {name: ids[f"<|{name}|>"] for name in TURNS}
        self.open = {name: (ids[f"<|{name}|>"],) for name in SPANS}
        self.close = {name: (ids[f"<|/{name}|>"],) for name in SPANS}
        self.special_names = {i: name for name, i in ids.items()}
        self._mark_ids = [self._sp.piece_to_id(piece) for piece in MARK_BYTES]

    @classmethod
    def read(cls, path: Path) -> "SentencePiece":
        """Raises UserError when the file is no tokenizer of ours."""
        try:
            tokenizer = cls(path.read_bytes())
        except RuntimeError as error:
            raise UserError(f"{path} is no SentencePiece model; make one with data_pipelines.tokenizer") from error
        if tokenizer._sp.unk_id() in tokenizer.special_names:
            raise UserError(f"{path} has not our special tokens; make one with data_pipelines.tokenizer")
        return tokenizer

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.model_bytes)

    @property
    def vocab_size(self) -> int:
        return self._sp.get_piece_size()

    def described(self) -> dict[str, Any]:
        name = self.special_names
        tokens = {"bos_token": name[self.bos], "eos_token": name[self.end], "pad_token": name[self.pad]}
        return {**tokens, "chat_template": TEMPLATE}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token. Lone surrogates become U+FFFD."""
        text = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
        if MARK not in text:
            return self._sp.encode(text)
        ids = []
        for i, part in enumerate(text.split(MARK)):
            ids += (self._mark_ids if i else []) + self._sp.encode(part)
        return ids

    def encode_batch(self, texts: list[str], threads: int) -> list[np.ndarray]:
        """`encode` of many texts as int32 arrays, on `threads` threads. A long text goes in parts: in one it is slow,
        and takes 70 bytes of memory a byte."""
        parts = [self._parts(text) for text in texts]
        flat = [part for text in parts for part in text]
        if any(MARK in part for part in flat):
            ids = iter([np.array(self.encode(part), np.int32) for part in flat])
        else:
            ids = iter(self._sp.encode(flat, num_threads=threads, return_type="numpy"))
        return [np.concatenate([next(ids) for _ in text]) if len(text) > 1 else next(ids) for text in parts]

    def _parts(self, text: str) -> list[str]:
        """Cuts a long text between characters that no piece has side by side, so that the ids stay the same."""
        parts, start = [], 0
        while len(text) - start > PART_CHARACTERS:
            places = range(start + PART_CHARACTERS, len(text))
            apart = (at for at in places if text[at - 1 : at + 1].replace(" ", MARK) not in self._neighbours)
            at = next(apart, len(text))
            parts.append(text[start:at])
            start = at
        return [*parts, text[start:]]

    @functools.cached_property
    def _neighbours(self) -> set[str]:
        pieces = map(self._sp.id_to_piece, range(self.vocab_size))
        return {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are left out. Broken byte sequences become U+FFFD."""
        return self._sp.decode([int(i) for i in ids if int(i) not in self.special_names])

    def piece(self, id_: int) -> str:
        """One token for people to read: its text, or <0xHH> where it is one byte of a character of several."""
        text = self._sp.decode([id_])
        return self._sp.id_to_piece(id_) if "\ufffd" in text else text

    def bytes_of(self, id_: int) -> bytes:
        if id_ in self.special_names or id_ == self._sp.unk_id():
            return b""
        return self._bytes.get(id_) or self._sp.id_to_piece(id_).replace(MARK, " ").encode()

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        return {self._sp.piece_to_id(f"<0x{b:02X}>"): bytes([b]) for b in range(256)}

    def render(self, conversation: list[dict], for_generation: bool = False) -> Rendered:
        """bos, then <|role|> content <|end|> for each message; a `tool` message is a span in the assistant's turn."""
        ids, mask = [self.bos], [0]
        roles = [message["role"] for message in conversation]
        for i, (role, message) in enumerate(zip(roles, conversation, strict=True)):
            if role not in (*self.turn, "tool"):
                raise UserError(f"unknown role {role!r}; choose from {', '.join(self.turn)} or tool")
            content, written = message["content"], role == "assistant"
            learned = written and message.get("weight") != 0
            if role == "tool" and isinstance(content, str):
                content = [{"type": "output", "text": content}]
            piece = self.parts_to_ids(content)
            if role != "tool" and not (written and roles[i - 1 : i] == ["tool"]):  # a tool's output stays in the turn
                ids.append(self.turn[role])
                mask.append(0)
            ids += piece.ids
            mask += [m * learned for m in piece.loss_mask]
            if role in ("system", "user") or (written and roles[i + 1 : i + 2] != ["tool"]):
                ids.append(self.end)
                mask.append(int(learned))
        if for_generation and roles[-1:] != ["tool"]:
            ids.append(self.turn["assistant"])
            mask.append(0)
        return Rendered(ids, mask)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """Trains BPE on an iterable of texts. Raises UserError when there is no text or too little for the vocabulary."""
    samples = [piece for text in texts for piece in cut(text.replace(MARK, " ").replace(RESERVED, " "))]
    if not any(sample.strip() for sample in samples):
        raise UserError("the corpus for the tokenizer is empty; give it some text")
    out = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(samples),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9999,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=SAMPLE_CHARACTERS * 4,
            max_sentencepiece_length=24,
            control_symbols=list(SPECIALS[1:]),
            pad_piece=SPECIALS[0],
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            num_threads=2,  # fixed: the model must not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        mend = "choose a smaller one, or give more text" if "too high" in reason else "choose a larger one"
        size = f"this text ({sum(map(len, samples)):,} characters)"
        raise UserError(f"tokenizer.vocab_size {vocab_size} does not fit {size}: {mend} [{reason[-120:]}]") from error
    return SentencePiece(out.getvalue())


def cut(text: str) -> list[str]:
    return [text[i : i + SAMPLE_CHARACTERS] for i in range(0, len(text), SAMPLE_CHARACTERS)]
