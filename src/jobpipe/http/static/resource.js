// What a page reads from one route: asked again when something happened, never more often than `every` milliseconds nor
// than the server can take, and now and then when nothing did. While it fails, the last answer stays.
import { Away, Problem, get } from "./api.js";
import { h } from "./dom.js";
import { health } from "./health.js";
import { icon } from "./ui.js";

const AGAIN_MS = 1500;

export class Resource {
  data = null;
  error = null;
  good = 0; // when the data came, in ms of this browser's clock
  fails = 0; // in a row
  #began = 0;
  #at = 0;
  #took = 0;
  #wanted = false;
  #asking = null;

  // `path` may be a function of the moment it is asked at.
  constructor(path, { every = 1500, idle = 10000, read = get } = {}) {
    this.path = path;
    this.every = every;
    this.idle = idle;
    this.read = read;
  }

  touch() {
    this.#wanted = true;
  }

  // As if never asked; what is under way is given up.
  renew() {
    this.error = null;
    this.#at = 0;
    this.#asking?.abort();
    this.#asking = null;
  }

  due(time) {
    if (this.#asking) return false;
    const age = time - this.#at;
    if (this.error) return age >= Math.min(this.idle, AGAIN_MS * this.fails);
    return this.#at === 0 || age >= this.idle || (this.#wanted && age >= Math.max(this.every, 4 * this.#took));
  }

  // How long the server takes: for the answer that is under way, else for the latest.
  late() {
    return this.#asking ? performance.now() - this.#began : this.#took;
  }

  async refresh() {
    const began = (this.#began = performance.now());
    const asking = new AbortController();
    this.#asking = asking;
    this.#wanted = false;
    try {
      const data = await this.read(typeof this.path === "function" ? this.path() : this.path, { signal: asking.signal });
      if (asking.signal.aborted) return;
      this.data = data;
      this.error = null;
      this.good = Date.now();
      this.fails = 0;
    } catch (error) {
      if (asking.signal.aborted) return;
      if (!(error instanceof Problem || error instanceof Away)) console.error(error);
      this.error = error;
      this.fails += 1;
    }
    this.#asking = null;
    this.#at = performance.now();
    this.#took = this.#at - began;
  }
}

// The data shown by `view`, or why there is none.
export function shownOf(resource, view, empty) {
  if (resource.data !== null) {
    const nothing = empty && Array.isArray(resource.data) && !resource.data.length;
    return nothing ? h("p.empty", empty) : view(resource.data);
  }
  if (resource.error || health.name === "away") return failure(resource.error || new Away());
  return h("p.empty.loading", { "aria-busy": "true" }, "Loading …");
}

export function failure(error) {
  return h("div.broken", icon("errors"), h("div", {},
    h("strong", error instanceof Away ? "No answer from the server" : sentence(error.message)),
    h("p", error.detail || (error instanceof Away ? "This part fills in when it is back." : ""))));
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
