"""Turns as ids: prompts that begin with what was read, old turns that go, characters that come whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.config import UserError
from llm_jax.sampling.turns import Conversation, Pieces, cited, fitted, said, tool_calls

LENGTH = 64
TEXTS = ("The cat", "日本é", "🙂", "Grüße ", "\ufffd", "x\n\n")


def test_the_next_prompt_begins_with_what_was_read_and_written(tokenizer):
    conversation = Conversation(tokenizer, 200, "Be brief.")
    first, dropped = conversation.ask("The cat")
    answer = [*tokenizer.encode("sat"), 300, 301, tokenizer.end]  # not how `encode` would cut it
    conversation.answered(answer)
    second, _ = conversation.ask("Where?")
    assert dropped == 0 and second[: len(first) + len(answer)] == [*first, *answer]
    whole = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The cat"}]
    assert first == tokenizer.render(whole, for_generation=True).ids
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant", "user"]


def test_an_answer_that_was_cut_short_is_ended(tokenizer):
    conversation = Conversation(tokenizer, 200)
    conversation.ask("The cat")
    conversation.answered(tokenizer.encode("sat on"))
    ids, _ = conversation.ask("And?")
    assert ids.count(tokenizer.end) == 3  # of the question, of its answer, of the next question


def test_whole_old_turns_go_and_the_system_prompt_stays(tokenizer):
    conversation = Conversation(tokenizer, LENGTH, "Be brief.")
    start = tokenizer.render([{"role": "system", "content": "Be brief."}]).ids
    total = 0
    for i in range(8):
        ids, dropped = conversation.ask(f"cat {i}")
        total += dropped
        assert len(ids) <= LENGTH - LENGTH // 2 and ids[: len(start)] == start
        assert ids.count(tokenizer.turn["user"]) == i + 1 - total  # whole turns
        conversation.answered([*tokenizer.encode("the mat"), tokenizer.end])
    assert total > 3
    with pytest.raises(UserError, match="tokens long"):
        conversation.ask("mat " * 60)


def messages(turns: int) -> list[dict]:
    out = [{"role": "system", "content": "Be brief."}]
    for i in range(turns):
        out += [{"role": "user", "content": f"cat {i}"}, {"role": "assistant", "content": "the mat"}]
    return out[:-1]


def test_messages_are_fitted_as_conversations_are(tokenizer):
    ids, dropped = fitted(tokenizer, messages(2), LENGTH)
    assert dropped == 0 and ids == tokenizer.render(messages(2), for_generation=True).ids
    ids, dropped = fitted(tokenizer, messages(9), LENGTH)
    kept = [messages(9)[0], *messages(9)[1 + 2 * dropped :]]
    assert dropped > 3 and ids == tokenizer.render(kept, for_generation=True).ids and len(ids) <= LENGTH // 2
    long = {"role": "user", "content": "mat " * 60}
    with pytest.raises(UserError, match=r"the last turn is \d+ tokens long; this model reads"):
        fitted(tokenizer, [long], LENGTH)
    with pytest.raises(UserError, match=r"the last turn is \d+ tokens long and the system prompt \d+;"):
        fitted(tokenizer, [{**long, "role": "system"}, {"role": "user", "content": "mat"}], LENGTH)


def test_only_what_stands_before_its_output_is_a_call():
    part = lambda kind, text: {"type": kind, "text": text}  # noqa: E731
    parts = [part("think", "a"), part("output", "error"), part("python", "1"), part("output", "2"), part("python", "3")]
    assert tool_calls(parts) == [{"tool": "python", "input": "1", "output": "2"}]
    assert said([part("text", " a "), part("python", "1"), part("answer", "b")], "text", "answer") == "a\nb"


@pytest.mark.parametrize("kind", ["document", "output"])  # some models have one marker for both
def test_an_answer_cites_the_sources_that_it_names(kind):
    part = lambda kind, text: {"type": kind, "text": text}  # noqa: E731
    found = "Anna was born in Oslo. [Anna Velm]\nAnother [one]. [Anna]\nnothing: at all"
    parts = [part("search", "Anna Velm born"), part(kind, found), part("python", "1"), part("output", "Oslo: 1")]
    cited_by = lambda answer: [passage["source"] for passage in cited([*parts, part("answer", answer)])]  # noqa: E731
    assert cited_by(" Oslo [Anna Velm]") == ["Anna Velm", "Anna"]
    assert cited_by("Annabel Velm was born in Oslo.") == [] == cited_by("")
    assert cited([*parts, part("text", "(Anna Velm)")])[0] == {"source": "Anna Velm", "text": "Anna was born in Oslo."}
    assert cited([part("search", "x"), part(kind, "nothing found"), part("text", "nothing found")]) == []


@given(data=st.data())
def test_pieces_add_up_to_what_parse_says(tokenizer, data):
    """Whatever the ids, and however they are cut: also broken bytes, and spans that nobody opened."""
    marks = [i for ids in tokenizer.markers for i in ids]
    some = st.one_of(
        st.sampled_from(TEXTS).map(tokenizer.encode),
        st.sampled_from(marks).map(lambda i: [i]),
        st.integers(0, tokenizer.vocab_size - 1).map(lambda i: [i]),
    )
    ids = [i for run in data.draw(st.lists(some, max_size=20)) for i in run]
    pieces, given_out, at = Pieces(tokenizer), [], 0
    while at < len(ids):
        n = data.draw(st.integers(1, 5))
        given_out += pieces.take(ids[at : at + n])
        at += n
    given_out += pieces.rest()
    expected, _ = tokenizer.parse(ids)
    assert pieces.parts == expected
    joined = ["".join(text for part, _, text in given_out if part == n) for n in range(len(expected))]
    assert joined == [part["text"] for part in expected]


def test_no_half_character_is_given(tokenizer):
    ids = tokenizer.encode("🙂é日")
    assert len(ids) > 5
    pieces = Pieces(tokenizer)
    texts = [text for i in ids for _, _, text in pieces.take([i])]
    assert "".join(texts) == "🙂é日" and not any("\ufffd" in text for text in texts)
