// A text file that goes with the next message: it stands in front of the question, under its name.

import { json } from "./api.js";
import { $, isolated, toast } from "./dom.js";
import { chosenContext, chosenStage } from "./settings.js";

const MOST_CHARACTERS = 65536; // that the server counts the tokens of
const ANSWER_ROOM = 64; // tokens that are left for the question and its answer

let file = null; // {name, text}

export function startFile() {
  const talk = $("talk");
  const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
  talk.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  talk.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  $("file").addEventListener("change", () => {
    take($("file").files[0]);
    $("file").value = ""; // the same one may be chosen again
  });
  $("detach").addEventListener("click", () => {
    set(null);
    $("composer").focus();
  });
}

/** The question with the file in front, if there is one; it goes with no other. */
export function withFile(question) {
  const whole = file ? `${file.name}:\n${file.text}\n\n${question}` : question;
  set(null);
  return whole;
}

function set(found) {
  file = found;
  $("attached").hidden = !found;
  $("attached-name").textContent = found?.name ?? "";
}

async function take(chosen) {
  if (!chosen) return;
  const wrong = (why) => toast(`${isolated(chosen.name)} ${why}`);
  if (chosen.size > 4 * MOST_CHARACTERS) return wrong("is too long for a message.");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await chosen.arrayBuffer()).trim();
  } catch {
    return wrong("is no text in UTF-8, or cannot be read.");
  }
  if (!text) return wrong("is empty.");
  if (text.length > MOST_CHARACTERS) return wrong("is too long for a message.");
  try {
    const { count } = await json("tokenize", { model: chosenStage(), prompt: text, parse_special: false });
    const room = chosenContext() - ANSWER_ROOM;
    if (count > room) return wrong(`is ${count} tokens long; there is room for ${room}.`);
  } catch (error) {
    return toast(error.message);
  }
  set({ name: chosen.name, text });
  $("composer").focus();
}
