"""Chat templates with traps, a small byte-level tokenizer with the tokens that they use, and Jinja as it comes."""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import tokenizers

from llm_jax.hub.template import Generation, as_json
from llm_jax.hub.tokenizer import HubTokenizer

DEFAULT_SYSTEM = """{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system
You help.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + m['role'] + '
' + m['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
NO_SYSTEM = """{{ bos_token }}{% for m in messages %}
{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '
' + m['content'] | trim + '<|im_end|>
' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>model
' }}{% endif %}"""
NO_OLD_THOUGHTS = """{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set content = m.content %}
{% if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}
{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
TEMPLATES = {"default system": DEFAULT_SYSTEM, "no system": NO_SYSTEM, "no old thoughts": NO_OLD_THOUGHTS}

# Calls in JSON, answers of tools in a turn of the user's, several in one turn; thoughts apart from what is said, and
# those of old turns gone.
CALLS = """{%- set ns = namespace(last=0) -%}
{%- for m in messages if m.role == 'user' -%}{%- set ns.last = loop.index -%}{%- endfor -%}
{%- set ns.users = 0 -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{- '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' else '' -}}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}
{{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' -}}
{%- else -%}
{%- set ns.users = ns.users + (m.role == 'user') -%}
{%- set content = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content -%}
{{- '<|im_start|>' + m.role + '\n' -}}
{%- if '</think>' in m.content and m.role == 'assistant' and ns.users == ns.last -%}
{{- '<think>\n' + m.content.split('</think>')[0].split('<think>')[-1].strip('\n') + '\n</think>\n\n' -}}
{%- endif -%}
{{- content -}}
{%- for call in m.tool_calls or [] -%}
{{- '\n' if content or not loop.first else '' -}}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson -}}
{{- '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}"""
# Calls stand in what is said: it passes over those that it is given. It marks what the assistant writes.
CALLS_SAID = """{{- 'Call within <tool_call></tool_call>.\n' -}}{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- generation -%}{{- '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' -}}{%- endgeneration -%}
{%- else -%}
{{- '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' + m.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}"""
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
HEADER, END = r"<\|im_start\|>(assistant|model)\n", r"<\|im_end\|>"  # of an answer
PLACE = Path("a/tokenizer.json")
SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>"}


@functools.cache
def compiled(source: str) -> jinja2.Template:
    def refuse(message):
        raise ValueError(message)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation])
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)


def by_jinja(source: str, messages: list[dict], for_generation: bool = False, special=SPECIAL) -> str:
    return compiled(source).render(messages=messages, add_generation_prompt=for_generation, **special)


def byte_level(*added: str) -> str:
    """Byte-level BPE; `added` are tokens of their own, as the markers of thoughts are in many models."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["the cat sat on the mat\n\n", "system user assistant model You help. think answer"]
    call = '<tool_call>\n{"name": "python", "arguments": {"code": "6*7"}}\n</tool_call>'
    made.train_from_iterator([*texts, call, "<tool_response>\n\n</tool_response>"] * 9, trainer)
    made.add_tokens([tokenizers.AddedToken(text, special=False) for text in added])
    return made.to_str()


@functools.cache
def hub_tokenizer(source: str, *added: str) -> HubTokenizer:
    """That of a model with these tokens and this template, which nobody doubts."""
    model = byte_level(*added)
    end = tokenizers.Tokenizer.from_str(model).token_to_id("<|im_end|>")
    ids = {"begin": [], "ends": [end], "pad": end, "vocab_size": 420}
    return HubTokenizer(model, {"template": source, "special": SPECIAL, **ids})


def spelling(names: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


class Derivation:
    """Ids and loss mask of a conversation a second way: Jinja renders the whole of it, in which what is said cannot
    spell a special token, because a character that no text has stands in its place; headers and ends in that text tell
    what the assistant writes. `names` are the texts of tokens and markers that are encoded alone; `starts` matches what
    stands before an answer, `end` its end.
    """

    FILLER = 0xE100

    def __init__(self, model_json: str, source: str, names: Sequence[str], starts: str, end: str, special=SPECIAL):
        self.source, self.names, self.special = source, list(names), special
        self.library = tokenizers.Tokenizer.from_str(model_json)
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(model_json), "added_tokens": []}))
        self.spelled, self.starts, self.end = spelling(names), re.compile(starts), re.compile(end)

    def hide(self, text: str) -> str:
        return self.spelled.sub(lambda m: chr(self.FILLER + self.names.index(m[0])) * len(m[0]), text)

    def shown(self, text: str) -> str:
        for number, name in enumerate(self.names):
            text = text.replace(chr(self.FILLER + number) * len(name), name)
        return text

    def of(self, messages: list[dict], for_generation: bool = False) -> tuple[list[int], list[int]]:
        """Of messages in which `hide` was applied to all that is said."""
        text = by_jinja(self.source, messages, for_generation, self.special)
        learned, stop = [0] * len(text), 0
        for _ in (message for message in messages if message["role"] == "assistant"):
            start = self.starts.search(text, stop).end()
            stop = self.end.search(text, start).end()
            learned[start:stop] = [1] * (stop - start)
        ids, mask, at = [], [], 0
        for found in [*self.spelled.finditer(text), None]:
            piece = self.plain.encode(self.shown(text[at : found.start() if found else None]), add_special_tokens=False)
            ids += piece.ids
            mask += [learned[at + start] for start, _ in piece.offsets]
            if found:
                one = self.library.token_to_id(found[0])
                new = self.plain.encode(found[0], add_special_tokens=False).ids if one is None else [one]
                ids, mask, at = ids + new, mask + [learned[found.start()]] * len(new), found.end()
        cut = (name for name in self.names if self.library.token_to_id(name) is None and name in text)
        if self.shown(text) == text and not any(cut):
            assert ids == self.library.encode(text, add_special_tokens=False).ids
        return ids, mask


def messages_of(conversation: list[dict], hide, marker: str = "<{}>", joint: str = "\n") -> list[dict]:
    """Records as templates take them: thoughts and answers in what is said, between their markers; calls beside it,
    what tools say in messages of its own. `joint` is what the template puts between what is said and a call."""
    out = []
    for message in conversation:
        if message["role"] != "assistant":
            out.append({"role": message["role"], "content": hide(message["content"])})
            continue
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        for part, following in zip(parts, [*parts[1:], {"type": ""}], strict=True):
            kind, text = part["type"], hide(part["text"])
            if kind == "output":
                out.append({"role": "tool", "content": text})
                continue
            if not out or out[-1]["role"] != "assistant":
                out.append({"role": "assistant", "content": "", "tool_calls": []})
            if kind == "python":
                out[-1]["tool_calls"].append({"function": {"name": kind, "arguments": {"code": text}}})
            elif kind == "text":
                out[-1]["content"] += text.removesuffix(joint) if following["type"] == "python" else text
            else:
                out[-1]["content"] += marker.format(kind) + text + marker.format(f"/{kind}")
    return out
