// The table of tasks: filters in the address, pages by the server's cursors, rows that change while they are looked at.
// New rows move nothing under the pointer: they wait behind a button while rows are selected, pointed at or focused.
import { call, can } from "./api.js";
import { h, heads } from "./dom.js";
import { ago, count, duration, full, now, seconds, shown } from "./format.js";
import { heldNote } from "./flow.js";
import { health } from "./health.js";
import { badge, head, icon, region, segments, taskLink } from "./ui.js";
import { Resource, shownOf } from "./resource.js";
import { VERBS, steerMany } from "./steering.js";

const LIMIT = 50;
// What a row shows: payloads and results stay where they are.
const FIELDS = "id,handler,queue,priority,status,attempts,run_at,created_at,started_at,finished_at,cancel_requested,worker,last_error,held";
const STATUSES = ["queued", "running", "done", "failed", "cancelled"];
const FILTERS = ["status", "queue", "handler", "error_type", "error_group", "id_prefix", "key", "schedule", "created_after", "created_before"];
const NAMES = { status: "status", queue: "queue", handler: "handler", error_type: "error", error_group: "error group", id_prefix: "id", key: "key", schedule: "schedule", created_after: "from", created_before: "until" };

export function tasks(app, route) {
  const filter = Object.fromEntries(FILTERS.filter((name) => route.query.get(name)).map((name) => [name, route.query.get(name)]));
  const cursor = route.query.get("cursor");
  const page = new Resource(pathOf(filter, cursor), { every: 1000, idle: 10000, read: readPage });
  const queues = new Resource("queues", { every: 5000, idle: 30000 });
  const selected = new Set();
  const state = { newer: new Set(), more: ["error_type", "created_after", "created_before"].some((name) => filter[name]) };

  const change = (name, value) => app.go(hashOf({ ...filter, [name]: value }));
  const rows = () => page.data?.rows || [];
  const held = () => selected.size > 0 || Boolean(document.querySelector("#rows:hover, #rows:focus-within"));
  const show = () => {
    state.newer.clear();
    page.touch();
    app.tick();
  };
  const act = async (verb) => {
    const [body, meant] = selected.size ? [{ ids: [...selected] }, `${count(selected.size)} selected`] : [wireOf(filter), wordsOf(filter)];
    if ((await steerMany(verb, body, meant)) === null) return;
    selected.clear();
    app.refresh();
  };

  return {
    title: "Tasks",
    resources: [page, queues],
    live(delta) {
      patchRows(rows(), delta.tasks);
      if (cursor) return;
      const fresh = delta.tasks.filter((task) => matches(task, filter) && !rows().some((row) => row.id === task.id));
      if (!fresh.length && !delta.dropped && !leavers(rows(), filter)) return;
      if (held()) for (const task of fresh) state.newer.add(task.id);
      else page.touch();
    },
    // The table is asked for again by itself only where that moves nothing.
    holds: (resource) => resource === page && page.data !== null && (Boolean(cursor) || held()),
    keys: () => ({
      "/": () => document.getElementById("find").focus(),
      j: () => move(1),
      k: () => move(-1),
      x: () => pick(document.activeElement.closest("tr")?.dataset.id, selected, app),
      ...(can("admin") ? { r: () => void act("retry"), c: () => void act("cancel") } : {}),
    }),
    view: () => [
      head("Tasks", null, statuses(app, filter)),
      h("div.steer", form(filter, queues.data || [], state, change, app),
        toolbar({ filter, selected, state, act, show, cursor, clear: () => (selected.clear(), app.render()) })),
      shownOf(page, (data) => (data.rows.length ? table(data.rows, selected, app) : nothing(filter, cursor)), null),
      page.data && pager(filter, cursor, page.data.next),
    ],
  };
}

async function readPage(path, options) {
  const { text, next } = await call(path, options);
  return { rows: JSON.parse(text), next };
}

// --- filters, in the address and on the wire ---

// A day and an hour in the address are the reader's own; the wire has UTC.
const isTime = (name) => name.startsWith("created_");
const wire = (name, value) => (isTime(name) && !value.endsWith("Z") ? new Date(value).toISOString() : value);
const wireOf = (filter) => (Object.keys(filter).length ? Object.fromEntries(Object.entries(filter).map(([name, value]) => [name, wire(name, value)])) : { all: true });
const wordsOf = (filter) => Object.entries(filter).map(([name, value]) => `${NAMES[name]} ${value}`).join(", ") || "all tasks";

function pathOf(filter, cursor) {
  const query = new URLSearchParams({ ...(Object.keys(filter).length ? wireOf(filter) : {}), limit: LIMIT, fields: FIELDS, ...(cursor ? { cursor } : {}) });
  return `tasks?${query}`;
}

export function hashOf(filter) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  return query.size ? `#/tasks?${query}` : "#/tasks";
}

function matches(task, filter) {
  return (!filter.status || filter.status === task.status) && (!filter.queue || filter.queue === task.queue)
    && (!filter.handler || filter.handler === task.handler) && (!filter.error_type || filter.error_type === task.error_type)
    && (!filter.id_prefix || task.id.startsWith(filter.id_prefix)) && !filter.error_group && !filter.key && !filter.schedule && !filter.created_before;
}

const leavers = (rows, filter) => Boolean(filter.status) && rows.some((row) => row.status !== filter.status);

function patchRows(rows, changes) {
  const byId = new Map(rows.map((row) => [row.id, row]));
  for (const { error_type: type, error_message: message, ...change } of changes) {
    const row = byId.get(change.id);
    if (!row) continue;
    Object.assign(row, change);
    if (row.status !== "queued") row.held = undefined;
    if (type) row.last_error = { ...row.last_error, type, message: message ?? row.last_error?.message ?? "" };
  }
}

function statuses(app, filter) {
  const counts = Object.keys(filter).every((name) => name === "status") ? app.live.counts : null;
  const link = (status) => [status, hashOf({ ...filter, status }), status ? icon(status) : "all", status,
    counts && status && h("b", { "data-count": status }, count(counts[status]))];
  return segments("Status", filter.status || "", ["", ...STATUSES].map(link), "statuses");
}

function form(filter, queues, state, change, app) {
  const field = (name, label, more = {}) => h("label", { key: name }, h("span", label),
    h("input", { name, placeholder: label, value: filter[name] || "", onchange: (event) => change(name, event.target.value.trim()), autocomplete: "off", spellcheck: "false", ...more }));
  return h("form.filters", { onsubmit: (event) => event.preventDefault(), role: "search", "aria-label": "Filter tasks" },
    field("id_prefix", "Id begins with", { id: "find", type: "search" }),
    field("queue", "Queue", { list: "queues" }), h("datalist", { id: "queues" }, queues.map((q) => h("option", { key: q.queue, value: q.queue }))),
    field("handler", "Handler"),
    state.more && [field("error_type", "Error type"), field("created_after", "Created from", { type: "datetime-local" }), field("created_before", "until", { type: "datetime-local" })],
    filter.error_group && h("span.chip", "error group ", h("code", filter.error_group), h("button.icon-only", { type: "button", "aria-label": "Any error group", onclick: () => change("error_group", "") }, icon("close"))),
    ["key", "schedule"].filter((name) => filter[name]).map((name) => h("span.chip", { key: name }, `${name} `, h("code", filter[name]), h("button.icon-only", { type: "button", "aria-label": `Any ${name}`, onclick: () => change(name, "") }, icon("close")))),
    !state.more && h("button.quiet", { type: "button", onclick: () => ((state.more = true), app.render()) }, "More filters"),
    Object.keys(filter).length > 0 && h("a.button.quiet", { href: "#/tasks" }, "Clear"));
}

function toolbar({ filter, selected, state, act, show, cursor, clear }) {
  const verbs = can("admin") ? Object.keys(VERBS).filter((verb) => selected.size || !filter.status || VERBS[verb].from.includes(filter.status)) : [];
  return h("div.toolbar.steady", { role: "group", "aria-label": "Many tasks" },
    verbs.length > 0 && h("span.scope", { "aria-live": "polite" }, selected.size ? [h("b", count(selected.size)), " selected"] : "All that match:"),
    verbs.map((verb) => h("button", { key: verb, class: verb === "delete" ? "danger" : "", onclick: () => act(verb), disabled: health.shut }, icon(verb), VERBS[verb].name)),
    // Both keep their place while there is nothing to say: the rows below stay where they are.
    h("button.quiet", { onclick: clear, class: selected.size ? "" : "unseen" }, "Select none"),
    h("span.space"),
    h("button.fresh", { onclick: show, class: state.newer.size && !cursor ? "" : "unseen" }, `${count(state.newer.size)} newer: show`));
}

// --- the table ---

function table(rows, selected, app) {
  const all = rows.every((row) => selected.has(row.id));
  const some = rows.some((row) => selected.has(row.id));
  const every = (event) => {
    for (const row of rows) if (event.target.checked) selected.add(row.id); else selected.delete(row.id);
    app.render();
  };
  const box = can("admin") && h("th.box", { scope: "col" }, h("input", { type: "checkbox", "aria-label": "Select all on this page", checked: all, indeterminate: some && !all, onchange: every }));
  return region("Tasks", "panel", h("table.full.cards.rows", h("caption.hidden", "Tasks, newest first"),
    heads(box || [], "Status", "Task", "Handler", "Queue", "#Attempts", "#Created", "#Ran", "Note"),
    h("tbody", { id: "rows" }, rows.map((row) => line(row, selected, app)))));
}

function line(task, selected, app) {
  return h("tr", { key: task.id, "data-id": task.id, class: selected.has(task.id) ? "selected" : "" },
    can("admin") && h("td.box", h("input", { type: "checkbox", "aria-label": `Select ${task.id}`, checked: selected.has(task.id), onchange: () => pick(task.id, selected, app) })),
    h("td.state", badge(shown(task))),
    h("th", { scope: "row" }, taskLink(task.id)),
    h("td.cut", { "data-label": "handler" }, task.handler), h("td.cut", { "data-label": "queue" }, task.queue),
    h("td.num", { "data-label": "attempts" }, count(task.attempts)),
    h("td.num", { "data-label": "created", title: full(task.created_at) }, ago(task.created_at)),
    h("td.num", { "data-label": "ran" }, ran(task)), h("td.note.cut", note(task)));
}

function ran(task) {
  if (!task.started_at) return "–";
  if (task.status === "running") return duration(Math.floor(Math.max(0, (now() - Date.parse(task.started_at)) / 1000)));
  return task.finished_at ? duration(seconds(task.started_at, task.finished_at)) : "–";
}

function note(task) {
  if (task.status === "queued" && shown(task) !== "queued") return `due ${ago(task.run_at)}`;
  if (task.held) return heldNote(task);
  if (task.cancel_requested && task.status === "running") return "told to stop";
  if (task.status === "running") return task.worker || "";
  if (task.last_error && task.status !== "done") return h("span", { title: task.last_error.message }, h("b", task.last_error.type), ` ${task.last_error.message.split("\n")[0]}`);
  return task.priority ? `priority ${task.priority}` : "";
}

function pick(id, selected, app) {
  if (!id || !can("admin")) return false;
  if (!selected.delete(id)) selected.add(id);
  app.render();
  return true;
}

function move(by) {
  const links = [...document.querySelectorAll("#rows a.id")];
  const focused = links.indexOf(document.activeElement.closest("tr")?.querySelector("a.id"));
  links[Math.max(0, Math.min(links.length - 1, focused + by))]?.focus();
}

function nothing(filter, cursor) {
  if (cursor) return h("p.empty", "There are no older tasks.");
  if (Object.keys(filter).length) return h("p.empty", "No task matches. ", h("a", { href: "#/tasks" }, "Show all"));
  return h("div.empty", h("p", "No tasks yet."), h("p", can("enqueue") ? h("a.button.primary", { href: "#/enqueue" }, icon("enqueue"), "Enqueue the first") : "They appear here as soon as one is enqueued."));
}

function pager(filter, cursor, next) {
  const older = new URLSearchParams({ ...filter, ...(next ? { cursor: next } : {}) });
  return h("nav.pager", { "aria-label": "Pages" }, cursor && h("a.button", { href: hashOf(filter) }, "Newest"), next && h("a.button", { href: `#/tasks?${older}`, rel: "next" }, "Older", icon("next")));
}
