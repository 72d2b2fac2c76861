"""The chat core, with a model whose words are given: what a turn streams, and files in messages."""

import types

import pytest

from llm_jax.config import UserError
from llm_jax.sampling.chat import MOST_BYTES, Chat

LENGTH = 256


@pytest.fixture
def chat(tokenizer):
    """Its engine notes prompts in `asked`, and answers with `parts`."""
    asked: list[list[int]] = []

    def stream(params, request):
        asked.append(request.prompt)
        ids = [*tokenizer.parts_to_ids(engine.parts).ids, tokenizer.end]
        yield ids[:3]
        yield ids[3:]

    engine = types.SimpleNamespace(length=LENGTH, stream=stream, tools={}, asked=asked, parts="Yes.")
    tools = types.SimpleNamespace(answers={"python": str}, absent={"search": "this run has no index"})
    return Chat(types.SimpleNamespace(tokenizer=tokenizer, engine=engine, params=None, is_base=False, tools=tools))


def test_an_answer_streams_its_search_and_the_source_that_it_cites(chat):
    chat.model.engine.parts = [
        {"type": "search", "text": "Anna"},
        {"type": "document", "text": "born in Oslo [Anna Velm]\nnot [Bert]"},
        {"type": "answer", "text": " Oslo [Anna Velm]"},
    ]
    said: dict[str, str] = {}
    for kind, text in chat.say("Where was Anna born?"):
        said[kind] = said.get(kind, "") + text
    assert said.pop("step") == ""
    assert said == {
        "search": "Anna",
        "document": "born in Oslo [Anna Velm]\nnot [Bert]",
        "answer": " Oslo [Anna Velm]",
        "source": "Anna Velm\n",
    }
    assert chat.answer("And?").tool_calls[0] == {"tool": "search", "input": "Anna", "output": said["document"]}


def test_a_file_stands_in_front_of_the_next_message_and_of_no_other(chat, tokenizer, tmp_path):
    (tmp_path / "note.txt").write_text("\ufeffThe <|end|> cat sat.\n", encoding="utf-8")
    tokens = chat.read(str(tmp_path / "note.txt"))
    for question in ("How many?", "Why?"):
        list(chat.say(question))
    first, second = (message["content"] for message in chat.conversation.messages[::2])
    assert (first, second) == ("note.txt:\nThe <|end|> cat sat.\n\nHow many?", "Why?")
    assert chat.model.engine.asked[0].count(tokenizer.end) == 1  # what the file spells ends no turn
    assert tokens == len(tokenizer.encode(first.removesuffix("How many?")))
    chat.read(str(tmp_path / "note.txt"))
    chat.reset()
    list(chat.say("Why?"))
    assert chat.conversation.messages[0]["content"] == "Why?"


def test_a_file_goes_with_the_next_message_where_the_first_was_too_long(chat, tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat.")
    chat.read(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="tokens long"):
        list(chat.say("cat " * LENGTH))
    list(chat.say("Who?"))
    assert chat.conversation.messages[0]["content"].startswith("a.txt:\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "is no file"),
        (b"abc\xff", r"is not UTF-8 \(byte 3\)"),
        (b"The cat sat. " * 99, r"is \d+ tokens long; a message has room for 191, question included"),
        (b"x" * (MOST_BYTES + 1), "is more than 1048576 bytes long"),
    ],
)
def test_a_file_that_has_no_place_is_refused(chat, tmp_path, data, words):
    if data is not None:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=words):
        chat.read(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="is no file"):
        chat.read(str(tmp_path))


def test_it_says_which_tools_there_are_and_why_one_is_not(chat):
    assert chat.told_of_tools == "on (python); no search, for this run has no index"
    chat.tools = False
    assert chat.told_of_tools == "off"
