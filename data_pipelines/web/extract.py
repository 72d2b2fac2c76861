"""Main text of a page, by resiliparse, in a process of its own whose time and memory are capped.

A page may be built to exhaust its parser, which no exception or signal stops in time; a process can be ended.
"""

import collections
import os
import re
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

SECONDS = 5.0  # for one page
MEMORY_BYTES = 2 * 2**30  # of the process
OPEN_TAGS = 512  # as deep as browsers build a tree; the parser's time grows with the square of the depth
NESTING = ("div", "span", "section", "table", "ul", "blockquote", "font")
# What a parser takes as one piece, whatever markup stands in it; or a tag, with its attributes. Each goes on to the end
# of the page where it is not closed, so that no page is searched twice.
PIECE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|textarea|title|xmp|iframe|noscript|noembed|noframes)\b.*?(?:</\1|\Z)|"
    rf"<(?:(/?)({'|'.join(NESTING)})(?=[\s/>])|[a-z])(?:[^>\"']++|\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z))*+(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


class TooSlow(Exception):
    pass


class Died(Exception):
    pass


class Extract(BaseFilter):
    """Replaces the text of HTML documents; those without text, or that break the parser, are dropped."""

    name = "extract"

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES):
        super().__init__()
        self.seconds, self.memory_bytes, self.worker = seconds, memory_bytes, None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if doc.metadata.pop("markup", "text") == "html":
            if nested_too_deep(doc.text):
                return False, "page_nested_too_deep"
            try:
                doc.text = self.text_of(doc.text)
            except (TooSlow, Died) as error:
                self.stop()
                return False, "page_too_slow" if isinstance(error, TooSlow) else "page_breaks_the_parser"
        doc.text = doc.text.strip()
        return bool(doc.text) or (False, "no_text")

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        try:
            yield from super().run(data, rank, world_size)
        finally:
            self.stop()

    def text_of(self, html: str) -> str:
        if self.worker is None:
            child = Path(__file__).with_name("page_text.py")
            command = [sys.executable, "-P", str(child), str(self.memory_bytes)]  # -P: not with this folder as a path
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.worker = subprocess.Popen(command, **pipes)
        payload = html.encode("utf-8", "replace")
        try:
            self.worker.stdin.write(struct.pack("<I", len(payload)) + payload)
            self.worker.stdin.flush()
        except BrokenPipeError as error:
            raise Died from error
        (size,) = struct.unpack("<I", self.received(4))
        return self.received(size).decode()

    def received(self, size: int) -> bytes:
        parts, source = [], self.worker.stdout.fileno()
        while size:
            if not select.select([source], [], [], self.seconds)[0]:
                raise TooSlow
            part = os.read(source, size)
            if not part:
                raise Died
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.communicate()
            self.worker = None


def nested_too_deep(html: str) -> bool:
    """Whether more tags of one kind are open than may be; in scripts, comments and attributes there are none."""
    if max(html.count(f"<{tag}") - html.count(f"</{tag}") for tag in NESTING) <= OPEN_TAGS:
        return False
    opened = collections.Counter()
    for match in PIECE.finditer(html):
        tag = (match[3] or "").lower()
        opened[tag] += -1 if match[2] else 1
        if tag and opened[tag] > OPEN_TAGS:
            return True
    return False
