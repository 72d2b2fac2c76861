"""Answer a file of prompts: python -m llm_jax.generate --workdir=DIR --input=P.jsonl --output=FILE [--stage=rl] [--n=1]

A line of the input (.jsonl, .jsonl.gz) has a `prompt`, a text that the base model continues and other stages answer, or
`messages`, [{role, content}], for stages that answer. `id` is its line number if it has none; `temperature`, `top_p`,
`top_k`, `max_new_tokens` (or `max_tokens`) and `seed` stand before the flags; `min_p`, the penalties, `logit_bias`,
`stop` and `response_format` are as the server's. Other settings that would change an answer are refused by name; other
fields are ignored.

The output has a line for each sample: id, sample, text, thinking, parts, tool_calls, tokens, finish, logprob (the sum
over sampled tokens, untempered) and the seed that `llm_jax.chat` would need. Lines come in the order of the input and
are written to FILE.partial, a block at a time. The same command goes on where it was stopped or killed, and what it
writes is the same to the byte.
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from llm_jax.frame.cli import console, quiet_logs, run_cli

quiet_logs()

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402

from llm_jax.checkpoint import checksums, digest  # noqa: E402
from llm_jax.config import UserError, differences  # noqa: E402
from llm_jax.files import replace, user_path  # noqa: E402
from llm_jax.frame.interrupt import Interrupt  # noqa: E402
from llm_jax.runs import STAGE_HELP  # noqa: E402
from llm_jax.sampling import grammar  # noqa: E402
from llm_jax.sampling.loaded import Loaded, load  # noqa: E402
from llm_jax.sampling.requests import Completion, Request  # noqa: E402
from llm_jax.sampling.settings import ALL, not_here, whole  # noqa: E402
from llm_jax.sampling.turns import SAID, before_stop, said, tool_calls  # noqa: E402
from llm_jax.tokenizer import SPANS, TURNS, Tokenizer, misplaced  # noqa: E402
from llm_jax.tools.search import define_place, place_of  # noqa: E402

SAMPLING = {"temperature": (int, float), "top_p": (int, float), "top_k": int, "max_new_tokens": int}
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
ONLY_LINES = {"min_p": (int, float), "seed": int, **dict.fromkeys(PENALTIES, (int, float))}
ALIASES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
SERVED = {  # settings of the server that are none of a line, and what asks for nothing
    "builtin_tools": (True,),
    "echo": (False,),
    "logprobs": (False, 0),
    "n": (1,),
    "thinking": ("auto",),
    "tool_choice": ("auto",),
    "tools": ([],),
    "top_logprobs": (0,),
}
BLOCK = 8  # requests a slot: between blocks the slots run empty, and a killed block is done again
QUIET_SECONDS = 10  # between lines of progress, where no terminal is


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("input", None, "The .jsonl or .jsonl.gz of prompts.", required=True)
    flags.DEFINE_string("output", None, "The .jsonl to write.", required=True)
    flags.DEFINE_string("stage", "", STAGE_HELP)
    flags.DEFINE_integer("n", 1, "Samples of each prompt.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of all samples.")
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token.")
    flags.DEFINE_float("top_p", 1.0, "Samples among the fewest tokens whose probabilities reach it.")
    flags.DEFINE_integer("top_k", 0, "Samples among that many likeliest tokens; 0: all.")
    flags.DEFINE_integer("max_new_tokens", None, "Of a sample; as many as fit if not given.")
    flags.DEFINE_integer("slots", 32, "Samples decoded at a time.", lower_bound=1)
    flags.DEFINE_bool("int8_weights", False, "Keep weights in 8 bits.")
    flags.DEFINE_bool("int8_cache", False, "Keep the key/value cache in 8 bits.")
    flags.DEFINE_integer("drafts", 0, "Tokens guessed ahead at each step.", lower_bound=0)
    define_place()
    flags.DEFINE_bool("skip_bad", False, "Answer a line that is wrong with an `error`, and go on.")


def main() -> None:
    f, workdir = flags.FLAGS, user_path(flags.FLAGS.workdir, "--workdir")
    source, output = user_path(f.input, "--input"), user_path(f.output, "--output")
    if not source.is_file():
        raise UserError(f"--input={source} is no file")
    if output.exists() or output.suffix == ".gz":
        raise UserError(f"--output={output} {'exists' if output.exists() else 'is not packed'}; give another --output")
    engine = {name: f[name].value for name in ("int8_weights", "int8_cache", "drafts")}
    sampling = numbers({name: f[name].value for name in SAMPLING})
    if sampling.get("max_new_tokens") == ALL:
        del sampling["max_new_tokens"]
    Request([0], **sampling).check(vocab_size=1, length=2)
    place = place_of(f)
    loaded = load(workdir, f.stage, f.slots, place, **engine)
    read = Reader(source, loaded, sampling, f.seed, f.n, f.skip_bad)
    total = sum(1 for _ in read.rows())
    if not total:
        raise UserError(f"{source} has no lines")
    settings = {name: f[name].value for name in ("n", "seed", "slots", "skip_bad")} | sampling | engine
    settings |= {"search": str(place)} if place else {}
    target, block = Output(output, settings | weights(loaded) | contents(source)), f.slots * BLOCK
    with Interrupt() as stop, Bar(total, target.resume(read.rows(), block)) as bar:
        rest = itertools.islice(read.rows(), bar.done, None)
        while rows := list(itertools.islice(rest, block)):
            answers = answered(loaded, [row.request for row in rows if row.request], stop, bar)
            if answers is None:
                break
            target.write(line(row, answers, loaded.tokenizer) for row in rows)
            bar.written(len(rows))
    loaded.close()
    if bar.done < total:
        print(f"stopped after {bar.done} of {total}; the same command goes on from there")
    else:
        target.finish()
        print(f"{output}: {total} lines")


@dataclasses.dataclass
class Row:
    """One line of the output to be."""

    id: str | int
    sample: int
    request: Request | None
    error: str = ""

    def is_of(self, written: bytes) -> bool:
        """Whether a line of the output is this row's."""
        return written.startswith(encoded({"id": self.id, "sample": self.sample})[:-2] + b",")


class Reader:
    """The rows that an input asks for, in order. `sampling` is of lines that do not say otherwise."""

    def __init__(self, path: Path, loaded: Loaded, sampling: dict[str, Any], seed: int, n: int, skip_bad: bool):
        self.path, self.loaded, self.sampling, self.seed, self.n = path, loaded, sampling, seed, n
        self.skip_bad = skip_bad

    def rows(self) -> Iterator[Row]:
        """Raises UserError, which names file and line, for a line that is wrong, unless bad ones are skipped."""
        for number, text in lines(self.path):
            record: Any = None
            try:
                record = parsed(text)
                asked = self.asked(record)
                id_ = self.id_of(record, number)
            except UserError as error:
                if not self.skip_bad:
                    mend = "mend it, or have such lines skipped with --skip_bad"
                    raise UserError(f"{self.path}:{number}: {error}; {mend}") from error
                yield Row(self.id_of(record, number, strict=False), 0, None, str(error))
                continue
            for sample in range(self.n):
                yield Row(id_, sample, dataclasses.replace(asked, seed=self.seed_of(record, number, sample)))

    def asked(self, record: dict) -> Request:
        if name := not_here(record, SERVED):
            raise UserError(f"{name} is {record[name]!r}, which is not to be had here; leave it out")
        length, vocab_size = self.loaded.engine.length, self.loaded.tokenizer.vocab_size
        sampling = self.sampling | {"bias": biases(record, vocab_size), "stop": stops(record)} | numbers(record)
        sampling |= {"stop_in": () if self.loaded.is_base else SAID}
        if sampling.get("max_new_tokens", ALL) == ALL:
            sampling["max_new_tokens"] = length
        if rule := grammar.asked(record):
            sampling["grammar"] = grammar.compiled(self.loaded.tokenizer, f"start: {rule}")
        request = Request(self.prompt(record), **sampling)
        request.check(vocab_size, length)
        return request

    def prompt(self, record: dict) -> list[int]:
        tokenizer, text = self.loaded.tokenizer, record.get("prompt")
        if ("prompt" in record) == ("messages" in record):
            raise UserError("it needs a `prompt` or `messages`, one of the two")
        if "prompt" in record and not isinstance(text, str):
            raise UserError("`prompt` must be a text")
        if self.loaded.is_base:
            if "messages" in record:
                raise UserError("`messages` are for stages that answer; the base model continues a `prompt`")
            return [*tokenizer.begin, *tokenizer.encode(text)]
        if text is not None and not text.strip():
            raise UserError("`prompt` is empty")
        messages = [{"role": "user", "content": text}] if "prompt" in record else checked(record["messages"])
        return tokenizer.render(messages, for_generation=True).ids

    def id_of(self, record: Any, number: int, strict: bool = True) -> str | int:
        id_ = record.get("id") if isinstance(record, dict) else None
        known = isinstance(id_, str | int) and not isinstance(id_, bool)
        if strict and not known and id_ is not None:
            raise UserError("`id` must be a text or a whole number")
        return id_ if known else number

    def seed_of(self, record: dict, number: int, sample: int) -> int:
        """A line's own seed is that of its first sample, and the others count on from it."""
        if record.get("seed") is not None:
            return whole(record["seed"]) + sample
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{number}/{sample}".encode()).digest()[:4], "big")


def numbers(record: dict) -> dict[str, Any]:
    """The settings of a line that are numbers, by their names in a Request. Raises UserError for what is none."""
    given = {}
    for name, kinds in (SAMPLING | ONLY_LINES | dict.fromkeys(ALIASES, int)).items():
        value = whole(record.get(name)) if kinds is int else record.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UserError(f"{name} is {value!r}; it must be {'a whole number' if kinds is int else 'a number'}")
        own = ALIASES.get(name, name)
        if own in given and given[own] != value:
            raise UserError(f"{name} is {value!r}, and {own} {given[own]!r}; give one of them")
        given[own] = value
    if given.get("top_k") == ALL:
        given["top_k"] = 0
    given.pop("seed", None)  # of the line's first sample: see `Reader.seed_of`
    return given


def stops(record: dict) -> tuple[str, ...]:
    """Raises UserError for what is neither a text nor a list of such."""
    stop = record.get("stop") or ()
    texts = (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"stop is {stop!r}; it must be a text, or a list of texts")
    return tuple(texts)


def biases(record: dict, vocab_size: int) -> dict[int, float]:
    """Raises UserError for what is not {id of the vocabulary: number}."""
    given = record.get("logit_bias") or {}
    if not isinstance(given, dict):
        raise UserError(f"logit_bias is {given!r}; it must be an object, ids to numbers")
    for key, bias in given.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
            raise UserError(f"logit_bias: {key!r} is no id of this vocabulary of {vocab_size}")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise UserError(f"logit_bias: {bias!r} is no number")
    return {int(key): bias for key, bias in given.items()}


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of those that are not blank. Raises UserError for a broken gzip file."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no whole gzip file ({error})") from error


def parsed(text: bytes) -> dict:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"no JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError("no JSON object")
    return record


def checked(messages: Any) -> list[dict]:
    """The messages, if they can be rendered and answered."""
    if not isinstance(messages, list) or not messages:
        raise UserError("`messages` must be a list of at least one")
    for i, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in (*TURNS, "tool"):
            raise UserError(f"messages[{i}].role is {role!r}; choose from {', '.join(TURNS)} or tool")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            fits = isinstance(part, dict) and part.get("type") in ("text", *SPANS) and isinstance(part.get("text"), str)
            if not fits:
                raise UserError(f"messages[{i}].content must be a text, or a list of parts with `type` and `text`")
    if wrong := misplaced(messages):
        raise UserError(f"messages[{wrong[0]}]: {wrong[1]}")
    if role not in ("user", "tool"):
        raise UserError(f"the last message is of the {role}; it must be one to answer, of a user or a tool")
    return messages


def answered(loaded: Loaded, requests: list[Request], stop: Interrupt, bar: "Bar") -> Iterator[Completion] | None:
    """Completions in the order of the requests, or None when stopped."""
    engine = loaded.engine
    engine.use(loaded.params)
    engine.forget()  # what is read anew or not changes the rounding, and a resumed run must write the same bytes
    completions = engine.submit_all(requests)
    while engine.busy:
        if stop.wanted:
            return None
        engine.step()
        bar.running(completions)
    return iter(completions)


def line(row: Row, answers: Iterator[Completion], tokenizer: Tokenizer) -> dict[str, Any]:
    """What is written of a row; `answers` are those of the rows from here on."""
    if row.request is None:
        return {"id": row.id, "sample": row.sample, "error": row.error}
    answer = next(answers)
    parts, _ = tokenizer.parse(answer.ids)
    if row.request.stop:
        parts = before_stop(parts, row.request.stop, row.request.stop_in)
    return {
        "id": row.id,
        "sample": row.sample,
        "text": said(parts, *SAID),
        "thinking": said(parts, "think"),
        "parts": parts,
        "tool_calls": tool_calls(parts),
        "tokens": len(answer.ids),
        "finish": answer.finish,
        "logprob": sum((p for p, sampled in zip(answer.logprob, answer.sampled_mask, strict=True) if sampled), 0.0),
        "seed": row.request.seed,
    }


def weights(loaded: Loaded) -> dict[str, Any]:
    """What tells a checkpoint from others."""
    return {"stage": loaded.stage, "weights": digest(checksums(loaded.params))}


def contents(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"input_bytes": path.stat().st_size, "input_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def encoded(record: dict[str, Any]) -> bytes:
    """One line. A lone surrogate, which an id may have, becomes its JSON escape."""
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


class Output:
    """FILE.partial, which becomes FILE when all is there, and FILE.partial.json: what its lines depend on."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        self.partial, self.noted = (path.with_name(path.name + end) for end in (".partial", ".partial.json"))

    def resume(self, rows: Iterator[Row], block: int) -> int:
        """How many rows are there; a block that is not whole goes. Raises UserError when they are of another run."""
        if not self.partial.exists() or not self.partial.stat().st_size:
            self._note()
            return 0
        mend = f"delete {self.partial} to begin anew, or give another --output"
        if not self.noted.is_file():
            raise UserError(f"{self.partial} has no {self.noted.name} beside it, which says how it was made; {mend}")
        if changed := differences(json.loads(self.noted.read_text(encoding="utf-8")), self.settings):
            raise UserError(f"{self.partial} was made with other settings ({'; '.join(changed)}); {mend}")
        done = at = whole = whole_at = 0
        with self.partial.open("rb") as file:
            for written, row in itertools.zip_longest(file, rows):
                if written is None or not written.endswith(b"}\n"):
                    break
                if row is None or not row.is_of(written):
                    raise UserError(f"{self.partial}:{done + 1} is of another input; {mend}")
                done, at = done + 1, at + len(written)
                if done % block == 0:
                    whole, whole_at = done, at
            else:
                whole, whole_at = done, at  # all rows
        os.truncate(self.partial, whole_at)
        return whole

    def _note(self) -> None:
        try:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            replace(self.noted, json.dumps(self.settings, indent=1))
        except OSError as error:
            raise UserError(f"--output={self.path} cannot be written ({error.strerror})") from error

    def write(self, records: Iterator[dict[str, Any]]) -> None:
        with self.partial.open("ab") as file:
            file.write(b"".join(map(encoded, records)))

    def finish(self) -> None:
        self.partial.replace(self.path)
        self.noted.unlink()


class Bar:
    """What a person sees: a bar in a terminal, else a line now and then."""

    def __init__(self, total: int, done: int):
        self.total, self.done = total, done
        self._tokens, self._now, self._started = 0, 0, time.monotonic()
        self._told = self._started
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=done, rate="compiling")

    def __enter__(self) -> "Bar":
        if self.done:
            console.print(f"going on after {self.done} of {self.total}")
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def running(self, completions: Iterable[Completion]) -> None:
        """Of the block at work."""
        self._now = sum(len(c.ids) for c in completions)
        self._tell(self.done + sum(c.finish is not None for c in completions))

    def written(self, rows: int) -> None:
        self.done, self._tokens, self._now = self.done + rows, self._tokens + self._now, 0
        self._tell(self.done)

    def _tell(self, done: int) -> None:
        now = time.monotonic()
        rate = f"{(self._tokens + self._now) / (now - self._started):.0f} tok/s"
        self._bar.update(self._task, completed=done, rate=rate)
        if not console.is_terminal and now - self._told > QUIET_SECONDS:
            self._told = now
            console.print(f"{done}/{self.total}  {rate}")


if __name__ == "__main__":
    run_cli(main, define_flags)
