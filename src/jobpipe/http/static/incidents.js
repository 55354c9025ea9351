// What is wrong now, each line with the way to its evidence; none when all is well. The same rules, with the same bounds,
// wake people by deploy/prometheus/alerts.yml.
import { h } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { icon, queueHref as pageOf } from "./ui.js";

const LATE_S = 300; // a task that is due for longer than this
const BUSY_S = 30; // for so long a due task waits before "all are busy" is worth a word
const FAILING = 0.1; // of the runs of the last five minutes
const JUMP = 3; // times the share of the day before
const ENOUGH = 10; // runs, to judge by
const MOST = 4; // of one kind

const queueHref = (name) => `#/queues?find=${encodeURIComponent(name)}`;

// Each: [kind, href, what], the worst kinds first. What is not known yet (null) tells of nothing.
export function incidents({ stats, queues, workers, handlers }) {
  return [...refusing(stats, queues || []), ...lost(workers || []), ...failing(handlers || []), ...busy(stats, queues || []), ...paused(queues || []), ...late(queues || [])];
}

function refusing(stats, queues) {
  const here = queues.filter((q) => q.refused_per_s > 0).sort((a, b) => b.refused_per_s - a.refused_per_s);
  if (!here.length && stats?.rates.refused_per_s > 0) return [["refusing", "#/queues", [h("b", "Tasks are refused"), `: ${rate(stats.rates.refused_per_s)}/s found no room`]]];
  return few(here, "#/queues", (q) => ["refusing", queueHref(q.queue), [h("b", `${q.queue} refuses`), ` ${rate(q.refused_per_s)}/s: ${count(q.queued)} of ${count(q.capacity)} wait`]]);
}

function lost(workers) {
  const gone = workers.filter((w) => w.state === "lost");
  if (!gone.length) return [];
  const hosts = [...new Set(gone.map((w) => w.host || w.worker_id))];
  return [["lost", "#/workers", [h("b", `${count(gone.length)} worker process${gone.length === 1 ? "" : "es"} lost`), ` on ${hosts.slice(0, 3).join(", ")}${hosts.length > 3 ? " ..." : ""}: no sign for a whole lease`]]];
}

function failing(handlers) {
  const now = (one) => (one.recent.runs >= ENOUGH ? one.recent.failed / one.recent.runs : 0);
  const day = (one) => (one.failures.runs > one.recent.runs ? (one.failures.failed - one.recent.failed) / (one.failures.runs - one.recent.runs) : 0);
  const bad = handlers.filter((one) => now(one) >= FAILING && now(one) >= JUMP * day(one)).sort((a, b) => now(b) - now(a));
  return few(bad, "#/errors", (one) => ["failing", `#/errors?handler=${encodeURIComponent(one.handler)}`,
    [h("b", `${one.handler} fails`), ` ${Math.round(percent(now(one), 1))} % of its runs, ${one.failures.runs > one.recent.runs ? `over the day before ${Math.round(percent(day(one), 1))} %` : "of which it had none before"}`]]);
}

function busy(stats, queues) {
  const oldest = Math.max(...queues.map((q) => q.oldest_ready_s ?? 0));
  if (!stats || oldest < BUSY_S || stats.workers.busy < stats.workers.total) return [];
  return [["busy", "#/workers", [h("b", stats.workers.total ? `All ${plural(stats.workers.total, "worker")} busy` : "No workers"), `, and a task has been due for ${duration(Math.floor(oldest))}`]]];
}

const paused = (queues) => few(queues.filter((q) => q.paused), "#/queues", (q) => ["paused", pageOf(q.queue), [h("b", `${q.queue} is paused`), `: ${count(q.queued)} wait`]]);

function late(queues) {
  const waiting = queues.filter((q) => q.oldest_ready_s > LATE_S && !q.paused).sort((a, b) => b.oldest_ready_s - a.oldest_ready_s);
  return few(waiting, "#/queues?sort=oldest", (q) => ["late", queueHref(q.queue), [h("b", `${q.queue} is late`), `: a task has been due for ${duration(Math.floor(q.oldest_ready_s))}`]]);
}

function few(all, href, line) {
  const rest = all.length - MOST;
  return [...all.slice(0, MOST).map(line), ...(rest > 0 ? [["more", href, `and ${count(rest)} more`]] : [])];
}

export function strip(found) {
  if (!found.length) return null;
  return h("section.panel.incidents", { key: "incidents", "aria-label": "Incidents" },
    h("ul", found.map(([kind, href, what], i) => h("li", { key: `${kind}${href}${i}`, "data-incident": kind }, h("a", { href }, icon("errors"), h("span", what), icon("next"))))));
}
