"""Child of `extract`: HTML pages in, their main texts out, each with its size before it.

It imports no more than it needs, for every task starts one.
"""

import resource
import struct
import sys

from resiliparse.extract.html2text import extract_plain_text


def main() -> None:
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    pages, texts = sys.stdin.buffer, sys.stdout.buffer
    while header := pages.read(4):
        html = pages.read(struct.unpack("<I", header)[0]).decode()
        text = extract_plain_text(html, main_content=True, alt_texts=False, comments=False, list_bullets=False)
        payload = text.encode("utf-8", "replace")
        texts.write(struct.pack("<I", len(payload)) + payload)
        texts.flush()


if __name__ == "__main__":
    main()
