// The handlers: how often each runs, how long it takes, how often it fails; by hour, and by the release of its workers.
import { can } from "./api.js";
import { spark } from "./charts.js";
import { h, heads } from "./dom.js";
import { ago, count, duration, full, percent, rate } from "./format.js";
import { Order } from "./order.js";
import { Resource, shownOf } from "./resource.js";
import { head, hrefOf, queueLink, region, resort } from "./ui.js";

const href = (name) => `#/handlers/${encodeURIComponent(name)}`;
const share = (runs) => (runs.runs ? `${Number(percent(runs.failed, runs.runs).toFixed(1))} %` : "–");
const bad = (runs) => (runs.runs >= 10 && runs.failed / runs.runs >= 0.1 ? "late" : "");
const byRuns = (a, b) => b.failures.runs - a.failures.runs || a.handler.localeCompare(b.handler);

export function handlers(app, route) {
  return route.id === null ? list(app) : one(app, route.id);
}

function list(app) {
  const all = new Resource("handlers", { every: 2000, idle: 8000 });
  const order = new Order();
  const view = (data) => {
    const { all: rows, changed } = order.of(data, (one) => one.handler, byRuns, "runs");
    return [resort(changed, () => (order.renew(), app.render())),
      h("div", { key: "table" }, region("Handlers", "panel", h("table.full.cards.dense", h("caption.hidden", "Handlers that ran here in the last 24 hours"),
        heads("Handler", "#Rate", "#Failing now", "#Failing, 24 h", "24 h", "#Run p50", "#p95", "#p99", "#Wait p95", "Queues"),
        h("tbody", rows.map(({ row }) => line(row))))))];
  };
  return {
    title: "Handlers",
    resources: [all],
    view: () => [head("Handlers", "What apps told of, and how it ran on this server since its start, at most for a day."), shownOf(all, view, "No task has run here yet.")],
  };
}

function line(one) {
  return h("tr", { key: one.handler, "data-handler": one.handler },
    h("th", { scope: "row" }, h("a.id", { href: href(one.handler) }, one.handler)),
    h("td.num", { "data-label": "rate" }, `${rate(one.rates.finished_per_s)}/s`),
    h("td.num", { "data-label": "failing now", class: bad(one.recent) }, share(one.recent)),
    h("td.num", { "data-label": "24 h" }, share(one.failures)),
    h("td", { "data-label": "Depth" }, spark(one.by_hour.map((hour) => hour.failed), `Failed runs by hour: ${one.by_hour.map((hour) => hour.failed).join(", ")}`)),
    ["p50", "p95", "p99"].map((p) => h("td.num", { key: p, "data-label": p }, duration(one.run[p]))),
    h("td.num", { "data-label": "waited" }, duration(one.wait.p95)),
    h("td", { "data-label": "queues" }, one.queues.slice(0, 3).map((name, i) => [i ? ", " : "", queueLink(name)]), one.queues.length > 3 ? ` and ${one.queues.length - 3} more` : ""));
}

function one(app, name) {
  const it = new Resource(`handlers/${encodeURIComponent(name)}`, { every: 1500, idle: 8000 });
  return {
    title: name,
    resources: [it],
    view: () => [
      h("div.head", h("p.crumb", h("a", { href: "#/handlers" }, "Handlers"), " /"), h("h1", { tabindex: "-1" }, h("code", name))),
      shownOf(it, (data) => [facts(data), hours(data), releases(data), errors(data)]),
    ],
  };
}

const fact = (name, value, cls = "") => h("div", { key: name }, h("dt", name), h("dd", { class: cls }, value));

function facts(one) {
  return h("dl.panel.grid", { key: "facts" },
    fact("Rate, 5 minutes", `${rate(one.rates.finished_per_s)}/s`), fact("Failing, 5 minutes", `${share(one.recent)} of ${count(one.recent.runs)}`, bad(one.recent)),
    fact("Failing, 24 hours", `${share(one.failures)} of ${count(one.failures.runs)}`),
    fact("Ran p50, p95, p99", ["p50", "p95", "p99"].map((p) => duration(one.run[p])).join(", ")),
    fact("Waited p50, p95, p99", ["p50", "p95", "p99"].map((p) => duration(one.wait[p])).join(", ")),
    fact("Queues", one.queues.map((name, i) => [i ? ", " : "", queueLink(name)])),
    one.declared_by && fact("Told by", h("code", one.declared_by)),
    one.payload?.["x-jobpipe"]?.timeout && fact("Time limit", duration(one.payload["x-jobpipe"].timeout)),
    can("enqueue") && fact("Enqueue", h("a", { href: `#/enqueue?handler=${encodeURIComponent(one.handler)}` }, "A task of it")),
    fact("Tasks", h("a", { href: `#/tasks?handler=${encodeURIComponent(one.handler)}` }, "All of this handler")));
}

function hours(one) {
  const values = (name) => spark(one.by_hour.map((hour) => hour[name]), `${name} by hour: ${one.by_hour.map((hour) => hour[name]).join(", ")}`);
  return h("section.panel.hours", { key: "hours" }, h("header", h("h2", "By hour, the last 24")),
    h("dl.grid", fact("Runs", values("runs")), fact("Failed", values("failed"))));
}

function releases(one) {
  if (!one.releases.length) return h("section.panel", { key: "releases" }, h("header", h("h2", "By release")), h("p.empty", "Its workers have not told their release: App(release=...)."));
  return h("section.panel", { key: "releases" }, h("header", h("h2", "By release"), h("span.soft", "the newest first")), region("By release", "", h("table.full",
    heads("Release", "Since", "#Runs", "#Failing", "#Ran p50", "#p95", "#p99"),
    h("tbody", one.releases.map((r) => h("tr", { key: r.release }, h("th", { scope: "row" }, String(r.release)), h("td", { title: full(r.since) }, ago(r.since)),
      h("td.num", count(r.runs)), h("td.num", { class: bad(r) }, share(r)), ["p50", "p95", "p99"].map((p) => h("td.num", { key: p }, duration(r.run[p])))))))));
}

function errors(one) {
  if (!one.errors.length) return null;
  return h("section.panel", { key: "errors" }, h("header", h("h2", "Latest errors")), region("Latest errors", "", h("table.full", heads("Error", "Task", "When"),
    h("tbody", one.errors.map((e, i) => h("tr", { key: `${e.task_id}${e.at}${i}` }, h("td", h("b", e.type), ` ${e.message.split("\n")[0].slice(0, 200)}`),
      h("td", h("a.id", { href: hrefOf(e.task_id) }, e.task_id)), h("td", { title: full(e.at) }, ago(e.at))))))));
}
