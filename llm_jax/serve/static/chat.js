// The view #chat: which conversation is open, and what becomes of it.

import { fill, newAnswer, randomSeed, said } from "./answer.js";
import { $, announce, ask, autosize, el, icon, isEnter, isolated, showLine, toast } from "./dom.js";
import { sendFeedback } from "./feedback.js";
import { withFile } from "./file.js";
import { messageView } from "./message.js";
import { chosenStage } from "./settings.js";
import {
  deleteConversation,
  endAnswers,
  loadConversations,
  newConversation,
  onChangeElsewhere,
  saveConversation,
  settings,
} from "./state.js";

let conversations = [];
let current = null;
const running = new Map(); // conversation -> AbortController; each may have one answer under way
const views = new Map(); // message -> view, of the conversation that is open

export function startChat() {
  conversations = loadConversations();
  if (conversations.length) open(conversations[0]);
  else create();
  focusComposer();

  $("new-conversation").addEventListener("click", create);
  $("stop").addEventListener("click", () => {
    stopChat();
    focusComposer();
  });
  $("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    send($("composer").value.trim());
  });
  $("composer").addEventListener("input", () => autosize($("composer")));
  $("composer").addEventListener("keydown", (event) => {
    if (!isEnter(event) || event.shiftKey) return;
    event.preventDefault();
    send($("composer").value.trim());
  });
  $("suggestions").addEventListener("click", (event) => {
    if (event.target.tagName === "BUTTON") send(event.target.textContent);
  });
  addEventListener("pagehide", () => {
    for (const conversation of running.keys()) {
      endAnswers(conversation);
      saveConversation(conversation);
    }
  });
  onChangeElsewhere(takeOver);
}

/** What another tab has made of a conversation; one that is being answered, edited or compared here is this tab's. */
function takeOver(id, changed) {
  const old = conversations.find((conversation) => conversation.id === id);
  const rival = old?.messages.some((message) => message.rival);
  if (running.has(old) || rival || (old && old === current && $("messages").querySelector(".editor"))) return;
  conversations = [changed, ...conversations.filter((other) => other !== old)].filter(Boolean);
  conversations.sort((a, b) => b.changed - a.changed);
  if (current !== old) drawList();
  else if (changed ?? conversations[0]) open(changed ?? conversations[0]);
  else create();
}

/** Stops the open conversation's answer; false when there is none. */
export function stopChat() {
  running.get(current)?.abort();
  return running.has(current);
}

export function redrawAnswers() {
  for (const view of views.values()) view.update();
}

// The list of conversations

function create() {
  const empty = conversations.find((conversation) => conversation.messages.length === 0);
  if (!empty) conversations.unshift(newConversation());
  open(empty ?? conversations[0]);
  focusComposer();
}

/** Not on a touch screen, where the keyboard would cover half of the page. */
function focusComposer() {
  if (matchMedia("(pointer: fine)").matches) $("composer").focus();
}

function open(conversation) {
  current = conversation;
  views.clear();
  for (const message of current.messages) views.set(message, messageView(message, actions));
  $("messages").replaceChildren(...[...views.values()].map((view) => view.element));
  drawList();
  drawState();
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function drawList() {
  const items = conversations.map((conversation) => {
    const title = conversation.title || "New conversation";
    const props = {
      class: "title",
      "aria-current": conversation === current && "true",
      onclick: () => {
        open(conversation);
        focusComposer();
      },
    };
    const tool = (name, label, onclick) =>
      el("button", { class: "icon-button", "aria-label": `${label}: ${title}`, title: label, onclick }, icon(name));
    return el(
      "li",
      { "data-testid": "conversation" },
      el("button", props, title),
      tool("pen", "Rename", () => rename(conversation)),
      tool("bin", "Delete", () => remove(conversation)),
    );
  });
  $("conversations").replaceChildren(...items);
}

async function rename(conversation) {
  const title = await ask({ title: "Rename", label: "Name", value: conversation.title, ok: "Rename" });
  conversation = latest(conversation);
  if (!title || !conversation) return;
  conversation.title = title;
  if (conversation.messages.length) saveConversation(conversation);
  drawList();
  focusComposer(); // the button that had the focus is gone
}

/** The conversation as it is after a dialog, while which another tab may have changed it; undefined: deleted. */
function latest({ id }) {
  return conversations.find((conversation) => conversation.id === id);
}

async function remove(conversation) {
  const text = `“${isolated(conversation.title || "New conversation")}” will be gone for good.`;
  if (conversation.messages.length && !(await ask({ title: "Delete this conversation?", text, ok: "Delete" }))) return;
  conversation = latest(conversation);
  if (!conversation) return;
  running.get(conversation)?.abort();
  deleteConversation(conversation);
  conversations = conversations.filter((other) => other !== conversation);
  if (conversation !== current) drawList();
  else if (conversations.length) open(conversations[0]);
  else create();
  focusComposer();
}

// Asking

function send(text) {
  if (!text || running.has(current)) return;
  if (!chosenStage()) return toast($("trouble").textContent || "The server has not said yet which models it has.");
  if (current.messages.at(-1)?.finish === null) return toast("Another tab is answering in this conversation.");
  $("composer").value = "";
  autosize($("composer"));
  current.title ||= text.length > 48 ? `${text.slice(0, 47)}…` : text;
  conversations = [current, ...conversations.filter((conversation) => conversation !== current)];
  add({ role: "user", content: withFile(text) });
  drawList();
  answerLast();
}

function add(message) {
  current.messages.push(message);
  const view = messageView(message, actions);
  views.set(message, view);
  $("messages").append(view.element);
}

async function answerLast() {
  const message = newAnswer(chosenStage());
  const history = [...current.messages];
  add(message);
  $("scroll").scrollTop = $("scroll").scrollHeight;
  focusComposer();
  await run(message, message, history, {});
}

/** Fills `answer`, which stands in the view of `shown`. */
async function run(shown, answer, history, overrides) {
  const conversation = current;
  const controller = new AbortController();
  running.set(conversation, controller);
  conversation.changed = Date.now();
  saveConversation(conversation);
  drawState();
  const draw = throttled(() => refresh(shown));
  await fill(answer, history, overrides, controller.signal, draw);
  running.delete(conversation);
  if (conversations.includes(conversation)) saveConversation(conversation); // it may have been deleted meanwhile
  refresh(shown);
  drawState();
  if (conversation === current) announce(answer.error ?? (said(answer) || "The answer is empty."));
}

/** Draws a message anew and, where the reader was at the end, keeps them there. */
function refresh(message) {
  const box = $("scroll");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  views.get(message)?.update();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

/** At most one call for each frame that the browser draws. */
function throttled(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => ((waiting = false), draw()));
  };
}

export function drawState() {
  const busy = running.has(current);
  $("messages").setAttribute("aria-busy", busy);
  $("welcome").hidden = current.messages.length > 0;
  $("send").hidden = busy;
  $("send").disabled = !chosenStage();
  $("stop").hidden = !busy;
}

/** Before later turns are dropped, the conversation as it was becomes another one in the list. */
function keepCopy(index) {
  if (index >= current.messages.length) return;
  const copy = { ...structuredClone(current), id: newConversation().id, title: `${current.title} (as it was)` };
  conversations.splice(conversations.indexOf(current) + 1, 0, copy);
  saveConversation(copy);
  toast(`The turns after it are kept in “${isolated(copy.title)}”.`);
}

// What the buttons of a message do; none of it while an answer is under way.

const actions = {
  askAgain(message, text) {
    if (running.has(current)) return false;
    const index = current.messages.indexOf(message);
    keepCopy(index + 2);
    current.messages.splice(index, Infinity, { role: "user", content: text });
    open(current);
    answerLast();
    return true;
  },

  retry(message) {
    if (running.has(current)) return;
    const index = current.messages.indexOf(message);
    keepCopy(index + 1);
    current.messages.splice(index, Infinity);
    open(current);
    answerLast();
  },

  async rate(message, rating) {
    if (message.rating === rating) return;
    if (await sendFeedback("rate", before(message), message, { rating })) change(message, { rating });
  },

  async edit(message, edited) {
    if (edited === said(message)) return true;
    // Answers begin with a space where the model was taught so: that is another token, and must not get lost.
    const space = /^ ?/.exec(message.parts.find((part) => part.type === "text")?.text ?? "")[0];
    const text = space + edited;
    if (!(await sendFeedback("edit", before(message), message, { edited: text }))) return false;
    change(message, { parts: [{ type: "text", text }], edited: true, tokens: undefined, count: undefined });
    return true;
  },

  async compare(message) {
    if (running.has(current)) return;
    const rival = { ...newAnswer(message.model), system: message.system, seed: randomSeed() };
    message.rival = rival;
    refresh(message);
    focusComposer();
    await run(message, rival, before(message), { temperature: Math.max(0.7, settings.temperature ?? 0) });
  },

  async choose(message, better, worse) {
    if (await sendFeedback("choose", before(message), better, { rejected: worse.parts })) actions.keep(message, better);
  },

  /** Ends a comparison; the conversation goes on with `better`. */
  keep(message, better = message) {
    const { parts, tokens, seed, count, seconds, finish, notice, edited } = better;
    const rating = better === message ? message.rating : undefined;
    change(message, { parts, tokens, seed, count, seconds, finish, notice, edited, rating, rival: undefined });
    focusComposer();
  },
};

function before(message) {
  const { messages } = home(message);
  return messages.slice(0, messages.indexOf(message));
}

/** The message's conversation, which need not be the open one any more when the server has answered. */
function home(message) {
  return conversations.find((conversation) => conversation.messages.includes(message));
}

function change(message, values) {
  Object.assign(message, values);
  if (home(message)) saveConversation(home(message));
  refresh(message);
}

export function showTrouble(text) {
  showLine($("trouble"), text);
}
