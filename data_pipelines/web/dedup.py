"""MinHash signatures for datatrove's near-duplicate removal (Broder 1997; 14 bands of 8, word 5-grams)."""

import functools
import unicodedata

import numpy as np
import xxhash
from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION_TRANS

from data_pipelines.web.words import ENGLISH

CONFIG = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="xxhash"), num_buckets=14, hashes_per_bucket=8)


class Signature(MinhashDedupSignature):
    """datatrove's signature; words of the simplified text are cut at its spaces. A document shorter than five words
    is one shingle, so that short pages have a signature too."""

    def __init__(self, folder: str):
        super().__init__(folder, CONFIG, language=ENGLISH)

    def get_shingles(self, text: str) -> np.ndarray:
        words, n = simplified(text).split(), CONFIG.n_grams
        count = max(1, len(words) - n + 1)
        # By hand: datatrove 0.10 gives xxhash a string, which xxhash 4 does not take.
        hashes = (xxhash.xxh64_intdigest(" ".join(words[i : i + n]).encode()) for i in range(count))
        return np.fromiter(hashes, np.uint64, count).reshape(-1, 1)


def simplified(text: str) -> str:
    """As datatrove's `simplify_text`, with less work for plain ASCII."""
    text = NUMBERS_PATTERN.sub("0", text.lower()).translate(PUNCTUATION_TRANS)
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if not is_mark(c))


@functools.cache
def is_mark(c: str) -> bool:
    return unicodedata.category(c) == "Mn"
