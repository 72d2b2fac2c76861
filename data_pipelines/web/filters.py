"""Filters of ours behind datatrove's interface: the same decisions, sooner; or a model that ships in a package."""

import functools

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.text import PUNCTUATION_SET, split_into_words

from data_pipelines.web.words import ENGLISH

LANGUAGE_CHARACTERS = 2000  # from the middle of a page; enough to know its language


class Language(BaseFilter):
    """By py3langid, whose model is part of the package. Notes `language` and `language_score`."""

    name = "language"

    def __init__(self, language: str, threshold: float):
        super().__init__()
        self.language, self.threshold = language, threshold

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        start = max(0, (len(doc.text) - LANGUAGE_CHARACTERS) // 2)
        language, score = identifier().classify(doc.text[start : start + LANGUAGE_CHARACTERS])
        doc.metadata |= {"language": language, "language_score": round(float(score), 4)}
        if language != self.language:
            return False, f"language_{language}"
        return score > self.threshold or (False, "language_unsure")


@functools.cache
def identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Repetition(GopherRepetitionFilter):
    """Rae et al. 2021, table A1. Decides as datatrove's filter; n-grams are counted as numbers, not as strings."""

    def __init__(self):
        super().__init__(language=ENGLISH)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        text = doc.text
        if not text:
            return False, "empty"
        units = {"para": self.paragraph_exp.split(text.strip()), "line": self._line_splitter.split(text)}
        limits = {
            "para": (self.dup_para_frac, self.dup_para_char_frac),
            "line": (self.dup_line_frac, self.dup_line_char_frac),
        }
        for name, parts in units.items():
            count, characters = find_duplicates(parts)
            if count / len(parts) > limits[name][0]:
                return False, f"dup_{name}_frac"
            if characters / len(text) > limits[name][1]:
                return False, f"dup_{name}_char_frac"
        return self.repeated_n_grams(text, split_into_words(text, self.language))

    def repeated_n_grams(self, text: str, words: list[str]) -> bool | tuple[bool, str]:
        numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
        word_W = np.fromiter((numbers[w] for w in words), np.int64, len(words))
        ends_W = np.concatenate([[0], np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))])
        gram_G = word_W  # of each place, the number of the n-gram that begins there
        for n in range(2, 11):
            if len(words) < n:
                break
            pairs = gram_G[:-1] * len(words) + word_W[n - 1 :]
            _, first_G, gram_G, count_G = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
            gram_G = gram_G.ravel()
            if n <= 4:
                # Of those most frequent the first in the text, as Counter.most_common has it.
                top = first_G[count_G == count_G.max()].min()
                size = ends_W[top + n] - ends_W[top] + n - 1  # with the spaces between
                if size * count_G.max() / len(text) > dict(self.top_n_grams)[n]:
                    return False, f"top_{n}_gram"
            elif self.duplicate_characters(n, gram_G, first_G, ends_W) / len(text) > dict(self.dup_n_grams)[n]:
                return False, f"duplicated_{n}_n_grams"
        return True

    @staticmethod
    def duplicate_characters(n: int, gram_G: np.ndarray, first_G: np.ndarray, ends_W: np.ndarray) -> int:
        """Characters of n-grams seen before, none counted twice: after one that was, the next begins where it ends."""
        places = np.arange(len(gram_G))
        again = places[first_G[gram_G] != places]  # elsewhere there is nothing to add up
        seen, at, total = set(), 0, 0
        if not len(again):
            return 0
        grams, last = gram_G.tolist(), int(again[-1])
        while at <= last:
            if grams[at] in seen:
                total += int(ends_W[at + n] - ends_W[at])
                at += n
            else:
                seen.add(grams[at])
                at += 1
        return total


class Quality(GopherQualityFilter):
    """Rae et al. 2021, section A1.1. Decides as datatrove's filter; each distinct word is looked at once."""

    def __init__(self):
        super().__init__(language=ENGLISH)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        text, words = doc.text, split_into_words(doc.text, self.language)
        if not words:
            return False, "gopher_short_doc"
        kinds = {word: word_kind(word) for word in set(words)}
        sizes = [len(word) for word in words if kinds[word][0]]
        if len(sizes) < self.min_doc_words:
            return False, "gopher_short_doc"
        if len(sizes) > self.max_doc_words:
            return False, "gopher_long_doc"
        mean = sum(sizes) / len(sizes)
        if not self.min_avg_word_length <= mean <= self.max_avg_word_length:
            return False, f"gopher_{'below' if mean < self.min_avg_word_length else 'above'}_avg_threshold"
        if text.count("#") / len(words) > self.max_symbol_word_ratio:
            return False, "gopher_too_many_hashes"
        if (text.count("...") + text.count("…")) / len(words) > self.max_symbol_word_ratio:
            return False, "gopher_too_many_ellipsis"
        lines = text.splitlines()
        if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > self.max_bullet_lines_ratio:
            return False, "gopher_too_many_bullets"
        if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > self.max_ellipsis_lines_ratio:
            return False, "gopher_too_many_end_ellipsis"
        if sum(kinds[word][1] for word in words) / len(words) < self.max_non_alpha_words_ratio:
            return False, "gopher_below_alpha_threshold"
        if len(self.stop_words & kinds.keys()) < self.min_stop_words:
            return False, "gopher_enough_stop_words"
        return True


@functools.lru_cache(200_000)
def word_kind(word: str) -> tuple[bool, bool]:
    """(more than punctuation, has a letter)"""
    return any(c not in PUNCTUATION_SET for c in word), any(map(str.isalpha, word))
