// What the browser keeps: settings, conversations, the document.
//
// A conversation is {id, title, changed, messages}; a message is {role: "user", content} or
// {role: "assistant", model, parts: [{type, text}], finish, ...}. Each conversation has its own key in localStorage, and
// a tab hears what another one has changed, so that two do not overwrite each other's.

import { toast } from "./dom.js";

const CONVERSATION = "llm_jax.conversation.";
const SETTINGS = "llm_jax.settings";
const DOCUMENT = "llm_jax.document";
// A token with its runners-up is half a kilobyte, and localStorage holds five megabytes. A comparison that nobody
// decided is not part of the conversation.
const NOT_KEPT = new Set(["tokens", "rival"]);

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(
      key,
      JSON.stringify(value, (name, item) => (NOT_KEPT.has(name) ? undefined : item)),
    );
  } catch {
    toast("The browser's storage is full or closed: this is lost when you leave the page. Delete old conversations.");
  }
}

export const settings = {
  stage: "", // "": the server's default
  base: "",
  temperature: 0, // as it was measured; much above, a small model miscopies digits
  top_p: 1,
  top_k: 0,
  min_p: 0,
  repetition_penalty: 1,
  max_tokens: null, // as many as fit
  seed: null, // a new one for each answer
  thinking: "auto",
  tools: true,
  system: "",
  show_tokens: false,
  document_temperature: 0.8,
  document_max_tokens: 64,
  ...read(SETTINGS, {}),
};

export function saveSettings() {
  write(SETTINGS, settings);
}

export function newConversation() {
  return { id: crypto.getRandomValues(new Uint32Array(3)).join("-"), title: "", changed: Date.now(), messages: [] };
}

/** Newest first. */
export function loadConversations() {
  const found = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      const conversation = key.startsWith(CONVERSATION) ? read(key, null) : null;
      if (Array.isArray(conversation?.messages)) found.push(conversation);
    }
  } catch {
    return []; // no storage in this browser
  }
  found.forEach(endAnswers); // of a page that was closed before they ended
  return found.sort((a, b) => b.changed - a.changed);
}

/** Answers that nobody writes any more were stopped. */
export function endAnswers(conversation) {
  for (const message of conversation.messages) {
    if (message.role === "assistant") message.finish ??= "stopped";
  }
}

/** Calls back with the id of a conversation that another tab has changed, and what it is now; null: deleted. */
export function onChangeElsewhere(take) {
  addEventListener("storage", ({ key }) => {
    if (key?.startsWith(CONVERSATION)) take(key.slice(CONVERSATION.length), read(key, null));
  });
}

export function saveConversation(conversation) {
  write(CONVERSATION + conversation.id, conversation);
}

export function deleteConversation(conversation) {
  try {
    localStorage.removeItem(CONVERSATION + conversation.id);
  } catch {
    // no storage in this browser: nothing was kept
  }
}

export function loadDocument() {
  return read(DOCUMENT, "");
}

export function saveDocument(text) {
  write(DOCUMENT, text);
}
