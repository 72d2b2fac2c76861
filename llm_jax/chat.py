"""Talk to a run: python -m llm_jax.chat --workdir=DIR [--stage=rl] [--prompt=TEXT] [--json]

The base stage (--stage=pretrain) continues documents. An empty line or Ctrl-D ends.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from llm_jax.cli import quiet_logs, run_cli

quiet_logs()

from llm_jax.config import UserError  # noqa: E402
from llm_jax.runs import newest_stage  # noqa: E402
from llm_jax.sampling.chat import Chat  # noqa: E402

DIM, PLAIN = "\033[2m", "\033[0m"
SHOWN = {"think": "thinks: ", "python": "python: ", "output": "output: "}


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("stage", "", "pretrain, sft or rl; the newest if not given.")
    flags.DEFINE_string("prompt", None, "Answer this once and exit.")
    flags.DEFINE_bool("json", False, "With --prompt: print one JSON object.")
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of the samples.")


def main() -> None:
    f = flags.FLAGS
    workdir = Path(f.workdir)
    stage = f.stage or newest_stage(workdir)
    if stage not in ("pretrain", "sft", "rl"):
        raise UserError(f"unknown stage {stage!r}; choose pretrain, sft or rl")
    chat = Chat(workdir, stage, f.temperature, f.seed)
    try:
        if f.prompt is not None:
            if not f.prompt.strip() and not chat.is_base:
                raise UserError("the prompt is empty; ask something")
            once(chat, f.prompt, f.json)
        else:
            converse(chat, stage)
    finally:
        chat.close()


def once(chat: Chat, prompt: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(chat.answer(prompt))))
    else:
        show(chat, prompt)


def converse(chat: Chat, stage: str) -> None:
    print(f"{stage} model. " + ("Begin a document" if chat.is_base else "Say something") + "; an empty line ends.")
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not text:
            return
        try:
            show(chat, text)
        except KeyboardInterrupt:
            print(f"{PLAIN} [stopped]")
        except UserError as error:
            print(error)


def show(chat: Chat, text: str) -> None:
    """Streams a turn to the terminal; thinking and tools in a dim colour when it is one."""
    colour = sys.stdout.isatty()
    last = ""
    for kind, piece in chat.say(text):
        if kind != last:
            if last:
                print(PLAIN if colour else "")
            print((DIM if colour and kind in SHOWN else "") + SHOWN.get(kind, ""), end="")
            last = kind
        print(piece, end="", flush=True)
    print(PLAIN if colour else "")


if __name__ == "__main__":
    run_cli(main, define_flags)
