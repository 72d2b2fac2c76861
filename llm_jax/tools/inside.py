"""What runs in bubblewrap before a program and around it. Its text is given to the interpreter there, so it knows the
standard library alone. It gives up rights, sets limits, says that it is ready, does its job, and tells what came of it,
a JSON object a line. The program may write there, too: whoever reads believes nothing but that the program says so.
"""

import ast
import builtins
import json
import os
import resource
import sys
import traceback
import types

LONGEST = 64 * 2**10  # characters of a value


def plain(value, left=None) -> str:
    """A value of Python's plain types as text, and equal ones of the same types as the same text; a dictionary in its
    order. Raises ValueError for any other type, a subclass too, and where the text is longer than LONGEST."""
    left = [LONGEST] if left is None else left
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        text = repr(value)
        left[0] -= len(text)
    elif kind in (list, tuple, set, frozenset, dict):
        left[0] -= 2
        text = bracketed(kind, value, left)
    else:
        raise ValueError(f"a value is of type {kind.__name__}")
    if left[0] < 0:
        raise ValueError("the value is too long")
    return text


def bracketed(kind: type, value, left: list) -> str:
    if kind is dict:
        return "{" + ", ".join(f"{plain(key, left)}: {plain(held, left)}" for key, held in value.items()) + "}"
    parts = [plain(part, left) for part in value]
    if kind is list:
        return f"[{', '.join(parts)}]"
    if kind is tuple:
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    return "{" + ", ".join(sorted(parts)) + "}" if parts else "set()"


def run(program: str, names: dict):
    """Runs a program in the names of its module -> the value of its last expression, or None."""
    tree = ast.parse(program, "<program>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<program>", "exec", dont_inherit=True), names)
    return last and eval(compile(ast.Expression(last.value), "<program>", "eval", dont_inherit=True), names)


def outcome(job: dict, names: dict, tell) -> dict:
    """{status, value, error} of the job "run"."""
    value = run(job["program"], names)
    text = None if value is None else repr(value)
    if text is not None and len(text.encode("utf-8", "replace")) > LONGEST:
        return {"status": "output", "value": None, "error": None}
    return {"status": "ok", "value": text, "error": None}


def failure(problem: BaseException) -> dict:
    if isinstance(problem, SystemExit) and problem.code in (None, 0):
        return {"status": "ok", "value": None, "error": None}
    if isinstance(problem, MemoryError):
        return {"status": "memory", "value": None, "error": None}
    try:
        said = "".join(traceback.format_exception_only(problem)).strip()[-500:]
    except BaseException:  # of its own making
        said = type(problem).__name__
    return {"status": "error", "value": None, "error": said}


def serve(job: dict, names: dict, tell) -> dict:
    """The job "serve": runs the program and answers calls, {name, args, named}, a line each, with {value} or
    {error, message}. Values are texts as of `plain`."""
    run(job["program"], names)
    known = {"inf": float("inf"), "nan": float("nan")}
    with open(job["asked"], encoding="utf-8") as asked:
        for line in asked:
            call = json.loads(line)
            try:
                args = [eval(text, dict(known)) for text in call["args"]]
                named = {name: eval(text, dict(known)) for name, text in call["named"].items()}
                told = {"value": plain(names[call["name"]](*args, **named))}
            except Exception as problem:
                told = {"error": type(problem).__name__, "message": str(problem)[:500]}
            tell(told)
    return {"status": "ok", "value": None, "error": None}


def test(job: dict, names: dict, tell) -> dict:
    """The job "test": runs tests of the functions `job["names"]`, which another sandbox serves. Of that, which may lie,
    only plain values come here, and no other names."""
    with open(job["ask"], "w", encoding="utf-8") as ask, open(job["heard"], encoding="utf-8") as heard:

        def remote(name: str):
            def call(*args, **named):
                texts = {"args": [plain(arg) for arg in args], "named": {key: plain(arg) for key, arg in named.items()}}
                ask.write(json.dumps({"name": name, **texts}) + "\n")
                ask.flush()
                told = json.loads(heard.readline() or "null")
                if "value" in told:
                    text = told["value"]
                    return float(text) if text in ("inf", "-inf", "nan") else ast.literal_eval(text)
                kind = getattr(builtins, told["error"], None)
                known = isinstance(kind, type) and issubclass(kind, Exception)
                raise (kind if known else RuntimeError)(told["message"])

            return call

        heard.readline()  # that it is ready, and its time begins, and so does that of the tests
        tell("ready")
        names |= {name: remote(name) for name in job["names"]}
        exec(compile(job["program"], "<tests>", "exec", dont_inherit=True), names)
    return {"status": "ok", "value": None, "error": None}


def enter(job: dict) -> None:
    """Leaves root, where bubblewrap was started by it, for good, and sets the limits of what this process may take."""
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(*[job["user"]] * 3)
        os.setresuid(*[job["user"]] * 3)
    for name, most in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    enter(job)
    told = open(job["tell"], "w", encoding="utf-8")  # noqa: SIM115  # as long as this process

    def tell(what) -> None:
        told.write(json.dumps(what) + "\n")
        told.flush()

    if job["kind"] != "test":
        tell("ready")
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    names = module.__dict__
    names["__builtins__"] = builtins
    try:
        ended = {"run": outcome, "serve": serve, "test": test}[job["kind"]](job, names, tell)
    except BaseException as problem:
        ended = failure(problem)
    tell(ended)


if __name__ == "__main__":
    main()
