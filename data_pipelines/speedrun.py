"""Stage `data` of the speedrun: a crawl of the tiny web, lessons, programs and this Python's own docs -> tokenizer,
rows, prompts.

Writes into WORKDIR/data: crawl/ and web/ (the crawl, and what is left of it), crawl.json, documents.jsonl, world.jsonl,
questions_*.jsonl, conversations.jsonl, prompts_*.jsonl, tokenizer.model, pretrain/SOURCE/, validation/SOURCE/, sft/ and
sft_validation/ rows, mixture.json (how pre-training is to read them), and prepared.json with counts and times.
"""

import dataclasses
import glob
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ml_collections import ConfigDict

from data_pipelines import chats, itself
from data_pipelines import conversations as talk
from data_pipelines.documents import (
    read_documents,
    read_text,
    split_of,
    with_splits,
    write_jsonl,
    write_whole,
)
from data_pipelines.lessons import lesson_documents
from data_pipelines.packing import pack_records
from data_pipelines.python_docs import python_documents
from data_pipelines.tiny_web import causes, lexicon, reading, reading_talk, tastes
from data_pipelines.tiny_web.crawl import crawl, pages_for, write_warc
from data_pipelines.tiny_web.pages import HOWTO_PAGES, SECTIONS, world_pages
from data_pipelines.tiny_web.programs import program_documents
from data_pipelines.tiny_web.questions import count_statements, person_record, question_sets
from data_pipelines.tiny_web.score import score
from data_pipelines.tiny_web.world import World, make_world
from llm_jax.config import UserError
from llm_jax.files import read_json, user_path
from llm_jax.rows import facts, row_sets
from llm_jax.tables import known
from llm_jax.tasks.knowledge import TASK as FACTS
from llm_jax.tasks.records import of_files
from llm_jax.tasks.table import FAMILIES
from llm_jax.tasks.taste import TASK as TASTE
from llm_jax.tokenizer import Tokenizer, path_in
from llm_jax.tokenizer.sentencepiece import cut, train_tokenizer
from llm_jax.tools import search

SAMPLE_CHARACTERS = 1_500_000  # that the tokenizer is trained on
LEAST_CHARACTERS = 15_000  # of them, of each source and language
LONG_CHARACTERS = 50_000  # a longer text is sampled in pieces, so that a book is not the whole sample
PROGRAM_PAGES = 195
LIST_PAGES = 13_500  # of short lists, with which copying is learned
READING_PAGES = {"long_lists": 2200, "look_ups": 4300, "texts": 5600, "reading": 3500}
CRAWL_FILES = 2
EPOCHS = {"biography": 3, "questions": 4}  # how often pre-training reads these sources


def prepare(config: ConfigDict, workdir: Path) -> None:
    """Makes everything the later stages read; does nothing when it is already there."""
    folder = workdir / "data"
    done = folder / "prepared.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    seconds, clock = {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name], clock = time.monotonic() - clock, time.monotonic()
        print(f"data      {name}: {seconds[name]:.1f} s", flush=True)

    lists = word_lists(config.seed)
    documents, questions, world = make_documents(config, folder, lists)
    lap("documents")
    spoken = make_conversations(config, lists, questions["train"], world)
    write_jsonl(folder / "conversations.jsonl", spoken)
    for split in ("train", "dev", "test"):
        amount = min(1.0, config.data.scale)
        asked = talk.prompts(config.seed, split, amount, lists, questions[split])
        if world and config.data.reading and split == "test":
            asked = itertools.chain(asked, reading_talk.prompts(config.seed, amount, world))
        if config.data.pairs:
            asked = itertools.chain(asked, tastes.prompts(split))
        write_jsonl(folder / f"prompts_{split}.jsonl", asked)
    if config.data.pairs:
        write_jsonl(folder / "pairs.jsonl", tastes.pairs(config.seed, config.data.pairs, config.data.pair_noise))
    if not config.data.conversations:  # those of the user's own teach nothing of this
        write_jsonl(folder / "self_test.jsonl", itself.test())
    if world and config.data.reading:
        crawled = [titled(document) for document in documents if "url" in document]
        search.build([*crawled, *reading_talk.indexed(config.seed, world)], folder / "search")
    lap("conversations")
    tokenizer = make_tokenizer(config, folder, documents, spoken)
    if world:
        documents += context_documents(config, tokenizer, world)
    write_jsonl(folder / "documents.jsonl", documents)
    lap("tokenizer")
    counts = pack_all(config, folder, documents, spoken, tokenizer)
    if world:
        write_whole(folder / "mixture.json", json.dumps({"epochs": EPOCHS, "first": reading.FIRST}))
    lap("pack")
    write_whole(done, json.dumps({"counts": counts, "seconds": seconds}, indent=1))


def check(config: ConfigDict) -> None:
    """Reads the user's own files as `prepare` will, and writes nothing. Raises UserError for what they hold, and for
    names of sources and tasks that there will not be."""
    sources = {*SECTIONS, "web", "program", "lesson", "python_docs", *context_pages(config)}
    if config.data.documents:
        sources = {document["source"] for document in make_documents(config, Path(), {})[0]}
    if config.data.conversations:
        make_conversations(config, {}, [], None)
    for key in ("epochs", "weights", "first"):
        for name in config.data[key]:
            known(f"source in data.{key}", name, sorted(sources))
    levels = [f"{family.name}/{level}" for family in FAMILIES.values() for level in family.levels]
    levels += [name for p in of_files(config.rl.prompts, "train") for name in (p["task"], f"{p['task']}/{p['level']}")]
    for name in config.rl.tasks:
        if name.partition("/")[0] not in ("facts", FACTS, TASTE):
            known("task of rl.tasks", name, [*FAMILIES, *levels])


def word_lists(seed: int) -> dict[str, list[str]]:
    """What the task families draw from: names and lives for summaries (not those of the world)."""
    rng = random.Random(f"{seed}/lists")
    taken: list[str] = []
    return {
        "first": lexicon.invent(rng, 60, lexicon.FIRST_NAME_ENDINGS, taken),
        "last": lexicon.invent(rng, 60, lexicon.FAMILY_NAME_ENDINGS, taken),
        "city": lexicon.invent(rng, 30, lexicon.CITY_ENDINGS, taken),
        "job": list(lexicon.JOBS),
        "hobby": list(lexicon.HOBBIES),
    }


def make_documents(
    config: ConfigDict, folder: Path, lists: dict
) -> tuple[list[dict], dict[str, list[dict]], World | None]:
    """(documents, questions by split, the world). With documents of the user's own there is none to ask about."""
    if config.data.documents:
        documents = [d for d in read_documents(config.data.documents) if d["text"].strip()]
        if not documents:
            raise UserError(f"the files of {config.data.documents!r} hold no text; give it some")
        return with_splits(documents), {"train": [], "dev": [], "test": []}, None
    documents, questions, world = tiny_web(config, folder)
    documents += program_documents(config.seed, scaled(PROGRAM_PAGES, config.data.scale))
    documents += lesson_documents(config.seed, config.data.lessons * config.data.scale, lists)
    documents += python_documents(config.data.python_docs_bytes)
    return documents, questions, world


def context_pages(config: ConfigDict) -> dict[str, int]:
    """How many pages of each source of which nothing but the page itself says how it goes on."""
    amount = config.data.reading * config.data.scale
    more = {source: scaled(count, amount) for source, count in READING_PAGES.items()} if amount else {}
    return {"short_lists": scaled(LIST_PAGES, config.data.scale)} | more


def context_documents(config: ConfigDict, tokenizer: Tokenizer, world: World) -> Iterator[dict]:
    """Of words that are tokens: so they are made once the tokenizer is there."""
    words = reading.whole_words(tokenizer)
    return reading.documents(config.seed, context_pages(config), world.values, words)


def make_conversations(config: ConfigDict, lists: dict, questions: list[dict], world: World | None) -> list[dict]:
    """The embedded ones, or those of the user's own files, in whichever of the formats that `chats` knows.

    Of a pair the better answer is learned, if it does not stand among the conversations already.
    """
    if not config.data.conversations:
        made = talk.conversations(config.seed, config.data.scale, lists, questions)
        amount = config.data.reading * config.data.scale
        more = reading_talk.conversations(config.seed, amount, world) if world and amount else ()
        return with_splits([*made, *more, *tastes.conversations(config.seed, config.data.pairs)])

    def bad(what: str) -> None:
        raise UserError(f"{what}; mend it, or leave such records out with data_pipelines.chats --skip_bad")

    records = list(chats.convert(config.data.conversations, bad))
    spoken = [record for record in records if "messages" in record]
    said = {json.dumps(record["messages"]) for record in spoken}
    for pair in (record for record in records if "chosen" in record):
        messages = chats.better_of(pair)
        if json.dumps(messages) not in said:
            said.add(json.dumps(messages))
            kept = {key: pair[key] for key in ("id", "source", "split") if key in pair}
            spoken.append({**kept, "messages": messages})
    if not spoken:
        raise UserError(f"the files of {config.data.conversations!r} hold no conversation; give it some")
    return with_splits(spoken)


def tiny_web(config: ConfigDict, folder: Path) -> tuple[list[dict], dict[str, list[dict]], World]:
    """A world, its crawl, and what `data_pipelines.web` leaves of it -> (documents, questions by split, the world)."""
    seed, people = config.seed, (12, 52, 8, 64, 32)  # of each tier, extra, unasked, held out, strangers
    world = make_world(seed, *(scaled(count, config.data.scale) for count in people))
    pages = world_pages(world, seed, scaled(HOWTO_PAGES, config.data.scale))
    crawled = list(crawl(pages_for(len(pages)), seed, pages))
    (folder / "crawl").mkdir(exist_ok=True)
    labels = []
    for part in range(CRAWL_FILES):
        labels += write_warc(f"{folder}/crawl/{part}.warc.gz", crawled[part::CRAWL_FILES])
    write_jsonl(folder / "crawl/labels.jsonl", labels)
    shutil.rmtree(folder / "web", ignore_errors=True)  # of a crawl before, when this stage was stopped and begins again
    files = f"--input={glob.escape(str(folder))}/crawl/*.warc.gz", f"--output={folder}/web"
    command = [sys.executable, "-X", "utf8", "-m", "data_pipelines.web", *files]  # datatrove reads as the locale says
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"the crawl did not become documents: {' '.join(command)}")
    documents = list(web_documents(folder / "web/documents"))
    found = score(labels, {d["id"]: d["text"] for d in documents})
    funnel = read_json(folder / "web/funnel.json")["steps"]
    left = {"crawled": funnel[0]["in"]["documents"], **{step["name"]: step["out"]["documents"] for step in funnel}}
    summary = {"left": left, "found": {kind: dataclasses.asdict(figures) for kind, figures in found.items()}}
    write_whole(folder / "crawl.json", json.dumps(summary, indent=1))
    page_of = {record.id: record.page for record in crawled if record.page}
    learned = [d for d in documents if d["split"] == "train" and d["id"] in page_of]
    stated = count_statements((page_of[d["id"]], d["text"]) for d in learned)
    write_jsonl(folder / "world.jsonl", (person_record(person, stated) for person in world.people))
    questions = question_sets(world, seed, stated)
    for split, records in questions.items():
        write_jsonl(folder / f"questions_{split}.jsonl", records)
    for split in ("train", "test"):
        write_jsonl(folder / f"knowledge_{split}.jsonl", causes.facts(world, seed, stated, split))
    return documents, questions, world


def titled(document: dict) -> dict:
    """With a short name for citations, as "biography/17": the section of the site, and the page's number there."""
    number = re.search(r"(\d+)\.html$", document.get("url", ""))
    return {**document, "title": f"{document['source']}/{number[1]}"} if number else document


def web_documents(folder: Path) -> Iterator[dict]:
    """What is left of the crawl, in its order, with its provenance."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        for line in filter(None, read_text(path).split("\n")):
            record = json.loads(line)
            yield {**record, "source": section_of(record["url"]), "split": split_of(record["text"])}


def scaled(count: int, scale: float) -> int:
    return max(2, round(count * scale))


def section_of(url: str) -> str:
    """The section of a site that the address names, where it is one of the world's; else the web."""
    section = urlsplit(url).path.split("/")[1]
    return section if section in SECTIONS else "web"


def make_tokenizer(config: ConfigDict, folder: Path, documents: list[dict], spoken: list[dict]) -> Tokenizer:
    """Trained on a sample of the training documents and of what the conversations say; that of a model that was
    imported, or with `init_from` that of the other run: their parameters know no other."""
    if (imported := path_in(folder)).suffix == ".json":
        return Tokenizer.load(imported)
    if config.init_from:
        theirs = path_in(user_path(config.init_from.rpartition(":")[0], "init_from") / "data")
        tokenizer = Tokenizer.load(theirs)
        tokenizer.save(folder / theirs.name)
        return tokenizer
    # What is embedded is one kind, False: each of its sources has the share that it has in the rows.
    own, talked = bool(config.data.documents), bool(config.data.conversations)
    learned = [d for d in documents if d["split"] == "train"]
    texts: list[tuple[Hashable, str]] = [(own and (d["source"], d.get("language")), d["text"]) for d in learned]
    texts += [(talked and c["source"], text) for c in spoken for m in c["messages"] for text in texts_of(m["content"])]
    sample = sample_of(texts, random.Random(f"{config.seed}/tokenizer"))
    tokenizer = train_tokenizer(sample, config.tokenizer.vocab_size)
    tokenizer.save(folder / "tokenizer.model")
    return tokenizer


def sample_of(texts: list[tuple[Hashable, str]], rng: random.Random) -> list[str]:
    """About SAMPLE_CHARACTERS of (kind, text) at random, and of each kind at least LEAST_CHARACTERS, or all it has."""
    pieces = [(kind, part) for kind, text in texts for part in (cut(text) if len(text) > LONG_CHARACTERS else [text])]
    rng.shuffle(pieces)
    sample, size, sizes = [], 0, Counter[Hashable]()
    for kind, piece in pieces:
        if size <= SAMPLE_CHARACTERS or sizes[kind] < LEAST_CHARACTERS:
            sample.append(piece)
            size += len(piece)
            sizes[kind] += len(piece)
    return sample


def texts_of(content: str | list[dict]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def pack_all(config: ConfigDict, folder: Path, documents: list[dict], spoken: list[dict], tokenizer: Tokenizer) -> dict:
    """Rows of everything -> counts: of all `pretrain` and `sft` rows and so on, and of each of their sources."""
    records = itertools.chain(documents, spoken)
    length, whole = config.data.sequence_length, tuple(reading.PAGES)  # a question cut off its text has no answer
    pack_records(folder, records, tokenizer, length, seed=config.seed, threads=2, whole=whole)
    counts = {}
    for name in ("pretrain", "validation", "sft", "sft_validation"):
        folders = row_sets(folder / name)
        counts[name] = facts(*folders)
        counts |= {f"{name}/{path.name}": facts(path) for path in folders}
        if counts[name].get("truncated") or counts[name].get("dropped"):
            print(
                f"data      {name}: {counts[name]['truncated']} conversations truncated at a turn, "
                f"{counts[name]['dropped']} too long, left out"
            )
    return counts
