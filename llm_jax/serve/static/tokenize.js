// The view #tokens: text, cut while it is typed.

import { json } from "./api.js";
import { $, el, showLine } from "./dom.js";
import { isByte, visible } from "./tokens.js";

const PAUSE_MS = 150; // of typing, before the server is asked
const DRAWN = 2000; // more chips make the page slow
const SAMPLE = "The small town of strawberries has 1,234 people. Unbelievable!\nCrème brûlée, 日本, 🙂";

let timer;
let asked = null; // the request under way

export function startTokenize() {
  const input = $("tokenize-input");
  input.value = SAMPLE;
  count(input.value, null);
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(cut, PAUSE_MS);
  });
}

/** Asks for the tokens of the text and draws them. An older request that is still under way no longer counts. */
export async function cut() {
  asked?.abort();
  asked = new AbortController();
  const text = $("tokenize-input").value;
  try {
    const tokens = text ? (await json("v1/tokenize", { text }, asked.signal)).tokens : [];
    showLine($("tokenize-trouble"), "");
    count(text, tokens.length);
    draw(tokens);
  } catch (error) {
    if (error.name !== "AbortError") showLine($("tokenize-trouble"), error.message);
  }
}

function count(text, tokens) {
  const bytes = new TextEncoder().encode(text).length;
  const shown = {
    characters: [...text].length,
    bytes,
    tokens: tokens ?? "…",
    "bytes per token": tokens ? (bytes / tokens).toFixed(2) : "–",
  };
  const pairs = Object.entries(shown).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value.toLocaleString("en"))),
  );
  $("tokenize-count").replaceChildren(...pairs);
}

function draw(tokens) {
  const pieces = [];
  tokens.slice(0, DRAWN).forEach(({ id, text }, i) => {
    const kind = isByte(text) ? " byte" : "";
    pieces.push(
      el(
        "span",
        { class: `piece tone${i % 4}${kind}`, "data-testid": "piece" },
        el("code", {}, visible(text)),
        el("small", {}, String(id)),
      ),
    );
    if (text.includes("\n")) pieces.push(el("br"));
  });
  $("pieces").replaceChildren(...pieces);
  const left = tokens.length - DRAWN;
  showLine($("pieces-left"), left > 0 ? `… and ${left.toLocaleString("en")} more, not drawn.` : "");
}
