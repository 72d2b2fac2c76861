"""Main text of a page, by resiliparse, in a process of its own whose time and memory are capped.

A page may be built to exhaust its parser, which no exception or signal stops in time; a process can be ended.
"""

import os
import resource
import select
import struct
import subprocess
import sys
from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

SECONDS = 5.0  # for one page
MEMORY_BYTES = 2 * 2**30  # of the process


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
            command = [sys.executable, "-m", "data_pipelines.web.extract", str(self.memory_bytes)]
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


def serve(memory_bytes: int) -> None:
    """The child: pages in, texts out, each with its size before it."""
    from resiliparse.extract.html2text import extract_plain_text

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    pages, texts = sys.stdin.buffer, sys.stdout.buffer
    while header := pages.read(4):
        html = pages.read(struct.unpack("<I", header)[0]).decode()
        text = extract_plain_text(html, main_content=True, alt_texts=False, comments=False, list_bullets=False)
        payload = text.encode("utf-8", "replace")
        texts.write(struct.pack("<I", len(payload)) + payload)
        texts.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
