"""Logic with one answer: who tells the truth where some always lie, and what true and false make of each other."""

import itertools
import random

from llm_jax.tasks.base import Item, of_split
from llm_jax.tasks.words import distinct, name

PEOPLE = tuple(range(3, 7))
PEOPLE_LEVELS = tuple(f"{n} people" for n in PEOPLE)
VALUES = tuple(range(3, 7))
VALUE_LEVELS = tuple(f"{n} values" for n in VALUES)

KNIGHTS = (
    "Knights always tell the truth and knaves always lie. {s} Name the knights in the order in which they speak.",
    "Each of these people is a knight, who never lies, or a knave, who always does. {s} Who are the knights? "
    "Name them in the order in which they speak.",
    "On an island, knights say what is true and knaves what is false. {s} List the knights, the first speaker first.",
    "Everyone here is a knight (truthful) or a knave (a liar). {s} Which of them are knights? Keep their order.",
    "Some always tell the truth: the knights. The others, the knaves, never do. {s} Give the names of the knights, "
    "in the order of speaking.",
)
TRUTH = (
    "Is this true or false: {e}",
    "What is the value of {e}",
    "Work out whether this is true or false: {e}",
    "True or false: {e}",
    "Evaluate the following: {e}",
)

Statement = tuple[int, int, bool]  # (a person, another or the same one, what is said of them)
Tree = bool | tuple  # ("not", tree) or ("and" or "or", tree, tree)


def holds(statement: Statement, knights: tuple[bool, ...]) -> bool:
    """Of one person: whether they are a knight, or a knave. Of two: whether they are alike, or not."""
    a, b, said = statement
    return (knights[a] if a == b else knights[a] == knights[b]) == said


def solutions(statements: list[Statement]) -> list[tuple[bool, ...]]:
    """Who may be a knight: all ways in which knights' statements are true and those of others are not."""
    ways = itertools.product((True, False), repeat=len(statements))
    return [way for way in ways if all(holds(s, way) == knight for s, knight in zip(statements, way, strict=True))]


def spoken_by(speaker: str, statement: Statement, names: list[str]) -> str:
    a, b, said = statement
    if a == b:
        return f"{speaker} says that {names[a]} is a {'knight' if said else 'knave'}."
    return f"{speaker} says that {names[a]} and {names[b]} are {'alike' if said else 'not alike'}."


def draw_knights(rng: random.Random, level: int) -> Item:
    """Everyone says something of one or two others. There is one solution, with a knight and a knave at least."""
    count = PEOPLE[level]
    while True:
        statements = []
        for speaker in range(count):
            others = [person for person in range(count) if person != speaker]
            about = rng.sample(others, 2) if rng.random() < 0.4 else [rng.choice(others)] * 2
            statements.append((*about, rng.random() < 0.5))
        found = solutions(statements)
        if len(found) == 1 and len(set(found[0])) == 2:
            break
    names = distinct(rng, count, name)
    said = " ".join(spoken_by(names[n], statement, names) for n, statement in enumerate(statements))
    return Item(f"knights:{said}", " ".join(itertools.compress(names, found[0])), {"s": said})


def drawn_tree(rng: random.Random, leaves: int) -> Tree:
    if leaves == 1:
        tree: Tree = rng.random() < 0.5
    else:
        left = rng.randint(1, leaves - 1)
        tree = (rng.choice(("and", "or")), drawn_tree(rng, left), drawn_tree(rng, leaves - left))
    return ("not", tree) if rng.random() < 0.25 else tree


def written(tree: Tree, outermost: bool = True) -> str:
    if isinstance(tree, bool):
        return str(tree).lower()
    if tree[0] == "not":
        return f"not {written(tree[1], False)}"
    text = f"{written(tree[1], False)} {tree[0]} {written(tree[2], False)}"
    return text if outermost else f"({text})"


def value(sign: str, *of: bool) -> bool:
    return {"not": lambda: not of[0], "and": lambda: of[0] and of[-1], "or": lambda: of[0] or of[-1]}[sign]()


def reduced(tree: tuple) -> Tree:
    """With the first part worked out that has values only."""
    if all(isinstance(part, bool) for part in tree[1:]):
        return value(*tree)
    at = next(n for n, part in enumerate(tree) if isinstance(part, tuple))
    return (*tree[:at], reduced(tree[at]), *tree[at + 1 :])


def draw_truth(rng: random.Random, level: int) -> Item:
    """True as often as false. Worked out one part a line."""
    wanted = rng.random() < 0.5
    while True:
        tree, lines = drawn_tree(rng, VALUES[level]), []
        expression = written(tree)
        while isinstance(tree, tuple):
            tree = reduced(tree)
            lines.append(written(tree))
        if tree == wanted:
            break
    program = expression.replace("true", "True").replace("false", "False")
    program = f"print('', ['false', 'true'][{program}])"
    return Item(f"truth:{expression}", lines[-1], {"e": expression}, "\n".join(lines), program)


make_knights, make_truth = of_split(draw_knights), of_split(draw_truth)
