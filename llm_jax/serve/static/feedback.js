// What a person thinks of an answer, sent to the server, which keeps it as training data.

import { json } from "./api.js";
import { wire } from "./answer.js";
import { toast } from "./dom.js";

let sending = false; // one at a time: a double click is one opinion

/**
 * `kind` is edit, rate or choose; `history` the messages before the answer, `extra` what the kind wants (see the
 * server). Resolves to true when it was saved. The toast says where, or what went wrong.
 */
export async function sendFeedback(kind, history, answer, extra) {
  if (sending) return false;
  sending = true;
  const body = { model: answer.model, messages: wire(history, answer.system), kind, answer: answer.parts, ...extra };
  try {
    const { saved, counts } = await json("v1/feedback", body);
    const records = Object.entries(counts).map(
      ([name, count]) => `${count} ${count === 1 ? name.replace(/s$/, "") : name}`,
    );
    toast(`Saved in ${saved.join(" and ")}. There are now ${records.join(", ")}.`);
    return true;
  } catch (error) {
    toast(`Not saved: ${error.message}`);
    return false;
  } finally {
    sending = false;
  }
}
