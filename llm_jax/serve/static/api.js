// The server's HTTP interface: JSON requests, and answers as streams of events.

import { ask } from "./dom.js";

const KEY = "llm_jax.key"; // in sessionStorage, where there is one: it does not outlive the tab

export class ApiError extends Error {}

let asking = null;
let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // no storage in this browser
}

function setKey(text) {
  key = text.replace(/[^!-~]/g, ""); // what is pasted may bring characters along that no header can carry
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // no storage in this browser: it is asked for again after a reload
  }
}

/** Asks for the API key, once however many requests want it. True when there is a key to try. */
async function askForKey(refused) {
  if (key !== refused) return true; // another request has asked meanwhile
  asking ??= ask({
    title: "API key",
    text: refused ? "The server refused that key." : "This server wants a key.",
    label: "Key",
    type: "password",
  }).finally(() => (asking = null));
  const given = await asking;
  if (given) setKey(given);
  return Boolean(given);
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}.`;
  }
}

/** A response that is fine; else throws ApiError with a line for people to read, or AbortError. */
async function request(path, body, signal) {
  for (;;) {
    const used = key;
    const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (used) headers.Authorization = `Bearer ${used}`;
    let response;
    try {
      response = await fetch(path, {
        method: body ? "POST" : "GET",
        headers,
        body: body && JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached. Is it running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && (await askForKey(used))) continue;
    throw new ApiError(await reason(response));
  }
}

/** What /health says of the model that answers by default: {status: "ok" | "loading" | "failed", model, reason}. */
export async function health() {
  try {
    return await (await fetch("health")).json();
  } catch {
    return { status: "unreachable" };
  }
}

export async function json(path, body, signal) {
  return (await request(path, body, signal)).json();
}

/** The objects of a streamed answer. Throws ApiError, also for one that comes in the stream, or AbortError. */
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message);
    yield chunk;
  }
  throw new ApiError("The connection broke before the answer ended.");
}

/** The `data:` lines of a stream of server-sent events. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop(); // a line may go on in the next piece
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // already broken: there is nothing to cancel
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection broke before the answer ended.");
  }
}
