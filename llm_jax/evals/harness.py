"""The field's harness, lm_eval, on our engine: the model class that `llm_jax.lm_eval` registers.

What it is asked, and how texts are cut into context and continuation, is lm_eval's own. Tools are not run: a stage is
measured alone.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from llm_jax.config import UserError
from llm_jax.evals.likelihood import of_continuations, of_documents, prefix_of
from llm_jax.files import user_path
from llm_jax.runs import Run
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.sampling.settings import NOT_HERE, not_here
from llm_jax.sampling.turns import SAID

SLOTS = 32  # where lm_eval is not told a batch size
BLOCK = 512  # requests between two looks at the progress
SETTINGS = (
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "temperature",
    "top_k",
    "top_p",
)


@register_model("llm_jax")
class Model(TemplateLM):
    """A stage of a run: `--model llm_jax --model_args workdir=DIR,stage=S`; `--batch_size` is the engine's slots.

    Raises UserError as `Run.open` and `Run.choose`, and for arguments that are none of these.
    """

    def __init__(self, workdir="", stage="", batch_size=1, max_batch_size=None, device=None, **others):
        super().__init__()
        if others:
            raise UserError(f"--model_args has {next(iter(others))!r}; llm_jax takes workdir and stage")
        self.run = Run.open(user_path(str(workdir), "workdir of --model_args"))
        self.stage = self.run.choose(str(stage))
        self.params, self._tokenizer = self.run.load_params(self.stage), self.run.tokenizer
        slots = int(batch_size) if str(batch_size).isdecimal() and int(batch_size) > 1 else SLOTS
        self.engine = engine_for(self.run, slots)
        self._talks = False  # prompts are rendered conversations

    # Texts

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.end

    @property
    def prefix_token_id(self) -> int:
        return prefix_of(self._tokenizer)

    @property
    def max_gen_toks(self) -> int:
        return 256

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """A rendered conversation has its special tokens spelled out. Any other text is all text, and begins a document
        unless it is said not to."""
        if self._talks:
            return self._tokenizer.encode_shown(string)
        begin = () if add_special_tokens is False else self._tokenizer.begin
        return [*begin, *self._tokenizer.encode(string)]

    @property
    def tokenizer_name(self) -> str:
        return f"llm_jax-{self._tokenizer.sha256[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Raises UserError for a template by name, or where the model has none."""
        if isinstance(chat_template, str):
            raise UserError(f"--apply_chat_template names {chat_template!r}; this model's one template has no name")
        if chat_template and not self._tokenizer.talks:
            raise UserError(f"{self.run.workdir} has no chat template; leave out --apply_chat_template")
        return self._tokenizer.described()["chat_template"] if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """With an open turn of the assistant at the end; without `add_generation_prompt` it begins with the last
        message."""
        self._talks = True
        asked, begun = (chat_history, "") if add_generation_prompt else (chat_history[:-1], chat_history[-1]["content"])
        ids = self._tokenizer.render(asked, for_generation=True).ids
        return self._tokenizer.show(ids) + begun

    # Requests

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs) -> list[tuple[float, bool]]:
        told = []
        for block in blocks(requests, "log-likelihoods", disable_tqdm):
            pairs = [(context or [self.prefix_token_id], after) for _, context, after in block]
            told += of_continuations(self.engine, self.params, pairs)
            for (texts, *_), answer in zip(block, told[-len(block) :], strict=True):
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return told

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        told = []
        for block in blocks([request.args for request in requests], "documents", disable_tqdm):
            documents = [[self.prefix_token_id, *self._tokenizer.encode(text)] for (text,) in block]
            with jax.set_mesh(self.run.mesh):
                told += of_documents(self.run, self.params, documents)
            for args, answer in zip(block, told[-len(block) :], strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", args, answer)
        return told

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        written = []
        for block in blocks([request.args for request in requests], "answers", disable_tqdm):
            asked = [self._request(text, settings, len(written) + n) for n, (text, settings) in enumerate(block)]
            done = self.engine.generate(self.params, asked)
            written += [self._said(c.ids, request.stop) for c, request in zip(done, asked, strict=True)]
            for args, answer in zip(block, written[-len(block) :], strict=True):
                self.cache_hook.add_partial("generate_until", args, answer)
        return written

    def _request(self, text: str, settings: dict[str, Any], number: int) -> Request:
        """A prompt that leaves no room for the answer loses its beginning, and its half at most. Raises UserError for a
        setting that is not honoured."""
        given = {**normalize_gen_kwargs(settings, self.max_gen_toks)}
        most, stop, length = given.pop("max_gen_toks"), given.pop("until"), self.engine.length
        given.pop("do_sample")
        chosen = {name: given.pop(name) for name in SETTINGS if name in given}
        if name := not_here(given) or next((n for n in given if n not in NOT_HERE), ""):
            raise UserError(f"the task, or --gen_kwargs, sets {name!r}, which this engine does not have")
        chosen["seed"] = chosen.get("seed", 0) + number
        prompt = self.tok_encode(text)[-max(length - most, length // 2) :] or [self.prefix_token_id]
        seen = {"stop_in": SAID} if self._talks else {}
        return Request(prompt, max_new_tokens=most, stop=tuple(filter(None, stop)), **seen, **chosen)

    def _said(self, ids: list[int], stop: Iterable[str]) -> str:
        """Up to the first of the texts that end it; of an answer's parts, what it says."""
        text = self._tokenizer.decode(ids)
        if self._talks:
            text = "".join(part["text"] for part in self._tokenizer.parse(ids)[0] if part["type"] in SAID)
        for end in stop:
            text = text.partition(end)[0]
        return text


def blocks(requests: list, what: str, disable_tqdm: bool) -> Iterator[list]:
    with tqdm(total=len(requests), desc=what, disable=disable_tqdm) as bar:
        for start in range(0, len(requests), BLOCK):
            block = requests[start : start + BLOCK]
            yield block
            bar.update(len(block))
