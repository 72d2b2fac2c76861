"""The tokenizer: lossless, never a special token from text, exact loss masks, tolerant parsing."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.config import UserError
from llm_jax.tokenizer import SPANS, Tokenizer
from llm_jax.tokenizer.sentencepiece import MARK, SPECIALS, train_tokenizer

FORCED = ("output", "document")  # what tools write

AWKWARD = (
    *SPECIALS,
    MARK,
    " " + MARK,
    "\0",
    "  ",
    "\r\n",
    "\u2028",
    "\ufeff",
    "<0x41>",
    "<unk>",
    "<s>",
    "é",
    "\U0001f600",
)
plain_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
texts = st.lists(plain_text | st.sampled_from(AWKWARD), max_size=6).map("".join)
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(("text", *SPANS)), "text": texts}), max_size=5).map(
    lambda chosen: [part for part in chosen if part["type"] != "text" or part["text"]]
)
contents = texts | parts
messages = st.fixed_dictionaries({"role": st.sampled_from(("system", "user", "assistant")), "content": contents})
conversations = st.lists(messages, max_size=5)


def merged(content) -> list[dict]:
    """A message's parts with neighbouring texts joined, as reading its ids back must give them."""
    out: list[dict] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part["type"] == "text" and not part["text"]:
            continue
        if part["type"] == "text" and out and out[-1]["type"] == "text":
            out[-1] = {"type": "text", "text": out[-1]["text"] + part["text"]}
        else:
            out.append(dict(part))
    return out


@given(text=texts)
def test_encode_is_lossless_and_yields_no_special(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_names)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@given(batch=st.lists(texts, max_size=4))
def test_a_batch_encodes_as_each_text_does(tokenizer, batch):
    made = tokenizer.encode_batch(batch, threads=2)
    assert [ids.tolist() for ids in made] == [tokenizer.encode(text) for text in batch]


@pytest.mark.parametrize("alphabet", ["the cat \u2581", "日本 é\n"])
def test_a_long_text_in_parts_is_the_same_text(tokenizer, alphabet, monkeypatch):
    monkeypatch.setattr("llm_jax.tokenizer.sentencepiece.PART_CHARACTERS", 5)
    rng = random.Random(0)
    words = ["the", " the", "  ", "cat", *alphabet]
    text = "".join(rng.choice(words) for _ in range(3000)) + "a" * 100
    assert len(tokenizer._parts(text)) > 100
    assert tokenizer.encode_batch([text], threads=1)[0].tolist() == tokenizer.encode(text)


def test_a_file_that_is_no_tokenizer_is_named(tokenizer, tmp_path):
    (tmp_path / "a.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"a\.model is no SentencePiece model"):
        Tokenizer.load(tmp_path / "a.model")
    (tmp_path / "b.model").write_bytes(tokenizer.model_bytes.replace(b"<|spare_3|>", b"<|spare_x|>"))
    with pytest.raises(UserError, match=r"b\.model has not our special tokens"):
        Tokenizer.load(tmp_path / "b.model")


def test_lone_surrogates_become_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffd\ufffd\ufffdb"


def test_every_special_is_one_id_of_its_own(tokenizer):
    assert sorted(tokenizer.special_names.values()) == sorted(SPECIALS)
    assert len(tokenizer.special_names) == len(SPECIALS) and tokenizer.pad == 0
    for i, name in tokenizer.special_names.items():
        assert tokenizer.show([i]) == name and tokenizer.decode([i]) == ""


@given(text=texts)
def test_show_spells_out_specials_around_plain_text(tokenizer, text):
    ids = [tokenizer.bos, *tokenizer.encode(text), tokenizer.end]
    assert tokenizer.show(ids) == f"<|bos|>{text}<|end|>"


def expected_mask(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Read off the ids alone: 1 in an assistant's turn after its opening, up to and with <|end|>, but not in the
    spans that tools write."""
    turns = {i: name for name, i in tokenizer.turn.items()}
    forced = {tokenizer.open[name][0] for name in FORCED}, {tokenizer.close[name][0] for name in FORCED}
    role, tool, out = "", False, []
    for i in ids:
        if i in turns:
            role = turns[i]
            out.append(0)
            continue
        tool = tool or i in forced[0]
        out.append(int(role == "assistant" and not tool))
        tool = tool and i not in forced[1]
        role = "" if i == tokenizer.end else role
    return out


@given(conversation=conversations)
def test_loss_mask_is_on_what_the_assistant_writes(tokenizer, conversation):
    rendered = tokenizer.render(conversation)
    assert rendered.loss_mask == expected_mask(tokenizer, rendered.ids)
    spoken = sum(message["role"] == "assistant" for message in conversation)
    ends = [m for i, m in zip(rendered.ids, rendered.loss_mask, strict=True) if i == tokenizer.end]
    assert sum(ends) == spoken and len(ends) == len(conversation)


@given(conversation=conversations, reply=contents)
def test_generation_prompt_is_a_prefix_and_the_reply_parses_back(tokenizer, conversation, reply):
    prompt = tokenizer.render(conversation, for_generation=True)
    whole = tokenizer.render([*conversation, {"role": "assistant", "content": reply}])
    n = len(prompt.ids)
    assert prompt.ids[-1] == tokenizer.turn["assistant"] and prompt.loss_mask[-1] == 0
    assert whole.ids[:n] == prompt.ids and whole.loss_mask[:n] == prompt.loss_mask
    assert tokenizer.parse(whole.ids[n:]) == (merged(reply), True)


@given(seed=st.integers(0, 2**32), length=st.integers(0, 60), specials=st.floats(0, 1))
def test_parse_takes_any_ids(tokenizer, seed, length, specials):
    rng, markers = random.Random(seed), list(tokenizer.special_names)
    ids = [
        rng.choice(markers) if rng.random() < specials else rng.randrange(tokenizer.vocab_size) for _ in range(length)
    ]
    parsed, ended = tokenizer.parse(ids)
    assert all(part["type"] in ("text", *SPANS) and isinstance(part["text"], str) for part in parsed)
    assert tokenizer.end in ids or not ended


def test_an_open_span_did_not_end_its_turn(tokenizer):
    ids = [tokenizer.open["answer"][0], *tokenizer.encode("7"), tokenizer.end]
    assert tokenizer.parse(ids) == ([{"type": "answer", "text": "7"}], False)


def test_nothing_is_learned_of_a_message_of_weight_0(tokenizer):
    """A call, its output and what follows are one turn of several messages, each with a weight of its own."""
    call = [{"type": "python", "text": "1"}, {"type": "output", "text": "2"}]
    for weights in itertools.product((0, 1, None), repeat=3):
        said = [{"role": "assistant", "content": content} for content in ("3", call, "4")]
        given = [m if w is None else {**m, "weight": w} for m, w in zip(said, weights, strict=True)]
        ask, tool = {"role": "user", "content": "?"}, {"role": "tool", "content": "5"}
        rendered = tokenizer.render([ask, given[0], ask, given[1], tool, given[2]])
        plain = tokenizer.render([ask, said[0], ask, said[1], tool, said[2]])
        assert rendered.ids == plain.ids
        ends = [i for i, id_ in enumerate(plain.ids) if id_ == tokenizer.end]
        five = plain.ids.index(tokenizer.close["output"][0], plain.ids.index(tokenizer.close["output"][0]) + 1)
        owner = [0 if i <= ends[1] else 1 if i <= five else 2 for i in range(len(plain.ids))]
        learned = [w != 0 for w in weights]
        assert rendered.loss_mask == [m * learned[n] for m, n in zip(plain.loss_mask, owner, strict=True)]


def test_unknown_role_is_a_users_mistake(tokenizer):
    with pytest.raises(UserError, match="'robot'"):
        tokenizer.render([{"role": "robot", "content": "hi"}])


def test_a_tool_message_is_an_output_span_without_loss(tokenizer):
    rendered = tokenizer.render([{"role": "user", "content": "?"}, {"role": "tool", "content": "19"}])
    at = rendered.ids.index(tokenizer.open["output"][0])
    assert tokenizer.decode(rendered.ids[at : rendered.ids.index(tokenizer.close["output"][0])]) == "19"
    assert not any(rendered.loss_mask)


def test_too_large_a_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"vocab_size 5000 .* smaller"):
        train_tokenizer(["hello world"], 5000)


def test_too_small_a_vocabulary_is_told_to_grow():
    with pytest.raises(UserError, match="larger"):
        train_tokenizer(["hello world"], 100)


def test_text_with_a_character_that_sentencepiece_reserves_is_trained_on():
    """It skips a training text that has a U+2585 anywhere."""
    words = "marmalade trombone windmill "
    bars = "".join(map(chr, range(0x2580, 0x2590)))
    trained = train_tokenizer([f"{words * 20}{bars}{words * 20}"], 340)
    assert len(trained.encode(words)) < 10  # single characters would be 28
    assert trained.decode(trained.encode(f"{bars}a{bars}")) == f"{bars}a{bars}"
    assert train_tokenizer([f"{words}\u2585 " * 40], 340).vocab_size == 340


@pytest.mark.parametrize("corpus", [[], [""], ["", ""]])
def test_an_empty_corpus_is_refused(corpus):
    with pytest.raises(UserError, match="empty"):
        train_tokenizer(corpus, 320)


@pytest.mark.parametrize("corpus", [[" "], ["\n\n"], ["\0"], [MARK]])
def test_a_corpus_of_nothing_much_is_refused(corpus):
    with pytest.raises(UserError, match="text"):
        train_tokenizer(corpus, 320)


def test_one_very_long_line_trains():
    rng = random.Random(0)
    line = " ".join(rng.choice(("marmalade", "trombone", "windmill", "lantern")) for _ in range(30_000))
    trained = train_tokenizer([line], 340)
    assert len(trained.encode("marmalade trombone windmill")) < 12  # single characters would be 27


def test_training_and_files_are_deterministic(tokenizer, tmp_path):
    text = ["some words, and then some more words; some of them twice\n" * 20]
    assert train_tokenizer(text, 320).sha256 == train_tokenizer(text, 320).sha256
    tokenizer.save(tmp_path / "t.model")
    again = Tokenizer.load(tmp_path / "t.model")
    assert again.sha256 == tokenizer.sha256 and again.encode("a cat") == tokenizer.encode("a cat")
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "missing.model")
