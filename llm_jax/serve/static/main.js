// Starts the page: views by the address's hash, drawers on narrow screens, keys.

import { health } from "./api.js";
import { drawState, redrawAnswers, showTrouble, startChat, stopChat } from "./chat.js";
import { draw as drawDocument, showNoBase, startDocument, stopDocument } from "./document.js";
import { $, el, showLine } from "./dom.js";
import { startFile } from "./file.js";
import { chosenBase, chosenStage, label, loadModels, startSettings } from "./settings.js";
import { saveSettings, settings } from "./state.js";
import { cut, startTokenize } from "./tokenize.js";
import { inspector } from "./tokens.js";

const VIEWS = ["chat", "tokens", "document"];
const LOOK_MS = 1000; // between looks whether the model is loaded

function showView() {
  const hash = location.hash.slice(1);
  const view = VIEWS.includes(hash) ? hash : "chat";
  document.body.dataset.view = view;
  for (const element of document.querySelectorAll("[data-in]"))
    element.hidden = !element.dataset.in.split(" ").includes(view);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  closeDrawer();
  inspector.clear();
  showInspector();
  if (view === "tokens") cut();
}

function showInspector() {
  const view = document.body.dataset.view;
  $("inspector").hidden = view === "tokens" || (view === "chat" && !settings.show_tokens);
}

function startShowTokens() {
  const box = $("show-tokens");
  box.checked = settings.show_tokens;
  box.addEventListener("change", () => {
    settings.show_tokens = box.checked;
    saveSettings();
    redrawAnswers();
    inspector.clear();
    showInspector();
  });
}

// Drawers: side panels that lie over the page where it is narrow. The style sheet decides where that is.

function openDrawer(id) {
  document.body.dataset.drawer = id;
  $("scrim").hidden = false;
  document.querySelector(`button[data-drawer=${id}]`).setAttribute("aria-expanded", "true");
  $(id).querySelector("button, input, select")?.focus();
}

/** False when none was open. */
function closeDrawer() {
  const id = document.body.dataset.drawer;
  delete document.body.dataset.drawer;
  $("scrim").hidden = true;
  if (id) document.querySelector(`button[data-drawer=${id}]`).setAttribute("aria-expanded", "false");
  return Boolean(id);
}

function startDrawers() {
  for (const button of document.querySelectorAll("button[data-drawer]")) {
    button.addEventListener("click", () => {
      if (!closeDrawer()) openDrawer(button.dataset.drawer);
    });
  }
  $("scrim").addEventListener("click", closeDrawer);
  // A conversation was chosen: its text is what the reader wants to see.
  $("sidebar").addEventListener("click", (event) => event.target.closest(".title, #new-conversation") && closeDrawer());
  document.addEventListener("focusin", (event) => {
    const id = document.body.dataset.drawer;
    if (id && !event.target.closest(`#${id}, button[data-drawer], dialog`)) closeDrawer();
  });
}

function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    const id = document.body.dataset.drawer;
    if (closeDrawer()) document.querySelector(`button[data-drawer=${id}]`).focus();
    else if (!(document.body.dataset.view === "document" ? stopDocument() : stopChat())) inspector.clear();
  });
}

async function connect() {
  showTrouble("");
  showNoBase("");
  try {
    await loadModels();
    // Where there is nothing to talk to, the page begins with what works.
    if (!chosenStage() && chosenBase() && !location.hash) location.replace("#document");
    if (!chosenStage())
      showTrouble("This run has no chat model yet: train the stage sft. The view Document works with a base model.");
    if (!chosenBase())
      showNoBase("This run has no base model: there is nothing that continues documents.");
  } catch (error) {
    showTrouble(error.message);
    showNoBase(error.message);
    const again = () =>
      el("button", { type: "button", class: "button", "data-testid": "connect", onclick: connect }, "Retry");
    $("trouble").append(again());
    $("no-base").append(again());
  }
  drawState();
  drawDocument();
}

/** Says that the model is being loaded, for as long as it is. */
async function watchLoading() {
  const { status, model, reason } = await health();
  const name = label(model ?? "").toLowerCase();
  const loading = `The ${name} is being loaded. What you ask meanwhile is answered when it is ready.`;
  showLine($("loading"), status === "loading" ? loading : "");
  if (status === "loading") setTimeout(watchLoading, LOOK_MS);
  if (status === "failed") showTrouble(reason);
}

startSettings();
startShowTokens();
startChat();
startFile();
startTokenize();
startDocument();
startDrawers();
startKeys();
addEventListener("hashchange", showView);
showView();
connect();
watchLoading();
