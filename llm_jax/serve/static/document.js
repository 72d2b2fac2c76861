// The view #document: a text that the base model continues.
//
// `text` is all of the document, `tokens` what the model wrote at its end; `text` up to `start` is the person's.

import { stream } from "./api.js";
import { randomSeed } from "./answer.js";
import { $, announce, el, isEnter, showLine } from "./dom.js";
import { chosenBase } from "./settings.js";
import { loadDocument, saveDocument, settings } from "./state.js";
import { inspector, isByte, isSpecial, TokenStrip } from "./tokens.js";

const LATE_MS = 3000; // longer than a loaded model takes for its first token

let text = "";
let start = 0;
let tokens = [];
let controller = null; // of the continuation under way
const history = []; // what Undo goes back to: {text, start, tokens}
const strip = new TokenStrip({ blocked, pick });

export function startDocument() {
  const input = $("document-input");
  text = loadDocument();
  start = text.length;
  $("strip").append(strip.element);
  input.addEventListener("input", edited);
  input.addEventListener("keydown", (event) => {
    if (!isEnter(event) || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    proceed();
  });
  $("continue").addEventListener("click", proceed);
  $("document-stop").addEventListener("click", stopDocument);
  $("undo").addEventListener("click", undo);
  draw();
}

/** Stops the continuation; false when there is none. */
export function stopDocument() {
  controller?.abort();
  return Boolean(controller);
}

/** An edit makes the whole text the person's own: the tokens would no longer be those of the text. */
function edited() {
  if (tokens.length) {
    history.push({ text, start, tokens });
    inspector.clear();
  }
  text = $("document-input").value;
  start = text.length;
  tokens = [];
  saveDocument(text);
  draw();
}

function proceed() {
  if (controller || !chosenBase()) return;
  history.push({ text, start, tokens });
  write();
}

function undo() {
  if (controller || !history.length) return;
  ({ text, start, tokens } = history.pop());
  inspector.clear();
  saveDocument(text);
  note("");
  draw();
}

async function write() {
  controller = new AbortController();
  const request = {
    model: chosenBase(),
    prompt: text,
    temperature: settings.document_temperature ?? 1,
    max_tokens: settings.document_max_tokens ?? 64,
    seed: randomSeed(),
    logprobs: 10,
  };
  note("");
  showLine($("document-trouble"), "");
  draw();
  const before = text.length;
  let waiting = false;
  let late = setTimeout(() => note("A model that is asked for the first time has to be loaded."), LATE_MS);
  try {
    for await (const chunk of stream("v1/completions", request, controller.signal)) {
      if (late) note("");
      late = clearTimeout(late);
      take(chunk);
      if (waiting) continue;
      waiting = true; // at most one drawing for each frame of the browser
      requestAnimationFrame(() => ((waiting = false), draw()));
    }
  } catch (error) {
    note(error.name === "AbortError" ? "Stopped." : "");
    if (error.name !== "AbortError") showLine($("document-trouble"), error.message);
  }
  clearTimeout(late);
  controller = null;
  saveDocument(text);
  draw();
  inspector.refresh(); // its runners-up can be chosen again
  announce(text.slice(before));
}

function take(chunk) {
  if (chunk.notice) note(chunk.notice);
  const choice = chunk.choices?.[0];
  if (!choice) return;
  text += choice.text ?? "";
  tokens = tokens.concat(choice.logprobs?.content ?? []);
  if (choice.finish_reason === "stop") note("The model ended the document here.");
}

/** Why a runner-up cannot be put in the place of token `index`; "" when it can. */
function blocked(index, candidate) {
  if (controller) return "Stop the model first";
  if (isSpecial(candidate.token)) return "A special token cannot be written into a text";
  if (isByte(candidate.token) || textBefore(index) === null) return "Half a character cannot be written into a text";
  return "";
}

/** The document as it was before token `index`; null where that would cut a character. */
function textBefore(index) {
  const bytes = tokens.slice(0, index).flatMap((token) => (isSpecial(token.token) ? [] : token.bytes));
  try {
    return (
      text.slice(0, start) + new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes))
    );
  } catch {
    return null;
  }
}

/** Cuts the document at token `index`, puts the runner-up there, and lets the model go on. */
function pick(index, candidate) {
  if (blocked(index, candidate)) return;
  history.push({ text, start, tokens });
  text = textBefore(index) + candidate.token;
  const bytes = [...new TextEncoder().encode(candidate.token)];
  tokens = [...tokens.slice(0, index), { ...tokens[index], ...candidate, bytes, sampled: false }];
  inspector.clear();
  write();
  strip.chips[index].focus(); // the way on with the keyboard
}

function note(line) {
  showLine($("document-note"), line);
}

/** The backdrop is the same text under the field: it gives the field its height, and shows what the model wrote. */
export function draw() {
  const input = $("document-input");
  if (input.value !== text) input.value = text;
  const busy = Boolean(controller);
  const focused = document.activeElement;
  input.readOnly = busy;
  // The zero-width space gives an empty last line its height.
  $("backdrop").replaceChildren(text.slice(0, start), el("mark", {}, text.slice(start)), "\u200b");
  strip.update(tokens);
  $("strip-section").hidden = tokens.length === 0;
  $("continue").hidden = busy;
  $("continue").disabled = !chosenBase();
  $("document-stop").hidden = !busy;
  // The one that is hidden hands the focus on.
  if (focused === $("continue") && busy) $("document-stop").focus();
  if (focused === $("document-stop") && !busy) $("continue").focus();
  $("undo").disabled = busy || history.length === 0;
}

export function showNoBase(text) {
  showLine($("no-base"), text);
}
