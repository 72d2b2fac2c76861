"""Training a tokenizer by its command, and the page on how text is cut."""

import html
import json
import re

from data_pipelines.tokenizer import marked, sizes
from llm_jax.tokenizer import Tokenizer
from tests.commands import run


def test_the_command_reports_every_source_on_a_page(tmp_path):
    lines = [{"text": f"The cat number {i} sat <b> on the mat, and it slept.", "source": "prose"} for i in range(200)]
    lines += [{"text": f"def f_{i}(x):\n    return x + {i}\n", "source": "code"} for i in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = [f"--input={tmp_path}/a.jsonl", "--vocab_size=400", f"--output={tmp_path}/out/t.model"]
    done = run("data_pipelines.tokenizer", *flags)
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(tmp_path / "out/t.model")
    by_name = {source["name"]: source for source in sizes(tokenizer, lines)}
    assert by_name["prose"]["tokens"] == sum(len(tokenizer.encode(d["text"])) for d in lines[:200])
    page = (tmp_path / "out/t.model.html").read_text()
    for name, source in by_name.items():
        assert f"<h2>{name}</h2>" in page
        assert f"{source['bytes'] / source['tokens']:.2f}" in page and f"  {name}: " in done.stdout
    assert "<b>" not in page.split("<h2>")[1]  # text is text


def test_marked_text_is_the_text(tokenizer):
    text = "Plain words & <tags>, 3.14\nand a second line"
    shown = re.sub(r"<[^>]+>", "", marked(tokenizer, tokenizer.encode(text)))
    assert html.unescape(shown) == text
