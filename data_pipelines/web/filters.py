"""Filters of ours behind datatrove's interface: the same decisions, sooner; or a model that ships in a package."""

import collections
import functools
import itertools

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX, POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.text import PUNCTUATION_SET, split_into_words

from data_pipelines.web.languages import LANGUAGES
from data_pipelines.web.words import name_of, splitter

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

    def __init__(self, language: str = "en"):
        super().__init__(language=name_of(language))
        self.space = int(LANGUAGES[language].spaced)  # characters between words

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
        word_W = np.array([numbers[word] for word in words], np.int64)
        ends_W = np.concatenate([[0], np.cumsum(np.array([len(word) for word in words], np.int64))])
        # Places whose n-gram occurs again, and its number: no longer n-gram can occur again elsewhere.
        place_P, gram_P = np.arange(len(words)), word_W
        for n in range(2, 11):
            if len(words) < n:
                break
            inside = place_P <= len(words) - n
            place_P = place_P[inside]
            pair_P = gram_P[inside] * len(words) + word_W[place_P + n - 1]
            _, first_G, gram_P, count_G = np.unique(pair_P, return_index=True, return_inverse=True, return_counts=True)
            if n <= 4:
                # Of those most frequent the first in the text, as Counter.most_common has it.
                most = count_G.max(initial=1)
                top = place_P[first_G[count_G == most].min()] if most > 1 else 0
                size = ends_W[top + n] - ends_W[top] + (n - 1) * self.space
                if size * most / len(text) > dict(self.top_n_grams)[n]:
                    return False, f"top_{n}_gram"
            again = (count_G > 1)[gram_P]
            place_P, gram_P = place_P[again], gram_P[again]
            if n > 4 and duplicate_characters(n, place_P, gram_P, ends_W) / len(text) > dict(self.dup_n_grams)[n]:
                return False, f"duplicated_{n}_n_grams"
            if n >= 4 and not len(place_P):
                break
        return True


def duplicate_characters(n: int, place_P: np.ndarray, gram_P: np.ndarray, ends_W: np.ndarray) -> int:
    """Characters of n-grams seen before, none counted twice: after one that was, the next begins where it ends."""
    seen, at, total = set(), 0, 0
    for place, gram in zip(place_P.tolist(), gram_P.tolist(), strict=True):
        if place < at:
            continue
        if gram in seen:
            total += int(ends_W[place + n] - ends_W[place])
            at = place + n
        else:
            seen.add(gram)
    return total


class Quality(GopherQualityFilter):
    """Rae et al. 2021, section A1.1. Decides as datatrove's filter; each distinct word is looked at once."""

    def __init__(self, language: str = "en"):
        least, most = LANGUAGES[language].word_length
        super().__init__(
            min_avg_word_length=least,
            max_avg_word_length=most,
            stop_words=list(LANGUAGES[language].stop_words),
            language=name_of(language),
        )

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        text, words = doc.text, split_into_words(doc.text, self.language)
        if not words:
            return False, "gopher_short_doc"
        counts = collections.Counter(words)
        kinds = {word: word_kind(word) for word in counts}
        real = [(len(word), count) for word, count in counts.items() if kinds[word][0]]
        total = sum(count for _, count in real)
        if total < self.min_doc_words:
            return False, "gopher_short_doc"
        if total > self.max_doc_words:
            return False, "gopher_long_doc"
        mean = sum(size * count for size, count in real) / total
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
        if sum(count for word, count in counts.items() if kinds[word][1]) / len(words) < self.max_non_alpha_words_ratio:
            return False, "gopher_below_alpha_threshold"
        if len(self.stop_words & kinds.keys()) < self.min_stop_words:
            return False, "gopher_enough_stop_words"
        return True


class C4(C4QualityFilter):
    """Raffel et al. 2020, without the rule that every line ends a sentence, which alone drops a third of the web (as
    FineWeb). Decides as datatrove's filter; sentences are counted until there are enough."""

    def __init__(self, language: str = "en"):
        super().__init__(filter_no_terminal_punct=False, language=name_of(language))
        self.splitter = splitter(language)
        self.words_of = str.split if LANGUAGES[language].spaced else self.splitter.word_tokenize

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        sentences, kept = 0, []
        for line in map(str.strip, doc.text.splitlines()):
            words = self.words_of(line)
            if len(words) < self.min_words_per_line:
                continue
            if len(line) > self.max_word_length and any(len(word) > self.max_word_length for word in words):
                continue
            line = CITATION_REGEX.sub("", line)
            lower = line.lower()
            if "lorem ipsum" in lower:
                return False, "lorem_ipsum"
            if "javascript" in lower:
                continue
            if "{" in line:
                return False, "curly_bracket"
            if any(phrase in lower for phrase in POLICY_SUBSTRINGS):
                continue
            kept.append(line)
            missing = self.min_num_sentences - sentences
            if missing > 0:  # datatrove counts a line that only its citations made empty as one
                sentences += max(1, sum(1 for _ in itertools.islice(self.splitter.span_tokenize(line), missing)))
        if sentences < self.min_num_sentences:
            return False, "too_few_sentences"
        doc.text = "\n".join(kept).strip()
        return True


@functools.lru_cache(200_000)
def word_kind(word: str) -> tuple[bool, bool]:
    """(more than punctuation, has a letter)"""
    if word.isalpha():
        return True, True
    return any(c not in PUNCTUATION_SET for c in word), any(map(str.isalpha, word))
