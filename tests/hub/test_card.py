"""Model cards: what a run knows of itself, and nothing that it does not."""

import json

import pytest

from llm_jax.hub import card

REPORT = {
    "sft": {
        "recall": {"value": 0.8333, "n": 96, "ci95": [0.7451, 0.9]},
        "asked": {"value": 3.0},
        "odd": {"value": float("nan"), "n": 3},
    },
    "map": {"sums": {"value": 0.5, "n": 10}},
    "pretrain": {"val_bpb": {"value": 1.234}},
}
COUNTS = {
    "pretrain": {"documents": 12, "tokens": 3456},
    "pretrain/lesson": {"documents": 12, "tokens": 3456},
    "sft": {"documents": 7, "tokens": 89},
}


@pytest.fixture
def run(context):
    for stage in ("pretrain", "sft"):
        (context.workdir / stage / "checkpoints" / "1").mkdir(parents=True)
    return context


def test_a_card_has_the_figures_with_their_intervals_and_what_was_trained_on(run):
    bare = card.model_card(run, "pretrain", card.OURS)
    assert "## Figures" not in bare and "license" not in bare and "base_model" not in bare
    assert bare.count("- `") == 1 and "- `pretrain`." in bare
    (run.workdir / "report").mkdir()
    (run.workdir / "report" / "report.json").write_text(json.dumps(REPORT))
    (run.workdir / "data" / "prepared.json").write_text(json.dumps({"counts": COUNTS}))
    told = card.model_card(run, "sft", card.OURS)
    assert "| sft.recall | 83.3\u00a0% | 96 | 74.5\u00a0% to 90.0\u00a0% |" in told
    assert told.count("| sft.") == 1 and "map" not in told
    assert "- `pretrain`: 12 documents or conversations, 3,456 tokens (lesson)." in told
    assert "- `sft`: 7 documents or conversations, 89 tokens." in told


def test_a_card_of_an_imported_model_names_it_and_its_licence(run, tmp_path):
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: mine\n")
    licence = card.licence_in(tmp_path)
    source = card.Source({"model_type": "qwen3"}, {"top_k": 20, "max_length": 9}, "some/model", licence)
    card.note(run.workdir / "data", source)
    again = card.source_of(run.workdir)
    assert again == source and card.source_of(tmp_path) == card.OURS and card.licence_in(tmp_path / "data") == ""
    head = card.model_card(run, "sft", again).split("---")[1]
    assert "license: apache-2.0" in head and 'base_model: "some/model"' in head
    end = run.tokenizer.end
    ids = {"bos_token_id": run.tokenizer.bos, "eos_token_id": [end], "pad_token_id": run.tokenizer.pad}
    assert card.generation_config(run.tokenizer, again) == ids | {"top_k": 20}
    assert card.generation_config(run.tokenizer, card.OURS) == ids | card.SAMPLING
