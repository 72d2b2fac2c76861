"""datatrove's URL filter with its block list of 4.6 million domains as a file of hashes.

As Python sets the lists take half a gigabyte and two seconds in every worker, and are written down with every job.
"""

import fcntl
import functools
import os
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import tldextract
import xxhash
from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from datatrove.pipeline.filters.url_filter import get_list
from datatrove.utils._import_utils import ASSETS_PATH

ARCHIVE = Path(ASSETS_PATH) / "url_filterblacklistsv0_3_0.tar.gz"
LISTS = ("domains", "urls")


class Hashed:
    """The strings of a list in datatrove's archive, as a sorted array of 64-bit hashes, mapped from a file."""

    def __init__(self, name: str):
        self.name = name

    def __contains__(self, text: str) -> bool:
        hashes = mapped(self.name)
        mine = np.uint64(hash_of(text))
        at = int(np.searchsorted(hashes, mine))
        return at < len(hashes) and hashes[at] == mine


def hash_of(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode("utf-8", "replace"))


@functools.cache
def mapped(name: str) -> np.ndarray:
    """Makes the files when they are not there, once for a machine: other processes wait for them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llm_jax"
    stem = ARCHIVE.name.partition(".")[0]
    path = cache / f"{stem}_{name}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{stem}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(cache, stem)
    return np.load(path, mmap_mode="r")


def make(cache: Path, stem: str) -> None:
    with tarfile.open(ARCHIVE, "r|gz") as archive:
        for member in archive:
            if member.name in LISTS:
                lines = archive.extractfile(member).read().split(b"\n")
                hashes = [xxhash.xxh64_intdigest(line.strip()) for line in lines if line[:1] not in (b"#", b"")]
                partial = cache / f"{stem}_{member.name}.partial"
                with partial.open("wb") as file:
                    np.save(file, np.unique(np.array(hashes, np.uint64)))
                partial.replace(cache / f"{stem}_{member.name}.npy")


class Urls(URLFilter):
    """Decides as datatrove's, for hosts of our own too; never asks the network for the list of public suffixes.

    A document without a URL passes.
    """

    def __init__(self, blocked_hosts: tuple[str, ...] = ()):
        super().__init__()
        self.blocked_hosts = frozenset(host_of(host.removeprefix("*.").lstrip(".")) for host in blocked_hosts) - {""}

    def download_data(self) -> None:
        if self._downloaded:
            return
        self.tldextractor = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        self.banned_words, self.banned_subwords, self.soft_banned_words = words()
        for word in self.banned_subwords:
            self.banned_subwords_automaton.add_word(word, len(self.banned_subwords_automaton))
        self.banned_subwords_automaton.make_automaton()
        self.block_listed_domains, self.block_listed_url = Hashed("domains"), Hashed("urls")
        self._downloaded = True

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        url = doc.metadata.get("url")
        if not url:
            return True
        if self.blocked_hosts and not self.blocked_hosts.isdisjoint(hosts_of(url)):
            return False, "blocked_host"
        return super().filter(doc)


def words() -> list[set[str]]:
    """datatrove's word lists, which are short."""
    names = ("banned_words.txt", "banned_subwords.txt", "soft_banned_words.txt")
    return [get_list(str(ASSETS_PATH), name, set()) for name in names]


def hosts_of(url: str) -> set[str]:
    """The host of the URL and every domain above it."""
    parts = host_of(url).split(".")
    return {".".join(parts[i:]) for i in range(len(parts))}


def host_of(url: str) -> str:
    """As the DNS has it, in small letters, without a last dot; of a URL also without a scheme. "" for none."""
    url = url.strip()
    try:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").strip(". ")
    except ValueError:  # such as http://[
        return ""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host
