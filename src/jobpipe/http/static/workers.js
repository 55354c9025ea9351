// Who works here: each worker process, how busy it is, and what it runs since when.
import { h } from "./dom.js";
import { ago, coarse, count, full, percent, since } from "./format.js";
import { fact, head, icon, taskLink } from "./ui.js";
import { Resource, shownOf } from "./resource.js";

const MOST_SLOTS = 64;

export function workers() {
  const list = new Resource("workers", { every: 1000, idle: 3000 });
  const total = (name) => list.data.reduce((sum, w) => sum + w[name], 0);
  return {
    title: "Workers",
    resources: [list],
    view: () => [
      head("Workers", list.data && [h("b", `${count(total("busy"))} of ${count(total("total"))}`), ` busy, in ${processes(list.data.filter((w) => w.state !== "lost").length)}`, lost(list.data.filter((w) => w.state === "lost").length)]),
      shownOf(list, (data) => h("div.workers", [...data].sort(byName).map(card)),
        "No worker is connected. Start the server with an app, or `jobpipe worker` elsewhere."),
    ],
  };
}

const processes = (n) => `${count(n)} process${n === 1 ? "" : "es"}`;
const lost = (n) => n > 0 && [" · ", h("b.late", { id: "lost" }, `${processes(n)} lost`)];
const byName = (a, b) => a.worker_id.localeCompare(b.worker_id, "en", { numeric: true });

function card(w) {
  return h("section.panel.worker", { key: w.worker_id, "data-worker": w.worker_id, "data-state": w.state },
    h("header", h("h2", icon("workers"), h("code", w.worker_id)), state(w),
      h("span.of", h("b", count(w.busy)), ` of ${count(w.total)} busy`), slots(w.busy, w.total)),
    h("dl.facts", fact("Host", w.host || "–"), fact("Pid", w.pid ?? "–"), fact("Version", w.version || "–"), fact("Release", w.release ?? "–"), fact("Queues", (w.queues || []).join(", ") || "–"),
      fact("Heartbeat", h("span", { class: w.state === "lost" ? "late" : "", title: full(w.last_seen) }, ago(w.last_seen)))),
    w.leaving && h("p.late", `Takes nothing new: it ${w.leaving}`),
    w.replaced && h("p.soft", { title: full(w.replaced.at) }, `${ago(w.replaced.at)} in place of one that ${w.replaced.reason}`),
    w.tasks.length ? h("ul.tasks", running([w]).map(({ task }) => h("li", { key: task.id }, icon("running"),
      taskLink(task.id), h("span.soft.cut", task.handler),
      h("span.num", { title: full(task.started_at) }, task.started_at ? `for ${coarse(since(task.started_at))}` : "")))) : h("p.empty", w.state === "lost" ? "No sign for a whole lease: what it could run counts no more." : "Idle"));
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
