"""What goes out beside the weights: where a model came from, how to sample from it, and its model card."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from llm_jax.files import read_json, replace
from llm_jax.hub import families
from llm_jax.report import metrics
from llm_jax.runs import Run
from llm_jax.tokenizer import Tokenizer

NOTE = "source.json"  # in the data/ of a run whose model was imported
# How Transformers and vLLM sample where nobody says otherwise: as models that think are sampled usually.
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
SAMPLED = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
REPORTED = ("sft", "think", "tools", "final", "rl", "passk")  # groups of report.json with figures of its own


@dataclasses.dataclass(frozen=True)
class Source:
    """Where an imported model came from. Of one of ours all is empty."""

    config: families.Config = dataclasses.field(default_factory=dict)  # its config.json
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)  # its generation_config.json
    name: str = ""
    licence: str = ""


OURS = Source()


def note(folder: Path, source: Source) -> None:
    replace(folder / NOTE, json.dumps(dataclasses.asdict(source), indent=1))


def source_of(workdir: Path) -> Source:
    path = workdir / "data" / NOTE
    return Source(**read_json(path)) if path.is_file() else OURS


def licence_in(folder: Path) -> str:
    """What the card of a Hugging Face folder says in its head."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.-]+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""


def special_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    named = {text: i for i, text in tokenizer.special_names.items()}
    bos = named.get(tokenizer.described().get("bos_token"))
    return {"bos_token_id": bos, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad}


def generation_config(tokenizer: Tokenizer, source: Source) -> dict[str, Any]:
    """Where to stop, and how to sample: as the source says, where it does."""
    theirs = {key: value for key, value in source.generation.items() if key in SAMPLED}
    return special_ids(tokenizer) | {"eos_token_id": list(tokenizer.ends)} | (theirs or SAMPLING)


def model_card(run: Run, stage: str, source: Source) -> str:
    """In Markdown, with the head that the hub reads."""
    m, name = run.config.model, run.workdir.absolute().name
    count = sum(leaf.size for leaf in jax.tree.leaves(run.abstract_params()))
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": "[llm_jax]"}
    head |= {"license": source.licence} if source.licence else {}
    head |= {"base_model": json.dumps(source.name)} if source.name else {}
    parts = [
        "---\n" + "".join(f"{key}: {value}\n" for key, value in head.items()) + "---",
        f"# {name}",
        f"A language model of {count / 1e6:,.1f} million parameters ({families.family_of(m).name}: {m.layers} layers "
        f"of {m.dim}, {run.vocab_size:,} tokens). This is its stage `{stage}`, which reads and writes up to "
        f"{run.config.data.sequence_length:,} tokens together.",
        "\n".join(["## What it was trained on", "", *trained_on(run, stage, source)]),
        figures(run),
        "## How to use it\n\n" + USE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
messages = [{"role": "user", "content": "Hello"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=200)[0]))
```"""


def trained_on(run: Run, stage: str, source: Source) -> Iterator[str]:
    """A line for each stage up to this one."""
    prepared = run.workdir / "data" / "prepared.json"
    counts = read_json(prepared).get("counts", {}) if prepared.is_file() else {}
    stages = run.trained()
    for name in stages[: stages.index(stage) + 1]:
        if name == "imported":
            yield f"- `imported`: {source.name or 'a model from elsewhere'}, which has a card of its own."
        elif name in counts:
            sources = ", ".join(key.split("/", 1)[1] for key in counts if key.startswith(f"{name}/"))
            what = f"{counts[name]['documents']:,} documents or conversations, {counts[name]['tokens']:,} tokens"
            yield f"- `{name}`: {what} ({sources})." if sources else f"- `{name}`: {what}."
        elif name == "rl":
            yield f"- `rl`: its own answers to {', '.join(run.config.rl.tasks)}, graded."
        else:
            yield f"- `{name}`."


def figures(run: Run) -> str:
    """A table of what report.json has with a number of items; nothing where there is no report."""
    path = run.workdir / "report" / "report.json"
    report = metrics.measured(read_json(path)) if path.is_file() else {}
    lines = []
    for where, metric in flat({key: report[key] for key in REPORTED if key in report}):
        if "n" in metric:
            show = metrics.FORMATS[metrics.kind_of(where, metric)]
            between = " to ".join(map(show, metric["ci95"])) if "ci95" in metric else ""
            lines.append(f"| {'.'.join(where)} | {show(metric['value'])} | {metric['n']:,} | {between} |")
    if not lines:
        return ""
    told = "Measured on held-out items. `sft` and `think` are of the model after stage `sft`, `rl` and `passk` of the "
    told += "models before and after stage `rl`, `tools` and `final` of the last."
    return "\n".join(["## Figures", "", told, "", "| what | value | n | 95 % |", "|---|---|---|---|", *lines])


def flat(node: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], metrics.Metric]]:
    for name, child in node.items():
        if metrics.is_metric(child):
            yield (*where, name), child
        elif isinstance(child, dict):
            yield from flat(child, (*where, name))
