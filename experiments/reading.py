"""The speedrun with texts to read, and with a search: is what stands in the context used, whoever it is about?

python -m llm_jax.main --config=experiments/reading.py --workdir=runs/reading

Lists that are written three times come first: copying appears in a few hundred steps of nothing else, and reading
needs it. `context.*` and `search.*` of the report tell.

With a quarter of the copies (87 steps of them) and four tenths of the texts, seed 0, copying had not appeared: .11
right about one person in the text, .04 about two (n 320), and no quotation that stands in the text. The amounts here
are those at which reading appeared in a trial of pages alone; they were not run whole yet.

What was seen of copying alone, one run each, 8 rows of 256 a step: of lists of 4 to 12 words of one piece the loss is
5.4 a token at step 100 and 2.2 at 200 (two heads of 64; four of 32 are some 20 steps later). Lists that then grow to 40
words, names and commas among them, are copied, too: 2.1 to 2.3 by step 340. Lists of 40 words from the start, or
commas between the words, had not been learned by step 240.
"""

from experiments import speedrun


def get_config():
    c = speedrun.get_config()
    c.data.reading = 1.0
    c.data.first = ("short_lists", "long_lists", "look_ups", "texts")
    return c
