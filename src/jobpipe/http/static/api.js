// Requests to the server that this page came from, with the tab's key, and errors as the server words them.
import { learnClock } from "./format.js";
import { keep, kept } from "./kept.js";


// `key` is kept for this tab alone. `who` is what the server says of it, null until it has answered.
export const session = { key: kept("sessionStorage", "key"), who: null, refused: false };

let onRefused = () => {};

export class Problem extends Error {
  constructor(status, body) {
    super(body.error || `HTTP ${status}`);
    this.status = status;
    this.code = body.code || "unknown";
    this.detail = body.detail || "";
    this.field = body.field || "";
  }
}

// No answer came: the server is away, or the network is.
export class Away extends Error {}

export const whenRefused = (tell) => (onRefused = tell);
export const can = (scope) => session.who !== null && session.who.scopes.some((has) => has === scope || has === "admin");

// Paths are relative to the page, so that a server mounted under a prefix works too.
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI);

export function headers(more = {}) {
  return session.key ? { ...more, Authorization: `Bearer ${session.key}` } : more;
}

export async function call(path, { method = "GET", body, signal, timeout = 20000 } = {}) {
  const stop = AbortSignal.timeout(timeout);
  const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  let answer;
  let content;
  try {
    answer = await fetch(address(path), {
      method, body: text, cache: "no-store", credentials: "omit",
      headers: headers(text === undefined ? {} : { "Content-Type": "application/json" }),
      signal: signal ? AbortSignal.any([signal, stop]) : stop,
    });
    content = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Away("the server does not answer");
  }
  learnClock(answer.headers.get("date"));
  if (answer.ok) return { text: content, next: nextOf(answer.headers.get("link")), status: answer.status };
  if (answer.status === 401) refuse();
  throw new Problem(answer.status, parsed(content));
}

export const get = async (path, options) => JSON.parse((await call(path, options)).text);
export const post = async (path, body, options) => JSON.parse((await call(path, { ...options, method: "POST", body })).text || "null");

function parsed(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}

function nextOf(link) {
  const match = /<[^>]*[?&]cursor=([^&>]+)[^>]*>;\s*rel="next"/.exec(link || "");
  return match ? decodeURIComponent(match[1]) : null;
}

// --- keys ---

export async function introduce() {
  session.who = await get("keys/self");
  session.refused = false;
}

export function useKey(key) {
  session.key = key;
  session.who = null;
  session.refused = false;
  keep("sessionStorage", "key", key);
}

export function refuse() {
  if (session.refused) return;
  session.refused = true;
  onRefused();
}
