"""Files of one's own: texts and questions in the shapes of the field's sets."""

import json
import math

import jax
import pytest

from llm_jax.config import UserError
from llm_jax.evals import likelihood, questions, texts
from llm_jax.sampling.engine import Engine
from llm_jax.tasks import shapes

HELLASWAG = {
    "activity_label": "Cats",
    "ctx": "A cat [step] sits.",
    "endings": ["It sleeps.", "It is 12."],
    "label": "1",
}
ARC = {"question": "Who?", "choices": {"text": ["cat", "dog"], "label": ["A", "B"]}, "answerKey": "B"}
MMLU = {"question": "Who?", "choices": ["cat", "dog", "mat"], "answer": 2, "subject": "cats"}
TRUTHFUL = {
    "question": "Who?",
    "mc1_targets": {"choices": ["cat", "dog"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["cat", "the cat", "dog"], "labels": [1, 1, 0]},
}
GSM8K = {"question": "How many?", "answer": "Some <<1+1=2>> words.\n#### 1,200"}
SQUAD = {"context": "The cat sat.", "question": "Who sat?", "answers": {"text": ["The cat"], "answer_start": [0]}}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    "record, wanted",
    [
        (HELLASWAG, [("Cats: A cat sits.", (" It sleeps.", " It is 12."), (1,), ())]),
        (ARC, [("Question: Who?\nAnswer:", (" cat", " dog"), (1,), ())]),
        (MMLU, [("Who?\nA. cat\nB. dog\nC. mat\nAnswer:", (" A", " B", " C"), (2,), ())]),
        (MMLU | {"answer": "B"}, [("Who?\nA. cat\nB. dog\nC. mat\nAnswer:", (" A", " B", " C"), (1,), ())]),
        (
            TRUTHFUL,
            [("Q: Who?\nA:", (" cat", " dog"), (0,), ()), ("Q: Who?\nA:", (" cat", " the cat", " dog"), (0, 1), ())],
        ),
        (GSM8K, [("Question: How many?\nAnswer:", (), (), ("1200",))]),
        (SQUAD, [("The cat sat.\n\nQuestion: Who sat?\nAnswer:", (), (), ("The cat",))]),
    ],
)
def test_each_shape_is_known_by_its_fields(tmp_path, record, wanted):
    (read,) = shapes.read(lines(tmp_path / "q.jsonl", record))
    assert [(q.prompt, q.choices, q.right, q.answers) for q in read] == wanted


@pytest.mark.parametrize(
    "good, bad, words",
    [
        (HELLASWAG, {"label": ""}, "`label` is ''; it must name one of the 2 choices"),
        (HELLASWAG, {"endings": ["one"]}, "`endings` is"),
        (ARC, {"answerKey": "E"}, "`answerKey` is 'E'"),
        (ARC, {"choices": {"text": ["cat", "dog"], "label": ["A"]}}, r"`choices\.label` is"),
        (MMLU, {"answer": 3}, "`answer` is 3"),
        (MMLU, {"question": None}, "`question` is missing"),
        (TRUTHFUL, {"mc2_targets": {"choices": ["a", "b"], "labels": [0, 0]}}, r"`mc2_targets\.labels` is"),
        (GSM8K, {"answer": "many"}, "`answer` ends with 'many'"),
        (SQUAD, {"answers": {"text": []}}, r"`answers\.text` is \[\]"),
    ],
)
def test_a_line_that_is_not_of_the_shape_is_named(tmp_path, good, bad, words):
    path = lines(tmp_path / "q.jsonl", good, good | bad)
    with pytest.raises(UserError, match=rf"q\.jsonl line 2: {words}"):
        shapes.read(path)


def test_a_file_of_no_shape_lists_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"line 1: its fields \(text\) .*gsm8k: question, answer"):
        shapes.read(lines(tmp_path / "q.jsonl", {"text": "a"}))
    with pytest.raises(UserError, match="no file matches"):
        questions.files_of(f"{tmp_path}/*.json")


def test_grades():
    choice = shapes.Question("", "choice", (" a", " a long one"), (1,))
    assert questions.of_choice(choice, [-1.0, -2.0]) == {"accuracy": False, "accuracy_per_byte": True}
    mc2 = shapes.Question("", "mc2", (" a", " b", " c"), (0, 2))
    assert questions.of_mc2(mc2, [math.log(0.2), math.log(0.1), math.log(0.1)])["mc2"] == pytest.approx(0.75)
    number = shapes.Question("", "number", answers=("1200",))
    said = {"It is 7, no: 1,200.": True, "1200.0 cats": True, "1200, or 3": False, "none": False}
    assert {text: questions.of_number(number, text)["accuracy"] for text in said} == said
    words = shapes.Question("", "words", answers=("The cat", "a big dog"))
    assert questions.of_words(words, " the CAT!") == {"exact": True, "f1": 1.0}
    assert questions.of_words(words, "dog")["f1"] == pytest.approx(2 / 3)


def test_files_are_asked(tmp_path, context, params, tokenizer):
    """Choices by their likelihood, and by that a byte; a written answer as a document, and as a turn."""
    engine = Engine(context.model, tokenizer, context.mesh, slots=4, length=64)
    path = lines(tmp_path / "arc.jsonl", *(ARC | {"question": f"{n} cats?"} for n in range(3)))
    got = questions.measure_file(engine, params, path)
    right = 0
    for (question,) in shapes.read(path):
        pairs = [likelihood.split(tokenizer, question.prompt, choice) for choice in question.choices]
        first, second = (p for p, _ in likelihood.of_continuations(engine, params, pairs))
        right += second > first
    assert got["accuracy"]["value"] == pytest.approx(right / 3, abs=1e-4) and got["accuracy"]["n"] == 3
    lines(tmp_path / "gsm.jsonl", GSM8K)
    for talks in (False, True):
        all_of_them = questions.measure_files(engine, params, f"{tmp_path}/*.jsonl", talks)
        assert list(all_of_them) == ["arc", "gsm"] and all_of_them["gsm"]["accuracy"]["n"] == 1
    engine.close()


def test_bits_per_byte_of_texts(tmp_path, context, params, tokenizer):
    (tmp_path / "a.txt").write_bytes("The cat sat.\r\nGrüße".encode())
    lines(tmp_path / "b.jsonl", {"text": "How many cats are there?"}, {"text": ""})
    with jax.set_mesh(context.mesh):
        got = texts.bits_per_byte_of(context, params, f"{tmp_path}/*")["bpb"]
        known = ["The cat sat.\r\nGrüße", "How many cats are there?"]
        nats = likelihood.of_documents(context, params, [[tokenizer.bos, *tokenizer.encode(text)] for text in known])
    size = sum(len(text.encode()) for text in known)
    assert (got["n"], got["bytes"]) == (2, size)
    assert got["value"] == pytest.approx(-sum(nats) / math.log(2) / size, abs=1e-4)
    assert got["ci95"][0] <= got["value"] <= got["ci95"][1]
    (tmp_path / "c.txt").write_bytes(b"\xff")
    for pattern, words in (
        (f"{tmp_path}/c*", "no UTF-8"),
        (f"{tmp_path}/d*", "no text"),
        (lines(tmp_path / "e.jsonl", {"txt": ""}), "line 1"),
    ):
        with pytest.raises(UserError, match=words):
            texts.read(str(pattern))
