"""The chat page in a real browser, against a real server. Needs Debian's chromium, or one named by CHROMIUM."""

import json
import os
import shutil

import pytest

from data_pipelines.chats import convert, refuse
from llm_jax.tokenizer import Tokenizer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
WAIT = 120_000  # milliseconds that a program may take to compile, or a browser on a busy machine to draw
expect.set_options(timeout=WAIT)
FOUND = "Anna was born in Oslo. [Anna <b>Velm</b>]\nBert was not. [Bert]"
PARTS = [("search", "Anna Velm born"), ("document", FOUND), ("python", "6*7"), ("output", "Oslo: 42")]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """(width, height, dark) -> the page in a fresh profile. Afterwards: no script failed, no other site was asked."""
    contexts, wrong = [], []

    def go(width: int = 1280, height: int = 800, dark: bool = False):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(server.url) or wrong.append(request.url))
        page.goto(server.url)
        expect(page.get_by_test_id("send")).to_be_enabled(timeout=WAIT)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


def ask(page, text: str) -> None:
    """By keyboard alone."""
    page.get_by_test_id("composer").focus()
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("send")).to_be_visible(timeout=WAIT)


def records(workdir, name: str) -> list[dict]:
    path = workdir / "feedback" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def overflows(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_a_conversation_by_keyboard_outlives_a_reload(open_page):
    page = open_page()
    page.get_by_test_id("max-tokens").fill("12")
    ask(page, "The <b>cat</b>")
    answer = page.get_by_test_id("message-assistant")
    expect(answer).to_have_count(1)
    expect(page.get_by_test_id("message-user")).to_contain_text("The <b>cat</b>")  # text stays text
    said = answer.inner_text()
    ask(page, "And?")
    expect(answer).to_have_count(2)
    page.reload()
    expect(page.get_by_test_id("message-assistant")).to_have_count(2)
    assert page.get_by_test_id("message-assistant").first.inner_text().split("\n")[0] in said


def test_escape_stops_the_answer_on_the_server(open_page, server):
    page = open_page()
    page.get_by_test_id("composer").fill("The cat")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("send")).to_be_visible(timeout=WAIT)
    server.until("running_rows", 0)


def test_an_edited_answer_becomes_a_conversation_and_a_pair_to_train_on(open_page, workdir):
    page, before = open_page(), {name: len(records(workdir, name)) for name in ("conversations", "pairs", "ratings")}
    page.get_by_test_id("max-tokens").fill("8")
    ask(page, "How many cats?")
    answer = page.get_by_test_id("message-assistant")
    answer.get_by_test_id("edit").click()
    page.get_by_test_id("edit-input").fill("Twelve.")
    page.get_by_test_id("save-edit").click()
    expect(page.get_by_test_id("toast")).to_contain_text("conversations")
    expect(answer).to_contain_text("Twelve.")
    answer.get_by_test_id("up").click()
    expect(answer.get_by_test_id("up")).to_have_attribute("aria-pressed", "true")
    saved = records(workdir, "conversations")[before["conversations"] :]
    assert saved[0]["messages"][0]["content"] == "How many cats?" and "Twelve." in json.dumps(saved[0]["messages"][-1])
    pair = records(workdir, "pairs")[before["pairs"]]
    assert "Twelve." in json.dumps(pair["chosen"]) and pair["rejected"] != pair["chosen"]
    assert records(workdir, "ratings")[-1]["rating"] == 1
    assert all(record["messages"] for record in convert(str(workdir / "feedback" / "conversations.jsonl"), refuse))


def test_two_tabs_have_the_same_conversations(open_page, server):
    one = open_page()
    one.get_by_test_id("max-tokens").fill("6")
    ask(one, "The cat")
    other = one.context.new_page()
    other.goto(server.url)
    expect(other.get_by_test_id("send")).to_be_enabled(timeout=WAIT)
    for tab, second, turns in ((other, one, 2), (one, other, 3)):
        ask(tab, f"And {turns}?")
        expect(second.get_by_test_id("message-assistant")).to_have_count(turns)
        expect(second.get_by_test_id("message-user").last).to_contain_text(f"And {turns}?")
    ask(one, "And this one?")
    other.get_by_role("button", name="Delete").click()
    other.get_by_test_id("dialog-ok").click()
    expect(one.get_by_test_id("message-user")).to_have_count(0)
    one.reload()
    expect(one.get_by_test_id("message-user")).to_have_count(0)


def test_the_focus_is_where_the_keyboard_goes_on(open_page):
    page = open_page()
    page.get_by_test_id("max-tokens").fill("6")
    ask(page, "The cat")
    answer = page.get_by_test_id("message-assistant")
    answer.get_by_test_id("edit").press("Enter")
    expect(page.get_by_test_id("edit-input")).to_be_focused()
    expect(answer.get_by_test_id("compare")).to_be_hidden()  # it would act on what is being edited
    page.keyboard.press("Escape")
    expect(answer.get_by_test_id("edit")).to_be_focused()
    answer.get_by_test_id("compare").press("Enter")
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.get_by_test_id("better-b")).to_be_visible(timeout=WAIT)
    page.get_by_test_id("conversation").get_by_role("button").first.press("Enter")
    expect(page.get_by_test_id("composer")).to_be_focused()
    page.get_by_test_id("tab-document").click()
    page.get_by_test_id("document-max-tokens").fill("6")
    for _ in range(2):
        page.get_by_test_id("continue").press("Enter")
        expect(page.get_by_test_id("continue")).to_be_focused(timeout=WAIT)


def test_the_better_of_two_answers_becomes_a_pair(open_page, workdir):
    page, before = open_page(), len(records(workdir, "pairs"))
    page.get_by_test_id("max-tokens").fill("10")
    ask(page, "The dog")
    page.get_by_test_id("message-assistant").get_by_test_id("compare").click()
    better = page.get_by_test_id("better-b")
    expect(better).to_be_visible(timeout=WAIT)
    better.click()
    expect(better).to_have_count(0)
    pair = records(workdir, "pairs")[before]
    assert pair["chosen"] != pair["rejected"] and pair["prompt"][-1]["content"] == "The dog"


def test_tokens_show_their_probabilities_and_runners_up(open_page):
    page = open_page()
    page.get_by_test_id("max-tokens").fill("6")
    page.get_by_test_id("show-tokens").check()
    ask(page, "The cat")
    chips = page.get_by_test_id("message-assistant").get_by_test_id("token")
    expect(chips.first).to_be_visible()
    chips.first.focus()
    inspector = page.get_by_test_id("inspector")
    expect(inspector).to_be_visible()
    expect(inspector).to_contain_text("%")


def test_text_is_cut_as_the_tokenizer_cuts_it(open_page, workdir):
    page, text = open_page(), "Grüße 日本 <|end|>"
    page.get_by_test_id("tab-tokens").click()
    page.get_by_test_id("tokenize-input").fill(text)
    ids = Tokenizer.load(workdir / "data" / "tokenizer.model").encode(text)
    expect(page.get_by_test_id("tokenize-count")).to_contain_text(str(len(ids)))


def test_the_base_model_continues_a_document_and_undo_takes_it_back(open_page):
    page = open_page()
    page.get_by_test_id("tab-document").click()
    document = page.get_by_test_id("document-input")
    document.fill("The cat sat")
    page.get_by_test_id("document-max-tokens").fill("12")
    page.get_by_test_id("continue").click()
    expect(page.get_by_test_id("document-stop")).to_be_hidden(timeout=WAIT)
    longer = document.input_value()
    assert longer.startswith("The cat sat") and len(longer) > len("The cat sat")
    page.get_by_test_id("undo").click()
    expect(document).to_have_value("The cat sat")


def answering(status: int, body: dict):
    return lambda route: route.fulfill(status=status, json=body)


def told(page, **answers) -> None:
    """From its next load on, the page is told these things instead of what the server would say."""
    for path, (status, body) in answers.items():
        page.route(f"**/{path.replace('_', '/')}", answering(status, body))
    page.reload()


def models(**kinds: str) -> tuple[int, dict]:
    return 200, {"data": [{"id": id_, "kind": kind, "context": 64, "default": False} for id_, kind in kinds.items()]}


def test_it_says_what_is_wrong_where_one_looks(open_page):
    page, loading, trouble = open_page(), "loading", "trouble"
    told(page, health=(503, {"status": "loading", "model": "rl"}))
    expect(page.get_by_test_id(loading)).to_contain_text("The thinking model is being loaded.")
    page.unroute("**/health")
    expect(page.get_by_test_id(loading)).to_be_hidden()
    told(page, health=(503, {"status": "failed", "model": "rl", "reason": "its files are gone"}))
    expect(page.get_by_test_id(trouble)).to_contain_text("its files are gone")
    page.unroute("**/health")
    told(page, v1_models=(500, {"error": {"message": "the server failed"}}))
    expect(page.get_by_test_id(trouble)).to_contain_text("the server failed")
    below = page.get_by_test_id("composer").bounding_box()["y"] - page.get_by_test_id(trouble).bounding_box()["y"]
    assert 0 < below < 200  # just above the field
    page.get_by_test_id("composer").fill("Hello?")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("toast")).to_contain_text("the server failed")
    expect(page.get_by_test_id("composer")).to_have_value("Hello?")  # nothing lost


def test_a_run_with_only_a_base_model_opens_the_document(open_page, server):
    page = open_page()
    told(page, v1_models=models(pretrain="base"))
    expect(page.get_by_test_id("document-input")).to_be_visible()
    page.get_by_test_id("tab-chat").click()  # who wants to look may
    expect(page.get_by_test_id("trouble")).to_contain_text("no chat model yet")
    told(page, v1_models=models(pretrain="base", own="chat"))
    page.goto(server.url)
    expect(page.get_by_test_id("send")).to_be_enabled()


def test_models_have_names_for_people_and_marks_of_direction_stay_inside(open_page):
    page = open_page()
    assert page.get_by_test_id("temperature").input_value() == "0"
    page.get_by_test_id("max-tokens").fill("4")
    turned = "abc \u202e xyz"
    ask(page, turned)
    answer = page.get_by_test_id("message-assistant")
    expect(answer.get_by_role("heading")).to_have_text("Assistant")
    expect(page.get_by_test_id("stage")).to_contain_text("Assistant, sft")
    for box in (
        page.get_by_test_id("message-user").locator("p"),
        page.get_by_test_id("conversation").locator(".title"),
    ):
        assert box.evaluate("it => getComputedStyle(it).unicodeBidi") == "isolate"
    page.get_by_role("button", name="Delete").click()
    said = page.get_by_role("dialog").locator("p").text_content()
    assert said == "“\u2068abc  xyz\u2069” will be gone for good."


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width, height", [(1280, 800), (360, 740)])
def test_it_fits_screens_and_has_its_theme(open_page, tmp_path, width, height, dark):
    page = open_page(width, height, dark)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(n) for n in ground[ground.index("(") + 1 : -1].split(",")[:3]]
    assert (sum(channels) < 3 * 128) == dark
    for name in ("tab-chat", "tab-tokens", "tab-document"):
        page.get_by_test_id(name).click()
        assert not overflows(page)
        assert len(page.screenshot(path=tmp_path / f"{name}.png")) > 5000


def scripted(page, *parts: tuple[str, str]) -> list[dict]:
    """The page is answered with these parts from now on; gives what it will have asked."""
    asked = []
    told = [{"index": n, "type": kind, "text": text} for n, (kind, text) in enumerate(parts)]
    choices = [{"delta": {"parts": [part]}, "finish_reason": None} for part in told]
    choices.append({"delta": {}, "finish_reason": "stop"})
    events = [json.dumps({"choices": [choice]}) for choice in choices] + ["[DONE]"]

    def answer(route):
        asked.append(route.request.post_data_json)
        body = "".join(f"data: {event}\n\n" for event in events)
        route.fulfill(status=200, headers={"Content-Type": "text/event-stream"}, body=body)

    page.route("**/v1/chat/completions", answer)
    return asked


def test_a_search_shows_its_query_its_passages_and_the_source_that_is_cited(open_page):
    page = open_page()
    scripted(page, *PARTS, ("answer", " Oslo [Anna <b>Velm</b>]"))
    ask(page, "Where was Anna born?")
    card, program = page.get_by_test_id("tool-card").all()
    assert card.locator("code").inner_text() == "Anna Velm born"
    assert card.locator("cite").all_inner_texts() == ["Anna <b>Velm</b>", "Bert"]  # text stays text
    assert "Bert was not." in card.inner_text() and program.locator(".output").inner_text() == "Oslo: 42"
    sources = page.get_by_test_id("sources").locator("details")
    expect(sources).to_have_count(1)
    expect(sources.locator("p")).to_be_hidden()
    sources.locator("summary").press("Enter")
    expect(sources.locator("p")).to_have_text("Anna was born in Oslo.")


def test_an_answer_that_names_no_source_shows_none(open_page):
    page = open_page()
    scripted(page, ("search", "Zorb"), ("document", "nothing found"), ("answer", "I do not know of Bert."))
    ask(page, "Who is Zorb?")
    expect(page.get_by_test_id("tool-card")).to_contain_text("nothing found")
    expect(page.get_by_test_id("sources")).to_be_hidden()


def test_a_file_goes_with_the_next_message_and_no_other(open_page, tmp_path):
    page, note = open_page(), tmp_path / "note.txt"
    asked = scripted(page, ("answer", "Two."))
    note.write_text("\ufeffThe <i>cat</i> sat.\n", encoding="utf-8")
    page.get_by_test_id("file").set_input_files(note)
    expect(page.get_by_test_id("attached")).to_contain_text("note.txt")
    page.get_by_test_id("detach").click()
    expect(page.get_by_test_id("attached")).to_be_hidden()
    drop = "() => { const d = new DataTransfer(); d.items.add(new File(['The dog ran.'], 'b.md')); return d; }"
    page.dispatch_event("#talk", "drop", {"dataTransfer": page.evaluate_handle(drop)})
    expect(page.get_by_test_id("attached")).to_contain_text("b.md")
    page.get_by_test_id("file").set_input_files(note)  # in the place of the other
    expect(page.get_by_test_id("attached")).to_contain_text("note.txt")
    for question in ("How many?", "Why?"):
        ask(page, question)
    first, second = (body["messages"][-1]["content"] for body in asked)
    assert (first, second) == ("note.txt:\nThe <i>cat</i> sat.\n\nHow many?", "Why?")
    expect(page.get_by_test_id("message-user").first).to_contain_text("The <i>cat</i> sat.")


def test_a_file_that_cannot_be_read_is_refused_in_a_line(open_page, tmp_path):
    page, file = open_page(), tmp_path / "file.txt"
    for data, words in (
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b" \n", "is empty"),
        (b"The cat sat. " * 40, "tokens long; there is room for 64."),
        (b"x" * 100_000, "is too long for a message"),
        (b"x" * 300_000, "is too long for a message"),
    ):
        page.evaluate("document.getElementById('toast').textContent = ''")
        file.write_bytes(data)
        page.get_by_test_id("file").set_input_files(file)
        expect(page.get_by_test_id("toast")).to_contain_text(words)
        expect(page.get_by_test_id("attached")).to_be_hidden()
