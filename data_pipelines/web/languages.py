"""What the filters know of each language: its commonest words, how long its words are, and how they are told apart.

Rae et al. 2021 ask that a text has two of eight common words, and words of 3 to 10 characters in the mean; each
language has its own of both here. One without a row is refused: by another's words, all its pages would be dropped.
"""

import dataclasses

from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS

from llm_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Language:
    """`word_length`: least and most of the mean. `spaced`: words are written with spaces between them."""

    stop_words: tuple[str, ...]
    word_length: tuple[float, float] = (3, 10)
    spaced: bool = True

    @property
    def short_line(self) -> int:
        """Characters of a line that is short to FineWeb's filter: some six words."""
        return 30 if self.spaced else 12


def row(stop_words: str, *rest) -> Language:
    return Language(tuple(stop_words.split()), *rest)


# By ISO 639-1. Words as in the middle of a sentence; marks that an alphabet writes as characters of their own count as
# characters of a word, so Indian words are longer. Vietnamese syllables and Korean particles stand apart.
LANGUAGES = {
    "ar": row("في من على إلى أن عن التي هذا مع كان", (2.5, 10)),
    "bg": row("и на в да се за от с не"),
    "ca": row("de la i que el en a les per"),
    "cs": row("a v se na je že s z do"),
    "da": row("og i at det er en til på af"),
    "de": row("der die und in den von zu das mit"),
    "el": row("και το να του η της με που για"),
    "en": Language(tuple(STOP_WORDS)),
    "es": row("de la que el en y a los se"),
    "et": row("ja on ei et see ka oli", (3, 12)),
    "fa": row("و در به از که این را با است", (2.5, 10)),
    "fi": row("ja on ei että se oli hän myös mutta", (3, 12)),
    "fr": row("de la et les des le en que une"),
    "he": row("של את על לא הוא זה עם כי גם", (2.5, 10)),
    "hi": row("के में है की और से का को पर"),
    "hr": row("i u je se na da za su od"),
    "hu": row("a az és hogy nem is egy meg van", (3, 12)),
    "id": row("yang dan di dengan untuk dari ini itu dalam"),
    "is": row("og að í á er sem var við"),
    "it": row("di e che la il un in per non"),
    "ja": row("の に は を が と で も た", (1, 6), False),
    "ko": row("이 그 수 및 등 있는 있다 한 것", (1.5, 8)),
    "lt": row("ir į kad yra su iš tai"),
    "lv": row("un ir ka ar no uz par"),
    "ms": row("yang dan di dengan untuk ini itu dalam"),
    "nl": row("de van het een en in is dat op"),
    "no": row("og i er på det til som en av"),
    "pl": row("i w na z się nie do to że"),
    "pt": row("de a que e o do da em os"),
    "ro": row("și şi de în a la cu pe o că"),
    "ru": row("и в не на что с по как это"),
    "sk": row("a v sa na je že s z do"),
    "sl": row("in je v na se da za so"),
    "sr": row("и је у да на се за су i je u da na se za su"),
    "sv": row("och i att det är en som på av"),
    "tr": row("ve bir bu da de için ile çok"),
    "uk": row("і в не на що з до як та"),
    "ur": row("کے میں ہے کی اور سے کا کو", (2.5, 10)),
    "vi": row("của và là có được các không cho", (2, 8)),
    "zh": row("的 一 是 在 了 不 和 有 我", (1, 5), False),
}


def known(code: str) -> Language:
    """Raises UserError for a language without a row."""
    if code not in LANGUAGES:
        raise UserError(
            f"--language={code}: no stop words and thresholds of that are known; give {', '.join(LANGUAGES)}"
        )
    return LANGUAGES[code]
