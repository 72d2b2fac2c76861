"""The table of ranges: every value has one; what is outside is refused, and nothing written; what is inside runs."""

import json
import math
import subprocess
import sys

import pytest

from llm_jax.config import OPEN, UserError, default, flatten, validate
from llm_jax.ranges import LARGEST_SEED, RANGES, Choice, Flag, Number, Part, Scaling, Text, outside
from tests import edges
from tests.commands import ENVIRONMENT, ROOT, TINY, run

OPEN_KEYS = {section[:-1]: f"{section}some" for section in OPEN}


def beyond(allowed) -> list:
    """Values of the type, and some that are not, that a range must not hold."""
    if isinstance(allowed, Number):
        step = 1 if allowed.kind is int else max(1e-9, abs(allowed.low) / 2)
        over = [] if math.isinf(allowed.high) else [allowed.high + 1, allowed.high * 2]
        return [allowed.low - step, -(10**9), *over, math.nan, math.inf, -math.inf, "3", None]
    if isinstance(allowed, Choice):
        return ["", "nosuch", allowed.names[0].upper(), f"{allowed.names[0]} ", None, 1]
    if isinstance(allowed, Flag):
        return ["True", 1, None]
    if isinstance(allowed, Part):
        return ["", "two words", ("clip",), math.nan, math.inf, None]
    if isinstance(allowed, Scaling):
        return [
            "linear",
            ("linear",),
            ("linear", 0.0),
            ("linear", 2.0, 1.0),
            ("llama3", 8.0),
            ("yarn", 4.0),
            (8.0,),
            None,
        ]
    if allowed.many:
        return [("",), "full", (1,), ("a", " "), None, *([()] if allowed.least else [])]
    return [None, 3, ("a",), *([] if allowed.holds("") else ["", "nosuch", "a:b:c", "a b:c"])]


OUTSIDE = [(key, value) for key, allowed in RANGES.items() for value in beyond(allowed)]


def test_every_value_has_a_range_and_every_range_a_value():
    assert {*flatten(default()), *OPEN_KEYS} == set(RANGES)
    assert not [key for key, value in flatten(default()).items() if outside(key, value)]


@pytest.mark.parametrize("key, value", OUTSIDE)
def test_what_is_outside_is_named_in_one_line(key, value):
    c = default()
    section, _, name = OPEN_KEYS.get(key, key).rpartition(".")
    part = c
    for word in filter(None, section.split(".")):
        part = part[word]
    with c.unlocked(), c.ignore_type():
        part[name] = value
    with pytest.raises(UserError) as error:
        validate(c)
    assert str(error.value).startswith(OPEN_KEYS.get(key, key)) and "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_belong_to_a_range(end):
    """All at once, and each alone as far as its neighbours let it be."""
    c = edges.get_config(end)
    c.data.sequence_length = RANGES["data.sequence_length"].low
    validate(c)
    for key, allowed in RANGES.items():
        if isinstance(allowed, Number):
            assert not outside(key, allowed.low) and (math.isinf(allowed.high) or not outside(key, allowed.high))
        elif isinstance(allowed, Choice):
            assert not any(outside(key, name) for name in allowed.names)


@pytest.mark.parametrize("pattern, fits", [
    (("full",), True), (("window:1", "full-norope"), True), (("window:12-norope-experts",), True),
    (("window:0",), False), (("window",), False), (("full:3",), False), (("full-experts-norope",), False), ((), False),
])  # fmt: skip
def test_layer_patterns(pattern, fits):
    assert RANGES["model.layer_pattern"].holds(pattern) == fits


def test_a_text_of_lines_is_no_name():
    assert not Text(r"\w+", "a word").holds("a\nb") and outside("seed", LARGEST_SEED + 1)


# One process imports the launcher once; each command line runs in a fork of it, in a folder of its own.
FORKS = """
import json, os, sys
from llm_jax import main
from llm_jax.frame.cli import exit_code
for line in sys.stdin:
    sys.argv = ["main", *json.loads(line)]
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 2)
        code = 70
        try:
            code = exit_code(main.main, main.define_flags)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    said = os.fdopen(read).read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]), flush=True)
"""


def ends(commands: list[list[str]]) -> list[tuple[int, str]]:
    """(exit code, stderr) of each command line of the launcher."""
    lines = "".join(json.dumps(command) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", FORKS], input=lines, cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def as_flag(key: str, value) -> str:
    return f"--config.{OPEN_KEYS.get(key, key)}={value}"


def test_the_launcher_refuses_them_and_writes_nothing(tmp_path):
    """One value of each key, the first that a command line can say, and what only a late stage would see."""
    flags = {}
    for key, value in OUTSIDE:
        if isinstance(RANGES[key], Number | Choice) and value not in ("3", ""):
            flags.setdefault(key, as_flag(key, value))
    late = [
        "--config.model.attention=splash",
        "--config.model.attention=cudnn",
        "--config.data.prepare=nosuch:x",
        "--config.data.prepare=json:nosuch",
        "--config.data.prepare=os:sep",
        "--config.rl.no_tools=('arithmetic','nosuch')",
        "--config.rl.tasks.nosuch=1",
        "--config.rl.tasks.arithmetic/9 numbers=1",
        "--config.rl.algorithm=grop",
        "--config.rl.parts.trust=cispo",
        "--config.data.epochs.nosuch=2",
        "--config.data.weights.nosuch=0.5",
        "--config.data.weights.web=much",
        "--config.extensions=('nosuch',)",
        "--config.mesh.tensor=3",
        "--config.init_from=runs/other",
        "--config.init_from=~/other:",
        f"--config.data.documents={tmp_path}/none/*.txt",
    ]
    given = [*flags.values(), *late]
    results = ends([[f"--config={TINY}", f"--workdir={tmp_path}/run", flag] for flag in given])
    assert len(results) == len(given)
    for flag, (code, said) in zip(given, results, strict=True):
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in said, (flag, code, said[-1500:])
    for (key, flag), (_, said) in zip(flags.items(), results, strict=False):
        assert key in said, (flag, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["low", "high"])
def test_two_steps_at_the_edges_end(tmp_path, end):
    """All stages with a vocabulary and rows for what conversations say; the base model alone with rows of 8 tokens."""
    steps = [f"--config.{stage}.steps=2" for stage in ("pretrain", "sft", "rl")]
    (tmp_path / "text.txt").write_text("two words " * 2000)
    own = ["llm_jax.main", f"--config={ROOT}/tests/edges.py:{end}", f"--config.data.documents={tmp_path}/text.txt"]
    own += ["--config.tokenizer.vocab_size=400", *steps]
    whole = run(*own, f"--workdir={tmp_path}/whole", "--config.data.sequence_length=256")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert (tmp_path / "whole/report/index.html").exists()
    short = run(*own, f"--workdir={tmp_path}/short", "--stages=data,pretrain")
    assert short.returncode == 0, short.stderr[-3000:]
