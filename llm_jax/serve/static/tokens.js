// Tokens as chips, shaded by probability, and the inspector that shows what else could have stood in a token's place.

import { $, el, icon } from "./dom.js";

const NARROW = matchMedia("(max-width: 900px)"); // as in the style sheets

const UNSEEN = /[\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g; // no width, or they turn text around

/** Text of a token for people: what would be invisible is drawn. */
export function visible(text) {
  const named = text.replace(UNSEEN, (mark) => `<U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
  const marked = named.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
  return /^ *$/.test(marked) ? marked.replaceAll(" ", "␣") || "∅" : marked;
}

export function isSpecial(text) {
  return /^<\|\/?\w+\|>$/.test(text);
}

export function isByte(text) {
  return /^<0x[0-9A-F]{2}>$/.test(text);
}

export function percent(logprob) {
  const p = Math.exp(logprob) * 100;
  if (p < 0.1) return "< 0.1 %";
  return p > 99.95 ? "100 %" : `${p.toFixed(1)} %`;
}

/**
 * A row of chips that grows with an answer. One stop for the Tab key; arrow keys go along it.
 * `choices`, where given, lets a person put a runner-up in a token's place: {blocked(index, candidate) -> reason or "",
 * pick(index, candidate)}.
 */
export class TokenStrip {
  constructor(choices = null) {
    this.choices = choices;
    this.element = el("div", { class: "tokens", role: "group", "aria-label": "Tokens; arrow keys go along them" });
    this.clear();
    // On a narrow screen the inspector's opening moves the page: not under a pointer that only passes, nor between the
    // press and the release of a click.
    this.element.addEventListener(
      "mouseover",
      (event) => inspector.pinned || NARROW.matches || this.show(event.target),
    );
    this.element.addEventListener("focusin", (event) => {
      if (!event.target.matches(":focus-visible")) return;
      inspector.pinned = null;
      this.show(event.target);
    });
    this.element.addEventListener("click", (event) => this.pin(event));
    this.element.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.tokens = [];
    this.chips = [];
    this.element.replaceChildren();
  }

  /** Draws what is new in `tokens`; all of them when they are not a continuation of those drawn. */
  update(tokens) {
    if (this.tokens.some((token, i) => token !== tokens[i])) this.clear();
    for (const token of tokens.slice(this.tokens.length)) {
      const chip = drawChip(token, this.chips.length === 0);
      this.chips.push(chip);
      this.element.append(chip);
      if (token.token.includes("\n")) this.element.append(el("br"));
    }
    this.tokens = tokens;
  }

  show(target) {
    const index = this.chips.indexOf(target);
    if (index >= 0) inspector.show(this.tokens[index], this, index);
  }

  /** A click holds the inspector at this token, so that the way to it may cross others; a second one lets go. */
  pin(event) {
    const token = this.tokens[this.chips.indexOf(event.target)];
    if (!token) return;
    this.show(event.target);
    inspector.pinned = inspector.pinned === token ? null : token;
    const byKey = event.detail === 0;
    if (byKey && this.choices) $("inspector").querySelector("li button:enabled")?.focus();
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const from = this.chips.indexOf(event.target);
    if (!step || from < 0) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(this.chips.length - 1, from + step));
    this.chips[from].tabIndex = -1;
    this.chips[to].tabIndex = 0;
    this.chips[to].focus();
  }
}

function drawChip(token, first) {
  const label = `${visible(token.token)}: ${percent(token.logprob)}${token.sampled ? "" : ", not chosen by the model"}`;
  const kind = `${token.sampled ? "" : " forced"}${isSpecial(token.token) ? " special" : ""}`;
  const chip = el(
    "button",
    { type: "button", class: `token${kind}`, "data-testid": "token", title: label, "aria-label": label },
    visible(token.token),
  );
  chip.tabIndex = first ? 0 : -1;
  chip.style.setProperty("--p", Math.exp(token.logprob));
  return chip;
}

/** The panel. There is one for the whole page: on a narrow screen it opens below the view. */
export const inspector = {
  pinned: null,
  shown: null, // [token, strip, index]

  show(token, strip, index) {
    if (token === this.shown?.[0]) return;
    this.shown = [token, strip, index];
    unmark();
    const box = $("inspector");
    box.classList.remove("empty");
    box.replaceChildren(heading(token), facts(token), runnersUp(token, strip, index), legend());
    strip.chips[index]?.classList.add("shown");
    if (NARROW.matches) strip.chips[index]?.scrollIntoView({ block: "nearest" });
  },

  refresh() {
    const shown = this.shown;
    this.shown = null;
    if (shown) this.show(...shown);
  },

  clear() {
    this.shown = this.pinned = null;
    unmark();
    $("inspector").classList.add("empty");
    $("inspector").replaceChildren(
      el("h2", {}, "Token"),
      el("p", { class: "hint" }, "Point at a token, or go to it with Tab and the arrow keys."),
      legend(),
    );
  },
};

function unmark() {
  document.querySelectorAll(".token.shown").forEach((chip) => chip.classList.remove("shown"));
}

function heading(token) {
  const close = () => inspector.clear();
  return el(
    "header",
    {},
    el("h2", {}, el("code", {}, visible(token.token))),
    el("button", { class: "icon-button", "aria-label": "Close", title: "Close", onclick: close }, icon("close")),
  );
}

function facts(token) {
  const origin = token.sampled ? "the model's choice" : "put there, not chosen by the model";
  const pairs = [
    ["id", token.id],
    ["probability", percent(token.logprob)],
    ["log-probability", token.logprob.toFixed(3)],
    ["origin", origin],
  ];
  return el(
    "dl",
    { class: "facts" },
    ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]),
  );
}

function runnersUp(token, strip, index) {
  const candidates = [...(token.top_logprobs ?? [])];
  if (!candidates.some(({ id }) => id === token.id)) candidates.push(token); // unlikely, and still it stands there
  const list = el("ol", { class: "bars", "aria-label": "The likeliest tokens here" });
  for (const candidate of candidates) {
    const own = candidate.id === token.id;
    const line = [
      el("code", {}, visible(candidate.token)),
      el("span", { class: "share" }, percent(candidate.logprob)),
      el("i", { class: "meter", "aria-hidden": "true" }),
    ];
    line[2].style.setProperty("--p", Math.exp(candidate.logprob));
    const item = el("li", own ? { class: "own", "aria-current": "true" } : {});
    if (strip.choices && !own) {
      const blocked = strip.choices.blocked(index, candidate);
      const props = {
        "data-testid": "runner-up",
        disabled: Boolean(blocked),
        title: blocked || "Put it there and go on",
      };
      item.append(el("button", { ...props, onclick: () => strip.choices.pick(index, candidate) }, ...line));
    } else {
      item.append(el("div", {}, ...line));
    }
    list.append(item);
  }
  return list;
}

function legend() {
  const example = (kind, text, p) => {
    const chip = el("span", { class: `token ${kind}` }, text);
    chip.style.setProperty("--p", p);
    return chip;
  };
  return el(
    "p",
    { class: "legend" },
    example("", "unlikely", 0.05),
    example("", "even", 0.5),
    example("", "certain", 1),
    example("forced", "put there", 1),
    example("special", "special", 1),
  );
}
