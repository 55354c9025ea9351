// The rules of a queue, edited in place: what is in force, beside what apps declare and what people set, who did and when.
import { Problem, call, can } from "./api.js";
import { toast } from "./dialogs.js";
import { h, heads } from "./dom.js";
import { count } from "./format.js";
import { done, may, rateOf, rateText, who } from "./flow.js";
import { health } from "./health.js";
import { agreed, complain } from "./steering.js";

const NUMBER = { text: (value) => (value === undefined || value === null ? "" : String(value)), value: (text) => (/^\d+$/.test(text) ? Number(text) : text), hint: "5, or none" };
const RATE = { text: rateText, value: (text) => (text === "none" ? text : rateOf(text)), hint: "100/m, or none" };
const CHOICE = { text: (value) => (value === undefined || value === null ? "" : value === true ? "true" : "none"), value: (text) => (text === "true" ? true : text), choices: { "": "not set", true: "yes", none: "no" } };

export const RULES = {
  concurrency: ["Concurrency", "tasks that run at a time, everywhere", NUMBER],
  rate: ["Rate", "starts: 100/m (s, m, h, d), 100/m burst 5", RATE],
  key_concurrency: ["Concurrency of a key", "the same for each key by itself", NUMBER],
  key_rate: ["Rate of a key", "the same for each key by itself", RATE],
  fair: ["In turns", "keys take turns within a priority", CHOICE],
  capacity: ["Capacity", "waiting tasks that it takes", NUMBER],
};

// What was typed, by rule, until it is saved or undone.
export class Draft {
  typed = {};
  problem = null;
  saving = false;

  constructor(names) {
    this.names = names;
  }

  text = (name, set) => this.typed[name] ?? RULES[name][2].text(set?.[name]);
  changes = (set) => this.names.filter((name) => name in this.typed && this.typed[name].trim() !== RULES[name][2].text(set?.[name]));

  body(set) {
    return Object.fromEntries(this.changes(set).map((name) => [name, valueOf(name, this.typed[name].trim())]));
  }

  undo() {
    this.typed = {};
    this.problem = null;
  }
}

const valueOf = (name, text) => (text === "" ? null : text.toLowerCase() === "none" ? "none" : RULES[name][2].value(text));

// The field of one rule; `typed(text)` hears what is typed.
export function field(name, draft, set, typed) {
  const [label, , kind] = RULES[name];
  const bad = draft.problem && draft.problem.field.split(".")[0] === name;
  const common = { id: `rule-${name}`, "aria-label": `Set ${label.toLowerCase()}`, "aria-invalid": bad && "true", disabled: health.shut, "aria-describedby": bad ? "rule-problem" : undefined };
  if (kind.choices) {
    return h("select", { ...common, value: draft.text(name, set), onchange: (event) => typed(event.target.value) },
      Object.entries(kind.choices).map(([value, text]) => h("option", { key: value, value }, text)));
  }
  return h("input", { ...common, value: draft.text(name, set), placeholder: kind.hint, autocomplete: "off", spellcheck: "false", oninput: (event) => typed(event.target.value) });
}

export class Rules {
  #draft = new Draft(Object.keys(RULES));

  constructor(app, path, resource) {
    Object.assign(this, { app, path, resource });
  }

  view(q) {
    const draft = this.#draft;
    const changed = draft.changes(q.set);
    const names = Object.keys(RULES);
    return h("form.panel", { key: "rules", "aria-label": "Rules", onsubmit: (event) => (event.preventDefault(), void this.#save()) },
      h("header", h("h2", "Rules"), h("span.soft", { id: "set-by" }, q.set ? ["set", who(q.set)] : "nothing is set here")),
      h("div.scroll", { tabindex: "0", role: "region", "aria-label": "The rules" }, h("table.full.cards.rules", h("caption.hidden", "Rules of this queue"),
        heads("Rule", "In force", "Declared by apps", "Set by people"),
        h("tbody", names.map((name) => this.#row(name, q))))),
      can("admin") && h("div.toolbar.foot", h("button.primary", { disabled: !changed.length || draft.saving || health.shut }, draft.saving ? "Saving …" : "Save"),
        h("button", { type: "button", disabled: !changed.length, onclick: () => (draft.undo(), this.app.render()) }, "Undo"),
        h("p.note", { id: "rule-problem", role: "alert" }, draft.problem && h("span.bad", `${RULES[draft.problem.field.split(".")[0]]?.[0] || "Refused"}: ${draft.problem.detail || draft.problem.message}`)),
        h("span.space"),
        h("button.danger", { type: "button", disabled: !q.set || health.shut, onclick: () => void this.#takeBack(q) }, "Take all back")));
  }

  #row(name, q) {
    const [label, what, kind] = RULES[name];
    const force = name === "capacity" ? q.capacity : q.rules?.[name];
    const said = Object.entries(q.declared || {}).filter(([, rules]) => rules[name] !== undefined);
    return h("tr", { key: name, "data-rule": name },
      h("th", { scope: "row" }, label, h("small", ` ${what}`)),
      h("td", { "data-label": "in force" }, h("b", { "data-force": name }, force === undefined ? "–" : force === true ? "yes" : typeof force === "number" ? count(force) : rateText(force))),
      h("td", { "data-label": "declared" }, said.length ? said.map(([app, rules]) => h("p", { key: app }, kind.text(rules[name]).replace("true", "yes"), h("small", ` ${app}`))) : "–"),
      h("td", { "data-label": "set" }, can("admin")
        ? field(name, this.#draft, q.set, (text) => ((this.#draft.typed[name] = text), (this.#draft.problem = null), this.app.render()))
        : kind.text(q.set?.[name]) || "–"));
  }

  async #save() {
    const draft = this.#draft;
    if (!may() || draft.saving) return;
    draft.saving = true;
    this.app.render();
    if (await save(this.path, draft, this.resource.data.set)) this.app.refresh();
    draft.saving = false;
    this.app.render();
  }

  async #takeBack(q) {
    const says = h("p", "All that people set of ", h("code", q.queue), " is taken back: its rules, its pause, and the rules of its keys. What apps declare holds again; tasks stay.");
    if (!(await agreed("Take all back?", "Take all back", says)) || !(await done(this.path, { method: "DELETE" }, "All taken back"))) return;
    this.#draft.undo();
    this.app.refresh();
  }
}

// Whether it was kept; what was refused stays in the draft, with the reason.
export async function save(path, draft, set) {
  try {
    await call(path, { method: "PATCH", body: draft.body(set) });
    draft.undo();
    toast("Rules saved");
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status === 400) draft.problem = error;
    else complain(error);
    return false;
  }
}
