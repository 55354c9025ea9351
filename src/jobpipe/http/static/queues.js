// The queues, a few or hundreds: how full, how old, how fast. Rates are what this page saw change while it was open, at
// most a minute. The order holds until it is asked for anew; the filter and the order are in the address.
import { spark } from "./charts.js";
import { can } from "./api.js";
import { h } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { Lazy } from "./lazy.js";
import { Order } from "./order.js";
import { Resource, shownOf } from "./resource.js";
import { brief, may, pause, pauseButton, pausedBadge } from "./flow.js";
import { queue } from "./queue.js";
import { serves } from "./workers.js";
import { health } from "./health.js";
import { finder, head, queueLink, region, resort } from "./ui.js";

const WINDOW_MS = 60000;
const SAMPLES = 24;
const ROW_PX = 31;

// What can be sorted by: its head, and which comes first.
const SORTS = {
  queue: ["Queue", () => 0],
  load: ["Waiting", (a, b) => (b.paused || false) - (a.paused || false) || b.queued / b.capacity - a.queued / a.capacity || b.running - a.running],
  oldest: ["Oldest due", (a, b) => (b.oldest_ready_s ?? -1) - (a.oldest_ready_s ?? -1)],
  running: ["Running", (a, b) => b.running - a.running],
  done: ["Done", (a, b) => b.done - a.done],
  failed: ["Failed", (a, b) => b.failed - a.failed],
  cancelled: ["Cancelled", (a, b) => b.cancelled - a.cancelled],
};

export function queues(app, route) {
  if (route.id !== null) return queue(app, route);
  const list = new Resource("queues", { every: 2000, idle: 4000 });
  const workers = new Resource("workers", { every: 5000, idle: 8000 });
  const seen = new Map();
  const order = new Order();
  const lazy = new Lazy(app.render);
  const sort = SORTS[route.query.get("sort")] ? route.query.get("sort") : "load";
  const busy = route.query.get("only") === "work";
  const state = { find: route.query.get("find") || "" };
  const compare = (a, b) => SORTS[sort][1](a, b) || a.queue.localeCompare(b.queue, "en", { numeric: true });
  const find = (event) => {
    state.find = event.target.value.trim();
    history.replaceState(null, "", hashOf({ sort, busy, find: state.find }));
    app.render();
  };
  const toggle = async (q) => {
    if (may() && (await pause(`queues/${encodeURIComponent(q.queue)}`, q.queue, !q.paused))) app.refresh();
  };
  const anew = () => {
    order.renew();
    lazy.renew();
    app.render();
  };

  const serving = (q) => workers.data?.filter((w) => serves(w, q.queue)).length;

  const view = (data) => {
    remember(seen, data);
    const { all: rows, changed } = order.of(data, (q) => q.queue, compare, sort);
    const wanted = rows.filter(({ row }) => (!busy || living(row)) && row.queue.includes(state.find));
    return [
      h("div.toolbar.steady", { key: "bar", role: "group", "aria-label": "Which queues" },
        finder("Find a queue", state.find, find),
        h("a.button.quiet", { href: hashOf({ sort, busy: !busy, find: state.find }) }, busy ? "Also without work" : "Only with work"),
        h("span.soft", { id: "shown" }, `${count(wanted.length)} of ${count(data.length)} shown`), h("span.space"), resort(changed, anew)),
      h("div", { key: "table" }, region("Queues", "panel", h("table.full.cards.dense", h("caption.hidden", "Queues"),
        h("thead", h("tr", ["queue", "load"].map((name) => sorter(name, sort, busy, state.find)), h("th", { key: "depth", scope: "col" }, "Depth"),
          h("th.num", { key: "out", scope: "col" }, "Out"), h("th.num", { key: "workers", scope: "col" }, "Workers"), Object.keys(SORTS).slice(2).map((name) => sorter(name, sort, busy, state.find, "num")),
          h("th", { key: "rules", scope: "col" }, "Rules"), can("admin") && h("th", { key: "act", scope: "col" }, h("span.hidden", "Pause")))),
        h("tbody", lazy.rows(wanted, ({ row }) => row.queue, ({ row, gone }) => line(row, seen.get(row.queue) || [], gone, serving(row), () => void toggle(row)), `${list.good} ${workers.good} ${health.shut}`))),
      lazy.more(wanted, ROW_PX)))];
  };
  return {
    title: "Queues",
    resources: [list, workers],
    view: () => [
      head("Queues", list.data && [paused(list.data), `${count(list.data.length)} in use. Full ones refuse new tasks with 503.`]),
      shownOf(list, view, "No queue holds tasks. A queue exists while it holds some."),
    ],
  };
}

const paused = (data) => data.some((q) => q.paused) && h("b.late", `${plural(data.filter((q) => q.paused).length, "queue")} paused. `);
const living = (q) => q.queued + q.running > 0;

function hashOf({ sort, busy, find }) {
  const query = new URLSearchParams({ ...(sort === "load" ? {} : { sort }), ...(busy ? { only: "work" } : {}), ...(find ? { find } : {}) });
  return query.size ? `#/queues?${query}` : "#/queues";
}

function sorter(name, sort, busy, find, cls = "") {
  return h("th", { key: name, scope: "col", class: cls, "aria-sort": name === sort ? (name === "queue" ? "ascending" : "descending") : undefined },
    h("a.sort", { href: hashOf({ sort: name, busy, find }) }, SORTS[name][0]));
}

function line(q, samples, gone, served, toggle) {
  const link = (status) => h("a", { href: `#/tasks?queue=${encodeURIComponent(q.queue)}&status=${status}`, "data-count": status }, count(q[status]));
  const speed = rates(samples);
  return h("tr", { key: q.queue, "data-queue": q.queue, class: [gone && "gone", q.paused && "halted"].filter(Boolean).join(" ") },
    h("th", { scope: "row" }, queueLink(q.queue), q.paused && [" ", pausedBadge()]),
    h("td", { "data-label": "Waiting" }, fill(q)),
    h("td", { "data-label": "Depth" }, spark(samples.slice(-SAMPLES).map((s) => s.queued), `Depth while this page was open: ${samples.map((s) => s.queued).join(", ")}`, SAMPLES)),
    h("td.num", { "data-label": "out" }, speed === null ? "–" : `${rate(speed)}/s`),
    h("td.num", { "data-label": "workers" }, h("a", { href: `#/workers?queue=${encodeURIComponent(q.queue)}`, class: served === 0 && q.queued ? "late" : "" }, count(served))),
    h("td.num", { "data-label": "oldest", class: q.oldest_ready_s > 60 ? "late" : "" }, q.oldest_ready_s === null ? "–" : duration(Math.floor(q.oldest_ready_s))),
    ["running", "done", "failed", "cancelled"].map((status) => h("td.num", { key: status, "data-label": status }, link(status))),
    h("td.cut.brief", { "data-label": "rules", title: brief(q.rules) }, brief(q.rules) || "–"), can("admin") && h("td.acts", pauseButton(q.queue, q.paused, toggle, { class: "lone", title: q.paused ? "Resume" : "Pause" })));
}

// How much of the capacity is taken, as a bar and as numbers.
export function fill(q) {
  const part = percent(q.queued, q.capacity);
  return h("span.fill", { class: part >= 100 ? "over" : part >= 80 ? "high" : "" },
    h("span.level", { "aria-hidden": "true" }, h("i", { style: { "--part": `${part}%` } })),
    h("span.of", h("b", { "data-count": "queued" }, count(q.queued)), ` / ${count(q.capacity)}`));
}

function remember(seen, data) {
  const at = performance.now();
  for (const q of data) {
    const samples = seen.get(q.queue) || [];
    const last = samples.at(-1);
    if (last && at - last.at < 900) continue;
    samples.push({ at, queued: q.queued, ended: q.done + q.failed + q.cancelled });
    seen.set(q.queue, samples.filter((s) => at - s.at < WINDOW_MS));
  }
}

// Ended tasks a second; pruning and deleting can only make it less.
function rates(all) {
  if (all.length < 2) return null;
  return Math.max(0, all.at(-1).ended - all[0].ended) / ((all.at(-1).at - all[0].at) / 1000);
}
