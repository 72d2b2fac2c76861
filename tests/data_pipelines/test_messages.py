"""What stands in and beside the messages of other people's records is read, or the record is refused by its field."""

import json

import pytest

from data_pipelines.chats import Invalid, convert, converted, messages_of
from llm_jax.config import UserError

USER = {"role": "user", "content": "What is 2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"instruction": "What is 2+2?", "output": "4"}
FUNCTION = {"name": "add", "parameters": {"type": "object"}}


def part(kind: str, text: str) -> dict:
    return {"type": kind, "text": text}


def said(record: dict) -> list[dict]:
    return converted(record)["messages"]


def answered(message: dict):
    """What becomes of a message of the assistant."""
    return said({"messages": [USER, {"role": "assistant", **message}]})[1]["content"]


def called(name: str, arguments, **more) -> str:
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}, **more}]
    (made,) = answered({"content": None, "tool_calls": calls})
    return made["text"] if made["type"] == "python" else made


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ANSWER], "system": "Be brief."},
        {"messages": [SYSTEM, USER, ANSWER], "system": "Be brief."},
        {"conversations": [{"from": "human", "value": "What is 2+2?"}, {"from": "gpt", "value": "4"}]}
        | {"system_prompt": "Be brief.", "system": ""},
        {**ASKED, "system": "Be brief.", "input": ""},
        {"system_prompt": "Be brief.", "question": "What is 2+2?", "response": "4", "answer": "four"},
        {"system_message": "Be brief.", "query": "What is 2+2?", "completion": "4"},
        {"system": "Be brief.", "prompt": [USER], "completion": [ANSWER]},
    ],
)
def test_the_system_message_beside_a_conversation_is_read(record):
    assert said(record) == [SYSTEM, USER, ANSWER]


def test_a_pair_has_its_system_message_and_its_question():
    wanted = {"prompt": [SYSTEM, USER], "chosen": "4", "rejected": "5"}
    beside = {"system": "Be brief.", "chosen": "4", "rejected": "5"}
    assert converted({**beside, "question": "What is 2+2?"}) == wanted
    assert converted({"system": "Be brief.", "prompt": "What is 2+2?", "chosen": [ANSWER], "rejected": "5"}) == wanted
    assert messages_of({**beside, "question": "What is 2+2?"}) == [SYSTEM, USER, ANSWER]


def test_what_was_said_before_is_read():
    wanted = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, USER, ANSWER]
    assert said({**ASKED, "history": [["Hi", "Hello."]]}) == wanted == said({**ASKED, "history": wanted[:2]})
    about = said({"instruction": "Sum up.", "context": "A text.", "response": "Text."})
    assert about[0]["content"] == "Sum up.\n\nA text."


@pytest.mark.parametrize("field, listed", [("functions", [FUNCTION]), ("tools", json.dumps([FUNCTION]))])
@pytest.mark.parametrize("record", [{"messages": [USER, ANSWER]}, ASKED])
def test_tools_are_listed_under_either_name(field, listed, record):
    (system, *rest) = said({**record, field: listed})
    assert rest == [USER, ANSWER] and system["content"].endswith("\n" + json.dumps(FUNCTION))


def test_what_a_table_fills_up_with_null_is_not_there():
    messages = [{**USER, "tool_calls": None, "weight": None}, {**ANSWER, "reasoning": None}]
    turns = [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": "4", "content": None}]
    for record in (
        {"messages": None, "conversations": turns, "system": None},
        {"messages": messages, "chosen": None, "rejected": None, "question": None, "answer": None},
        {**ASKED, "messages": None, "input": None, "history": None},
    ):
        assert said(record) == [USER, ANSWER]
    assert called("add", {"a": 1, "b": None}) == "add(a=1)"  # of a table
    assert called("add", '{"a": 1, "b": null}') == "add(a=1, b=None)"  # written so


@pytest.mark.parametrize(
    "record, field",
    [
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "images: says something that is not read"),
        ({"messages": [USER, ANSWER], "context": "A text."}, "context: says"),
        ({"messages": [USER, ANSWER], "reasoning": "2 and 2"}, "reasoning: says"),
        ({"messages": [USER, ANSWER], "history": [["a", "b"]]}, "history: says"),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "Be long."}, "system: is not what the system message says"),
        ({"messages": [USER, ANSWER], "system": ["Be brief."]}, "system: must be a string"),
        ({**ASKED, "options": ["3", "4"]}, "options: says"),
        ({**ASKED, "history": "Hi"}, "history: must be"),
        ({**ASKED, "reasoning": ["a"]}, "reasoning: must be a string"),
        ({"messages": [USER, ANSWER], "functions": "add"}, "functions: must be a list of objects"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages: must be a list of at least one"),
        ({"messages": [{**USER, "content": " \n"}, ANSWER]}, r"messages\[0\]\.content: is empty"),
    ],
)
def test_what_says_something_and_is_not_read_refuses_the_record(record, field):
    with pytest.raises(Invalid, match=field):
        converted(record)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_in_a_field_of_its_own_is_read(field):
    wanted = [part("think", "2 and 2"), part("text", "4")]
    assert answered({"content": "4", field: "2 and 2"}) == wanted
    assert answered({"content": "<think>2 and 2</think>4", field: "2 and 2", "thought": "2 and 2"}) == wanted
    assert said({**ASKED, field: "2 and 2"})[1]["content"] == wanted
    assert said({**ASKED, field: "off"}) == [USER, ANSWER]  # whether there was to be one
    calls = {"content": None, "tool_calls": [{"name": "f", "arguments": {}}]}
    assert answered({**calls, field: "2 and 2"}) == [part("think", "2 and 2"), part("python", "f()")]
    for content in ("", None):
        with pytest.raises(Invalid, match=r"messages\[1\]\.content: is empty, and a thought alone"):
            answered({"content": content, field: "2 and 2"})
    with pytest.raises(Invalid, match="another thought"):
        answered({"content": "<think>two</think>4", field: "2 and 2"})
    with pytest.raises(Invalid, match=rf"messages\[0\]\.{field}: a message of the user has none"):
        converted({"messages": [{**USER, field: "hm"}, ANSWER]})


@pytest.mark.parametrize(
    "content",
    [
        "<think>\n2 and 2\n</think>\n\n4",
        "<thinking>2 and 2</thinking>4",
        "<thought>2 and 2</thought> 4",
        "2 and 2\n</think>\n\n4",
        "\n2 and 2</thinking>4",
        [part("text", "<think>2 and 2</think>4")],
        [{"type": "thinking", "thinking": "2 and 2"}, part("text", "4")],
    ],
)
def test_a_thought_between_tags_is_read(content):
    assert answered({"content": content}) == [part("think", "2 and 2"), part("text", "4")]


def test_tags_that_are_no_thought():
    assert answered({"content": "<think>\n\n</think>\n\n4"}) == "4"
    assert answered({"content": "<think>2 and 2</think>\n<answer>4</answer>"}) == [
        part("think", "2 and 2"),
        part("answer", " 4"),
    ]
    for text in ("It stands between <think> and </think>.", "It ends with `</think>`.", "<b>4</b>"):
        assert answered({"content": text}) == text
    with pytest.raises(Invalid, match="<think> has no end"):
        answered({"content": "<think>2 and"})


@pytest.mark.parametrize("unlearned", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}])
def test_a_message_that_is_not_to_be_learned_says_so(unlearned, tokenizer):
    wrong = {"role": "assistant", "content": "five", **unlearned}
    record = {"messages": [{**USER, "weight": 0}, wrong, USER, {**ANSWER, "weight": 1, "train": None}]}
    messages = said(record)
    assert messages == [USER, {"role": "assistant", "content": "five", "weight": 0}, USER, ANSWER]
    assert said({"messages": messages}) == messages  # what this command writes is read again
    rendered = tokenizer.render(messages)
    learned = [i for i, m in zip(rendered.ids, rendered.loss_mask, strict=True) if m]
    assert tokenizer.decode(learned) == "4" and learned[-1] == tokenizer.end


@pytest.mark.parametrize(
    "messages, field",
    [
        ([USER, {**ANSWER, "weight": 0.5}], r"messages\[1\]\.weight: must be 0 or 1"),
        ([USER, {**ANSWER, "train": "no"}], r"messages\[1\]\.train: must be 0 or 1"),
        ([USER, {**ANSWER, "weight": 0}], "no message that is to be learned"),
        ([USER, {**ANSWER, "weight": 0}, ANSWER], r"messages\[2\]: is to be learned and the message"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(messages, field):
    with pytest.raises(Invalid, match=field):
        converted({"messages": messages})


def test_calls_keep_all_arguments():
    assert called("convert", '{"from": "USD", "amount": 3}') == "convert(**{'from': 'USD', 'amount': 3})"
    assert called("f", {"a b": 1}) == "f(**{'a b': 1})" and called("f", {"__debug__": 1}) == "f(**{'__debug__': 1})"
    assert called("maps.find", '{"x": [1, null]}') == "maps.find(x=[1, None])" and called("f", "") == "f()"
    assert called("search", {"query": "tides"}) == part("search", "tides")
    assert called("search", {"query": "tides", "site": None}) == part("search", "tides")
    assert called("search", '{"query": "tides", "n": 3}') == "search(query='tides', n=3)"
    assert called("python", {"code": "1", "timeout": 9}) == "python(code='1', timeout=9)"
    (made,) = answered({"tool_calls": [{"name": "f", "parameters": {"x": 1}}]})
    assert made == part("python", "f(x=1)")


@pytest.mark.parametrize("name, arguments", [("get-time", {}), ("class", {}), ("a b", {}), ("x.", {}), ("f", "[1]")])
def test_a_call_that_python_has_not_is_refused(name, arguments):
    with pytest.raises(Invalid, match=r"messages\[1\]\.tool_calls\[0\]"):
        called(name, arguments)
    with pytest.raises(Invalid, match=r"tool_calls\[0\]: must be a call"):
        called("f", '{"x": NaN}')


@pytest.mark.parametrize(
    "answer, number",
    [
        ("2*3=<<2*3=6>>6.\n#### 1,006", " 1006"),
        ("So.\n#### -$2.50 ", " -2.50"),
        ("#### Step 1\nAdd.\n#### 4\n", " 4"),
        ("#### Step 1\nCut, clean.\n#### Step 2\nWater, in May.", None),
        ("A line of #### is a border, e.g. 1,000.", None),
        ("##### 4", None),
        ("One, two. <<3>>", None),
    ],
)
def test_only_a_last_number_after_its_mark_is_an_answer_of_gsm8k(answer, number):
    made = said({"question": "How?", "answer": answer})[1]["content"]
    assert made == answer if number is None else made[-1] == part("answer", number)


def test_equal_ids_lose_no_record_and_a_split_stays(tmp_path):
    record = {"id": 0, "messages": [USER, ANSWER]}
    for name in "ab":
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for split in ("train", "test"):
                file.write(json.dumps({**record, "split": split}) + "\n")
    wrong: list[str] = []
    made = list(convert(f"{tmp_path}/*.jsonl", wrong.append))
    assert [r["id"] for r in made] == ["0", "0:a.jsonl:2", "0:b.jsonl:1", "0:b.jsonl:2"] and not wrong
    assert [r["split"] for r in made] == ["train", "val"] * 2
    (tmp_path / "b.jsonl").write_text(json.dumps({**record, "split": "mine"}))
    assert len(list(convert(f"{tmp_path}/*.jsonl", wrong.append))) == 2
    assert "b.jsonl line 1: split: 'mine' is none of" in wrong[0]


def test_records_are_not_read_from_texts(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"a\.txt holds no records"):
        convert(f"{tmp_path}/*", print)
