"""Public datasets by name -> our records.

python -m data_pipelines.sets --name=gsm8k --output=X.jsonl [--split=test] [--limit=N] [--offline] [--revision=COMMIT]
python -m data_pipelines.sets --name=smoltalk --files='hf://datasets/OWNER/NAME/data/*.parquet' --output=X.jsonl

Without `--name`, prints the sets it knows with their splits and licences. Files come from the Hugging Face Hub one at a
time, as far as `--limit` needs them, and are kept in its cache; `--offline` reads only what is there. `--files` are
others with the columns of that set, on the Hub or of your own. Writes documents, conversations, pairs or prompts, and
X.jsonl.json: the commit, which files with which SHA-256, and the licence.
"""

import contextlib
import dataclasses
import errno
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from absl import flags

from data_pipelines import chats
from data_pipelines.documents import (
    RECORD_KINDS,
    Invalid,
    id_of,
    matching,
    named_split,
    read_records,
    split_of,
    write_jsonl,
)
from data_pipelines.messages import text as text_of
from llm_jax.config import UserError
from llm_jax.frame.cli import complain, run_cli

HF_PATH = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<pattern>.+)")
ANOTHER_SET = 20  # records at a file's begin that are all wrong
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROVENANCE = ("url", "dump", "score", "language", "language_score")  # of a document, kept
BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{}$\\.,;]+)")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # a brace that is escaped is text


def document(record: dict) -> dict:
    kept = {key: record[key] for key in PROVENANCE if isinstance(record.get(key), str | int | float)}
    said = text_of(record, "text").removeprefix("\ufeff")
    if not said.strip():
        raise Invalid("text: is empty")
    return {"text": said, "split": named_split(record) or split_of(said), **kept}


def prompt(question: str, answer: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": question}], "answer": answer, **more}


def gsm8k(record: dict) -> dict:
    """A problem to solve; `data_pipelines.chats` makes conversations of the same files."""
    mark = chats.GSM8K_ANSWER.search(text_of(record, "answer"))
    if not mark:
        raise Invalid("answer: has no #### with a number at its end")
    return prompt(text_of(record, "question"), chats.gsm8k_number(mark), task="gsm8k")


def math(record: dict) -> dict:
    answer = boxed(text_of(record, "solution"))
    return prompt(text_of(record, "problem"), answer, task="math", level=record.get("level"))


def boxed(solution: str) -> str:
    r"""What the last \boxed{} or \fbox{} holds, braces inside it included, or \boxed 5. Raises Invalid without one."""
    found = list(BOX.finditer(solution))
    if found and found[-1][1] != "{":
        return found[-1][1]
    start, depth = found[-1].end() if found else len(solution), 1
    for brace in BRACE.finditer(solution, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and solution[start : brace.start()].strip():
            return solution[start : brace.start()]
        if depth == 0:
            break
    raise Invalid("solution: has no \\boxed{} that closes and holds something")


def choice(question: str, choices: list[str], right: int, task: str) -> dict:
    if not 2 <= len(choices) <= len(LETTERS) or not all(isinstance(text, str) for text in choices):
        raise Invalid(f"choices: must be 2 to {len(LETTERS)} strings")
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    asked = "\n".join([question, *lines, "Answer with the letter."])
    return prompt(asked, LETTERS[right], task=task, choices=choices)


def arc(record: dict) -> dict:
    if not isinstance(record["choices"], dict):
        raise Invalid("choices: must be an object with a list of labels and one of texts")
    labels, texts = list(record["choices"]["label"]), list(record["choices"]["text"])
    if len(labels) != len(texts):
        raise Invalid(f"choices: {len(labels)} labels for {len(texts)} texts")
    if record["answerKey"] not in labels:
        raise Invalid(f"answerKey: {record['answerKey']!r} is none of {labels}")
    return choice(text_of(record, "question"), texts, labels.index(record["answerKey"]), "arc")


def mmlu(record: dict) -> dict:
    choices, right = list(record["choices"]), record["answer"]
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise Invalid(f"answer: {right!r} is no index of the {len(choices)} choices")
    return choice(text_of(record, "question"), choices, right, "mmlu") | {"subject": record.get("subject")}


def humaneval(record: dict) -> dict:
    checker = f"{text_of(record, 'test')}\ncheck({text_of(record, 'entry_point')})\n"
    return prompt(text_of(record, "prompt"), text_of(record, "canonical_solution"), task="code", checker=checker)


def mbpp(record: dict) -> dict:
    asked = text_of(record, "text" if record.get("text") is not None else "prompt")
    if not record["test_list"] or not all(isinstance(line, str) for line in record["test_list"]):
        raise Invalid("test_list: must be strings, at least one")
    tests = [*(record.get("test_imports") or []), record.get("test_setup_code") or "", *record["test_list"]]
    checker = "\n".join(line for line in tests if line) + "\n"
    asked = f"{asked}\nIt must pass:\n" + "\n".join(record["test_list"])
    return prompt(asked, text_of(record, "code"), task="code", checker=checker)


@dataclasses.dataclass(frozen=True)
class Set:
    repo: str  # on the Hugging Face Hub
    files: str  # of it, a pattern as in a shell; * goes into folders too
    splits: tuple[str, ...]  # for {split} in the pattern; the first is taken if none is asked for
    licence: str  # as its card says
    convert: Callable[[dict], dict]  # raises Invalid


LEARNED, ASKED = ("train", "test"), ("test", "validation", "train")
SETS = {
    "fineweb": Set("HuggingFaceFW/fineweb", "sample/10BT/*.parquet", ("train",), "ODC-By 1.0", document),
    "fineweb-edu": Set("HuggingFaceFW/fineweb-edu", "sample/10BT/*.parquet", ("train",), "ODC-By 1.0", document),
    "dclm": Set("mlfoundations/dclm-baseline-1.0-parquet", "filtered/*.parquet", ("train",), "CC BY 4.0", document),
    "smoltalk": Set("HuggingFaceTB/smoltalk", "data/all/{split}-*.parquet", LEARNED, "Apache-2.0", chats.converted),
    "smol-smoltalk": Set(
        "HuggingFaceTB/smol-smoltalk", "data/{split}-*.parquet", LEARNED, "Apache-2.0", chats.converted
    ),
    "tulu-3-sft": Set(
        "allenai/tulu-3-sft-mixture",
        "data/train-*.parquet",
        ("train",),
        "ODC-By 1.0, parts non-commercial",
        chats.converted,
    ),
    "ultrafeedback": Set(
        "HuggingFaceH4/ultrafeedback_binarized", "data/{split}_prefs-*.parquet", LEARNED, "MIT", chats.converted
    ),
    "hh-rlhf": Set("Anthropic/hh-rlhf", "*/{split}.jsonl.gz", LEARNED, "MIT", chats.converted),
    "gsm8k": Set("openai/gsm8k", "main/{split}-*.parquet", LEARNED, "MIT", gsm8k),
    "math": Set("DigitalLearningGmbH/MATH-lighteval", "data/{split}-*.parquet", LEARNED, "MIT", math),
    "arc-easy": Set("allenai/ai2_arc", "ARC-Easy/{split}-*.parquet", ASKED, "CC BY-SA 4.0", arc),
    "arc-challenge": Set("allenai/ai2_arc", "ARC-Challenge/{split}-*.parquet", ASKED, "CC BY-SA 4.0", arc),
    "mmlu": Set("cais/mmlu", "all/{split}-*.parquet", ("test", "validation", "dev", "auxiliary_train"), "MIT", mmlu),
    "humaneval": Set("openai/openai_humaneval", "openai_humaneval/test-*.parquet", ("test",), "MIT", humaneval),
    "mbpp": Set("google-research-datasets/mbpp", "full/{split}-*.parquet", (*ASKED, "prompt"), "CC BY 4.0", mbpp),
}


class Broken(Exception):
    """The Hub did not give what it has; the same command may do better later."""


@dataclasses.dataclass(frozen=True)
class OnHub:
    """Files of a dataset at one commit. Raises UserError, or Broken where another try may help."""

    repo: str
    pattern: str
    revision: str | None
    offline: bool

    def listed(self) -> tuple[str, str, list[str]]:
        """(commit, licence as the card has it, names of the files). All of it is in the cache from then on."""
        import huggingface_hub as hub

        where = {"repo_type": "dataset", "revision": self.revision}
        with self.clear_errors():
            # Fetches the card only, but notes the names of all files, which `--offline` then knows.
            folder = Path(
                hub.snapshot_download(
                    self.repo, **where, allow_patterns=["README.md"], local_files_only=self.offline, max_workers=1
                )
            )
            tree = hub.get_cached_repo_tree(self.repo, repo_type="dataset", revision=folder.name)
            card = folder / "README.md"
            licence = hub.DatasetCard.load(card).data.get("license") if card.is_file() else None
        names = sorted(fnmatch.filter((file.path for file in tree), self.pattern))
        if not names:
            raise UserError(f"{self.repo} has no file {self.pattern}; name others with --files")
        return folder.name, str(licence or "not stated on its card"), names

    def fetched(self, commit: str, names: list[str]) -> Iterator[tuple[str, Path]]:
        """Each file is downloaded when its turn comes."""
        import huggingface_hub as hub

        where = {"repo_type": "dataset", "revision": commit, "local_files_only": self.offline}
        for name in names:
            with self.clear_errors(name):
                path = Path(hub.hf_hub_download(self.repo, name, **where))
            yield name, path

    @contextlib.contextmanager
    def clear_errors(self, name: str = ""):
        from huggingface_hub import errors

        what = f"{self.repo} {name}".strip()
        page = f"https://huggingface.co/datasets/{self.repo}"
        try:
            yield
        except errors.GatedRepoError as error:
            mend = f"accept its terms on {page}, then log in with `hf auth login` or set HF_TOKEN"
            raise UserError(f"{what} is gated: {mend}") from error
        except errors.RevisionNotFoundError as error:
            raise UserError(f"{what} has no revision {self.revision!r}") from error
        except errors.RepositoryNotFoundError as error:
            mend = "check the name; if it is private, log in with `hf auth login` or set HF_TOKEN"
            raise UserError(f"{what} is not on the Hub, or not for you: {mend}") from error
        except (errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError) as error:
            if self.offline:
                mend = "run this once without --offline, or give files of your own with --files"
                raise UserError(f"{what} is not in the Hub's cache; {mend}") from error
            raise Broken(f"{what} cannot be fetched ({reason(error)}); {RETRY}") from error
        except Exception as error:  # the Hub's own, and those of whichever HTTP library it uses
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise Broken(f"{what} cannot be fetched ({reason(error)}); {RETRY}") from error


RETRY = "files that are whole stay in the cache: run the same command again"


def reason(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return " ".join(str(error).split())[:150] or type(error).__name__


def converted(
    name: str, files: Iterator[tuple[str, Path]], used: list[dict], wrong: list[str], split: str = ""
) -> Iterator[dict]:
    """Our records of (name, path) of files; `used` gets each file with its SHA-256, `wrong` what is wrong with which
    record.

    Raises UserError when all records at the begin of a file are wrong: then it is another set's.
    """
    known, seen = SETS[name], set()
    for file_name, path in files:
        used.append({"file": file_name, "sha256": checksum(path)})
        made, first = 0, ""
        for where, record in read_records(path, wrong.append):
            number = where.rpartition(" ")[2]
            try:
                if not isinstance(record, dict):
                    raise Invalid("the record: must be an object")
                ours, id_ = known.convert(record), id_of(record, "task_id")
            except (Invalid, LookupError, TypeError, ValueError) as error:
                what = f"{where}: {f'{error.args[0]}: is missing' if isinstance(error, KeyError) else error}"
                wrong.append(what)
                first = first or what
                if not made and int(number) >= ANOTHER_SET:
                    break
                continue
            made += 1
            place = re.sub(r"\W+", "-", f"{file_name}-{number}")
            id_ = place if not id_ else f"{id_}-{place}" if id_ in seen else id_
            seen.add(id_)
            yield {"id": f"{name}-{id_}", "source": name, **({"split": split} if "answer" in ours else {}), **ours}
        if first and not made:
            raise UserError(f"{first}; it does not look like {known.repo}")


def checksum(path: Path) -> str:
    """SHA-256. The Hub's cache calls a large file by its checksum; raises UserError where that is another one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != found:
        raise UserError(f"{path.name} is damaged in the Hub's cache: delete {blob} and run the same command again")
    return found


def define_flags() -> None:
    flags.DEFINE_enum("name", None, sorted(SETS), "Which set; all are listed without it.")
    flags.DEFINE_string("output", "", "The .jsonl to write.")
    flags.DEFINE_string(
        "files", "", "Other files with the columns of that set: hf://datasets/OWNER/NAME/GLOB, or a glob."
    )
    flags.DEFINE_string("split", "", "Which split of the set; without it, the first that is listed.")
    flags.DEFINE_string("revision", None, "Commit, tag or branch on the Hub; without it, the newest.")
    flags.DEFINE_integer("limit", 0, "Records to write; 0: all.", 0)
    flags.DEFINE_bool("offline", False, "Read only what the Hub's cache has.")


def chosen_files() -> tuple[dict, Iterator[tuple[str, Path]]]:
    """What is noted of the source, and the (name, path) of its files."""
    f, known = flags.FLAGS, SETS[flags.FLAGS.name]
    if f.files and f.split:
        raise UserError("--split is for the files that a set is known to have; leave it out, or --files")
    path = HF_PATH.fullmatch(f.files)
    if f.files.startswith("hf://") and not path:
        raise UserError(
            f"--files={f.files}: must be hf://datasets/OWNER/NAME/GLOB or hf://datasets/OWNER/NAME@REVISION/GLOB"
        )
    if f.files and not path:
        if f.revision or f.offline:
            raise UserError("--revision and --offline are for the Hub; leave them out with files of your own")
        names = chats.short_names(matching(f.files, RECORD_KINDS))
        return {"licence": known.licence}, ((name, file) for file, name in names.items())
    split = f.split or known.splits[0]
    if split not in known.splits:
        raise UserError(f"{f.name} has no split {split!r}; choose from {', '.join(known.splits)}")
    hub = OnHub(known.repo, known.files.format(split=split), f.revision, f.offline)
    if path:
        revision = f.revision or (unquote(path["revision"]) if path["revision"] else None)
        hub = OnHub(path["repo"], path["pattern"], revision, f.offline)
    commit, licence, names = hub.listed()
    noted = {"repository": hub.repo, "commit": commit, "split": "" if path else split}
    noted["licence"] = known.licence if hub.repo == known.repo else licence
    return noted, hub.fetched(commit, names)


def main() -> None:
    f = flags.FLAGS
    if not f.name:
        for name, known in sorted(SETS.items()):
            print(f"{name:16}{known.repo:42}{' '.join(known.splits):38}{known.licence}")
        return
    if not f.output:
        raise UserError("--output is missing; say where to write the records")
    try:
        write(f.name, Path(f.output), *chosen_files())
    except Broken as error:
        raise SystemExit(complain(str(error), 1)) from error


def write(name: str, output: Path, noted: dict, files: Iterator[tuple[str, Path]]) -> None:
    used, wrong, count = [], [], 0

    def counted() -> Iterator[dict]:
        nonlocal count
        made = converted(name, files, used, wrong, noted.get("split", ""))
        for record in islice(made, flags.FLAGS.limit or None):
            count += 1
            yield record

    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(output, counted())
    noted = {"name": name, **noted, "records": count, "left_out": len(wrong), "files": used}
    output.with_name(output.name + ".json").write_text(json.dumps(noted, indent=1), encoding="utf-8")
    for what in wrong[:3]:
        print(f"left out: {what}")
    for file in used:
        print(f"{file['file']} SHA-256 {file['sha256']}")
    print(f"{output}: {count} records of {name}, {len(wrong)} left out, licence {noted['licence']}")


if __name__ == "__main__":
    run_cli(main, define_flags)
