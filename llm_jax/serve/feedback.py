"""What people think of answers, kept as the records that training reads: WORKDIR/feedback/*.jsonl."""

import contextlib
import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llm_jax.files import replace
from llm_jax.serve.bodies import ApiError, Body, Whole
from llm_jax.serve.messages import Content, Messages, plain
from llm_jax.tokenizer import misplaced

FILES = ("conversations", "pairs", "ratings")


class FeedbackBody(Body):
    """`messages` end with the turn that `answer` answers."""

    model: str
    messages: Messages
    kind: Literal["edit", "rate", "choose"]
    answer: Content
    edited: Annotated[str, Field(min_length=1)] = ""
    rejected: Content | None = None
    rating: Whole = Field(0, ge=-1, le=1)  # 0: none was given

    @model_validator(mode="after")
    def _check(self) -> "FeedbackBody":
        needed = {"edit": "edited", "rate": "rating", "choose": "rejected"}[self.kind]
        if not getattr(self, needed):
            raise ValueError(f"{needed}: field required where kind is {self.kind!r}")
        return self

    def records(self) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
        """(file, id, record); None in place of a record: those whose ids begin so no longer hold.

        An id says what the record is of, so that what is said twice counts once: a pair's begins with that of the
        better answer. Raises ApiError for what training would refuse: then a whole file could not be read.
        """
        messages = [message.record() for message in self.messages]
        answer = {"edit": self.edited}.get(self.kind) or plain(self.answer)
        worse = {"edit": plain(self.answer), "choose": plain(self.rejected or [])}.get(self.kind)
        check(messages, answer)
        for bad in (worse if worse != answer else None, answer if self.rating == -1 else None):
            if bad:
                yield "conversations", identity(messages, bad), None
                yield "pairs", identity(messages, bad), None
        if self.kind != "choose" and self.rating != -1:
            conversation = {"messages": [*messages, {"role": "assistant", "content": answer}]}
            yield "conversations", identity(messages, answer), conversation
        if worse and worse != answer:
            pair = {"prompt": messages, "chosen": answer, "rejected": worse}
            yield "pairs", f"{identity(messages, answer)}-{identity(messages, worse)}", pair
        if self.kind == "rate":
            rated = {"model": self.model, "messages": messages, "answer": answer, "rating": self.rating}
            yield "ratings", identity(messages, answer), {**rated, "time": int(time.time())}


def identity(messages: list[dict[str, Any]], answer: str | list) -> str:
    return hashlib.blake2b(json.dumps([messages, answer]).encode(), digest_size=16).hexdigest()


def check(messages: list[dict[str, Any]], answer: str | list) -> None:
    """That they make a conversation to learn from. Raises ApiError."""
    if not answer:
        raise ApiError(400, "answer: is empty", "answer")
    if wrong := misplaced(messages):
        raise ApiError(400, f"messages[{wrong[0]}]: {wrong[1]}", "messages")
    if messages[-1]["role"] not in ("user", "tool"):
        raise ApiError(400, "messages: must end with what is answered, a turn of the user", "messages")


class Feedback:
    """Keeps the files; the last word on an answer counts. A disk that is full leaves a file as it was."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def save(self, body: FeedbackBody) -> dict[str, Any]:
        """{saved: names of files, counts: records in each}. Raises ApiError for no record, or a full disk."""
        records = list(body.records())
        saved = [f"{name}.jsonl" for name, _, record in records if record]
        if not saved:
            raise ApiError(400, "rejected: is empty, or the same as the answer", "rejected")
        with self._lock, contextlib.ExitStack() as until:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(until.enter_context((self.folder / ".lock").open("wb")), fcntl.LOCK_EX)  # of other servers
                for name, id_, record in records:
                    put(self.folder / f"{name}.jsonl", id_, record)
            except OSError as error:
                raise ApiError(507, f"the feedback cannot be saved: {error.strerror}") from error
            counts = {name: lines(self.folder / f"{name}.jsonl") for name in FILES}
        return {"saved": saved, "counts": counts}


def put(path: Path, id_: str, record: dict[str, Any] | None) -> None:
    """Writes the record at the end of a file of JSON lines, in the place of the one with its id.

    None: drops those whose ids begin so. Other lines stay as they are, whoever wrote them.
    """
    old = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    head = json.dumps({"id": id_})[:-2].encode()  # without its closing quote
    new = [line for line in old if not line.startswith(head)]
    if record:
        if new and not new[-1].endswith(b"\n"):
            new[-1] += b"\n"
        new.append((json.dumps({"id": id_, "source": "feedback", **record}, ensure_ascii=False) + "\n").encode())
    if new != old:
        replace(path, b"".join(new))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
