"""The speedrun with texts to read, and with a search: is what stands in the context used, whoever it is about?

python -m llm_jax.main --config=experiments/reading.py --workdir=runs/reading

Lists that are written three times come first: copying appears in a few hundred steps of nothing else, and reading
needs it. `context.*` and `search.*` of the report tell.

With a quarter of the copies (87 steps of them) and four tenths of the texts, seed 0, copying had not appeared: .11
right about one person in the text, .04 about two (n 320), and no quotation that stands in the text. The amounts here
are those at which reading appeared in a trial of pages alone; they were not run whole yet.
"""

from experiments import speedrun


def get_config():
    c = speedrun.get_config()
    c.data.reading = 1.0
    c.data.first = ("copies",)
    return c
