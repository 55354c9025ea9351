// JSON with every number and string as it was written: 5,000 digits, 1e999 and 1.0 must not become something else when
// a payload is shown or sent again. Also the tree that shows such a value.
import { h } from "./dom.js";
import { count } from "./format.js";
import { icon } from "./ui.js";

const STEP = 100;
const LONG = 600; // characters of a text that are shown unasked
const LARGE = 50000; // characters of a value that is opened unasked
const TOKEN = /[\s]*([[\]{}:,]|"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)/y;

// {kind, text} with `items` or `entries` ([key text, node]); raises SyntaxError with the place.
export function parse(text) {
  let at = 0;
  let end = 0;
  const next = () => {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match) throw new SyntaxError(`unexpected text at ${at}`);
    at = TOKEN.lastIndex;
    end = at - match[1].length;
    return match[1];
  };
  const value = (token) => {
    const start = end;
    if (token === "[" || token === "{") {
      const node = token === "[" ? list() : table();
      node.text = text.slice(start, at);
      return node;
    }
    return { kind: token[0] === '"' ? "string" : /[-0-9]/.test(token[0]) ? "number" : "word", text: token };
  };
  const list = () => {
    const items = [];
    for (let token = next(); token !== "]"; token = next()) items.push(value(token === "," ? next() : token));
    return { kind: "array", items };
  };
  const table = () => {
    const entries = [];
    for (let token = next(); token !== "}"; token = next()) {
      const key = token === "," ? next() : token;
      next();
      entries.push([key, value(next())]);
    }
    return { kind: "object", entries };
  };
  JSON.parse(text); // judges the grammar, so that the reader above may be simple
  return value(next());
}

// A member of an object, as it was written.
export function member(node, name) {
  const found = node.entries.find(([key]) => JSON.parse(key) === name);
  return found ? found[1] : { kind: "word", text: "null" };
}

export function pretty(node, indent = "") {
  const more = `${indent}  `;
  if (node.kind === "array" && node.items.length) {
    return `[\n${node.items.map((item) => more + pretty(item, more)).join(",\n")}\n${indent}]`;
  }
  if (node.kind === "object" && node.entries.length) {
    return `{\n${node.entries.map(([key, item]) => `${more}${key}: ${pretty(item, more)}`).join(",\n")}\n${indent}}`;
  }
  return node.items ? "[]" : node.entries ? "{}" : node.text;
}

// --- the tree ---

// A view that remembers what is open; `changed` asks for a new rendering.
export class Tree {
  #open = new Map();

  constructor(changed) {
    this.changed = changed;
  }

  view(node) {
    return h("div.tree", this.#node(node, null, "$", 0));
  }

  #node(node, label, path, depth) {
    const kids = node.items || node.entries;
    const name = label === null ? null : [h("span.key", label), ": "];
    if (!kids) return h("div.leaf", { key: path }, name, this.#text(node, path));
    if (!kids.length) return h("div.leaf", { key: path }, name, node.items ? "[ ]" : "{ }");
    const open = this.#open.get(path) ?? (depth < 2 && kids.length <= 40 && node.text.length <= LARGE ? STEP : 0);
    const toggle = (event) => {
      const is = event.target.open;
      if (is !== open > 0) this.#set(path, is ? STEP : 0);
    };
    return h("details", { key: path, open: open > 0, ontoggle: toggle },
      h("summary", icon("next"), name, h("span.size", node.items ? `[ ${count(kids.length)} ]` : `{ ${count(kids.length)} }`)),
      open > 0 && h("div.inner", this.#kids(node, path, depth, open)));
  }

  #kids(node, path, depth, open) {
    const all = node.items || node.entries;
    const shown = all.slice(0, open).map((kid, i) => (node.items
      ? this.#node(kid, String(i), `${path}/${i}`, depth + 1)
      : this.#node(kid[1], JSON.parse(kid[0]), `${path}/${i}`, depth + 1)));
    const left = all.length - open;
    if (left <= 0) return shown;
    return [shown, h("button.quiet", { key: "more", onclick: () => this.#set(path, open + STEP) }, `${count(left)} more`)];
  }

  #text({ kind, text }, path) {
    if (text.length <= LONG) return h("span", { class: kind }, text);
    const open = this.#open.get(path) > 0;
    return [h("span", { class: kind }, open ? text : `${text.slice(0, LONG)}…`),
      h("button.quiet", { "aria-expanded": String(open), onclick: () => this.#set(path, open ? 0 : 1) }, open ? "fold" : `all ${count(text.length)} characters`)];
  }

  #set(path, open) {
    this.#open.set(path, open);
    this.changed();
  }
}

