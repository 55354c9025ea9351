// A search in words: `status:failed queue:mail handler:send error:ValueError key:k id:2024`, and a bare word for the beginning of
// an id, with completion of names and of what is known to be there. What it stands for is the filter in the address.
import { h } from "./dom.js";

const FIELDS = { status: "status", queue: "queue", handler: "handler", error: "error_type", group: "error_group", key: "key", schedule: "schedule", id: "id_prefix" };
const MOST = 8;

const quoted = (text) => (/[\s"]/.test(text) ? `"${text.replaceAll('"', "")}"` : text);
export const textOf = (filter) => Object.entries(FIELDS).filter(([, field]) => filter[field]).map(([name, field]) => `${name}:${quoted(filter[field])}`).join(" ");

// The filter that a text stands for, beside those fields of `kept` that no word sets; or what is wrong with it.
export function filterOf(text, kept = {}) {
  const filter = Object.fromEntries(Object.entries(kept).filter(([field]) => !Object.values(FIELDS).includes(field)));
  for (const [, name, quotes, word] of text.matchAll(/(?:([A-Za-z_.]+):)?(?:"([^"]*)"?|(\S+))/g)) {
    if (name && !FIELDS[name]) return { problem: `There is no ${name}: to search by. There are ${Object.keys(FIELDS).join(", ")}.` };
    filter[FIELDS[name] || "id_prefix"] = quotes ?? word;
  }
  return { filter };
}

export class Search {
  #text = null; // what is being typed, null for what the filter says
  #at = -1;
  #problem = "";

  // `known` gives, by field, what is known to be there; `go(filter)` opens a filter.
  constructor(changed, known, go) {
    Object.assign(this, { changed, known, go });
  }

  view(filter) {
    // Keys may come before what was typed is drawn.
    const typed = () => this.#text ?? textOf(filter);
    const offered = () => (this.#text === null ? [] : this.#found(this.#text));
    const found = offered();
    const run = (value) => {
      const { filter: to, problem } = filterOf(value, filter);
      this.#problem = problem || "";
      if (problem) return this.changed();
      this.#text = null;
      return this.go(to);
    };
    const take = (one) => {
      this.#text = typed().replace(/\S*$/, one);
      this.#at = -1;
      const input = document.getElementById("find");
      input.value = this.#text; // at once: what is typed next goes on from there
      input.focus();
      this.changed();
    };
    const keys = {
      ArrowDown: () => (this.#at = Math.min(offered().length - 1, this.#at + 1)), ArrowUp: () => (this.#at = Math.max(-1, this.#at - 1)),
      Enter: () => (offered()[this.#at] ? take(offered()[this.#at]) : run(typed())), Tab: () => take(offered()[this.#at]),
      Escape: () => ((this.#text = null), (this.#problem = "")),
    };
    const press = (event) => {
      if (!keys[event.key] || (event.key === "Tab" && !offered()[this.#at])) return;
      event.preventDefault();
      keys[event.key]();
      this.changed();
    };
    return h("div.search", { role: "search", "aria-label": "Find tasks" },
      h("input", { id: "find", type: "search", role: "combobox", "aria-label": "Search", placeholder: "status:failed queue:… handler:… or an id", value: typed(), autocomplete: "off", spellcheck: "false",
        "aria-expanded": String(found.length > 0), "aria-controls": "found", "aria-autocomplete": "list", "aria-activedescendant": found[this.#at] && `found-${this.#at}`, onkeydown: press,
        oninput: (event) => ((this.#text = event.target.value), (this.#at = -1), (this.#problem = ""), this.changed()),
        onsearch: (event) => event.target.value === "" && run(""), onblur: () => setTimeout(() => document.activeElement?.id !== "find" && ((this.#text = null), this.changed()), 150) }),
      h("ul", { id: "found", role: "listbox", "aria-label": "Completions", class: found.length ? "" : "unseen" }, found.map((one, i) =>
        h("li", { key: one, id: `found-${i}`, role: "option", "aria-selected": String(i === this.#at), onmousedown: (event) => (event.preventDefault(), take(one)) }, one))),
      this.#problem && h("p.bad", { role: "alert" }, this.#problem));
  }

  // How the last word may go on.
  #found(text) {
    const word = text.match(/\S*$/)[0];
    const [name, begun] = word.split(/:(.*)/s);
    if (begun === undefined) return Object.keys(FIELDS).filter((one) => one.startsWith(word)).map((one) => `${one}:`);
    const there = this.known()[name] || [];
    return there.filter((one) => one.includes(begun) && one !== begun).slice(0, MOST).map((one) => `${name}:${quoted(one)} `);
  }
}
