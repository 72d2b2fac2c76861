"""The speedrun with lists to copy, texts to read and searches: what stands in the context is used, at a price.

python -m llm_jax.main --config=experiments/reading.py --workdir=runs/reading

After the short lists, with which the speedrun begins too, pre-training reads longer ones, look-ups, then texts with
questions (data_pipelines/tiny_web/reading.py says why in this order). Seed 0, after SFT, on a model of the speedrun's
size, with 3,200 pages of sums (4,200 now) and SFT's conversations of before:

    questions on a text about 1 / 2 / 3 / 5 people  .56 / .51 / .62 / .59 right, n 277 to 290, wordings never seen
    sums of a text                                  .56 of the facts, .08 of what is said invented
    families of the map that work on a first rung   5; sorting, two hops and letters by number come in, sums fall
    search, last checkpoint                         unseen facts .08 right, asked for .49 of them and .14 of the known
                                                    ones, the right source .51, an instruction in a passage obeyed .00

It costs 2,715 steps of pre-training in place of 1,560, and what the model does by heart: facts stated 30 / 100 times
are recalled .44 / .65, sums of two numbers .72, three after thinking .86; stage `abstain` leaves .65 of the answers
about nobody wrong, RL .89. At SFT's rate of before (.3, and the vocabulary's tables at the full one) the texts were
better (.72 / .51 / .58 / .55, sums .68, twelve families, search right .15) and recall worse (.23 / .48). So it is no
part of the speedrun: 1.6 million parameters do not hold both.
"""

from experiments import speedrun


def get_config():
    c = speedrun.get_config()
    c.data.reading = 1.0
    return c
