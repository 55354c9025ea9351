// Who works here, a few processes or hundreds, by host: how busy each is, and what it runs since when. The filter and the
// order are in the address; what is not on the screen is not drawn anew.
import { h, heads } from "./dom.js";
import { ago, coarse, count, full, percent, since } from "./format.js";
import { Lazy } from "./lazy.js";
import { fact, finder, head, icon, queueLink, region, segments, taskLink } from "./ui.js";
import { Resource, shownOf } from "./resource.js";

const MOST_SLOTS = 64;
const CARD_PX = 60; // of its share of a row, about
const MOST_TASKS = 12;

const SORTS = {
  name: ["By name", () => 0],
  busy: ["Busiest", (a, b) => b.busy - a.busy],
  longest: ["Longest run", (a, b) => longest(a).localeCompare(longest(b))],
};

export function workers(app, route) {
  const lazy = new Lazy(app.render);
  const sort = SORTS[route.query.get("sort")] ? route.query.get("sort") : "name";
  const queue = route.query.get("queue") || "";
  const state = { find: route.query.get("find") || "" };
  const to = (more) => hashOf({ sort, queue, find: state.find, ...more });
  const find = (event) => {
    state.find = event.target.value.trim();
    history.replaceState(null, "", to({}));
    app.render();
  };
  const compare = (a, b) => (b.state === "lost") - (a.state === "lost") || SORTS[sort][1](a, b) || byName(a, b);
  const wanted = (w) => (!queue || serves(w, queue)) && `${w.worker_id} ${w.host} ${w.state} ${w.release ?? ""}`.includes(state.find);
  const view = (data) => {
    const shown = data.filter(wanted).sort(compare);
    return [
      h("div.toolbar.steady", { key: "bar", role: "group", "aria-label": "Which workers" },
        finder("Find a worker", state.find, find),
        segments("Order", sort, Object.entries(SORTS).map(([name, [text]]) => [name, to({ sort: name }), text])),
        queue && h("p.chip", { key: "chip" }, "serving ", h("code", queue), h("a.button.icon-only", { href: to({ queue: "" }), "aria-label": "Any queue" }, icon("close"))),
        h("span.soft", { id: "shown" }, `${count(shown.length)} of ${count(data.length)} shown`)),
      h("div", { key: "hosts" }, hosts(data, (host) => to({ find: host }))),
      h("div.workers", { key: "cards" }, lazy.rows(shown, (w) => w.worker_id, card)), lazy.more(shown, CARD_PX)];
  };
  const list = new Resource("workers", { every: 1000, idle: 3000 });
  const total = (name) => list.data.reduce((sum, w) => sum + w[name], 0);
  return {
    title: "Workers",
    resources: [list],
    view: () => [
      head("Workers", list.data && [h("b", `${count(total("busy"))} of ${count(total("total"))}`), ` busy, in ${processes(list.data.filter((w) => w.state !== "lost").length)}`, lost(list.data.filter((w) => w.state === "lost").length)]),
      shownOf(list, view, "No worker is connected. Start the server with an app, or `jobpipe worker` elsewhere."),
    ],
  };
}

const processes = (n) => `${count(n)} process${n === 1 ? "" : "es"}`;
const lost = (n) => n > 0 && [" · ", h("b.late", { id: "lost" }, `${processes(n)} lost`)];
const longest = (w) => running([w])[0]?.task.started_at || "~";
export const serves = (w, queue) => w.state === "active" && (w.queues || []).some((name) => name === "*" || name === queue);

function hashOf({ sort, queue, find }) {
  const query = new URLSearchParams({ ...(sort === "name" ? {} : { sort }), ...(queue ? { queue } : {}), ...(find ? { find } : {}) });
  return query.size ? `#/workers?${query}` : "#/workers";
}

// One line for each host, where there are several.
function hosts(data, href) {
  const by = [...Map.groupBy(data, (w) => w.host || "–")];
  if (by.length < 2) return null;
  const sum = (list, name) => list.reduce((all, w) => all + (w[name] ?? 0), 0);
  return region("Hosts", "panel", h("table.full.cards.dense", h("caption.hidden", "Workers by host"), heads("Host", "#Processes", "#Busy", "#Of", "#Lost"),
    h("tbody", by.sort(([a], [b]) => a.localeCompare(b)).map(([host, list]) => h("tr", { key: host, "data-host": host },
      h("th", { scope: "row" }, h("a.id", { href: href(host) }, host)), h("td.num", { "data-label": "processes" }, count(list.length)),
      h("td.num", { "data-label": "busy" }, count(sum(list, "busy"))), h("td.num", { "data-label": "of" }, count(sum(list, "total"))),
      h("td.num", { "data-label": "lost" }, count(list.filter((w) => w.state === "lost").length)))))));
}

const byName = (a, b) => a.worker_id.localeCompare(b.worker_id, "en", { numeric: true });

function card(w) {
  return h("section.panel.worker", { key: w.worker_id, "data-worker": w.worker_id, "data-state": w.state },
    h("header", h("h2", icon("workers"), h("code", w.worker_id)), state(w),
      h("span.of", h("b", count(w.busy)), ` of ${count(w.total)} busy`), slots(w.busy, w.total)),
    h("dl.facts", fact("Host", w.host || "–"), fact("Pid", w.pid ?? "–"), fact("Version", w.version || "–"), fact("Release", w.release ?? "–"), fact("Queues", served(w.queues)),
      fact("Heartbeat", h("span", { class: w.state === "lost" ? "late" : "", title: full(w.last_seen) }, ago(w.last_seen)))),
    w.leaving && h("p.late", `Takes nothing new: it ${w.leaving}`),
    w.replaced && h("p.soft", { title: full(w.replaced.at) }, `${ago(w.replaced.at)} in place of one that ${w.replaced.reason}`),
    w.tasks.length ? h("ul.tasks", running([w]).slice(0, MOST_TASKS).map(({ task }) => h("li", { key: task.id }, icon("running"),
      taskLink(task.id), h("span.soft.cut", task.handler),
      h("span.num", { title: full(task.started_at) }, task.started_at ? `for ${coarse(since(task.started_at))}` : "")))) : h("p.empty", w.state === "lost" ? "No sign for a whole lease: what it could run counts no more." : "Idle"),
    w.tasks.length > MOST_TASKS && h("p.soft.rest", `and ${count(w.tasks.length - MOST_TASKS)} more`));
}

function served(names) {
  if (!names?.length) return "–";
  if (names.includes("*")) return "all";
  return [names.slice(0, 6).map((name, i) => [i ? ", " : "", queueLink(name)]), names.length > 6 ? ` and ${names.length - 6} more` : ""];
}

const SHAPES = { active: "running", stopping: "cancelled", lost: "failed" };
const state = (w) => h("span.badge", { class: w.state === "active" ? "done" : SHAPES[w.state] }, icon(SHAPES[w.state]), w.state);

// What runs anywhere, the longest first.
export function running(list) {
  const all = list.flatMap((worker) => worker.tasks.map((task) => ({ worker, task })));
  return all.sort((a, b) => (a.task.started_at || "~").localeCompare(b.task.started_at || "~"));
}

// A cell for each worker, the busy ones full; many of them as a bar.
export function slots(busy, total) {
  if (total > MOST_SLOTS) return h("span.level", { "aria-hidden": "true" }, h("i", { style: { "--part": `${percent(busy, total)}%` } }));
  return h("span.slots", { "aria-hidden": "true" }, Array.from({ length: total }, (_, i) => h("i", { key: i, class: i < busy ? "busy" : "" })));
}
