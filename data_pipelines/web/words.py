"""Words and sentences by regular expressions, in datatrove's interface.

datatrove's own splitter for English is spaCy's, at a megabyte a second. Its filters ask for words by language, so ours
are registered as languages: the filters themselves stay as they are.
"""

import functools
import re
from collections.abc import Iterator

import regex
from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments

from data_pipelines.web.languages import LANGUAGES

ENGLISH = "english by regular expression"  # the name to give to datatrove's `language=`
# As spaCy cuts: numbers whole, "n't" and "'s" apart, dots of an ellipsis together, every other mark alone.
WORD = re.compile(r"\d+(?:[.,:]\d+)*|\w+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|\w+|\.{2,}|[^\w\s]")
SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|$)", re.DOTALL)
# Of other languages: letters with their marks, and joined by them. Where no space parts words, Japanese is cut where
# its script changes, which leaves most particles alone, and Chinese at every character.
ANY_SENTENCE = re.compile(r"\S.*?(?:[.!?…؟۔।॥։]+[\"'”’»)\]]*(?=\s|$)|[。！？｡]+[」』”’）]*|$)", re.DOTALL)


def any_word(han: str) -> regex.Pattern:
    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
    return regex.compile(
        rf"\d+(?:[.,:]\d+)*+|{han}|\p{{Hiragana}}++|[\p{{Katakana}}ー]++|"
        rf"[[\w\p{{M}}\u200c\u200d]--[{unspaced}]]++|\.{{2,}}+|[^\w\s]",
        regex.VERSION1,
    )


class Words(WordTokenizer):
    def __init__(self, word=WORD, sentence: re.Pattern = SENTENCE):
        self.word, self.sentence = word, sentence

    def word_tokenize(self, text: str) -> list[str]:
        return self.word.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return self.sentence.findall(text)

    def span_tokenize(self, text: str) -> Iterator[tuple[int, int]]:
        return (match.span() for match in self.sentence.finditer(text))


@functools.cache
def splitter(code: str) -> Words:
    """Of a language by its ISO 639-1 code."""
    if code == "en":
        return Words()
    return Words(any_word(r"\p{Han}++" if code == "ja" else r"\p{Han}"), ANY_SENTENCE)


def name_of(code: str) -> str:
    """The language's name in datatrove."""
    return ENGLISH if code == "en" else f"{code} by regular expression"


def register() -> None:
    """Makes the splitters known to datatrove in this process."""
    for code in LANGUAGES:
        load_tokenizer_assignments()[name_of(code)] = functools.partial(splitter, code)


register()
