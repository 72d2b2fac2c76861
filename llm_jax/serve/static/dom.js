// Small helpers. Text only ever goes in as text: whatever a model or a user wrote is hostile until shown otherwise.

export const $ = (id) => document.getElementById(id);

/** An element: attributes from `props` (`onclick` and the like are listeners), then children or strings. */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** One of the drawings at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Sets text only where it differs, so that a selection in a streaming answer survives. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Text of others inside a sentence of ours: its marks of direction, and its own direction, end with it. */
export function isolated(text) {
  return `\u2068${text.replace(BIDI, "")}\u2069`;
}

export function showLine(element, text) {
  setText(element, text);
  element.hidden = !text;
}

let toastTimer;

export function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("shown"), 7000);
}

/** Says something to screen readers. */
export function announce(text) {
  $("announcer").textContent = text;
}

/** A dialog. Resolves to the field's text (or true where there is no `label`), or null when it was cancelled. */
export function ask({ title, text = "", label = "", value = "", type = "text", ok = "OK" }) {
  return new Promise((resolve) => {
    let result = null;
    const input = label ? el("input", { type, autocomplete: "off", "data-testid": "dialog-input" }) : null;
    if (input) input.value = value;
    const submit = (event) => {
      event.preventDefault();
      result = input ? input.value.trim() : true;
      dialog.close();
    };
    const dialog = el(
      "dialog",
      { "aria-label": title, onclose: () => (dialog.remove(), resolve(result)) },
      el(
        "form",
        { onsubmit: submit },
        el("h2", {}, title),
        text && el("p", {}, text),
        input && el("label", {}, label, input),
        el(
          "div",
          { class: "row end" },
          el("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"),
          el("button", { class: "button primary", "data-testid": "dialog-ok" }, ok),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    (input ?? dialog.querySelector(".primary")).focus();
  });
}

/** Lets a textarea grow with its text; the style sheet says how far. */
export function autosize(textarea) {
  textarea.style.height = "auto";
  textarea.style.height = `${textarea.scrollHeight + 2}px`;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain http from another machine there is no clipboard API; the old way still works.
    const area = el("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied.");
}

/** Enter that is meant as "go", not as the end of a composed character. */
export function isEnter(event) {
  return event.key === "Enter" && !event.isComposing && event.keyCode !== 229; // 229: Safari's word for composing
}
