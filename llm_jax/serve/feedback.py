"""What people think of answers, kept as the records that training reads: WORKDIR/feedback/*.jsonl."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llm_jax.serve.protocol import ApiError, Body, Content, Messages, plain

FILES = ("conversations", "pairs", "ratings")


class FeedbackBody(Body):
    """`messages` end with the turn that `answer` answers."""

    model: str
    messages: Messages
    kind: Literal["edit", "rate", "choose"]
    answer: Content
    edited: Annotated[str, Field(min_length=1)] = ""
    rejected: Content | None = None
    rating: int = Field(0, ge=-1, le=1)  # 0: none was given

    @model_validator(mode="after")
    def _check(self) -> "FeedbackBody":
        needed = {"edit": "edited", "rate": "rating", "choose": "rejected"}[self.kind]
        if not getattr(self, needed):
            raise ValueError(f"{needed}: field required where kind is {self.kind!r}")
        return self

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file, record). Raises ApiError for what training would refuse: then a whole file could not be read."""
        messages = [message.record() for message in self.messages]
        answer = {"edit": self.edited}.get(self.kind) or plain(self.answer)
        worse = {"edit": plain(self.answer), "choose": plain(self.rejected or [])}.get(self.kind)
        check(messages, answer)
        record = {"id": uuid.uuid4().hex, "source": "feedback"}
        if self.kind != "choose" and self.rating != -1:
            yield "conversations", {**record, "messages": [*messages, {"role": "assistant", "content": answer}]}
        if worse and worse != answer:
            yield "pairs", {**record, "prompt": messages, "chosen": answer, "rejected": worse}
        if self.kind == "rate":
            rated = {"model": self.model, "messages": messages, "answer": answer, "rating": self.rating}
            yield "ratings", {**record, **rated, "time": int(time.time())}


def check(messages: list[dict[str, Any]], answer: str | list) -> None:
    """The rules of `data_pipelines.chats`. Raises ApiError."""
    if not answer:
        raise ApiError(400, "answer: is empty", "answer")
    before = None
    for i, message in enumerate(messages):
        role = message["role"]
        wrong = {
            "system": i > 0,
            "user": False,
            "assistant": before not in ("user", "tool"),
            "tool": before not in ("assistant", "tool"),
        }[role]
        if wrong:
            raise ApiError(400, f"messages[{i}].role: {role!r} cannot stand there", "messages")
        if not message["content"] and role in ("user", "assistant"):
            raise ApiError(400, f"messages[{i}].content: is empty", "messages")
        before = role
    if before not in ("user", "tool"):
        raise ApiError(400, "messages: must end with what is answered, a turn of the user", "messages")


class Feedback:
    """Appends to the files; whole lines only, also when the disk is full."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def save(self, body: FeedbackBody) -> dict[str, Any]:
        """{saved: names of files, counts: records in each}. Raises ApiError for no record, or a full disk."""
        records = list(body.records())
        if not records:
            raise ApiError(400, "rejected: is empty, or the same as the answer", "rejected")
        with self._lock:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for name, record in records:
                    append(self.folder / f"{name}.jsonl", record)
            except OSError as error:
                raise ApiError(507, f"the feedback cannot be saved: {error.strerror}") from error
            counts = {name: lines(self.folder / f"{name}.jsonl") for name in FILES}
        return {"saved": [f"{name}.jsonl" for name, _ in records], "counts": counts}


def append(path: Path, record: dict[str, Any]) -> None:
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError:
            file.truncate(size)
            raise


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
