// The queues: how full, how old, how fast. Rates are what this page saw change while it was open, at most a minute.
import { spark } from "./charts.js";
import { h, heads } from "./dom.js";
import { count, duration, percent, rate } from "./format.js";
import { Resource, shownOf } from "./resource.js";
import { head, queueLink, region } from "./ui.js";

const WINDOW_MS = 60000;
const SAMPLES = 24;

export function queues(app) {
  const list = new Resource("queues", { every: 1000, idle: 2500 });
  const seen = new Map();
  const view = (data) => {
    remember(seen, data);
    return region("Queues", "panel", h("table.full.cards", {},
      h("caption.hidden", "Queues that hold tasks"),
      heads("Queue", "Waiting", "Depth", "#Out", "#Oldest due", "#Running", "#Done", "#Failed", "#Cancelled"),
      h("tbody", [...data].sort(byLoad).map((q) => row(q, seen.get(q.queue))))));
  };
  return {
    title: "Queues",
    resources: [list],
    view: () => [
      head("Queues", list.data && `${count(list.data.length)} in use. Full ones refuse new tasks with 503.`),
      shownOf(list, view, "No queue holds tasks. A queue exists while it holds some."),
    ],
  };
}

const byLoad = (a, b) => b.queued / b.capacity - a.queued / a.capacity || b.running - a.running || a.queue.localeCompare(b.queue);

function row(q, samples) {
  const link = (status) => h("a", { href: `#/tasks?queue=${encodeURIComponent(q.queue)}&status=${status}`, "data-count": status }, count(q[status]));
  const speed = rates(samples);
  return h("tr", { key: q.queue, "data-queue": q.queue },
    h("th", { scope: "row" }, queueLink(q.queue)),
    h("td", { "data-label": "Waiting" }, fill(q)),
    h("td", { "data-label": "Depth" }, spark(samples.slice(-SAMPLES).map((s) => s.queued), `Depth while this page was open: ${samples.map((s) => s.queued).join(", ")}`, SAMPLES)),
    h("td.num", { "data-label": "Out" }, speed === null ? "–" : `${rate(speed)}/s`),
    h("td.num", { "data-label": "Oldest due", class: q.oldest_ready_s > 60 ? "late" : "" }, q.oldest_ready_s === null ? "–" : duration(q.oldest_ready_s)),
    ["running", "done", "failed", "cancelled"].map((status) => h("td.num", { key: status, "data-label": status }, link(status))));
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
function rates(samples) {
  const all = samples || [];
  if (all.length < 2) return null;
  return Math.max(0, all.at(-1).ended - all[0].ended) / ((all.at(-1).at - all[0].at) / 1000);
}
