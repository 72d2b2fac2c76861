"""English words and sentences by regular expressions, in datatrove's interface.

datatrove's own splitter for English is spaCy's, at a megabyte a second. Its filters ask for words by language, so ours
is registered as one: the filters themselves stay as they are.
"""

import re
from collections.abc import Iterator

from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments

ENGLISH = "english by regular expression"  # the name to give to datatrove's `language=`
# As spaCy cuts: numbers whole, "n't" and "'s" apart, dots of an ellipsis together, every other mark alone.
WORD = re.compile(r"\d+(?:[.,:]\d+)*|\w+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|\w+|\.{2,}|[^\w\s]")
SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|$)", re.DOTALL)


class Words(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return SENTENCE.findall(text)

    def span_tokenize(self, text: str) -> Iterator[tuple[int, int]]:
        return (match.span() for match in SENTENCE.finditer(text))


def register() -> str:
    """Makes the splitter known to datatrove in this process -> the language's name."""
    load_tokenizer_assignments()[ENGLISH] = Words
    return ENGLISH


register()
