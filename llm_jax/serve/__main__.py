"""Serve a run, as OpenAI's interface and as a chat page: python -m llm_jax.serve --workdir=DIR [--port=8000]

Ctrl-C or SIGTERM ends it.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys

from absl import flags

from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

import uvicorn  # noqa: E402

from llm_jax.config import UserError  # noqa: E402
from llm_jax.files import user_path  # noqa: E402
from llm_jax.serve.app import Limits, make_app  # noqa: E402
from llm_jax.serve.worker import Workers  # noqa: E402
from llm_jax.tools.search import define_place, place_of  # noqa: E402

LOOPBACK = ("127.0.0.1", "::1", "localhost")
NAMES = ("127.0.0.1", "[::1]", "localhost")  # as a URL has them
GRACE_SECONDS = 2  # for answers under way, when the server ends
KEEP_ALIVE_SECONDS = 75  # of an idle connection: more than clients keep one, so that none is closed under a request


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine's.")
    flags.DEFINE_integer("port", 8000, "0: a free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_string("stage", "", "The default model: a stage that has a checkpoint; the newest if not given.")
    flags.DEFINE_list("hosts", [], "Names by which it may be asked, beside this machine's own; *: any.")
    flags.DEFINE_list("cors", [], "Origins whose web pages may ask it, as https://chat.example; *: any.")
    flags.DEFINE_string("api_key", "", "Key that clients must send; else that of LLM_JAX_API_KEY; else none.")
    flags.DEFINE_integer("slots", 32, "Rows that run together.", lower_bound=1)
    flags.DEFINE_integer("max_queue", 256, "Rows that may wait for a slot; more are refused.", lower_bound=0)
    flags.DEFINE_integer("max_n", 16, "Choices that one request may want of a prompt.", lower_bound=1)
    flags.DEFINE_float("timeout", 300.0, "Seconds that a request may take.", lower_bound=0.1)
    flags.DEFINE_bool("warm_up", True, "Compile all programs before the first answer.")
    flags.DEFINE_bool("int8_weights", False, "Matrices as bytes.")
    flags.DEFINE_bool("int8_cache", False, "Keys and values as bytes.")
    define_place()
    flags.DEFINE_integer("drafts", 0, "Tokens guessed ahead at each step.", lower_bound=0)


def main() -> None:
    f = flags.FLAGS
    key = f.api_key or os.environ.get("LLM_JAX_API_KEY", "")
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError("the API key has a space, or what is not ASCII, which no header can carry; choose another")
    named, origins = hosts_of(f), tuple(f.cors)
    if wrong := [origin for origin in origins if not re.fullmatch(r"\*|https?://[^\s/?#@]+", origin)]:
        raise UserError(f"--cors={wrong[0]} is no origin; give scheme and name alone, as https://chat.example, or *")
    options = {name: getattr(f, name) for name in ("int8_weights", "int8_cache", "drafts")}
    workdir, place = user_path(f.workdir, "--workdir"), place_of(f)
    workers = Workers(workdir, f.stage, f.slots, f.max_queue, f.warm_up, place, **options)
    listening = listen(f.host, f.port)
    if f.host not in LOOPBACK and not key:
        print(f"warning: {f.host} is open to others, and no --api_key is set", file=sys.stderr)
    hosts = named if f.hosts or (f.host in LOOPBACK and not key) else ()
    asyncio.run(serve(workers, Limits(key, hosts, origins, f.max_n, f.timeout), listening))
    sys.stdout.flush()
    if not all(worker.ended(GRACE_SECONDS) for worker in workers.loaded.values()):
        os._exit(0)  # a program is being compiled, which nothing can interrupt


def hosts_of(f: flags.FlagValues) -> tuple[str, ...]:
    """This machine's own names and those of --hosts; none where it answers to any. Raises UserError."""
    given = [name.strip().lower() for name in f.hosts]
    if wrong := [name for name in given if not re.fullmatch(r"\*|[\w.-]+|\[[0-9a-f:.]+\]", name)]:
        raise UserError(f"--hosts={wrong[0]} is no name of a host; give it alone, as chat.example, without port, or *")
    return () if "*" in given else (*NAMES, *given)


def listen(host: str, port: int) -> socket.socket:
    """Raises UserError where that is not possible."""
    # Only of sockets that say they are TCP does asyncio send small packets at once; others wait for the last one's ACK.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}); choose another --port") from error
    return listening


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield  # `serve` has its own handlers: uvicorn's raise the signal again at the end, and the exit code is not 0


async def serve(workers: Workers, limits: Limits, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT."""
    workers.get(workers.default)
    config = uvicorn.Config(
        make_app(workers, limits),
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit  # the second time, at once
        server.should_exit = True
        workers.stop("the server is being stopped")

    for s in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(s, stop)
    host, port = listening.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    print(
        f"{workers.default} of {workers.workdir}: http://{where}:{port}/  (Ctrl-C ends it; the model is loading)",
        flush=True,
    )
    await server.serve(sockets=[listening])


if __name__ == "__main__":
    run_cli(main, define_flags)
