// What is waiting, running and coming out, now and over the last hours or days; and where to look when it is not well.
import { FlowChart, RANGES, TimeChart, steps } from "./charts.js";
import { h, heads } from "./dom.js";
import { errorRows } from "./errors.js";
import { coarse, count, duration, now, plural, rate, since } from "./format.js";
import { head, icon, queueLink, segments, taskLink } from "./ui.js";
import { firstTask } from "./first.js";
import { fill } from "./queues.js";
import { Resource, failure, shownOf } from "./resource.js";
import { incidents, strip } from "./incidents.js";
import { Still } from "./still.js";
import { running, slots } from "./workers.js";

const ROWS = 6;

export function overview(app, route) {
  const range = RANGES[route.query.get("range")] ? route.query.get("range") : "1h";
  // Asked in one breath, so that the parts of the pipe agree; the stream only says when.
  const stats = app.stats;
  const series = new Resource(seriesPath(range), { every: range === "1h" ? 2000 : 15000, idle: 20000 });
  const queues = new Resource("queues", { every: 1000, idle: 4000 });
  const workers = new Resource("workers", { every: 1000, idle: 4000 });
  const errors = new Resource(`errors?limit=${ROWS}`, { every: 3000, idle: 15000 });
  const handlers = new Resource("handlers", { every: 5000, idle: 15000 });
  const flow = new FlowChart(app.render, 190);
  const wait = new TimeChart(app.render, 190, "wait", "Waited");
  const run = new TimeChart(app.render, 190, "run", "Ran");

  const still = new Still();
  const first = {};
  const empty = () => stats.data && queues.data?.length === 0 && handlers.data && !Object.values(stats.data.counts).some(Boolean);
  const panel = (id, title, href, body) => still.of(id, () => h("section.panel", { key: id, id }, h("header", h("h2", title), h("a.more", { href }, "All", h("span.hidden", ` of ${title}`))), body()));
  const charts = (data) => {
    const points = steps(data, range, now());
    return h("div.charts", flow.view(points, range), wait.view(points, range), run.view(points, range));
  };

  return {
    title: "Overview",
    resources: [queues, series, workers, errors, handlers],
    view: () => [
      head("Overview", facts(stats.data), ranges(range)),
      h("div", { key: "strip", role: "status" }, strip(incidents({ stats: stats.data, queues: queues.data, workers: workers.data, handlers: handlers.data }))),
      empty() && firstTask(handlers.data, app, first),
      stats.error && !stats.data ? failure(stats.error) : pipe(stats.data, queues.data, workers.data),
      h("section.panel", { "aria-label": "History" }, shownOf(series, charts)),
      h("div.three", {},
        panel("longest", "Running longest", "#/workers", () => shownOf(workers, longest, "No workers are connected.")),
        panel("failing", "Failing", "#/errors", () => shownOf(errors, (data) => errorRows(data, true), "Nothing failed in the last 24 hours.")),
        panel("fullest", "Queues", "#/queues", () => shownOf(queues, fullest, "No queue holds tasks."))),
    ],
  };
}

// The server is asked for a little more than is shown: the first step is then whole.
function seriesPath(range) {
  const [, minutes, size] = RANGES[range];
  return () => `series?since=${new Date(now() - (minutes + size) * 60000).toISOString()}`;
}

function facts(stats) {
  if (!stats) return null;
  return [stats.status === "draining" && h("strong.bad", "Draining: no new tasks are taken. "),
    stats.status === "degraded" && h("strong.bad", `No worker can work: ${stats.trouble}. `),
    h("code", stats.store), ` · version ${stats.version} · up ${duration(Math.floor(stats.uptime_s))}`];
}

function ranges(range) {
  return segments("Range of the charts", range, Object.entries(RANGES).map(([name, [label]]) => [name, name === "1h" ? "#/" : `#/?range=${name}`, label]));
}

// --- the pipe: in, waiting, running, out ---

function pipe(stats, queues, workers) {
  const counts = stats?.counts || {};
  const speeds = stats?.rates || {};
  const ok = speeds.finished_per_s === undefined ? null : Math.max(0, speeds.finished_per_s - speeds.failed_per_s);
  return h("section.pipe", { "aria-label": "Flow of tasks" },
    h("div.inlet", h("h2", "In"), h("p.big", rate(speeds.enqueued_per_s), h("small", "/s")), h("p.note", speeds.refused_per_s > 0 ? h("b.late", { id: "refused" }, `${rate(speeds.refused_per_s)}/s refused`) : "over a minute")),
    h("div.joint", { "aria-hidden": "true" }),
    h("div.tank", h("h2", h("a", { href: "#/tasks?status=queued" }, icon("queued"), "Waiting")),
      h("p.big", { "data-count": "queued" }, count(counts.queued)), later(stats?.waiting), tanks(queues || [])),
    h("div.joint", { "aria-hidden": "true" }),
    h("div.floor", h("h2", h("a", { href: "#/tasks?status=running" }, icon("running"), "Running")),
      h("p.big", { "data-count": "running" }, count(counts.running)), floor(stats, workers)),
    h("div.joint", { "aria-hidden": "true" }),
    h("div.outlets", h("h2", "Out"),
      outlet("done", counts, ok), outlet("failed", counts, speeds.failed_per_s), outlet("cancelled", counts, null)));
}

// Of those that wait, the ones whose time has not come.
const later = (waiting) => waiting && h("p.note", Object.entries(waiting).filter(([, n]) => n).map(([status, n], i) =>
  [i ? ", " : "", h("a", { key: status, href: `#/tasks?status=${status}` }, `${count(n)} ${status}`)]));

const outlet = (status, counts, speed) => h("a.outlet", { key: status, class: status, href: `#/tasks?status=${status}` }, icon(status), h("span", status),
  h("b", { "data-count": status }, count(counts[status])), h("small", speed === null || speed === undefined ? "" : `${rate(speed)}/s`));

// The fullest queues against their capacity; the oldest task that is due and not taken.
function tanks(queues) {
  const shown = queues.filter((q) => q.queued).sort((a, b) => b.queued / b.capacity - a.queued / a.capacity).slice(0, 3);
  const oldest = Math.max(...queues.map((q) => q.oldest_ready_s ?? -1));
  return [h("p.note", oldest < 0 ? "none is due" : ["oldest due for ", h("b", { class: oldest > 60 ? "late" : "" }, duration(oldest))]),
    h("ul.tanks", shown.map((q) => h("li", { key: q.queue }, h("span.name", { title: q.queue }, q.queue), fill(q))))];
}

function floor(stats, workers) {
  const total = workers ? workers.reduce((sum, w) => sum + w.total, 0) : (stats?.workers.total ?? 0);
  const busy = workers ? workers.reduce((sum, w) => sum + w.busy, 0) : (stats?.workers.busy ?? 0);
  if (!stats && !workers) return h("p.note", "…");
  // Both are of their own moment: only what is more than passing is told.
  const ahead = (stats?.counts.running ?? 0) - (stats?.workers.busy ?? 0);
  return [h("p.note", total ? [h("b", { id: "busy" }, `${count(busy)} of ${count(total)}`), " workers busy"] : h("b.late", "no workers"),
    ahead > 0 && total > 0 && [", ", h("b", { id: "ahead" }, count(ahead)), " claimed ahead or not yet settled"]), slots(busy, total)];
}

// --- the panels below ---

function longest(workers) {
  const rows = running(workers).slice(0, ROWS);
  if (!rows.length) return h("p.empty", `${plural(workers.reduce((sum, w) => sum + w.total, 0), "worker")} idle.`);
  return h("table.mini", heads("Task", "Handler", "#For"),
    h("tbody", rows.map(({ task }) => h("tr", { key: task.id },
      h("td", taskLink(task.id)), h("td.cut", task.handler),
      h("td.num", task.started_at ? coarse(since(task.started_at)) : "–")))));
}

function fullest(queues) {
  const rows = [...queues].sort((a, b) => b.queued - a.queued || b.running - a.running).slice(0, ROWS);
  return h("table.mini", heads("Queue", h("th.fill-cell", { scope: "col" }, "Fill"), "#Oldest"),
    h("tbody", rows.map((q) => h("tr", { key: q.queue }, h("td", queueLink(q.queue)),
      h("td", fill(q)), h("td.num", q.oldest_ready_s === null ? "–" : duration(q.oldest_ready_s))))));
}
