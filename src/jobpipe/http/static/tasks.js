// The table of tasks: filters in the address, pages by the server's cursors, rows that change while they are looked at.
// New rows move nothing under the pointer: they wait behind a button while rows are selected, pointed at or focused.
import { call, can } from "./api.js";
import { h } from "./dom.js";
import { ago, count, duration, full, now, seconds, shown } from "./format.js";
import { heldNote } from "./flow.js";
import { health } from "./health.js";
import { Picked, views } from "./picked.js";
import { trail } from "./rows.js";
import { badge, head, icon, region, segments, taskLink } from "./ui.js";
import { Resource, shownOf } from "./resource.js";
import { Search } from "./search.js";
import { VERBS, reaches, steerMany } from "./steering.js";

const LIMIT = 50;
const LOOKED_AT = 1000; // the newest that match, of which the longest are shown
// What a row shows: payloads and results stay where they are.
const FIELDS = "id,handler,queue,priority,status,attempts,run_at,created_at,started_at,finished_at,cancel_requested,worker,last_error,held";
const STATUSES = ["queued", "scheduled", "retrying", "running", "done", "failed", "cancelled"];
const FILTERS = ["status", "queue", "handler", "error_type", "error_group", "id_prefix", "key", "schedule", "created_after", "created_before"];
const NAMES = { status: "status", queue: "queue", handler: "handler", error_type: "error", error_group: "error group", id_prefix: "id", key: "key", schedule: "schedule", created_after: "from", created_before: "until" };

export function tasks(app, route) {
  const filter = Object.fromEntries(FILTERS.filter((name) => route.query.get(name)).map((name) => [name, route.query.get(name)]));
  const cursor = route.query.get("cursor");
  const sort = SORTS[route.query.get("sort")] ? route.query.get("sort") : "";
  const here = hashOf({ ...filter, sort });
  const page = new Resource(pathOf(filter, cursor, sort), { every: sort ? 4000 : 1000, idle: 10000, read: (path, options) => readPage(path, options, sort) });
  const queues = new Resource("queues", { every: 5000, idle: 30000 });
  const handlers = new Resource("handlers", { every: 60000, idle: 60000 });
  const known = () => ({
    status: STATUSES, queue: (queues.data || []).map((q) => q.queue), handler: (handlers.data || []).map((one) => one.handler),
    error: [...new Set(rows().map((row) => row.last_error?.type).filter(Boolean))],
  });
  const search = new Search(app.render, known, (to) => app.go(hashOf({ ...to, sort })));
  const selected = new Picked(hashOf(filter));
  const state = { newer: new Set(), more: ["error_type", "created_after", "created_before"].some((name) => filter[name]) };

  const change = (name, value) => app.go(hashOf({ ...filter, sort, [name]: value }));
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
    selected.kept();
    app.refresh();
  };

  return {
    title: "Tasks",
    resources: [page, queues, handlers],
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
      ...(can("admin") ? { r: () => void act("retry"), c: () => void act("cancel") } : {}),
    }),
    view: () => [
      head("Tasks", null, statuses(app, filter, sort)),
      h("div.steer", h("div.finder", search.view(filter), form(filter, queues.data || [], state, change, app)),
        toolbar({ filter, selected, state, act, show, cursor, views: views(here, here === "#/tasks", app.render), clear: () => (selected.clear(), selected.kept(), app.render()) })),
      sort && page.data && h("p.soft", { key: "of" }, `The ${count(page.data.rows.length)} with ${SORTS[sort][1]}, of ${page.data.next ? `the newest ${count(LOOKED_AT)} that match` : `all ${count(page.data.of)} that match`}.`),
      shownOf(page, (data) => (data.rows.length ? table(followed(data.rows, here, cursor), selected, app, filter, sort) : nothing(filter, cursor)), null),
      page.data && !sort && pager(filter, cursor, page.data.next),
    ],
  };
}

async function readPage(path, options, sort) {
  const { text, next } = await call(path, options);
  const all = JSON.parse(text);
  if (!sort) return { rows: all, next };
  const long = new Map(all.map((task) => [task.id, SORTS[sort][0](task) ?? -1]));
  return { rows: all.filter((task) => long.get(task.id) >= 0).sort((a, b) => long.get(b.id) - long.get(a.id)).slice(0, LIMIT), next, of: all.length };
}

// The page of a task that is opened from here knows its neighbours.
function followed(rows, href, cursor) {
  trail.href = cursor ? `${href}${href.includes("?") ? "&" : "?"}cursor=${cursor}` : href;
  trail.ids = rows.map((row) => row.id);
  return rows;
}

// --- filters, in the address and on the wire ---

// A day and an hour in the address are the reader's own; the wire has UTC.
const isTime = (name) => name.startsWith("created_");
const wire = (name, value) => (isTime(name) && !value.endsWith("Z") ? new Date(value).toISOString() : value);
const wireOf = (filter) => (Object.keys(filter).length ? Object.fromEntries(Object.entries(filter).map(([name, value]) => [name, wire(name, value)])) : { all: true });
const wordsOf = (filter) => Object.entries(filter).map(([name, value]) => `${NAMES[name]} ${value}`).join(", ") || "all tasks";

function pathOf(filter, cursor, sort) {
  const query = new URLSearchParams({ ...(Object.keys(filter).length ? wireOf(filter) : {}), limit: sort ? LOOKED_AT : LIMIT, fields: FIELDS, ...(cursor ? { cursor } : {}) });
  return `tasks?${query}`;
}

export function hashOf(filter) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  return query.size ? `#/tasks?${query}` : "#/tasks";
}

function matches(task, filter) {
  return (!filter.status || isOf(task, filter.status)) && (!filter.queue || filter.queue === task.queue)
    && (!filter.handler || filter.handler === task.handler) && (!filter.error_type || filter.error_type === task.error_type)
    && (!filter.id_prefix || task.id.startsWith(filter.id_prefix)) && !filter.error_group && !filter.key && !filter.schedule && !filter.created_before;
}

// Scheduled and retrying are queued ones whose time has not come.
const isOf = (task, status) => status === task.status || status === shown(task);
const leavers = (rows, filter) => Boolean(filter.status) && rows.some((row) => !isOf(row, filter.status));

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

function statuses(app, filter, sort) {
  const counts = Object.keys(filter).every((name) => name === "status") ? app.live.counts && { ...app.live.counts, ...app.stats.data?.waiting } : null;
  const link = (status) => [status, hashOf({ ...filter, status, sort }), status ? icon(status) : "all", status,
    counts?.[status] !== undefined && h("b", { "data-count": status }, bounded(counts[status], status))];
  return segments("Status", filter.status || "", ["", ...STATUSES].map(link), "statuses");
}

// The server counts no more of those than this.
const bounded = (n, status) => `${count(n)}${n >= 10000 && /scheduled|retrying/.test(status) ? "+" : ""}`;

function form(filter, queues, state, change, app) {
  const field = (name, label, more = {}) => h("label", { key: name }, h("span", label),
    h("input", { name, placeholder: label, value: filter[name] || "", onchange: (event) => change(name, event.target.value.trim()), autocomplete: "off", spellcheck: "false", ...more }));
  return h("form.filters", { onsubmit: (event) => event.preventDefault(), "aria-label": "Filter tasks" },
    field("id_prefix", "Id begins with", { type: "search" }),
    field("queue", "Queue", { list: "queues" }), h("datalist", { id: "queues" }, queues.map((q) => h("option", { key: q.queue, value: q.queue }))),
    field("handler", "Handler"),
    state.more && [field("error_type", "Error type"), field("created_after", "Created from", { type: "datetime-local" }), field("created_before", "until", { type: "datetime-local" })],
    filter.error_group && h("span.chip", "error group ", h("code", filter.error_group), h("button.icon-only", { type: "button", "aria-label": "Any error group", onclick: () => change("error_group", "") }, icon("close"))),
    ["key", "schedule"].filter((name) => filter[name]).map((name) => h("span.chip", { key: name }, `${name} `, h("code", filter[name]), h("button.icon-only", { type: "button", "aria-label": `Any ${name}`, onclick: () => change(name, "") }, icon("close")))),
    !state.more && h("button.quiet", { type: "button", onclick: () => ((state.more = true), app.render()) }, "More filters"),
    Object.keys(filter).length > 0 && h("a.button.quiet", { href: "#/tasks" }, "Clear"));
}

function toolbar({ filter, selected, state, act, show, cursor, clear, views }) {
  const verbs = can("admin") ? Object.keys(VERBS).filter((verb) => selected.size || !filter.status || reaches(verb, filter.status)) : [];
  return h("div.toolbar.steady", { role: "group", "aria-label": "Many tasks" },
    verbs.length > 0 && h("span.scope", { "aria-live": "polite" }, selected.size ? [h("b", count(selected.size)), " selected"] : "All that match:"),
    verbs.map((verb) => h("button", { key: verb, class: verb === "delete" ? "danger" : "", onclick: () => act(verb), disabled: health.shut }, icon(verb), VERBS[verb].name)),
    // Both keep their place while there is nothing to say: the rows below stay where they are.
    h("button.quiet", { onclick: clear, class: selected.size ? "" : "unseen" }, "Select none"),
    h("span.space"), views,
    h("button.fresh", { onclick: show, class: state.newer.size && !cursor ? "" : "unseen" }, `${count(state.newer.size)} newer: show`));
}

// --- the table ---

function table(rows, selected, app, filter, sort) {
  const by = (name, label) => h("th.num", { key: label, scope: "col", "aria-sort": name === sort ? "descending" : undefined }, h("a.sort", { href: hashOf({ ...filter, sort: name }) }, label));
  const plain = (label, cls) => h("th", { key: label, scope: "col", class: cls }, label);
  const all = rows.every((row) => selected.has(row.id));
  const some = rows.some((row) => selected.has(row.id));
  const every = (event) => {
    for (const row of rows) if (event.target.checked) selected.add(row.id); else selected.delete(row.id);
    selected.kept();
    app.render();
  };
  const box = can("admin") && h("th.box", { scope: "col" }, h("input", { type: "checkbox", "aria-label": "Select all on this page", checked: all, indeterminate: some && !all, onchange: every }));
  return region("Tasks", "panel", h("table.full.cards.rows", h("caption.hidden", "Tasks, newest first"),
    h("thead", h("tr", box, ["Status", "Task", "Handler", "Queue"].map((label) => plain(label)), plain("Attempts", "num"), by("", "Created"), by("waited", "Waited"), by("ran", "Ran"), plain("Note"))),
    h("tbody", { id: "rows" }, rows.map((row) => line(row, selected, app)))));
}

function line(task, selected, app) {
  return h("tr", { key: task.id, "data-id": task.id, class: selected.has(task.id) ? "selected" : "" },
    can("admin") && h("td.box", h("input", { type: "checkbox", "aria-label": `Select ${task.id}`, checked: selected.has(task.id), onchange: () => pick(task.id, selected, app) })),
    h("td", badge(shown(task))),
    h("th", { scope: "row" }, taskLink(task.id)),
    h("td.cut", { "data-label": "handler" }, task.handler), h("td.cut", { "data-label": "queue" }, task.queue),
    h("td.num", { "data-label": "attempts" }, count(task.attempts)),
    h("td.num", { "data-label": "created", title: full(task.created_at) }, ago(task.created_at)),
    h("td.num", { "data-label": "waited" }, duration(waited(task))), h("td.num", { "data-label": "ran" }, duration(ran(task))), h("td.note.cut", note(task)));
}

const going = (time) => Math.floor(Math.max(0, (now() - Date.parse(time)) / 1000));

// In seconds, of its latest run; null where there is none.
function ran(task) {
  if (!task.started_at) return null;
  if (task.status === "running") return going(task.started_at);
  return task.finished_at ? seconds(task.started_at, task.finished_at) : null;
}

// From when it was due until it ran, or until now.
function waited(task) {
  if (task.status === "queued") return shown(task) === "queued" ? going(task.run_at) : null;
  return task.started_at ? Math.max(0, seconds(task.run_at, task.started_at)) : null;
}

// What the longest may be of, and how that is called.
const SORTS = { ran: [ran, "the longest runs"], waited: [waited, "the longest waits"] };

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
  selected.kept();
  app.render();
  return true;
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
