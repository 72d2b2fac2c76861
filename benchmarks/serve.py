"""Many clients at once: python -m benchmarks.serve --workdir=DIR [--clients=100] [--seconds=300]

Starts a server of that run. Each client streams one greedy answer after another and compares it with the answer that
the same question got while nobody else was there. The clients share the machine's cores with the server.
"""

import asyncio
import collections
import dataclasses
import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import psutil
from absl import flags

from llm_jax.config import UserError
from llm_jax.frame.cli import run_cli

QUESTIONS = (
    *(f"What is {a}+{b}-{a - b}?" for a, b in ((17, 9), (40, 12), (63, 5), (88, 31))),
    *(f"What is {a}*{b}?" for a, b in ((4821, 375), (907, 66), (12, 12))),
    *(f"How do you spell {word}?" for word in ("river", "mountain", "bread", "window")),
    *(f"{greeting}! Who are you?" for greeting in ("Hello", "Good morning", "Hi")),
    *("Where was Anna Berg born?", "Sort these: pear, apple, fig", "Tell me about the town by the lake."),
)


@dataclasses.dataclass
class Tally:
    """What one client saw."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = dataclasses.field(default_factory=list)  # seconds to the first token
    seen: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", "sft or rl; the newest if not given.")
    flags.DEFINE_integer("clients", 100, "Clients at once.", lower_bound=1)
    flags.DEFINE_float("seconds", 300.0, "How long.", lower_bound=1.0)
    flags.DEFINE_integer("slots", 32, "Of the server.", lower_bound=1)


def main() -> None:
    f = flags.FLAGS
    command = [sys.executable, "-m", "llm_jax.serve", f"--workdir={f.workdir}", f"--stage={f.stage}", "--port=0"]
    command += [f"--slots={f.slots}", f"--max_queue={f.clients}"]
    server = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    try:
        if not (line := server.stdout.readline()):
            raise UserError("the server did not start")
        print(table(*asyncio.run(soak(int(re.search(r":(\d+)/", line)[1]), psutil.Process(server.pid)))))
    finally:
        server.terminate()
        print(f"exit code of the server: {server.wait()}")


async def soak(port: int, server: psutil.Process) -> tuple[list[Tally], list[float]]:
    """(what each client saw, MiB of the server before, in the middle and after)."""
    f = flags.FLAGS
    known = {question: await answer(port, question, Tally()) for question in QUESTIONS}  # once it has loaded
    memory, tallies, end = [mib(server)], [Tally() for _ in range(f.clients)], time.monotonic() + f.seconds
    clients = [asyncio.create_task(client(port, i, known, end, tally)) for i, tally in enumerate(tallies)]
    await asyncio.sleep(f.seconds / 2)
    memory.append(mib(server))
    await asyncio.gather(*clients)
    return tallies, [*memory, mib(server)]


def mib(process: psutil.Process) -> float:
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 2**20


async def client(port: int, number: int, known: dict[str, str], end: float, tally: Tally) -> None:
    rng = random.Random(number)
    while time.monotonic() < end:
        question = rng.choice(QUESTIONS)
        try:
            said = await answer(port, question, tally)
        except (OSError, ValueError, KeyError) as error:
            tally.seen[f"error: {error!r}"] += 1
            continue
        others = said != known[question] and said in known.values()
        tally.seen["right" if said == known[question] else "anothers" if others else "different"] += 1


async def answer(port: int, question: str, tally: Tally) -> str:
    """All that is said. Raises ValueError for a refusal or a stream that does not end as it should.

    A plain socket: a client's library would take more of the machine than the server.
    """
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "stream": True}
    data = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        started, said, last, first = time.monotonic(), "", b"", None
        if b" 200 " not in (status := await reader.readline()):
            raise ValueError(status.decode())
        async for line in reader:
            if line.startswith(b"data: ") and (last := line[6:].strip()) != b"[DONE]":
                chunk = json.loads(last)
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                parts = [part for choice in chunk["choices"] for part in choice["delta"].get("parts", [])]
                first = first or (parts and time.monotonic() - started)
                said += "".join(part["text"] for part in parts)
                tally.tokens += chunk.get("usage", {}).get("completion_tokens", 0)
    finally:
        writer.close()
    if last != b"[DONE]":
        raise ValueError("the stream broke off")
    tally.seconds += time.monotonic() - started
    tally.first.append(first or 0.0)
    return said


def table(tallies: list[Tally], memory: list[float]) -> str:
    seen = sum((tally.seen for tally in tallies), collections.Counter())
    pace = [tally.seconds / max(tally.tokens, 1) for tally in tallies]
    first = np.percentile([x for tally in tallies for x in tally.first], (50, 95, 100))
    rows = [
        ("clients", f"{len(tallies)}"),
        ("answers as expected", f"{seen['right']}"),
        ("answers of another question", f"{seen['anothers']}"),
        ("other answers than alone", f"{seen['different']}"),
        ("errors", ", ".join(f"{count} x {what}" for what, count in seen.items() if what.startswith("error")) or "0"),
        ("tokens a second", f"{sum(tally.tokens for tally in tallies) / flags.FLAGS.seconds:.0f}"),
        ("seconds to the first token: median, 95 %, most", ", ".join(f"{x:.2f}" for x in first)),
        ("seconds a token: slowest client / median", f"{max(pace) / np.median(pace):.2f}"),
        ("MiB of the server: before, middle, after", ", ".join(f"{x:.0f}" for x in memory)),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in (("what", "value"), ("---", "---"), *rows))


if __name__ == "__main__":
    run_cli(main, define_flags)
