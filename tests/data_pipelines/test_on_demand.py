"""Families on demand change no byte of what stage `data` writes, and are asked of any run that names them."""

import json

import pytest

from data_pipelines import conversations as talk
from data_pipelines.lessons import lesson_documents
from data_pipelines.speedrun import word_lists
from llm_jax.config import UserError, default
from llm_jax.prompts import prompts_for
from llm_jax.tasks import records
from llm_jax.tasks.table import FAMILIES


def written() -> list[dict]:
    lists = word_lists(0)
    made = [*talk.conversations(0, 0.01, lists, []), *talk.prompts(0, "test", 0.01, lists, [])]
    return [*made, *lesson_documents(0, 0.002, lists)]


def test_families_on_demand_change_nothing_that_is_written(monkeypatch):
    with_them = written()
    for name in [name for name, family in FAMILIES.items() if family.on_demand]:
        monkeypatch.delitem(FAMILIES._rows, name)
    assert "countdown" not in FAMILIES and written() == with_them


def test_a_run_has_the_prompts_of_what_its_tasks_name(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "DRAWN", {"train": 3})
    (tmp_path / "data").mkdir()
    one = {"task": "arithmetic", "level": "2 numbers", "answer": "2"}
    (tmp_path / "data/prompts_train.jsonl").write_text(json.dumps(one) + "\n")
    (tmp_path / "gsm.jsonl").write_text(json.dumps({"question": "How many? 1", "answer": "#### 72"}) + "\n")
    config = default()
    assert prompts_for(config, tmp_path, "train") == [one]
    config.rl.tasks = {"arithmetic": 1.0, "second_try/4 numbers": 1.0, "gsm8k": 1.0}
    config.rl.prompts = f"{tmp_path}/gsm.jsonl"
    first, *drawn, last = prompts_for(config, tmp_path, "train")
    assert first == one and {p["task"] for p in drawn} == {"second_try"} and len(drawn) == 3 * 4
    assert (last["task"], last["level"], last["answer"]) == ("gsm8k", "gsm", "72")
    config.rl.prompts = f"{tmp_path}/*.json"
    with pytest.raises(UserError, match="no file matches"):
        prompts_for(config, tmp_path, "train")
