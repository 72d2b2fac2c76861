"""Task families: each makes problems, words their prompts and names the answer; one strict grader for all."""

from llm_jax.tasks import arithmetic, calculator, letters, ordering, summary
from llm_jax.tasks.base import SPLITS, Problem, grade, split_of, spoken, well_formed

# family -> (names of its three levels, maker(rng, level, split, lists)); `lists` are the words that a maker draws from.
FAMILIES = {
    "arithmetic": (arithmetic.LEVELS, lambda rng, level, split, lists: arithmetic.make(rng, level, split)),
    "calculator": (calculator.LEVELS, lambda rng, level, split, lists: calculator.make(rng, level, split)),
    "spelling": (
        letters.LEVELS,
        lambda rng, level, split, lists: letters.make_spelling(rng, level, split, lists["word"]),
    ),
    "counting": (
        letters.LEVELS,
        lambda rng, level, split, lists: letters.make_counting(rng, level, split, lists["word"]),
    ),
    "reversing": (
        letters.LEVELS,
        lambda rng, level, split, lists: letters.make_reversing(rng, level, split, lists["word"]),
    ),
    "comparing": (ordering.COMPARE_LEVELS, lambda rng, level, split, lists: ordering.make_comparing(rng, level, split)),
    "sorting": (ordering.SORT_LEVELS, lambda rng, level, split, lists: ordering.make_sorting(rng, level, split)),
    "summary": (summary.LEVELS, lambda rng, level, split, lists: summary.make(rng, level, split, lists)),
}

__all__ = ["FAMILIES", "SPLITS", "Problem", "grade", "split_of", "spoken", "well_formed"]
