// How a message looks. `actions` is what a click does; chat.js gives it.

import { blocks, cited, passages, said } from "./answer.js";
import { autosize, copy, el, icon, isEnter, setText } from "./dom.js";
import { label } from "./settings.js";
import { settings } from "./state.js";
import { TokenStrip } from "./tokens.js";

const ENDS = {
  length: "Cut off: no room for more tokens.",
  stopped: "Stopped.",
  tool_calls: "It asks for a tool, and tools are off.",
};

/** A view is {element, update}; `update` draws what changed in the message. */
export function messageView(message, actions) {
  return message.role === "user" ? userView(message, actions) : assistantView(message, actions);
}

function userView(message, actions) {
  const text = el("p", { class: "said", dir: "auto" }, message.content);
  const buttons = el(
    "div",
    { class: "actions" },
    button("Copy", "copy", () => copy(message.content)),
    button("Edit", "edit", () =>
      editor(element, message.content, "Ask again", (edited) => actions.askAgain(message, edited)),
    ),
  );
  const body = el("div", { class: "body" }, text);
  const element = el(
    "article",
    { class: "message user", "data-testid": "message-user", "aria-label": "You" },
    body,
    buttons,
  );
  return { element, update() {} };
}

function assistantView(message, actions) {
  const name = el("h3", { title: message.model }, label(message.model));
  const answers = el("div", { class: "answers" });
  const facts = el("small", { class: "facts-line" });
  const up = button(icon("thumb"), "up", () => actions.rate(message, 1), "Good answer");
  const down = button(icon("thumb"), "down", () => actions.rate(message, -1), "Bad answer");
  const buttons = el(
    "div",
    { class: "actions" },
    button("Copy", "copy", () => copy(said(message))),
    button("Retry", "retry", () => actions.retry(message)),
    button("Edit", "edit", () => editor(element, said(message), "Save", (edited) => actions.edit(message, edited))),
    up,
    down,
    button("Compare", "compare", () => actions.compare(message)),
    facts,
  );
  const props = {
    class: "message assistant",
    "data-testid": "message-assistant",
    "aria-label": `Answer of ${label(message.model)}`,
  };
  const element = el("article", props, name, el("div", { class: "body" }, answers), buttons);
  const first = candidate(
    message,
    "better-a",
    () => actions.choose(message, message, message.rival),
    () => actions.retry(message),
  );
  answers.append(first.element);

  let others = null; // the second answer and its buttons, while two stand side by side
  const update = () => {
    const rival = message.rival;
    if (others && others.rival !== rival) {
      others.elements.forEach((one) => one.remove());
      others = null;
    }
    if (rival && !others) {
      const second = candidate(
        rival,
        "better-b",
        () => actions.choose(message, rival, message),
        () => actions.compare(message),
      );
      const neither = button("Neither: keep the first", "better-none", () => actions.keep(message));
      answers.append(second.element, neither);
      others = { rival, update: second.update, elements: [second.element, neither] };
    }
    answers.classList.toggle("two", Boolean(rival));
    first.update(Boolean(rival?.finish));
    others?.update(true);
    // Where an error stands, its own Retry does as well; there is nothing to copy or rate.
    const edited = Boolean(element.querySelector(".editor")); // they would act on what is being edited
    buttons.hidden = !message.finish || message.finish === "error" || Boolean(rival) || edited;
    up.setAttribute("aria-pressed", message.rating === 1);
    down.setAttribute("aria-pressed", message.rating === -1);
    setText(facts, factsOf(message));
  };
  update();
  return { element, update };
}

function factsOf(message) {
  const facts = [];
  if (message.edited) facts.push("edited");
  if (message.count) facts.push(`${message.count} tokens`);
  if (message.count && message.seconds) facts.push(`${(message.count / message.seconds).toFixed(0)} a second`);
  if (message.seed != null && !message.edited) facts.push(`seed ${message.seed}`);
  return facts.join(" · ");
}

/** One answer without its buttons, but for "This one is better" while two stand side by side. */
function candidate(message, testid, choose, retry) {
  const content = el("div", { class: "content" });
  const draw = drawer(content, message);
  const notice = el("p", { class: "notice", "data-testid": "notice" });
  const end = el("p", { class: "note" });
  const error = el("span");
  const trouble = el("p", { class: "error", role: "alert" }, error, button("Retry", "retry-error", retry));
  const better = el(
    "button",
    { class: "button", type: "button", "data-testid": testid, onclick: choose },
    "This one is better",
  );
  const element = el("div", { class: "candidate" });
  const update = (comparing) => {
    draw();
    setText(notice, message.notice ?? "");
    setText(end, ENDS[message.finish] ?? "");
    setText(error, message.error ?? "");
    const choosable = comparing && message.finish && message.finish !== "error";
    const parts = [
      message.notice && notice,
      content,
      ENDS[message.finish] && end,
      message.error && trouble,
      choosable && better,
    ];
    const wanted = parts.filter(Boolean);
    const same = wanted.length === element.children.length && wanted.every((part, i) => part === element.children[i]);
    if (!same) element.replaceChildren(...wanted);
  };
  return { element, update };
}

/** Draws the content as tokens or as parts; what is there already is kept. */
function drawer(content, message) {
  const strip = new TokenStrip();
  const missing = el("p", { class: "note" }, "No tokens were kept of this answer; Retry shows them.");
  const late = el("span", { class: "late" }, " A model that is asked for the first time has to be loaded.");
  const waiting = el("p", { class: "note", "aria-hidden": "true" }, "…", late);
  const body = el("div", { class: "blocks" });
  const sources = el("div", { class: "sources", "data-testid": "sources" });
  content.append(strip.element, missing, waiting, body, sources);
  const drawn = [];
  return () => {
    const asTokens = settings.show_tokens && Boolean(message.tokens);
    strip.element.hidden = !asTokens;
    body.hidden = asTokens;
    missing.hidden = !settings.show_tokens || asTokens || !message.finish || message.parts.length === 0;
    waiting.hidden = Boolean(message.finish) || message.parts.length > 0;
    if (asTokens) strip.update(message.tokens);
    const shown = blocks(message.parts);
    if (drawn.some(({ kind }, i) => kind !== shown[i]?.kind)) {
      drawn.length = 0; // it was edited, or another answer was chosen
      body.replaceChildren();
    }
    shown.forEach((block, i) => {
      if (!drawn[i]) {
        drawn[i] = { kind: block.kind, ...VIEWS[block.kind](block) };
        body.append(drawn[i].element);
      }
      drawn[i].update(block, !message.finish && i === shown.length - 1);
    });
    drawSources(sources, message);
  };
}

/** The passages that the answer cites, each to be opened. */
function drawSources(element, message) {
  const found = message.finish ? cited(message) : [];
  element.hidden = found.length === 0;
  const wanted = found.map(({ source, text }) => `${source}: ${text}`).join("\n");
  if (element.dataset.shown === wanted) return; // one that a reader has opened stays open
  element.dataset.shown = wanted;
  const views = found.map(({ source, text }) =>
    el("details", { dir: "auto" }, el("summary", {}, `Source: ${source}`), el("p", { class: "said" }, text)),
  );
  element.replaceChildren(...views);
}

const VIEWS = {
  text: () => spoken("said"),
  answer: () => spoken("said final"),
  think: thinking,
  tool: toolCard,
};

function spoken(kind) {
  const element = el("p", { class: kind, dir: "auto" });
  return { element, update: (block) => setText(element, block.text) };
}

/** Open while it is being written; closed once when it is over, and from then on as the reader likes. */
function thinking() {
  const summary = el("summary");
  const text = el("p", { class: "said", dir: "auto" });
  const element = el("details", { class: "thinking", "data-testid": "thinking" }, summary, text);
  let wasLive = false;
  const update = (block, live) => {
    const words = block.text.split(/\s+/).filter(Boolean).length;
    setText(summary, `${live ? "Thinking" : "Thought"} · ${words} ${words === 1 ? "word" : "words"}`);
    setText(text, block.text);
    if (live !== wasLive) element.open = wasLive = live;
  };
  return { element, update };
}

function toolCard({ tool }) {
  const program = el("pre", {}, el("code"));
  const isSearch = tool === "search";
  const output = isSearch ? el("div", { class: "output passages" }) : el("pre", { class: "output" });
  const element = el(
    "section",
    { class: "tool-card", "data-testid": "tool-card", "aria-label": `Call of the tool ${tool}` },
    el("small", {}, tool),
    program,
    el("small", {}, isSearch ? "passages" : "output"),
    output,
  );
  const update = (block, live) => {
    setText(program.firstChild, block.text);
    const text = block.output ?? (live ? "…" : "(it was not run)");
    if (!isSearch) setText(output, text);
    else if (output.dataset.shown !== text) {
      output.dataset.shown = text;
      output.replaceChildren(...passages(text).map(passageView));
    }
  };
  return { element, update };
}

function passageView({ source, text }) {
  return el("p", { class: "said", dir: "auto" }, source && el("cite", {}, source), source && " ", text);
}

/** Puts a text field in the place of a message's body. `save(text)` says whether the field may close. */
function editor(element, text, label, save) {
  const body = element.querySelector(".body");
  const buttons = element.querySelector(".actions");
  const field = el("textarea", {
    "aria-label": "Edited text",
    "data-testid": "edit-input",
    rows: 2,
    oninput: () => autosize(field),
  });
  field.value = text;
  const close = () => {
    form.remove();
    body.hidden = buttons.hidden = false;
    element.querySelector("[data-testid=edit]").focus();
  };
  const submit = async (event) => {
    event.preventDefault();
    if (field.value.trim() && (await save(field.value.trim()))) close();
  };
  const keys = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation(); // it would stop an answer as well
      close();
    } else if (isEnter(event) && (event.ctrlKey || event.metaKey)) {
      submit(event);
    }
  };
  const form = el(
    "form",
    { class: "editor", onsubmit: submit, onkeydown: keys },
    field,
    el(
      "div",
      { class: "row" },
      el("button", { class: "button primary", "data-testid": "save-edit" }, label),
      el("button", { class: "button", type: "button", onclick: close }, "Cancel"),
      el("small", { class: "keys" }, "Ctrl+Enter saves, Esc leaves it as it was"),
    ),
  );
  body.hidden = buttons.hidden = true;
  body.after(form);
  autosize(field);
  field.focus();
}

function button(content, testid, onclick, label) {
  return el(
    "button",
    { type: "button", class: "action", "data-testid": testid, "aria-label": label, title: label, onclick },
    content,
  );
}
