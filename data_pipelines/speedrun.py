"""Stage `data` of the speedrun: the tiny web, lessons and this Python's own docs -> tokenizer, rows, prompts.

Writes into WORKDIR/data: documents.jsonl, world.jsonl, questions_*.jsonl, conversations.jsonl, prompts_*.jsonl,
tokenizer.model, pretrain/, validation/SOURCE/, sft/ and sft_validation/ rows, and prepared.json with counts and times.
"""

import json
import random
import time
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines import conversations as talk
from data_pipelines.documents import read_documents, read_jsonl, write_jsonl
from data_pipelines.lessons import lesson_documents
from data_pipelines.pack import pack_conversations, pack_documents
from data_pipelines.python_docs import python_documents
from data_pipelines.tiny_web import lexicon
from data_pipelines.tiny_web.generate import write_world
from llm_jax.config import UserError
from llm_jax.tokenizer import Tokenizer, train_tokenizer

TOKENIZER_SAMPLE_BYTES = 1_500_000
VALIDATION_CONVERSATIONS = 300


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
    documents, questions = make_documents(config, folder, lists)
    write_jsonl(folder / "documents.jsonl", documents)
    lap("documents")
    spoken = list(talk.conversations(config.seed, config.data.scale, lists, questions["train"]))
    write_jsonl(folder / "conversations.jsonl", spoken)
    for split in ("train", "dev", "test"):
        amount = min(1.0, config.data.scale)
        write_jsonl(
            folder / f"prompts_{split}.jsonl", talk.prompts(config.seed, split, amount, lists, questions[split])
        )
    lap("conversations")
    tokenizer = make_tokenizer(config, folder, documents, spoken)
    lap("tokenizer")
    counts = pack_all(config, folder, documents, spoken, tokenizer)
    lap("pack")
    done.write_text(json.dumps({"counts": counts, "seconds": seconds}, indent=1))


def word_lists(seed: int) -> dict[str, list[str]]:
    """What the task families draw from: words to spell, and names for summaries (not those of the world)."""
    rng = random.Random(f"{seed}/lists")
    taken: list[str] = []
    return {
        "word": sorted(w for w in lexicon.EVERYDAY if w.isalpha() and w.islower()),
        "first": lexicon.invent(rng, 60, lexicon.FIRST_NAME_ENDINGS, taken),
        "last": lexicon.invent(rng, 60, lexicon.FAMILY_NAME_ENDINGS, taken),
        "city": lexicon.invent(rng, 30, lexicon.CITY_ENDINGS, taken),
        "job": list(lexicon.JOBS),
        "hobby": list(lexicon.HOBBIES),
    }


def make_documents(config: ConfigDict, folder: Path, lists: dict) -> tuple[list[dict], dict[str, list[dict]]]:
    """(documents, questions by split). With documents of the user's own there is no world to ask about."""
    if config.data.documents:
        documents = [d for d in read_documents(config.data.documents) if d["text"].strip()]
        if not documents:
            raise UserError(f"the files of {config.data.documents!r} hold no text; give it some")
        if all(d["split"] == "val" for d in documents):
            documents[0]["split"] = "train"
        return documents, {"train": [], "dev": [], "test": []}
    write_world(folder, config.seed, config.data.scale)
    documents = read_jsonl(folder / "documents.jsonl")
    documents += lesson_documents(config.seed, config.data.lessons * config.data.scale, lists)
    documents += python_documents(config.data.python_docs_bytes)
    return documents, {split: read_jsonl(folder / f"questions_{split}.jsonl") for split in ("train", "dev", "test")}


def make_tokenizer(config: ConfigDict, folder: Path, documents: list[dict], spoken: list[dict]) -> Tokenizer:
    """Trained on a sample of the training documents and of what the conversations say."""
    rng = random.Random(f"{config.seed}/tokenizer")
    texts = [d["text"] for d in documents if d["split"] == "train"]
    texts += [text for c in spoken for m in c["messages"] for text in texts_of(m["content"])]
    rng.shuffle(texts)
    sample, size = [], 0
    for text in texts:
        sample.append(text[:TOKENIZER_SAMPLE_BYTES])
        size += len(sample[-1])
        if size > TOKENIZER_SAMPLE_BYTES:
            break
    tokenizer = train_tokenizer(sample, config.tokenizer.vocab_size)
    tokenizer.save(folder / "tokenizer.model")
    return tokenizer


def texts_of(content: str | list[dict]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def pack_all(config: ConfigDict, folder: Path, documents: list[dict], spoken: list[dict], tokenizer: Tokenizer) -> dict:
    length = config.data.sequence_length
    by_split = {split: [d for d in documents if d["split"] == split] for split in ("train", "val")}
    epochs = dict(config.data.epochs)
    path = folder / "pretrain/rows.array_record"
    counts = {"pretrain": pack_documents(path, by_split["train"], tokenizer, length, epochs, config.seed)}
    for source in sorted({d["source"] for d in by_split["val"]}):
        chosen = [d for d in by_split["val"] if d["source"] == source]
        path = folder / "validation" / source / "rows.array_record"
        counts[f"validation/{source}"] = pack_documents(path, chosen, tokenizer, length, {})
    held = min(VALIDATION_CONVERSATIONS, len(spoken) // 20)
    counts["sft"] = pack_conversations(folder / "sft/rows.array_record", spoken[held:], tokenizer, length)
    counts["sft_validation"] = pack_conversations(
        folder / "sft_validation/rows.array_record", spoken[:held], tokenizer, length
    )
    for name, noted in counts.items():
        if noted.get("truncated") or noted.get("dropped"):
            print(
                f"data      {name}: {noted['truncated']} conversations truncated at a turn, "
                f"{noted['dropped']} too long, left out"
            )
    return counts
