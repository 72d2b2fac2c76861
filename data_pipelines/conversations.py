"""Conversations for SFT and checkable prompts for RL and evaluation, from the task families and a world's questions."""

import itertools
import random
from collections.abc import Iterator

from data_pipelines import itself
from llm_jax.tasks.base import Problem, spoken
from llm_jax.tasks.records import records
from llm_jax.tasks.table import FAMILIES

FACT_CONVERSATIONS = 2500
SELF_CONVERSATIONS = 3000  # about the model itself
TURNS = {1: 5, 2: 3, 3: 2}  # exchanges in a conversation -> share of the conversations
PROMPTS = {"train": 200, "dev": 8, "test": 16}  # of each family and level
# Of families that measurements ask by the hundred.
MEASURED = {name: {"train": 600, "dev": 200, "test": 640} for name in ("arithmetic", "calculator")}
MEASURED["functions"] = {"train": 200, "dev": 32, "test": 128}

ITSELF = "identity"  # the source of conversations about the model
LED = 0.2  # share of the later turns that begin as people go on: with one of these, or "And who made you?"
LEADS = ("OK. ", "Thanks. ", "Good. ", "Next: ", "And now: ")
CAPITAL = ("I ", *itself.FALSE_NAMES, *itself.FALSE_MAKERS)  # how questions about it begin that keep their capital
SYSTEM = ("You are a helpful assistant.", "Answer briefly.", "You are llm_jax.")


def exchange(problem: Problem, way: str) -> list[dict]:
    return [*problem.messages(), {"role": "assistant", "content": problem.solution(way)}]


def fact_exchange(question: dict) -> list[dict]:
    answer = [{"type": "answer", "text": spoken(question["answer"])}]
    return [{"role": "user", "content": question["question"]}, {"role": "assistant", "content": answer}]


def conversations(seed: int, amount: float, lists: dict, questions: list[dict]) -> Iterator[dict]:
    """`conversation` records; `amount` scales their number, `questions` are the world's train questions."""
    rng = random.Random(f"{seed}/conversations")
    exchanges: list[tuple[str, list[dict]]] = []
    for family in FAMILIES.values():
        for level, (way, counts) in itertools.product(range(len(family.levels)), family.ways.items()):
            for _ in range(max(1, round(counts[level] * amount)) if counts[level] else 0):
                problem = family.problem(rng, level, "train", lists)
                exchanges.append((family.name, exchange(problem, way)))
    asked = rng.sample(questions, min(len(questions), round(FACT_CONVERSATIONS * amount)))
    exchanges += [("facts", fact_exchange(question)) for question in asked]
    about = itself.exchanges(rng, max(2, round(SELF_CONVERSATIONS * amount)))
    exchanges += [(ITSELF, messages) for messages in about]
    rng.shuffle(exchanges)
    left = iter(exchanges)
    for number in itertools.count():
        taken = list(itertools.islice(left, rng.choices(list(TURNS), list(TURNS.values()))[0]))
        if not taken:
            return
        source = taken[0][0] if len(taken) == 1 else "multi_turn"
        about_itself = any(name == ITSELF for name, _ in taken)
        turns = [taken[0][1], *(going_on(rng, *later) for later in taken[1:])]
        messages = [message for turn in turns for message in turn]
        yield record(f"{number:05d}", source, messages, rng, itself.STATED if about_itself else "")


def going_on(rng: random.Random, source: str, messages: list[dict]) -> list[dict]:
    """An exchange as a later one of a conversation."""
    if rng.random() >= LED:
        return messages
    asked, *more = messages
    text = asked["content"]
    if source == ITSELF and rng.random() < 0.6 and not text.startswith(CAPITAL):
        return [{**asked, "content": f"And {text[0].lower()}{text[1:]}"}, *more]
    return [{**asked, "content": rng.choice(LEADS) + text}, *more]


def record(id_: str, source: str, messages: list[dict], rng: random.Random, stated: str = "") -> dict:
    """Some have a system prompt, of those with something `stated` a fifth that."""
    if stated and rng.random() < 0.2:
        messages = [{"role": "system", "content": stated}, *messages]
    elif rng.random() < 0.1:
        messages = [{"role": "system", "content": rng.choice(SYSTEM)}, *messages]
    return {"id": id_, "source": source, "messages": messages}


def prompts(seed: int, split: str, amount: float, lists: dict, questions: list[dict]) -> Iterator[dict]:
    """`prompt` records of a split: every family and level, but those on demand, and the world's questions of that
    split."""
    rng = random.Random(f"{seed}/prompts/{split}")
    for family in [family for family in FAMILIES.values() if not family.on_demand]:
        wanted = MEASURED.get(family.name, PROMPTS)
        count = max(8, round(wanted[split] * amount))
        for level in range(len(family.levels)):
            yield from records(rng, family, level, split, count, lists)
    for question in questions:
        yield {
            "id": question["id"],
            "task": "facts",
            "level": f"tier {question['tier']}",
            "split": split,
            "messages": [{"role": "user", "content": question["question"]}],
            "answer": question["answer"],
            "item": question["person"],
            **{key: question[key] for key in ("kind", "tier")},
        }
