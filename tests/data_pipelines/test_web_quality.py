"""The learned quality score: tells what it was taught apart, as a step and as a command."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document

from data_pipelines.tiny_web import lexicon
from data_pipelines.tiny_web.grammar import paragraph
from data_pipelines.web import quality
from llm_jax.config import UserError
from tests.commands import DEADLINE

ROOT = Path(__file__).resolve().parents[2]


def examples(count: int, seed: int) -> list[dict]:
    """Prose is good; the same with words of trade mixed in is not."""
    rng, made = random.Random(seed), []
    for i in range(count):
        text = paragraph(rng, 5)
        if i % 2:
            words = text.split()
            for at in rng.sample(range(len(words)), 6):
                words[at] = rng.choice(["discount", "cheap", "buy", *lexicon.PRODUCTS])
            text = " ".join(words)
        made.append({"text": text, "label": float(i % 2 == 0)})
    return made


def test_a_model_tells_unseen_texts_apart_and_comes_back_from_its_file(tmp_path):
    taught, unseen = examples(300, 0), examples(100, 1)
    model = quality.train(*([e[key] for e in taught] for key in ("text", "label")))
    scores = np.array([model.score(e["text"]) for e in unseen])
    labels = np.array([e["label"] for e in unseen])
    assert np.mean((scores >= 0.5) == (labels >= 0.5)) >= 0.9
    model.save(tmp_path / "m.npz")
    again = quality.Model.load(tmp_path / "m.npz")
    np.testing.assert_allclose([again.score(e["text"]) for e in unseen], scores, atol=1e-5)
    step = quality.Quality(str(tmp_path / "m.npz"), least=0.5)
    doc = Document(text=unseen[0]["text"], id="x")
    assert (step.filter(doc) is True) == (scores[0] >= 0.5) and doc.metadata["quality"] == round(scores[0], 4)


def test_features_are_of_length_one_and_empty_text_has_none():
    _, values = quality.features("a b a b c")
    np.testing.assert_allclose(np.sum(values**2), 1.0)
    at, values = quality.features("")
    assert len(at) == len(values) == 0
    assert quality.train(["a", ""], [1.0, 0.0]).score("") < 1


def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)


def test_the_pipeline_scores_and_drops_by_a_trained_model(tmp_path):
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, examples(300, 2))))
    trained = run("data_pipelines.web.quality", f"--input={tmp_path}/labelled.jsonl", f"--output={tmp_path}/m.npz")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout.splitlines()[-1])["accuracy"] >= 0.8
    pages = [
        {"id": str(i), "text": "\n".join([e["text"]] + [paragraph(random.Random(i), 2)])}
        for i, e in enumerate(examples(40, 3))
    ]
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, pages)))
    done = run(
        "data_pipelines.web",
        f"--input={tmp_path}/pages.jsonl",
        f"--output={tmp_path}/out",
        f"--quality_model={tmp_path}/m.npz",
        "--least_quality=0.5",
    )
    assert done.returncode == 0, done.stderr
    (step,) = (s for s in json.loads((tmp_path / "out/funnel.json").read_text())["steps"] if s["name"] == "quality")
    assert 0 < step["reasons"]["low_quality"] < step["in"]["documents"]


@pytest.mark.parametrize(
    "line, message",
    [('{"text": 5, "label": 1}', "line 1: text"), ('{"text": "a", "label": 2}', "line 1: label"), ("{", "line 1")],
)
def test_bad_labels_are_named(line, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        quality.labelled(f"{tmp_path}/a.jsonl")
    (tmp_path / "a.npz").write_text("no model")
    with pytest.raises(UserError, match="is no quality model"):
        quality.Model.load(tmp_path / "a.npz")
