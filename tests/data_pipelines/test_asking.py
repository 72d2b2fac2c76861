"""Questions about documents: asked from what sentences say of names and years, and nothing from what says nothing."""

import pytest

from data_pipelines import asking
from data_pipelines.documents import write_jsonl
from llm_jax.config import UserError
from llm_jax.tasks import knowledge


@pytest.mark.parametrize(
    "text, question, answer",
    [
        ("Jane Austen was born in 1775.", "In which year was Jane Austen born?", "1775"),
        ("Jane Austen was born in Steventon, Hampshire.", "Where was Jane Austen born?", "Steventon"),
        ("Here Jane Austen (her brother said) died in 1817 .", "In which year did Here Jane Austen die?", "1817"),
        ("The Tower Bridge was opened in 1894.", "In which year was The Tower Bridge opened?", "1894"),
        ("Northanger Abbey was written by Jane Austen.", "By whom was Northanger Abbey written?", "Jane Austen"),
        ("Lake Como lies in Northern Italy.", "Where is Lake Como?", "Northern Italy"),
        ("Fanny Price is the heroine of the book.", "Who or what is Fanny Price?", "the heroine"),
    ],
)
def test_a_sentence_becomes_a_question(text, question, answer):
    assert [pair[:2] for pair in asking.questions(f"Chapter one\n\n{text} It rained.", 5)] == [(question, answer)]


@pytest.mark.parametrize(
    "text",
    ["", "He was born in 1775.", "the bridge was opened in 1894.", "Jane Austen smiled.", "It was Jane Austen in."],
)
def test_what_says_nothing_gives_nothing(text):
    assert not list(asking.questions(text, 5))


def test_a_document_gives_so_many_and_each_once():
    text = "Jane Austen was born in 1775. " * 3 + "Jane Austen died in 1817. Mary Shelley died in 1851."
    assert [q for q, *_ in asking.questions(text, 2)] == [
        "In which year was Jane Austen born?",
        "In which year did Jane Austen die?",
    ]


def test_what_is_written_is_what_the_stage_reads(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Jane Austen was born in 1775.")
    (tmp_path / "b.txt").write_text("It rained all day.")
    write_jsonl(tmp_path / "q.jsonl", asking.records(f"{tmp_path}/*.txt", 5))
    assert "no extractable facts in 1 documents, the first 'b.txt" in capsys.readouterr().out
    (fact,) = knowledge.read(tmp_path / "q.jsonl")
    assert (fact.item, fact.answers) == ("Jane Austen", ("1775",))


def test_documents_without_a_fact_are_refused(tmp_path):
    (tmp_path / "b.txt").write_text("It rained all day.")
    with pytest.raises(UserError, match="no extractable facts in"):
        list(asking.records(f"{tmp_path}/*.txt", 5))
