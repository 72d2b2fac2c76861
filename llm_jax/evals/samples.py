"""What the report shows rather than counts: documents, conversations before and after, transcripts of RL."""

from llm_jax.evals.measure import Examiner
from llm_jax.files import whole_lines
from llm_jax.runs import Run
from llm_jax.sampling.requests import Request
from llm_jax.stage_table import STAGES
from llm_jax.tokenizer import Tokenizer

OPENINGS = ("", "The life of", "How to ", "Questions and answers\n\nQ: ", "This program prints", "Step by step\n\n")
CHAT = ("Who made you?", "What is 17+25-8?", "What is 4821*375?", "How many times does the letter e appear in kettle?")
DOCUMENT_TOKENS = 120


def collect(examiner: Examiner, params: dict[str, dict]) -> dict:
    """`params` by stage."""
    tokenizer = examiner.tokenizer
    out: dict = {"documents": [], "conversations": [], "rl_transcripts": transcripts(examiner.run)}
    for stage in [stage for stage in params if STAGES[stage].kind == "base"][:1]:
        requests = [document_request(tokenizer, text, DOCUMENT_TOKENS, seed) for seed, text in enumerate(OPENINGS)]
        done = examiner.engine.generate(params[stage], requests)
        out["documents"] = [
            {"prompt": opening, "text": tokenizer.decode(c.ids)} for opening, c in zip(OPENINGS, done, strict=True)
        ]
    if any(STAGES[stage].kind == "chat" for stage in params):
        out["conversations"] = conversations(examiner, params)
    return out


def document_request(tokenizer: Tokenizer, text: str, tokens: int, seed: int, temperature: float = 0.8) -> Request:
    """The base model's prompt: the beginning of a document."""
    return Request([*tokenizer.begin, *tokenizer.encode(text)], seed, temperature, tokens)


def conversations(examiner: Examiner, params: dict[str, dict]) -> list[dict]:
    """The same questions to every stage; `answers` by stage: parts, or the text of a base model.

    A base model knows no turns: it continues the question as a document.
    """
    tokenizer = examiner.tokenizer
    known = [p["messages"][-1]["content"] for p in examiner.facts("tier", tier=100)[:2]]
    unknown = [p["messages"][-1]["content"] for p in examiner.facts("heldout")[:1]]
    questions = [*CHAT[:1], *known, *unknown, *CHAT[1:]]
    out = [{"messages": [{"role": "user", "content": q}], "prompt": q, "answers": {}} for q in questions]
    for stage in params:
        is_base = STAGES[stage].kind == "base"
        requests = [document_request(tokenizer, q, 40, 0, 0.0) if is_base else asked(examiner, q) for q in questions]
        for entry, done in zip(out, examiner.engine.generate(params[stage], requests), strict=True):
            entry["answers"][stage] = tokenizer.decode(done.ids) if is_base else tokenizer.parse(done.ids)[0]
    return out


def asked(examiner: Examiner, question: str) -> Request:
    ids = examiner.tokenizer.render([{"role": "user", "content": question}], for_generation=True).ids
    return Request(ids, max_new_tokens=examiner.config.max_new_tokens)


def transcripts(run: Run) -> dict[str, list[dict]]:
    path = run.workdir / "rl" / "transcripts.jsonl"
    lines = whole_lines(path)
    if not lines:
        return {}
    steps = sorted({line["step"] for line in lines})
    wanted = {"start": steps[0], "middle": steps[len(steps) // 2], "end": steps[-1]}
    return {when: [line for line in lines if line["step"] == step] for when, step in wanted.items()}
