"""The field's harness on one model: by Hugging Face, by our engine and through our server. The same figures, how fast?

    python -m benchmarks.harness --workdir=RUN --folder=DIR [--items=64] [--batch_size=16] [--rounds=2] [--noserver]

RUN is an imported run, DIR the Hugging Face folder that it was made from. Three tasks of local files: choices (without
and with three solved examples before them), perplexity of pages of this Python's documentation, and answers. Seconds
are of lm_eval's calls of the model: loading and making the tasks' requests are not in them. The first round compiles.
Each ratio stands beside that of CPU seconds, which tells more where other work runs.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from absl import flags

from benchmarks.common import need_torch
from benchmarks.decode import clocks
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of PyTorch's threads, which would spin while the others work

PEOPLE = "Anna Boris Clara David Emma Felix Greta Henry Irene Jonas Karin Lewis Maria Nils Olga Peter".split()
TOWNS = "Leeds,Porto,Bergen,Ghent,Turin,Graz,Lyon,Brno,Cork,Malmo,Gdansk,Basel".split(",")
JOBS = "baker,nurse,printer,teacher,gardener,tailor,pilot,librarian".split(",")
PLACES = "the old harbour,the music school,a bridge over the canal,the covered market,the botanical garden".split(",")
METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
NEAR = 1e-4  # nats between the two best choices, below which rounding may decide
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/{kind}_train.jsonl, test: {folder}/{kind}.jsonl}}}}
fewshot_split: train
fewshot_config: {{sampler: first_n}}
test_split: test
num_fewshot: {shots}
"""
KINDS = {
    "choices": """
output_type: multiple_choice
doc_to_text: '{{question}}'
doc_to_choice: '{{choices}}'
doc_to_target: '{{right}}'
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "pages": """
output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: '{{text}}'
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "answers": """
output_type: generate_until
doc_to_text: '{{question}}'
doc_to_target: '{{answer}}'
generation_kwargs: {until: ["\\n\\n", "Question:"], max_gen_toks: 48, do_sample: false}
metric_list: [{metric: exact_match, ignore_punctuation: true}]
""",
}
TASKS = {"choices": ("choices", 0), "choices_3": ("choices", 3), "pages": ("pages", 0), "answers": ("answers", 0)}


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "An imported run.", required=True)
    flags.DEFINE_string("folder", None, "The Hugging Face folder of the same model.", required=True)
    flags.DEFINE_integer("items", 64, "Of each task; pages are a quarter as many.", lower_bound=4)
    flags.DEFINE_integer("batch_size", 16, "Of Hugging Face's side; our engine has 32 slots.", lower_bound=1)
    flags.DEFINE_integer("rounds", 2, "After the one that compiles.", lower_bound=1)
    flags.DEFINE_bool("server", True, "Ask our server, too.")


def records(kind: str, count: int, split: str) -> list[dict]:
    draw = random.Random(f"{kind} {split}")
    if kind == "pages":
        texts = sorted(text for text in topics.values() if 1500 < len(text) < 4500)
        return [{"text": text} for text in draw.sample(texts, count // 4)]
    return [(story if kind == "choices" else total)(draw) for _ in range(count)]


def story(draw: random.Random) -> dict:
    name, job, (town, *others) = draw.choice(PEOPLE), draw.choice(JOBS), draw.sample(TOWNS, 4)
    place, elsewhere = draw.sample(PLACES, 2)
    text = f"{name} is a {job} who grew up in {others[0]} and moved to {town} some years ago. On the way to work "
    text += f"{name} passes {place}, and on Sundays {name} likes to draw {elsewhere}."
    choices = [f"In {other}, not far from {place}." for other in (town, *others)]
    draw.shuffle(choices)
    right = next(number for number, choice in enumerate(choices) if town in choice)
    question = f"{text}\nQuestion: Where does {name} live now?\nAnswer:"
    return {"question": question, "choices": choices, "right": right}


def total(draw: random.Random) -> dict:
    name, first, second = draw.choice(PEOPLE), draw.randint(2, 60), draw.randint(2, 60)
    question = f"Question: {name} has {first} stamps and buys {second} more. How many stamps does {name} have?\nAnswer:"
    return {"question": question, "answer": str(first + second)}


def write_tasks(folder: Path, count: int) -> None:
    for kind in KINDS:
        for name, size in (("", count), ("_train", 4)):
            lines = "".join(json.dumps(record) + "\n" for record in records(kind, size, name))
            (folder / f"{kind}{name}.jsonl").write_text(lines, encoding="utf-8")
    for name, (kind, shots) in TASKS.items():
        task = TASK.format(name=name, folder=folder, kind=kind, shots=shots)
        (folder / f"{name}.yaml").write_text(task + KINDS[kind], encoding="utf-8")


class Side:
    """A model of lm_eval's, whose calls are timed."""

    def __init__(self, name: str, **arguments):
        from lm_eval.api.registry import get_model

        self.model = get_model(name).create_from_arg_obj(arguments)
        self.seconds = np.zeros(2)
        for method in METHODS:
            setattr(self.model, method, self._timed(getattr(self.model, method)))

    def _timed(self, method):
        def call(*args, **kwargs):
            started = clocks()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += clocks() - started

        return call

    def run(self, task: str, folder: Path, chat: bool = False) -> tuple[dict, list[dict], np.ndarray]:
        """(results, samples by document, `clocks`). Our engine forgets what it has read in another round."""
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        if hasattr(self.model, "engine"):
            self.model.engine.forget()
        self.seconds = np.zeros(2)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        told = simple_evaluate(
            model=self.model, tasks=[task], task_manager=manager, bootstrap_iters=0, apply_chat_template=chat
        )
        samples = sorted(told["samples"][task], key=lambda sample: sample["doc_id"])
        return told["results"][task], samples, self.seconds


def differences(kind: str, want: list[dict], got: list[dict]) -> str:
    """What two sides say of each item, in a few words."""
    pairs = list(zip(want, got, strict=True))
    if kind == "pages":
        totals = [[float(sample["filtered_resps"][0]) for sample in pair] for pair in pairs]
        apart = max(abs(b - a) / abs(a) for a, b in totals)
        return f"log-likelihoods differ by {apart:.1e} of them at most"
    if kind == "answers":
        same = sum(a["filtered_resps"] == b["filtered_resps"] for a, b in pairs)
        counted = sum(a["exact_match"] == b["exact_match"] for a, b in pairs)
        return f"{same} of {len(pairs)} texts equal, {counted} counted alike"
    clear, alike, apart = 0, 0, 0.0
    for a, b in pairs:
        values = [[float(told[0]) for told in sample["filtered_resps"]] for sample in (a, b)]
        apart = max(apart, *(abs(x - y) for x, y in zip(*values, strict=True)))
        first, second = sorted(values[0])[:-3:-1]
        if first - second > NEAR:
            clear += 1
            alike += a["acc"] == b["acc"]
    return f"{alike} of {clear} clear items counted alike, log-likelihoods differ by {apart:.1e} at most"


@contextlib.contextmanager
def server(workdir: str) -> Iterator[str]:
    command = [sys.executable, "-m", "llm_jax.serve", f"--workdir={workdir}", "--port=0", "--slots=16", "--nowarm_up"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield re.search(r"http://\S+:\d+", process.stdout.readline())[0]
    finally:
        process.terminate()
        process.wait()


def told(task: str, results: dict) -> str:
    figures = {name.partition(",")[0]: value for name, value in results.items() if isinstance(value, float)}
    return f"{task:10} " + ", ".join(f"{n} {v:.6g}" for n, v in figures.items() if not n.endswith("stderr"))


def in_turns(sides: dict[str, Side], folder: Path, rounds: int) -> dict[str, list[dict]]:
    """Prints both sides' figures and seconds of each round; {task: samples of Hugging Face's}."""
    found = {}
    for task, (kind, _) in TASKS.items():
        for n in range(rounds + 1):
            (want, wanted, slow), (got, given, quick) = (side.run(task, folder) for side in sides.values())
            ratio, of_cpu = slow / quick
            print(f"{task:10} round {n}: hf {slow[0]:.1f} s, ours {quick[0]:.1f} s, {ratio:.2f}, of CPU {of_cpu:.2f}")
        print(f"{told(task, want)}   (hf)\n{told(task, got)}   (ours)", flush=True)
        print(f"{'':10} {differences(kind, wanted, given)}", flush=True)
        found[task] = wanted
    return found


def through_server(hf: Side, ours: Side, url: str, found: dict, folder: Path) -> None:
    print("\nthrough the server: local-completions")
    api = {"base_url": f"{url}/v1/completions", "model": "imported", "tokenizer_backend": "remote"}
    side = Side("local-completions", **api, num_concurrent=4, max_length=2047, batch_size=4)
    for task, (kind, _) in TASKS.items():
        results, samples, _ = side.run(task, folder)
        print(f"{told(task, results)}\n{'':10} {differences(kind, found[task], samples)}", flush=True)
    print("\nwith the chat template: hf, ours, and local-chat-completions")
    api = {"base_url": f"{url}/v1/chat/completions", "model": "imported", "num_concurrent": 4}
    _, wanted, _ = hf.run("answers", folder, chat=True)
    for side in (ours, Side("local-chat-completions", **api)):
        results, samples, _ = side.run("answers", folder, chat=True)
        print(f"{told('answers', results)}\n{'':10} {differences('answers', wanted, samples)}", flush=True)


def main() -> None:
    need_torch()
    import torch

    from llm_jax.evals import harness  # noqa: F401 (registers the class)

    f = flags.FLAGS
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder, f.items)
        of_hf = {"pretrained": f.folder, "dtype": "float32", "device": "cpu", "max_length": 2048}
        sides = {"hf": Side("hf", **of_hf, batch_size=f.batch_size), "ours": Side("llm_jax", workdir=f.workdir)}
        found = in_turns(sides, folder, f.rounds)
        if f.server:
            with server(f.workdir) as url:
                through_server(*sides.values(), url, found, folder)


if __name__ == "__main__":
    run_cli(main, define_flags)
