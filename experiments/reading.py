"""The speedrun with lists to copy, texts to read and searches: what stands in the context is used, at a price.

python -m llm_jax.main --config=experiments/reading.py --workdir=runs/reading

Pre-training begins with lists that are written three times, then look-ups, then texts with questions
(data_pipelines/tiny_web/reading.py says why in this order). Seed 0, after SFT, on a model of the speedrun's size, and
before SFT spared the vocabulary's tables (`sft.tables_scale`):

    questions on a text about 1 / 2 / 3 / 5 people  .72 / .51 / .58 / .55 right, n 270 to 290, wordings never seen
                                                    (before: .11 / .04, and a sum of a text .00)
    sums of a text                                  .68 of the facts (.47 after RL), .04 of what is said invented
    families of the map that work on a first rung   12 (before 6 or 7), 19 helped by thinking or the tool (before 10)
    search, last checkpoint                         unseen facts .15 right, asked for .56 of them and .21 of the known
                                                    ones, the right source .49, an instruction in a passage obeyed .01

It costs 2,694 steps of pre-training in place of 1,384, and what the model knows by heart: facts stated 30 / 100 times
are recalled .23 / .48 (before .53 / .60), sums of two numbers .88 (.98), and stage `abstain` leaves .53 of the answers
about nobody wrong (.28). So it is no part of the speedrun: 1.6 million parameters do not hold both.
"""

from experiments import speedrun


def get_config():
    c = speedrun.get_config()
    c.data.reading = 1.0
    return c
