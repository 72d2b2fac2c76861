"""Small Python programs, each with the output it really has."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from data_pipelines.documents import split_of
from data_pipelines.tiny_web import lexicon as lex

NOUNS = [noun for noun in lex.NOUNS if 4 <= len(noun) <= 8]


@dataclass(frozen=True)
class Program:
    """What a program does, its code, and the lines it prints."""

    task: str
    code: str
    output: str


def _lines(values: Iterable[object]) -> str:
    return "\n".join(str(value) for value in values)


def _sum_of_list(rng: random.Random) -> Program:
    numbers = [rng.randrange(1, 60) for _ in range(rng.randrange(3, 7))]
    code = f"numbers = {numbers}\ntotal = 0\nfor number in numbers:\n    total += number\nprint(total)"
    return Program("adds up a list of numbers", code, str(sum(numbers)))


def _countdown(rng: random.Random) -> Program:
    start, step = rng.randrange(5, 20), rng.randrange(2, 5)
    code = f"n = {start}\nwhile n > 0:\n    print(n)\n    n -= {step}\nprint('done')"
    shown = [*range(start, 0, -step), "done"]
    return Program(f"counts down from {start} in steps of {step}", code, _lines(shown))


def _reverse(rng: random.Random) -> Program:
    word = rng.choice(NOUNS)
    return Program("writes a word backwards", f"word = '{word}'\nprint(word[::-1])", word[::-1])


def _largest(rng: random.Random) -> Program:
    numbers = rng.sample(range(100), rng.randrange(4, 8))
    code = (
        f"numbers = {numbers}\nbest = numbers[0]\nfor number in numbers:\n    if number > best:\n"
        "        best = number\nprint(best)"
    )
    return Program("finds the largest number in a list", code, str(max(numbers)))


def _count_letter(rng: random.Random) -> Program:
    words = " ".join(rng.sample(NOUNS, 3))
    letter = rng.choice("aeotr")
    code = (
        f"text = '{words}'\ncount = 0\nfor letter in text:\n    if letter == '{letter}':\n"
        "        count += 1\nprint(count)"
    )
    return Program(f"counts how often the letter {letter} occurs", code, str(words.count(letter)))


def _squares(rng: random.Random) -> Program:
    first, last = rng.randrange(1, 6), rng.randrange(7, 11)
    code = f"for n in range({first}, {last}):\n    print(n, n * n)"
    shown = (f"{n} {n * n}" for n in range(first, last))
    return Program("prints numbers with their squares", code, _lines(shown))


def _fizz(rng: random.Random) -> Program:
    divisor, last = rng.randrange(2, 5), rng.randrange(6, 11)
    word = rng.choice(NOUNS)
    code = (
        f"for n in range(1, {last}):\n    if n % {divisor} == 0:\n        print('{word}')\n    else:\n        print(n)"
    )
    return Program(
        f"prints {word} for each multiple of {divisor}",
        code,
        _lines(word if n % divisor == 0 else n for n in range(1, last)),
    )


def _sort_words(rng: random.Random) -> Program:
    words = rng.sample(NOUNS, 4)
    code = f"words = {words}\nfor word in sorted(words):\n    print(word)"
    return Program("prints words in the order of the alphabet", code, _lines(sorted(words)))


def _word_lengths(rng: random.Random) -> Program:
    words = rng.sample(NOUNS, 3)
    code = f"words = {words}\nfor word in words:\n    print(word, len(word))"
    return Program("prints how long each word is", code, _lines(f"{word} {len(word)}" for word in words))


def _even_numbers(rng: random.Random) -> Program:
    numbers = [rng.randrange(1, 50) for _ in range(7)]
    code = f"numbers = {numbers}\nprint([n for n in numbers if n % 2 == 0])"
    return Program("keeps the even numbers of a list", code, str([n for n in numbers if n % 2 == 0]))


def _function(rng: random.Random) -> Program:
    factor, offset, given = rng.randrange(2, 10), rng.randrange(1, 10), rng.randrange(2, 10)
    code = f"def f(x):\n    return {factor} * x + {offset}\n\nprint(f({given}))"
    return Program("defines a function and calls it", code, str(factor * given + offset))


def _shop(rng: random.Random) -> Program:
    prices = {product: rng.randrange(2, 30) for product in rng.sample(lex.PRODUCTS, 3)}
    wanted, many = rng.choice(list(prices)), rng.randrange(2, 6)
    code = f"prices = {prices}\ncost = prices['{wanted}'] * {many}\nprint('{wanted}', cost)"
    return Program("looks up a price and works out a cost", code, f"{wanted} {prices[wanted] * many}")


def _doubling(rng: random.Random) -> Program:
    start, limit = rng.randrange(1, 8), rng.randrange(40, 200)
    code = f"n = {start}\nsteps = 0\nwhile n < {limit}:\n    n = n * 2\n    steps += 1\nprint(n, steps)"
    steps = next(k for k in range(10) if start * 2**k >= limit)
    return Program(f"doubles a number until it reaches {limit}", code, f"{start * 2**steps} {steps}")


def _initials(rng: random.Random) -> Program:
    words = rng.sample(NOUNS, 4)
    code = f"words = {words}\nresult = ''\nfor word in words:\n    result += word[0]\nprint(result.upper())"
    return Program("joins the first letters of some words", code, "".join(word[0] for word in words).upper())


MAKERS: tuple[Callable[[random.Random], Program], ...] = (
    _sum_of_list,
    _countdown,
    _reverse,
    _largest,
    _count_letter,
    _squares,
    _fizz,
    _sort_words,
    _word_lengths,
    _even_numbers,
    _function,
    _shop,
    _doubling,
    _initials,
)


def program_documents(seed: int, count: int) -> Iterator[dict]:
    """Documents with two programs each: what it does, the code, and what it prints."""
    rng = random.Random(f"{seed}/program")
    for number in range(count):
        programs = [maker(rng) for maker in rng.sample(MAKERS, 2)]
        parts = [f"This program {p.task}:\n\n{p.code}\n\nOutput:\n{p.output}" for p in programs]
        text = "\n\n".join(parts)
        yield {"id": f"program-{number:05d}", "source": "program", "text": text, "split": split_of(text)}
