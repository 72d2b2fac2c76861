"""Tokenizer training: python -m data_pipelines.tokenizer --input='texts/*' --output=FILE --vocab_size=2048

Beside the model it writes FILE.html: bytes per token of each source, and how its texts are cut.
"""

import collections
import html
from pathlib import Path

import jinja2
from absl import flags
from markupsafe import Markup

from data_pipelines.documents import KINDS, read_documents
from llm_jax.frame.cli import run_cli
from llm_jax.tokenizer import Tokenizer
from llm_jax.tokenizer.sentencepiece import train_tokenizer

EXAMPLE_TOKENS = 120  # shown of a text
EXAMPLES = 3  # texts of a source
COLOURS = ("#3b82f633", "#f59e0b33", "#10b98133", "#ef444433")
# Bytes per token on English prose and on Python, of vocabularies of 50,257 and 100,277: nine public-domain novels and
# Python's standard library, measured with the published merges.
OTHERS = {"GPT-2": (4.16, 2.13), "GPT-4": (4.33, 3.85)}

PAGE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>How text is cut</title>
<style>
:root { color-scheme: light dark; font: 15px/1.6 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.8 ui-monospace, monospace; }
span { border-radius: 3px; }
</style>
<h1>How text is cut</h1>
<p>{{ size }} pieces, special tokens included. A token that is only part of a character shows its bytes.</p>
<table><tr><th>source<th>documents<th>bytes<th>tokens<th>bytes per token</tr>
{% for s in sources %}
<tr><td>{{ s.name }}
{% for count in (s.documents, s.bytes, s.tokens) %}<td>{{ "{:,}".format(count) }}{% endfor %}

<td>{{ "%.2f"|format(s.bytes / s.tokens if s.tokens else 0) }}</tr>
{% endfor %}
</table>
<p>For comparison, on other texts: {% for name, (prose, code) in others.items() %}{{ name }} {{ prose }} on English
prose, {{ code }} on Python{{ "; " if not loop.last }}{% endfor %}. A source that the
tokenizer was trained on flatters it.</p>
{% for s in sources %}
<h2>{{ s.name }}</h2>
{% for text in s.shown %}<pre>{{ text }}</pre>{% endfor %}
{% endfor %}
</html>
""")


def sizes(tokenizer: Tokenizer, documents: list[dict]) -> list[dict]:
    """For each source: name, documents, bytes, tokens, and texts as marked up for the page."""
    ids = tokenizer.encode_batch([d["text"] for d in documents], threads=2)
    sources: dict[str, dict] = collections.defaultdict(lambda: {"documents": 0, "bytes": 0, "tokens": 0, "shown": []})
    for document, tokens in zip(documents, ids, strict=True):
        source = sources[document["source"]]
        source["documents"] += 1
        source["bytes"] += len(document["text"].encode("utf-8", "replace"))
        source["tokens"] += len(tokens)
        if len(source["shown"]) < EXAMPLES:
            source["shown"].append(marked(tokenizer, tokens[:EXAMPLE_TOKENS].tolist()))
    return [{"name": name, **source} for name, source in sorted(sources.items())]


def marked(tokenizer: Tokenizer, ids: list[int]) -> Markup:
    """The text with a coloured span for each token, its id on hover."""
    spans = (
        f'<span style="background:{COLOURS[i % len(COLOURS)]}" title="{id_}">{html.escape(tokenizer.piece(id_))}</span>'
        for i, id_ in enumerate(ids)
    )
    return Markup("".join(spans))


def define_flags() -> None:
    flags.DEFINE_string("input", None, f"Glob of {KINDS} files.", required=True)
    flags.DEFINE_string("output", None, "Where to write the SentencePiece model.", required=True)
    flags.DEFINE_integer("vocab_size", 2048, "Pieces, special tokens included.", lower_bound=1)


def main() -> None:
    f = flags.FLAGS
    documents = list(read_documents(f.input))
    tokenizer = train_tokenizer([document["text"] for document in documents], f.vocab_size)
    output = Path(f.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(output)
    sources = sizes(tokenizer, documents)
    page = output.with_name(output.name + ".html")
    page.write_text(PAGE.render(size=tokenizer.vocab_size, sources=sources, others=OTHERS), encoding="utf-8")
    bytes_, tokens = (sum(source[key] for source in sources) for key in ("bytes", "tokens"))
    print(f"{output}: {tokenizer.vocab_size} pieces, {bytes_ / tokens:.2f} bytes a token on its own text")
    for source in sources:
        print(f"  {source['name']}: {source['bytes'] / max(1, source['tokens']):.2f}")
    print(f"how text is cut: {page}")


if __name__ == "__main__":
    run_cli(main, define_flags)
