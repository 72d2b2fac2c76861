"""The search tool: passages of documents, from an index in SQLite (FTS5), or of the web (`providers.py`).

    python -m llm_jax.tools.search --index=DIR [--build=GLOB] [--query=TEXT] [--results=N] [--json]
    python -m llm_jax.tools.search --provider=brave --query=TEXT

An index is a folder: `index.sqlite`, and the record `index.json` of what was read. It is written whole or not at all,
and never changed afterwards. With --json each passage is one line: rank, source, text, url.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import sqlite3
import sys
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llm_jax.config import UserError
from llm_jax.files import matching, one_writer, read_json, replace, user_path, writable
from llm_jax.tools.passages import Passage, cut, files_of, outside, read
from llm_jax.tools.providers import PROVIDERS, Failed

FORMAT = 1
DATABASE, RECORD = "index.sqlite", "index.json"
PASSAGES = 2  # that the model reads of an answer
LONGEST = 10_000  # characters of a query that are looked at
MOST_WORDS = 64  # ... different words of them
COMMON, FEW = 0.1, 1000  # a word in a larger share of the passages finds none alone, unless these are few
CREATE = "CREATE VIRTUAL TABLE passages USING fts5(source, text, url UNINDEXED, tokenize='porter unicode61')"
WEIGHTS = "0.5, 1.0"  # of a word in the source and in the text
NOTHING = "nothing found"
DOOR = "python -m llm_jax.tools.search "

Place = Path | str | None  # where to search: the folder of an index, a provider by name, or the run's own index


# Making an index


def build(documents: Iterable[dict], folder: Path) -> dict[str, Any]:
    """Indexes documents {text, title?, url?, id?} in a folder, which is made; gives the record, with counts.

    Raises UserError where there is no text, or the folder is not to be written to.
    """
    return written((passage for document in documents for passage in cut(document)), folder, {})


def build_files(pattern: str, folder: Path) -> dict[str, Any]:
    """As `build`, of the files of a glob, which the record names. Raises UserError for one that cannot be read, and a
    folder that holds something else."""
    pattern = str(Path.cwd() / Path(pattern).expanduser())
    made_of(folder, pattern)
    paths = files_of(pattern, folder)
    noted: dict[str, dict] = {}

    def passages() -> Iterator[Passage]:
        for path in paths:
            data = path.read_bytes()
            noted[str(path.absolute())] = {**seen(path), "sha256": hashlib.sha256(data).hexdigest()}
            yield from (passage for document in read(path, data) for passage in cut(document))

    return written(passages(), folder, {"pattern": pattern, "files": noted})


def written(passages: Iterable[Passage], folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with one_writer(folder):
        new, content, count = folder / f"{DATABASE}.new", hashlib.sha256(), 0
        new.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("BEGIN")
                database.execute(CREATE)
                for passage in passages:
                    row = dataclasses.astuple(passage)
                    content.update(json.dumps(row).encode())
                    database.execute("INSERT INTO passages VALUES (?, ?, ?)", row)
                    count += 1
                if not count:
                    raise UserError("there is no text to index; give documents that have some")
                database.execute("INSERT INTO passages(passages) VALUES ('optimize')")
                database.execute(f"PRAGMA user_version = {mark(content.hexdigest())}")
                database.execute("COMMIT")
            record = {"format": FORMAT, "passages": count, "content": content.hexdigest(), **record}
            new.replace(folder / DATABASE)
        except sqlite3.Error as error:
            raise UserError(f"the index in {folder} cannot be written ({error}); give another --index") from error
        finally:
            new.unlink(missing_ok=True)
        replace(folder / RECORD, json.dumps(record, indent=1))
    return record


def mark(content: str) -> int:
    """What the database holds of the hash of its content, so that it is known to be the one of the record."""
    return int(content[:7], 16)


def seen(path: Path) -> dict[str, int]:
    """What tells most changes of a file without reading it."""
    stat = path.stat()
    return {"bytes": stat.st_size, "changed": stat.st_mtime_ns}


def made_of(folder: Path, pattern: str) -> None:
    """Raises UserError for a folder that holds something else than an index of this pattern, or nothing."""
    mend = "give a new folder as --index, or move this one away"
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if others := [name for name in there if not name.startswith((DATABASE, RECORD, ".lock"))]:
        raise UserError(f"{folder} holds other files than an index, as {others[0]}; {mend}")
    before = read_json(folder / RECORD).get("pattern", "") if RECORD in there else pattern
    if before != pattern:
        raise UserError(f"{folder} is the index of {before or 'a run'}, not of {pattern}; {mend}")


# Asking it


class Index:
    """An index, opened to be read, by any thread.

    Raises UserError for a folder that holds none, one that is damaged, and one whose files are others now.
    """

    def __init__(self, folder: Path):
        if not (folder / RECORD).exists():
            raise UserError(f"there is no index in {folder}; build one: {DOOR}--index={folder} --build=GLOB")
        self.record = read_json(folder / RECORD)
        again = f"build it again: {DOOR}--index={folder} --build={self.record.get('pattern') or 'GLOB'!r}"
        if self.record.get("format") != FORMAT:
            raise UserError(f"the index in {folder} is of another version of llm_jax; move it away, and {again}")
        if changed := difference(self.record, folder):
            raise UserError(f"the index in {folder} is of other files than there are now ({changed}); {again}")
        self._lock, self._database = threading.Lock(), opened(folder / DATABASE)
        try:
            [[version]] = self._rows("PRAGMA user_version")
            [[self.size]] = self._rows("SELECT max(rowid) FROM passages")
        except Failed as error:
            raise UserError(f"the index in {folder} is damaged ({error}); {again}") from error
        if version != mark(self.record["content"]) or self.size != self.record["passages"]:
            raise UserError(f"the index in {folder} is damaged ({DATABASE} is not of this {RECORD}); {again}")

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def find(self, query: str, most: int) -> list[Passage]:
        """The best passages for a query, whatever stands in it; none where nothing fits. Raises Failed.

        A passage counts by the words of the query that it has: the rarer a word, the more, and names twice. So those
        that have all words come first, then those that lack the common ones. Between equals BM25 decides. Where the
        query has names, a passage has one of them.
        """
        terms = self._weighed(query[:LONGEST])
        if not terms:
            return []
        named = max(is_name for _, _, is_name in terms)
        each = f"SELECT rowid AS id, ? AS weight, ? AS name, bm25(passages, {WEIGHTS}) AS rank FROM passages(?)"
        order = "HAVING max(name) = ? ORDER BY round(sum(weight), 6) DESC, sum(rank), id LIMIT ?"
        # BM25 is known where a match is, and not where its rows are counted together.
        matches = f"WITH matches AS MATERIALIZED ({' UNION ALL '.join([each] * len(terms))})"
        values = [value for term, weight, is_name in terms for value in (weight, is_name, term)]
        found: dict[str, Passage] = {}  # pages are copied
        for [id_] in self._rows(f"{matches} SELECT id FROM matches GROUP BY id {order}", *values, named, 4 * most):
            [row] = self._rows("SELECT source, text, url FROM passages WHERE rowid = ?", id_)
            found.setdefault(row[1], Passage(*row))
        return list(found.values())[:most]

    def _weighed(self, query: str) -> list[tuple[str, float, bool]]:
        """(term in FTS5's syntax, weight, whether it is a name) of the words that find passages."""
        given = words(query)
        counts = {word.lower(): 0 for word in given[:MOST_WORDS]}
        most = max(FEW, int(COMMON * self.size))
        for word in counts:
            sql = "SELECT count(*) FROM (SELECT 1 FROM passages(?) LIMIT ?)"
            [[counts[word]]] = self._rows(sql, f'"{word}"', most + 1)
        there = sorted((word for word in counts if counts[word]), key=counts.get)
        used = [word for word in there if counts[word] <= most] or there[:2]
        rarity = {word: math.log((self.size + 1) / counts[word]) + 0.1 for word in there}
        names = {word.lower() for word in given[1:] if is_name(word)}
        terms = [(f'"{word}"', rarity[word] * (1 + (word in names)), word in names) for word in used]
        for first, second in itertools.pairwise(given[:MOST_WORDS]):
            pair = first.lower(), second.lower()
            if is_name(first) and is_name(second) and set(pair) <= set(used):
                terms.append((f'"{pair[0]} {pair[1]}"', rarity[pair[0]] + rarity[pair[1]], True))
        unknown = names and names.isdisjoint(there)
        return [] if unknown else list(dict.fromkeys(terms))

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        """Raises Failed."""
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise Failed(f"the index: {error}") from error


def words(text: str) -> list[str]:
    """The words of a text as the index has them: without anything that FTS5 takes for its own syntax."""
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


def is_name(word: str) -> bool:
    return word[0].isupper()


def opened(path: Path) -> sqlite3.Connection:
    """Read-only; `immutable`, since an index is replaced and never changed, so that no lock is taken beside it."""
    url = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        return sqlite3.connect(url, uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be opened ({error}); build the index again") from error


def difference(record: dict[str, Any], folder: Path) -> str:
    """How the files that an index was made of are others now; empty where they are not, or all of them are away."""
    noted = record.get("files", {})
    now = [str(path.absolute()) for path in outside(folder, matching(record["pattern"]))] if noted else []
    if not now:
        return ""
    for name in sorted({*noted, *now}):
        if name not in noted or name not in now:
            return f"{name} is {'new' if name in now else 'gone'}"
        told = {key: value for key, value in noted[name].items() if key != "sha256"}
        if seen(path := Path(name)) != told and hashlib.sha256(path.read_bytes()).hexdigest() != noted[name]["sha256"]:
            return f"{name} is changed"
    return ""


# The tool


class SearchTool:
    """Answers queries with passages, from an index or a provider."""

    def __init__(self, source: Any):
        self._source = source  # an Index, or a Provider

    def answer(self, query: str) -> str:
        """What the model reads back: a line `text [SOURCE]` for each passage, or that there is none. Never raises."""
        try:
            found = self._source.find(query, PASSAGES)
        except Failed as error:
            return f"error: search failed ({error})"
        return "\n".join(passage.line for passage in found) or NOTHING

    def close(self) -> None:
        if isinstance(self._source, Index):
            self._source.close()


def own_index(workdir: Path) -> Path:
    return workdir / "data" / "search"


def open_tool(workdir: Path, place: Place) -> SearchTool:
    """For the table of tools. Raises UserError for a place that cannot be searched."""
    if isinstance(place, str):
        return SearchTool(PROVIDERS[place])
    return SearchTool(Index(place or own_index(workdir)))


def absent(workdir: Path, place: Place) -> str:
    """Why a run cannot search. Raises UserError for a place that was named and is none."""
    if place is None and not (own_index(workdir) / RECORD).exists():
        return "this run has no index in data/search; --index names another, --provider a search of the web"
    try:
        open_tool(workdir, place).close()
    except UserError as error:
        if place is not None:
            raise
        return str(error)
    return ""


# The commands


def define_place() -> None:
    """The flags of every command whose model may search."""
    from absl import flags

    flags.DEFINE_string("index", None, "Folder of the index that the tool `search` asks; by default the run's own.")
    flags.DEFINE_enum("provider", None, list(PROVIDERS), "Search of the web that it asks in place of an index.")


def place_of(f: Any) -> Place:
    """Where these flags say. Raises UserError."""
    if f.provider and f.index is not None:
        raise UserError("--index and --provider name two places to search; give one of them")
    return f.provider or (None if f.index is None else user_path(f.index, "--index"))


def define_flags() -> None:
    from absl import flags

    define_place()
    flags.DEFINE_string("build", None, "Glob of documents: builds the index of them first.")
    flags.DEFINE_string("query", None, "What to look for.")
    flags.DEFINE_integer("results", 5, "Passages to print.", lower_bound=1, upper_bound=100)
    flags.DEFINE_bool("json", False, "Print a JSON object a line.")


def main() -> None:
    from absl import flags

    run(flags.FLAGS)


def run(f: Any) -> None:
    """What the flags of the door ask for. Raises UserError."""
    place = place_of(f)
    if place is None or (f.query is None and f.build is None):
        raise UserError("give --index=DIR or --provider=NAME, and --query=TEXT; --build=GLOB makes the index")
    if f.build is not None:
        if isinstance(place, str):
            raise UserError("--build makes an index, and --provider has none; give --index=DIR")
        record = build_files(f.build, place)
        print(f"{place}: {record['passages']:,} passages of {len(record['files']):,} files", file=sys.stderr)
    if f.query is not None:
        show(f.query, place, f.results, f.json)


def show(query: str, place: Path | str, results: int, as_json: bool) -> None:
    source = PROVIDERS[place] if isinstance(place, str) else Index(place)
    try:
        found = source.find(query, results)
    except Failed as error:
        raise UserError(f"search failed ({error})") from error
    if not found:
        print(NOTHING, file=sys.stderr)
    for rank, passage in enumerate(found, 1):
        if as_json:
            print(json.dumps({"rank": rank, **dataclasses.asdict(passage)}))
        else:
            print(f"{rank}. {passage.source}  {passage.url}\n   {passage.text}")


if __name__ == "__main__":
    from llm_jax.frame.cli import run_cli

    run_cli(main, define_flags)
