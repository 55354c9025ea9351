// The keys of a queue: how much of its limit each runs, what waits, who is paused or held; and the rules of one alone.
import { call, can } from "./api.js";
import { dialog, renderDialog } from "./dialogs.js";
import { h, heads } from "./dom.js";
import { count } from "./format.js";
import { brief, done, holdText, may, orBlank, pauseButton, pausedBadge, runs, who } from "./flow.js";
import { health } from "./health.js";
import { Order } from "./order.js";
import { Resource, shownOf } from "./resource.js";
import { Draft, RULES, field, save } from "./rules.js";
import { touched } from "./still.js";
import { icon, region } from "./ui.js";

const LIMIT = 50;
const OWN = ["concurrency", "rate"];

export class Keys {
  #cursors = [];
  #order = new Order();

  constructor(app, path, queue, find) {
    Object.assign(this, { app, path: `${path}/keys`, queue, find: find || "" });
    const page = () => `${this.path}?limit=${LIMIT}${this.#cursors.length ? `&cursor=${encodeURIComponent(this.#cursors.at(-1))}` : ""}`;
    this.list = new Resource(page, { every: 1500, idle: 5000, read: orNone });
    this.found = new Resource(() => this.#pathOf(this.find), { every: 1500, idle: 5000, read: (path, options) => (this.find ? orBlank(null)(path, options) : null) });
    this.resources = [this.list, this.found];
  }

  #pathOf = (key) => `${this.path}/${encodeURIComponent(key)}`;

  view() {
    const find = (event) => {
      event.preventDefault();
      this.find = document.getElementById("find-key").value.trim();
      this.found.data = null;
      this.found.renew();
      this.app.tick();
      this.app.render();
    };
    return h("section.panel", { key: "keys", id: "keys", "aria-labelledby": "keys-head" },
      h("header", h("h2", { id: "keys-head" }, "Keys"), h("span.soft", "tenants, accounts: what tasks belong to within the queue"),
        h("form.find", { role: "search", "aria-label": "Find a key", onsubmit: find },
          h("input", { id: "find-key", type: "search", "aria-label": "Key", placeholder: "A key, whole", value: this.find, autocomplete: "off", spellcheck: "false" }), h("button", { type: "submit" }, icon("search"), "Find"))),
      shownOf(this.list, (data) => this.#table(data)));
  }

  #table({ rows, next, path }) {
    if (!touched("#keys tbody")) this.#order.renew();
    const { all } = this.#order.of(rows, (use) => use.key, (a, b) => (a.key < b.key ? -1 : 1), path);
    const found = this.find && this.found.data ? [{ row: this.found.data }] : [];
    const shown = [...found, ...all.filter(({ row }) => row.key !== found[0]?.row.key)];
    if (!shown.length) return h("p.empty", this.queue.data.missing ? "No key has rules here." : "None of its tasks has a key.");
    const turn = (act) => () => {
      act();
      this.list.renew();
      this.app.tick();
    };
    return [region("Keys of the queue", "", h("table.full.cards.dense", h("caption.hidden", "Keys with unfinished tasks or rules"),
      heads("Key", "Running", "#Queued", "Held", "Rules", ...(can("admin") ? [h("th", { scope: "col", key: "act" }, h("span.hidden", "Change"))] : [])),
      h("tbody", shown.map(({ row, gone }) => this.#line(row, gone))))),
    (this.#cursors.length > 0 || next) && h("nav.pager.foot", { "aria-label": "Pages of keys" },
      h("button", { type: "button", disabled: !this.#cursors.length, onclick: turn(() => this.#cursors.pop()) }, "Before"),
      h("button", { type: "button", disabled: !next, onclick: turn(() => this.#cursors.push(next)) }, "Next"))];
  }

  #line(use, gone) {
    const { key, rules } = use;
    const tasks = `#/tasks?queue=${encodeURIComponent(this.queue.data.queue)}&key=${encodeURIComponent(key)}`;
    const toggle = async () => {
      if (may() && (await done(this.#pathOf(key), { method: "PATCH", body: { paused: rules.paused ? null : true } }, `${key} ${rules.paused ? "goes on" : "paused"}`))) this.app.refresh();
    };
    return h("tr", { key, "data-key": key, class: [gone && "gone", rules.paused && "halted"].filter(Boolean).join(" ") },
      h("th", { scope: "row" }, h("a.id", { href: tasks }, key), rules.paused && [" ", pausedBadge()]),
      h("td", { "data-label": "running" }, runs(use.running, rules.concurrency)),
      h("td.num", { "data-label": "queued", "data-count": "queued" }, count(use.queued)),
      h("td", { "data-label": "held" }, use.hold_until ? holdText(use.hold_until) : "–"),
      h("td", { "data-label": "rules" }, brief({ concurrency: rules.concurrency, rate: rules.rate }) || "–"),
      can("admin") && h("td.acts", pauseButton(key, rules.paused, toggle), h("button", { type: "button", disabled: health.shut, "aria-label": `Rules of ${key}`, onclick: () => void this.#edit(key) }, "Rules")));
  }

  async #edit(key) {
    const path = this.#pathOf(key);
    const draft = new Draft(OWN);
    let use = null;
    const told = call(path).then(({ text }) => (use = JSON.parse(text)), (error) => (draft.problem = error)).finally(renderDialog);
    const submit = async (event, close) => {
      event.preventDefault();
      if (use && may() && (await save(path, draft, use.set))) close(true);
      else renderDialog();
    };
    const changed = await dialog(`Rules of ${key}`, (close) => h("form", { onsubmit: (event) => void submit(event, close) },
      OWN.map((name) => h("label", { key: name }, h("span", RULES[name][0]), field(name, draft, use?.set, (text) => ((draft.typed[name] = text), (draft.problem = null), renderDialog())),
        h("small", RULES[name][1]))),
      h("p.soft", use?.set ? ["In place of the queue's rules of a key; set", who(use.set), "."] : "In place of the queue's rules of a key. Empty: the queue's hold; none: no limit."),
      h("p.note", { id: "rule-problem", role: "alert" }, draft.problem && h("span.bad", draft.problem.detail || draft.problem.message)),
      h("footer", h("button", { type: "button", onclick: () => close(null) }, "Leave"), h("button.primary", { type: "submit", disabled: !use || !draft.changes(use.set).length || health.shut }, "Save"))));
    await told;
    if (changed) this.app.refresh();
  }
}

// A queue that is not there has no keys. `path` says which page the rows are of: a page that was turned is asked for later.
const orNone = async (path, options) => ({ ...(await readPage(path, options)), path });
const readPage = orBlank({ rows: [], next: null }, ({ text, next }) => ({ rows: JSON.parse(text), next }));
