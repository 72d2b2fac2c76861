// The settings panel, and the models that the server has.

import { json } from "./api.js";
import { $, el } from "./dom.js";
import { saveSettings, settings } from "./state.js";

/** Ties each named field of the panel to the setting of that name. What is not valid is marked, and not taken over. */
export function startSettings() {
  for (const field of document.querySelectorAll(".settings [name]")) {
    const { name, type } = field;
    if (type === "checkbox") field.checked = settings[name];
    else field.value = settings[name] ?? "";
    field.addEventListener("input", () => {
      if (!field.checkValidity()) return;
      if (type === "checkbox") settings[name] = field.checked;
      else if (type === "number") settings[name] = field.value === "" ? null : Number(field.value);
      else settings[name] = field.value;
      saveSettings();
    });
    field.addEventListener("change", () => field.reportValidity());
  }
}

// What each kind of model is called; ids are the stages that trained them.
const LABELS = { imported: "Imported model", pretrain: "Base model", sft: "Assistant", rl: "Thinking model" };

const contexts = new Map(); // model -> tokens that it reads

export function label(id) {
  return LABELS[id] ?? id;
}

/** Fills the two lists of models: those that chat, those that continue documents. Throws ApiError. */
export async function loadModels() {
  const models = (await json("v1/models")).data;
  for (const { id, context } of models) contexts.set(id, context);
  fillList(
    $("stage"),
    models.filter(({ kind }) => kind === "chat"),
    settings.stage,
  );
  fillList(
    $("base"),
    models.filter(({ kind }) => kind === "base"),
    settings.base,
  );
}

function fillList(list, models, wanted) {
  list.replaceChildren(
    ...models.map(({ id, context }) => {
      const name = label(id) === id ? id : `${label(id)}, ${id}`;
      return el("option", { value: id, title: `reads ${context} tokens` }, `${name} (${context})`);
    }),
  );
  const ids = models.map(({ id }) => id);
  const standard = models.find((model) => model.default)?.id ?? ids.at(-1) ?? "";
  list.value = ids.includes(wanted) ? wanted : standard;
}

/** The chat model's id; "" when the server has none. */
export function chosenStage() {
  return $("stage").value;
}

/** The tokens that the chat model reads, its answer included; 0 when the server has none. */
export function chosenContext() {
  return contexts.get(chosenStage()) ?? 0;
}

/** The base model's id; "" when the server has none. */
export function chosenBase() {
  return $("base").value;
}
