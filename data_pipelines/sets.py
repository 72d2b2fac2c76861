"""Public datasets by name -> our records.

python -m data_pipelines.sets --name=gsm8k --output=X.jsonl [--local='files/*.parquet'] [--limit=N] [--offline]

Without `--name`, prints the sets it knows with their licences. Files come from the Hugging Face Hub one at a time and
are kept in its cache; `--offline` reads only what is there, `--local` reads files of your own with the same columns.
Writes documents, conversations, pairs or prompts, and X.jsonl.json: which files with which SHA-256, and the licence.
"""

import dataclasses
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from absl import flags

from data_pipelines import chats
from data_pipelines.documents import matching, split_of, write_jsonl
from llm_jax.cli import run_cli
from llm_jax.config import UserError

LETTERS = "ABCDEFGHIJ"


def document(record: dict) -> dict:
    kept = {key: record[key] for key in ("url", "dump", "score", "language_score") if record.get(key) is not None}
    said = chats.text(record, "text")
    return {"text": said, "split": split_of(said), **kept}


def prompt(question: str, answer: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": question}], "answer": answer, **more}


def gsm8k(record: dict) -> dict:
    """A problem to solve; `data_pipelines.chats` makes conversations of the same files."""
    _, mark, answer = chats.text(record, "answer").rpartition("####")
    if not mark:
        raise chats.Invalid("answer: has no ####")
    return prompt(chats.text(record, "question"), answer.strip().replace(",", ""), task="gsm8k")


def math(record: dict) -> dict:
    answer = boxed(chats.text(record, "solution"))
    return prompt(chats.text(record, "problem"), answer, task="math", level=record.get("level"))


def boxed(solution: str) -> str:
    r"""What the last \boxed{} holds, braces inside it included. Raises chats.Invalid without one."""
    start = solution.rfind("\\boxed{") + len("\\boxed{")
    depth = 1
    for end in range(start, len(solution) if start >= len("\\boxed{") else start):
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[start:end]
    raise chats.Invalid("solution: has no \\boxed{} that closes")


def choice(question: str, choices: list[str], right: int, task: str) -> dict:
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    asked = "\n".join([question, *lines, "Answer with the letter."])
    return prompt(asked, LETTERS[right], task=task, choices=choices)


def arc(record: dict) -> dict:
    labels, texts = list(record["choices"]["label"]), list(record["choices"]["text"])
    if record["answerKey"] not in labels:
        raise chats.Invalid(f"answerKey: {record['answerKey']!r} is none of {labels}")
    return choice(chats.text(record, "question"), texts, labels.index(record["answerKey"]), "arc")


def mmlu(record: dict) -> dict:
    choices, right = list(record["choices"]), record["answer"]
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise chats.Invalid(f"answer: {right!r} is no index of the {len(choices)} choices")
    return choice(chats.text(record, "question"), choices, right, "mmlu") | {"subject": record.get("subject")}


def humaneval(record: dict) -> dict:
    checker = f"{chats.text(record, 'test')}\ncheck({chats.text(record, 'entry_point')})\n"
    return prompt(chats.text(record, "prompt"), chats.text(record, "canonical_solution"), task="code", checker=checker)


def mbpp(record: dict) -> dict:
    asked = record["text"] if "text" in record else chats.text(record, "prompt")
    tests = [*(record.get("test_imports") or []), record.get("test_setup_code") or "", *record["test_list"]]
    checker = "\n".join(line for line in tests if line) + "\n"
    asked = f"{asked}\nIt must pass:\n" + "\n".join(record["test_list"])
    return prompt(asked, chats.text(record, "code"), task="code", checker=checker)


@dataclasses.dataclass(frozen=True)
class Set:
    repo: str  # on the Hugging Face Hub
    files: str  # of it, a pattern as in a shell
    licence: str  # as its card says
    convert: Callable[[dict], dict]  # raises chats.Invalid


SETS = {
    "fineweb": Set("HuggingFaceFW/fineweb", "sample/10BT/*.parquet", "ODC-By 1.0", document),
    "fineweb-edu": Set("HuggingFaceFW/fineweb-edu", "sample/10BT/*.parquet", "ODC-By 1.0", document),
    "dclm": Set("mlfoundations/dclm-baseline-1.0-parquet", "*.parquet", "CC BY 4.0", document),
    "smoltalk": Set("HuggingFaceTB/smoltalk", "data/all/train-*.parquet", "Apache-2.0", chats.converted),
    "smol-smoltalk": Set("HuggingFaceTB/smol-smoltalk", "data/train-*.parquet", "Apache-2.0", chats.converted),
    "tulu-3-sft": Set(
        "allenai/tulu-3-sft-mixture", "data/train-*.parquet", "ODC-By 1.0, parts non-commercial", chats.converted
    ),
    "ultrafeedback": Set("HuggingFaceH4/ultrafeedback_binarized", "data/train_prefs-*.parquet", "MIT", chats.converted),
    "hh-rlhf": Set("Anthropic/hh-rlhf", "*/train.jsonl.gz", "MIT", chats.converted),
    "gsm8k": Set("openai/gsm8k", "main/train-*.parquet", "MIT", gsm8k),
    "math": Set("DigitalLearningGmbH/MATH-lighteval", "data/train-*.parquet", "MIT", math),
    "arc-easy": Set("allenai/ai2_arc", "ARC-Easy/test-*.parquet", "CC BY-SA 4.0", arc),
    "arc-challenge": Set("allenai/ai2_arc", "ARC-Challenge/test-*.parquet", "CC BY-SA 4.0", arc),
    "mmlu": Set("cais/mmlu", "all/test-*.parquet", "MIT", mmlu),
    "humaneval": Set("openai/openai_humaneval", "openai_humaneval/test-*.parquet", "MIT", humaneval),
    "mbpp": Set("google-research-datasets/mbpp", "full/test-*.parquet", "CC BY 4.0", mbpp),
}


def fetched(known: Set, offline: bool) -> Iterator[Path]:
    """The files of a set, each downloaded when its turn comes. Raises UserError when the Hub cannot be asked."""
    import huggingface_hub as hub

    hub.logging.set_verbosity_error()
    try:
        if offline:
            folder = Path(hub.snapshot_download(known.repo, repo_type="dataset", local_files_only=True))
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        else:
            names = sorted(hub.HfApi().list_repo_files(known.repo, repo_type="dataset"))
        names = fnmatch.filter(names, known.files)
        if not names:
            raise UserError(f"{known.repo} has no file {known.files}{' in the cache' if offline else ''}")
        for name in names:
            yield Path(hub.hf_hub_download(known.repo, name, repo_type="dataset", local_files_only=offline))
    except UserError:
        raise
    except Exception as error:  # the Hub's own, and those of whichever HTTP library it uses
        reason = " ".join(str(error).split())[:150]
        mend = "give the files with --local" if offline else "give the files with --local, or use --offline"
        raise UserError(f"{known.repo} cannot be read ({reason}); {mend}") from error


def records_of(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, record) of a parquet, jsonl or json file."""
    if path.suffix != ".parquet":
        yield from chats.read_records(path)
        return
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
        for record in batch.to_pylist():
            number += 1
            yield f"{path} row {number}", record


def converted(name: str, paths: Iterator[Path], used: list[dict], wrong: list[str]) -> Iterator[dict]:
    """Our records of the files; `used` gets each file with its SHA-256, `wrong` what is wrong with which record.

    Raises UserError when the first record of a file is wrong: then it is another set's.
    """
    known = SETS[name]
    for path in paths:
        with path.open("rb") as file:
            used.append({"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()})
        for number, (where, record) in enumerate(records_of(path)):
            try:
                made = known.convert(record)
            except (chats.Invalid, KeyError, TypeError) as error:
                what = f"{where}: {f'{error.args[0]}: is missing' if isinstance(error, KeyError) else error}"
                if not number:
                    raise UserError(f"{what}; it does not look like {known.repo}") from error
                wrong.append(what)
                continue
            id_ = (
                record.get("id") or record.get("task_id") or re.sub(r"\W+", "-", where.removeprefix(f"{path.parent}/"))
            )
            yield {"id": f"{name}-{id_}", "source": name, **made}


def define_flags() -> None:
    flags.DEFINE_enum("name", None, sorted(SETS), "Which set; all are listed without it.")
    flags.DEFINE_string("output", "", "The .jsonl to write.")
    flags.DEFINE_string("local", "", "Glob of files of your own with the columns of that set.")
    flags.DEFINE_integer("limit", 0, "Records to write; 0: all.", 0)
    flags.DEFINE_bool("offline", False, "Read only what the Hub's cache has.")


def main() -> None:
    f = flags.FLAGS
    if not f.name:
        for name, known in sorted(SETS.items()):
            print(f"{name:16}{known.repo:44}{known.licence}")
        return
    if not f.output:
        raise UserError("--output is missing; say where to write the records")
    known, used, wrong = SETS[f.name], [], []
    paths = iter(matching(f.local, ".parquet, .jsonl or .json")) if f.local else fetched(known, f.offline)
    output = Path(f.output)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def counted() -> Iterator[dict]:
        nonlocal count
        for record in islice(converted(f.name, paths, used, wrong), f.limit or None):
            count += 1
            yield record

    write_jsonl(output, counted())
    noted = {"name": f.name, "repository": known.repo, "licence": known.licence, "records": count}
    noted |= {"left_out": len(wrong), "files": used}
    output.with_name(output.name + ".json").write_text(json.dumps(noted, indent=1))
    for what in wrong[:3]:
        print(f"left out: {what}")
    print(f"{output}: {count} records of {f.name}, {len(wrong)} left out, licence {known.licence}")


if __name__ == "__main__":
    run_cli(main, define_flags)
