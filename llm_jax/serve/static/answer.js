// One answer as data: the request that asks for it, and the stream that fills it.

import { stream } from "./api.js";
import { settings } from "./state.js";

const RETURNED = ["output", "document"]; // parts that tools write
const SPANS = ["text", "answer", "think", ...RETURNED]; // any other part is a call, named after its tool
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"];

export function newAnswer(model) {
  return {
    role: "assistant",
    model,
    parts: [],
    system: settings.system,
    seed: settings.seed ?? randomSeed(),
    finish: null,
  };
}

export function randomSeed() {
  return Math.floor(Math.random() * 2 ** 31);
}

/** The turns as the server wants them. A question that never got a word of answer is left out with its answer. */
export function wire(messages, system) {
  const turns = system.trim() ? [{ role: "system", content: system }] : [];
  messages.forEach((message, i) => {
    if (message.role === "assistant") {
      if (message.parts.length) turns.push({ role: "assistant", content: message.parts });
    } else if (messages[i + 1]?.parts?.length !== 0) {
      turns.push({ role: "user", content: message.content });
    }
  });
  return turns;
}

/**
 * Streams an answer to `history` into `message`; `changed` is called after each chunk. Never throws: what went wrong
 * stands in `message.error`. `message.finish` is set when it is over.
 */
export async function fill(message, history, overrides, signal, changed) {
  const request = {
    model: message.model,
    messages: wire(history, message.system),
    seed: message.seed,
    thinking: settings.thinking,
    builtin_tools: settings.tools,
    parts: true,
    stream_options: { include_usage: true },
  };
  for (const name of SAMPLING) if (settings[name] != null) request[name] = settings[name];
  if (settings.show_tokens) Object.assign(request, { logprobs: true, top_logprobs: 10 });
  Object.assign(request, overrides);

  const started = performance.now();
  let finish = "stop";
  try {
    for await (const chunk of stream("v1/chat/completions", request, signal)) {
      finish = take(message, chunk) ?? finish;
      changed();
    }
  } catch (error) {
    finish = error.name === "AbortError" ? "stopped" : "error";
    if (finish === "error") message.error = error.message;
  }
  message.seconds = (performance.now() - started) / 1000;
  message.finish = finish;
}

function take(message, chunk) {
  if (chunk.notice) message.notice = chunk.notice;
  if (chunk.usage) message.count = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return null;
  for (const { index, type, text } of choice.delta?.parts ?? []) {
    message.parts[index] ??= { type, text: "" };
    message.parts[index].text += text;
  }
  if (choice.logprobs?.content) message.tokens = (message.tokens ?? []).concat(choice.logprobs.content);
  return choice.finish_reason;
}

/** What the answer says, without its thoughts and tools. */
export function said(message) {
  return message.parts
    .filter((part) => part.type === "text" || part.type === "answer")
    .map((part) => part.text)
    .join("")
    .trim();
}

/** {source, text} of the passages that a search gave, and whose source the answer names. */
export function cited(message) {
  const answer = said(message);
  const found = new Map();
  for (const { tool, output } of blocks(message.parts)) {
    for (const passage of tool === "search" ? passages(output ?? "") : [])
      if (passage.source && names(answer, passage.source)) found.set(`${passage.text} [${passage.source}]`, passage);
  }
  return [...found.values()];
}

/** {source, text} of each line of what a search gave; "" where a line has no source. */
export function passages(output) {
  return output.split("\n").map((line) => {
    const [, text, source] = line.match(/^(.+) \[([^[\]]+)\]$/) ?? [];
    return source ? { source, text } : { source: "", text: line };
  });
}

function names(answer, source) {
  const escaped = source.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}_])${escaped}(?![\\p{L}\\p{N}_])`, "u").test(answer);
}

/**
 * The answer's parts as they are shown: a program and its output are one block, empty text between parts is none.
 * Blocks are {kind: "text" | "answer" | "think" | "tool", text, output?, tool?}.
 */
export function blocks(parts) {
  const shown = [];
  for (const { type, text } of parts) {
    const last = shown.at(-1);
    if (!SPANS.includes(type)) shown.push({ kind: "tool", tool: type, text, output: null });
    else if (RETURNED.includes(type) && last?.kind === "tool") last.output = (last.output ?? "") + text;
    else if (RETURNED.includes(type)) shown.push({ kind: "tool", tool: type, text: "", output: text });
    else if (type === "text") text.trim() && shown.push({ kind: "text", text: text.trim() });
    else shown.push({ kind: type, text: text.trim() });
  }
  return shown;
}
