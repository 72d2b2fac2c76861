"""Learning to say "I do not know": asks the model what it knows, then trains it on its own right answers and on
refusals where it is wrong however it is asked.

Knowledge probing as in Llama 3 (2407.21783, 4.3.6) and R-Tuning (2311.09677): a fact is known when most greedy answers
to its wordings are right and a quarter of the samples are, unknown when no greedy answer is and nearly no sample; what
lies between is left out. Nothing is taught but what the model says already: fine-tuning on unknown facts makes it
invent (2405.05904). The probing is kept in WORKDIR/abstain/probed.jsonl, what is trained on in
WORKDIR/STAGE/conversations.jsonl.
"""

import contextlib
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np

from llm_jax import lineage, rows
from llm_jax.config import UserError
from llm_jax.files import json_lines, read_json, replace
from llm_jax.frame.processes import say
from llm_jax.rl.packing import first_fit
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.sampling.shared import everyone
from llm_jax.stages import adapter, supervised
from llm_jax.tasks import knowledge
from llm_jax.tasks.base import cited, spoken
from llm_jax.tasks.confidence import surely
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import NOT_FOUND, RIGHT, TRAINED
from llm_jax.tokenizer import Tokenizer
from llm_jax.tools.passages import passages_in
from llm_jax.tools.table import Toolbox
from llm_jax.training import loader
from llm_jax.training.optimizer import schedule

KNOWN, UNKNOWN, MIDDLE = "known", "unknown", "middle"
# Of the samples that are right: at least, at most. A small model that is right when it says what it holds likeliest is
# right in far fewer samples.
KNOWN_SHARE, UNKNOWN_SHARE = 1 / 4, 1 / 16
ORACLE_KNOWN, ORACLE_UNKNOWN = 10, 1  # statements of a fact in the pages: at least, at most


def check(run: Run, stages: list[str]) -> None:
    """Raises UserError where no arm is named, and for questions that are not there, or not as they must be."""
    for stage in ("abstain", "control"):
        if stage in stages and run.config[stage].arm == "none":
            raise UserError(f"{stage}.arm is 'none', so stage {stage!r} has nothing to do; name one, as in 'probe'")
    if run.config.abstain.questions or (run.workdir / "data" / "prepared.json").exists():
        knowledge.training_facts(run.config, run.workdir)


def train(run: Run, params):
    return train_arm(run, params, "abstain")


def control(run: Run, params):
    return train_arm(run, params, "control")


def train_arm(run: Run, params, stage: str):
    """Makes the conversations of the stage's arm, where they are not there yet, and trains on them."""
    config, folder = run.config, run.workdir / stage
    make(run, params, stage)
    mixture = loader.mixture(folder / "rows")
    held_out = run.workdir / "data" / "sft_validation"
    job = supervised.supervised_job(run, stage, mixture, held_out, config.abstain.epochs, section="abstain")
    return adapter.train(run, job, params, schedule(config.lora.learning_rate, job.steps, config.optimizer))


def make(run: Run, params, stage: str) -> None:
    """Writes what the stage trains on; `made.json`, the last of it, says from what. What is there already is kept."""
    config, made = run.config.abstain, run.workdir / stage / "made.json"
    noted = probing(run, stage) | {"arm": run.config[stage].arm, "replay": config.replay}
    if is_made(made, noted):
        return
    lines = probed(run, params, probing(run, stage))
    if jax.process_index() == 0:
        write_rows(run, stage, lines)
        replace(made, json.dumps(noted))
    everyone(None)  # the others wait for it


def is_made(path: Path, noted: dict) -> bool:
    """Whether what was made is of this. Of several processes the look of the first counts, for it writes."""
    return everyone(path.exists() and read_json(path) == noted)[0]


def write_rows(run: Run, stage: str, lines: list[dict]) -> None:
    """The conversations of the stage's arm, from the lines of the probing, and the rows of these."""
    config, folder, arm = run.config.abstain, run.workdir / stage, run.config[stage].arm
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{run.config.seed}/{arm}")
    with contextlib.closing(Toolbox(run.workdir)) as tools:
        spoken_of = ARMS[arm](lines, rng, tools.answers.get("search"))
    wanted = round(len(spoken_of) * config.replay / (1 - config.replay))
    spoken_of += replayed(run.workdir / "data" / "conversations.jsonl", wanted, rng)
    rng.shuffle(spoken_of)
    write_lines(folder / "conversations.jsonl", spoken_of)
    fields = packed(spoken_of, run.tokenizer, run.config.data.sequence_length)
    counts = {"tokens": int(np.count_nonzero(fields[:, 1])), "targets": int(fields[:, 3].sum())}
    rows.write_shard(folder / "rows" / stage / "00000.array_record", fields, counts)


# What the model knows


def probing(run: Run, stage: str) -> dict:
    """What the outcome of probing depends on."""
    values = {key: run.config.abstain[key] for key in ("wordings", "samples", "max_new_tokens")}
    files = knowledge.training_files(run.config, run.workdir)
    content = hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()[:16]
    parent = lineage.parent_of(run, stage)["checksum"]
    return {"seed": run.config.seed, "parent": parent, "questions": content, **values}


def probed(run: Run, params, noted: dict) -> list[dict]:
    """The lines of WORKDIR/abstain/probed.jsonl, made where they are not there: a fact, what was said greedily to each
    wording (`greedy`), whether it was `right`, the `share` of right samples, and what `sort` of fact it is."""
    path, made = run.workdir / "abstain" / "probed.jsonl", run.workdir / "abstain" / "probed.json"
    if not is_made(made, noted):
        engine = engine_for(run, run.config.eval.slots)
        try:
            facts = knowledge.training_facts(run.config, run.workdir)
            lines = list(probe(engine, params, facts, run.config))
        finally:
            engine.close()
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(path, lines)
            replace(made, json.dumps(noted))
        everyone(None)  # the others wait for it
    lines = json_lines(path)
    sorts = [line["sort"] for line in lines]
    counts = ", ".join(f"{sorts.count(sort)} {sort}" for sort in (KNOWN, UNKNOWN, MIDDLE))
    say(f"abstain   of {len(lines)} facts: {counts}")
    return lines


def probe(engine: Engine, params, facts: list[Fact], config) -> Iterator[dict]:
    """Asks each fact in its wordings: greedily in each, and `samples` times at temperature 1, the wordings in turn."""
    t, c, requests = engine.tokenizer, config.abstain, []
    for number, fact in enumerate(facts):
        asked = fact.asked(c.wordings)
        ids = [t.render([{"role": "user", "content": text}], for_generation=True).ids for text in asked]
        requests += [Request(prompt, max_new_tokens=c.max_new_tokens) for prompt in ids]
        for sample in range(c.samples):
            seed = (config.seed * 1_000_003 + number) * c.samples + sample
            requests.append(Request(ids[sample % len(ids)], seed, 1.0, c.max_new_tokens))
    said = iter([t.parse(done.ids) for done in engine.generate(params, requests)])
    for fact in facts:
        asked = fact.asked(c.wordings)
        greedy = list(itertools.islice(said, len(asked)))
        samples = list(itertools.islice(said, c.samples))
        right = [fact.verdict(*one) == RIGHT for one in greedy]
        share = float(np.mean([fact.verdict(*one) == RIGHT for one in samples]))
        yield {
            "id": fact.id,
            "item": fact.item,
            "cause": fact.cause,
            "tier": fact.tier,
            "wordings": asked,
            "answers": fact.answers,
            "indexed": fact.indexed,
            "greedy": [parts for parts, _ in greedy],
            "right": right,
            "share": share,
            "sort": sort_of(right, share),
        }


def sort_of(right: list[bool], share: float) -> str:
    """By the greedy answers and the share of right samples."""
    if 2 * sum(right) > len(right) and share >= KNOWN_SHARE:
        return KNOWN
    return UNKNOWN if not any(right) and share <= UNKNOWN_SHARE else MIDDLE


# What it is taught


Asked = tuple[dict, int]  # a line of the probing, and the number of a wording
Search = Callable[[str], str]  # query -> what a model reads of what was found


def ways(lines: Iterable[dict]) -> list[Asked]:
    """Each wording of each line, if it was answered at all: what says nothing is no answer to learn."""
    return [(line, way) for line in lines for way, parts in enumerate(line["greedy"]) if parts]


def sorted_ways(lines: list[dict]) -> tuple[list[Asked], list[Asked]]:
    """(wordings of what is known that it answered rightly, wordings of what is unknown)"""
    known, unknown = (ways(line for line in lines if line["sort"] == sort) for sort in (KNOWN, UNKNOWN))
    return [(line, way) for line, way in known if line["right"][way]], unknown


def balanced(known: list[Asked], unknown: list[Asked], rng: random.Random) -> tuple[list[Asked], list[Asked]]:
    """As many of the one as of the other. Raises UserError where one is empty."""
    count = min(len(known), len(unknown))
    if not count:
        what = f"of what was asked {len(known)} answers are known and {len(unknown)} unknown"
        raise UserError(f"{what}: stage 'abstain' needs both; give it other questions, or set abstain.arm to 'none'")
    return rng.sample(known, count), rng.sample(unknown, count)


def by_probe(lines: list[dict], rng: random.Random, search: Search | None = None) -> list[dict]:
    """Its own right answer to what it knows, a refusal to what it does not."""
    known, unknown = balanced(*sorted_ways(lines), rng)
    return [*map(kept, known), *refused(unknown, rng, search)]


def at_random(lines: list[dict], rng: random.Random, search: Search | None = None) -> list[dict]:
    """The control: the questions of `by_probe`, as many refusals, but to any of them; else what it says itself."""
    known, unknown = balanced(*sorted_ways(lines), rng)
    asked = rng.sample(known + unknown, 2 * len(known))
    return [*map(kept, asked[: len(known)]), *refused(asked[len(known) :], rng, search)]


def by_exposure(lines: list[dict], rng: random.Random, search: Search | None = None) -> list[dict]:
    """The oracle: what the pages state often has its answer, what they never do, or once, a refusal."""
    if any(line["tier"] is None for line in lines):
        raise UserError("abstain.arm is 'oracle', which needs the `tier` of each question; use 'probe' for these")
    known = ways(line for line in lines if line["tier"] >= ORACLE_KNOWN and not line["cause"])
    unknown = ways(line for line in lines if line["tier"] <= ORACLE_UNKNOWN or line["cause"])
    known, unknown = balanced(known, unknown, rng)
    return [*(said(asked, asked[0]["answers"][0], KNOWN) for asked in known), *refused(unknown, rng, search)]


def stating(lines: list[dict], rng: random.Random, search: Search | None = None) -> list[dict]:
    """No refusals: its own answers, right or wrong, each with the share of right samples as the confidence that it
    states; as much of what is known as of what is not, and all that lies between. What `rl.reward` "brier" goes on."""
    known, unknown, middle = (ways(line for line in lines if line["sort"] == sort) for sort in (KNOWN, UNKNOWN, MIDDLE))
    known, unknown = balanced(known, unknown, rng)
    return [stated(asked) for asked in (*known, *unknown, *middle)]


ARMS = {"probe": by_probe, "random": at_random, "oracle": by_exposure, "confidence": stating}


def kept(asked: Asked) -> dict:
    """What the model says itself."""
    line, way = asked
    return conversation(asked, line["greedy"][way], line["sort"])


def stated(asked: Asked) -> dict:
    """What the model says itself, and how sure it may be."""
    line, way = asked
    *before, last = line["greedy"][way]
    return conversation(asked, [*before, {**last, "text": surely(last["text"], line["share"])}], line["sort"])


def refused(asked: list[Asked], rng: random.Random, search: Search | None = None) -> list[dict]:
    """Refusals, each as often as the others. Where there is a search, two of three search instead: so a model that may
    search does, and one whose search is forbidden refuses."""
    order = itertools.cycle(rng.sample(TRAINED, len(TRAINED)))
    return [
        looked_up(one, search) if search and number % 3 else said(one, text, UNKNOWN)
        for number, (one, text) in enumerate(zip(asked, order, strict=False))
    ]


def looked_up(asked: Asked, search: Search) -> dict:
    """The question as the query, what the search finds, the passage that says it, and the answer with its source."""
    line, way = asked
    query = line["wordings"][way]
    found = search(query)
    wanted = [*line["indexed"], *line["answers"]]
    said_by = [(passage, answer) for passage in passages_in(found) for answer in wanted if answer in passage.text]
    thought, answer = "", NOT_FOUND
    if said_by:
        passage, answer = said_by[0]
        thought, answer = passage.line, cited(answer, passage.source)
    parts = [{"type": "search", "text": query}, {"type": "document", "text": found}]
    parts += [{"type": "think", "text": thought}] if thought else []
    return conversation(asked, [*parts, {"type": "answer", "text": spoken(answer)}], UNKNOWN)


def said(asked: Asked, text: str, source: str) -> dict:
    """A text as the answer, in a span where the model has given its own in one."""
    line, way = asked
    in_span = any(part["type"] == "answer" for part in line["greedy"][way])
    part = {"type": "answer", "text": spoken(text)} if in_span else {"type": "text", "text": text}
    return conversation(asked, [part], source)


def conversation(asked: Asked, parts: list[dict], source: str) -> dict:
    line, way = asked
    messages = [{"role": "user", "content": line["wordings"][way]}, {"role": "assistant", "content": parts}]
    return {"id": f"{line['id']}-{way}", "source": source, "messages": messages}


def replayed(path: Path, count: int, rng: random.Random) -> list[dict]:
    """So many of the conversations that SFT has learned from, or all there are, so that nothing else is forgotten."""
    there = [record for record in json_lines(path) if record["split"] == "train"] if path.exists() else []
    return rng.sample(there, min(count, len(there)))


# As rows


def packed(records: list[dict], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Conversations as rows int32 [n, 4, T+1], first fit, longest first. Those that are longer than a row are left out,
    and a line says how many. Raises UserError where none is left."""
    rendered = [tokenizer.render(record["messages"]) for record in records]
    fits = [one for one in rendered if len(one.ids) <= length + 1]
    if len(fits) < len(rendered):
        print(f"abstain   {len(rendered) - len(fits)} conversations are longer than a row, left out", flush=True)
    if not fits:
        raise UserError(f"no conversation fits a row of {length}; give data.sequence_length more")
    need = [len(one.ids) for one in fits]
    members = first_fit(list(range(len(fits))), need, length + 1)
    fields = np.zeros((len(members), len(rows.FIELDS), length + 1), np.int32)
    fields[:, 0] = tokenizer.pad
    for row, chosen in zip(fields, members, strict=True):
        at = 0
        for number, i in enumerate(chosen, 1):
            end = at + need[i]
            row[:, at:end] = fits[i].ids, [number] * need[i], range(need[i]), fits[i].loss_mask
            at = end
    return fields


def write_lines(path: Path, records: Iterable[dict]) -> None:
    replace(path, "".join(f"{json.dumps(record)}\n" for record in records))
