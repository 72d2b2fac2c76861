"""Near-duplicates by datatrove's MinHash (Broder 1997; 14 bands of 8, word 5-grams), and equal ids by one band more."""

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupFilter, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION_TRANS

from data_pipelines.web.languages import LANGUAGES
from data_pipelines.web.words import name_of, splitter

BANDS, ROWS = 14, 8
# The last bucket is the id's: documents of one id meet there, whatever they say, and one of them stays.
CONFIG = MinhashConfig(
    hash_config=HashConfig(precision=64, hash_fc="xxhash"), num_buckets=BANDS + 1, hashes_per_bucket=ROWS
)
PRIME = np.uint64(2**61 - 1)
ODD = np.uint64(0x9E3779B97F4A7C15)


class Signature(MinhashDedupSignature):
    """datatrove's signature; words of the simplified text are cut at its spaces, and a shingle's hash is made of its
    words' hashes. A document shorter than five words is one shingle, so that short pages have a signature too."""

    def __init__(self, folder: str, language: str = "en"):
        super().__init__(folder, CONFIG, language=name_of(language))
        self.id = ""
        self.words_of = str.split if LANGUAGES[language].spaced else splitter(language).word_tokenize

    def run(self, data, rank: int = 0, world_size: int = 1) -> None:
        def watched() -> Iterator[Document]:
            for doc in data:
                self.id = doc.id
                yield doc

        return super().run(watched(), rank, world_size)

    def get_shingles(self, text: str) -> np.ndarray:
        """-> uint64[shingles, 1]"""
        words = self.words_of(simplified(text)) or [""]
        hash_of = {word: xxhash.xxh64_intdigest(word.encode("utf-8", "replace")) for word in set(words)}
        hash_W = np.fromiter((hash_of[word] for word in words), np.uint64, len(words))
        n = min(CONFIG.n_grams, len(words))
        count = len(words) - n + 1
        shingle_S = hash_W[:count]
        for k in range(1, n):
            shingle_S = (shingle_S ^ (shingle_S >> np.uint64(29))) * ODD + hash_W[k : k + count]
        return shingle_S.reshape(-1, 1)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """As datatrove's, with less work for the remainder by 2**61 - 1; and the band of the id."""
        a, b = (parameter[:, : BANDS * ROWS] for parameter in self.parameters)
        hash_SH = shingles * a
        hash_SH += b
        high_SH = hash_SH >> np.uint64(61)
        hash_SH &= PRIME
        hash_SH += high_SH
        np.subtract(hash_SH, PRIME, out=high_SH)  # wraps to a large number where it was the remainder already
        np.minimum(hash_SH, high_SH, out=hash_SH)
        id_hash = xxhash.xxh64_intdigest(self.id.encode("utf-8", "replace")) % int(PRIME)
        return [*hash_SH.min(axis=0).reshape(BANDS, ROWS).tolist(), [id_hash] * ROWS]


class Unique(MinhashDedupFilter):
    """datatrove's removal, which says of what is removed whether another one has its id."""

    def __init__(self, remove: str, pairs: str):
        super().__init__(remove)
        self.pairs = pairs

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        quads = np.fromfile(Path(self.pairs) / f"{BANDS:05}_00.dups", np.uint32).reshape(-1, 2)  # (task, document)
        same = set(quads[quads[:, 0] == rank, 1].tolist())

        def noted() -> Iterator[Document]:
            for number, doc in enumerate(data):
                if number in same:
                    doc.metadata["filter_reason"] = "duplicate_id"
                yield doc

        return super().run(noted(), rank, world_size)


def simplified(text: str) -> str:
    """As datatrove's `simplify_text`, with less work for plain ASCII."""
    text = NUMBERS_PATTERN.sub("0", text.lower()).translate(PUNCTUATION_TRANS)
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if not is_mark(c))


@functools.cache
def is_mark(c: str) -> bool:
    return unicodedata.category(c) == "Mn"
