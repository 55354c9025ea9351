// The attempts of a task on one line of time, to scale: hollow where it waited, full where it ran.
import { h, heads } from "./dom.js";
import { ago, clock, duration, full, now, second, seconds, shown } from "./format.js";
import { icon, region } from "./ui.js";

const NEWEST = 50;

// The unsuccessful attempts as the server kept them, and the run that is under way, done or cancelled, which the task
// itself tells. Each: {n, outcome, from, started, ended, worker, error}; times in ms, `from` is when its wait began.
export function runs(task, attempts) {
  const made = [];
  const at = (time) => (time ? Date.parse(time) : null);
  let from = at(task.created_at);
  for (const one of attempts) {
    made.push({ n: one.attempt, outcome: one.outcome, from, started: at(one.started_at), ended: at(one.ended_at), worker: one.worker, error: one.error });
    from = at(one.ended_at);
  }
  const last = attempts.at(-1);
  const own = task.started_at && (!last || at(task.started_at) > (at(last.started_at) ?? 0));
  if (own && ["running", "done", "cancelled"].includes(task.status)) {
    made.push({ n: task.attempts, outcome: task.status, from, started: at(task.started_at), ended: at(task.finished_at), worker: task.worker, error: null });
  } else if (task.status === "queued") {
    made.push({ n: task.attempts + 1, outcome: shown(task), from: Math.min(from, now()), started: null, ended: null, due: at(task.run_at), worker: null, error: null });
  }
  return made;
}

export function timeline(task, attempts, open, toggle) {
  const all = runs(task, attempts);
  if (!all.length) return h("p.empty", "It has not run.");
  const start = all[0].from;
  const last = all.at(-1);
  const end = Math.max(last.ended ?? now(), last.due ?? 0, start + 1);
  const hidden = Math.max(0, all.length - NEWEST);
  return region("Attempts", "", h("table.timeline", {},
    heads("Attempt", "#Waited", "#Ran", h("th.track", { scope: "col" }, axis(start, end)), "Worker"),
    h("tbody", hidden > 0 && h("tr", { key: "hidden" }, h("td", { colspan: "5" }, `${hidden} older attempts are not shown`)),
      all.slice(hidden).map((run) => row(run, start, end, open, toggle)))));
}

function axis(start, end) {
  const at = end - start < 3600000 ? second : clock;
  return h("span.axis", h("time", { title: full(start) }, at(start)), h("span", duration((end - start) / 1000)), h("time", { title: full(end) }, end > now() ? ago(new Date(end).toISOString()) : at(end)));
}

function row(run, start, end, open, toggle) {
  const key = `${run.n}/${run.outcome}/${run.from}`;
  const until = run.started ?? run.ended ?? now();
  const waited = (until - run.from) / 1000;
  const ran = run.started === null ? null : ((run.ended ?? now()) - run.started) / 1000;
  const isOpen = open.has(key);
  const name = [h("b", String(run.n)), " ", h("span.badge", { class: tone(run.outcome) }, icon(tone(run.outcome)), run.outcome.replace("_", " "))];
  return [h("tr", { key },
    h("th", { scope: "row" }, run.error ? h("button.quiet.more", { "aria-expanded": String(isOpen), onclick: () => toggle(key) }, icon("next", isOpen ? "down" : ""), name) : h("span.nomore", name)),
    h("td.num", duration(waited)), h("td.num", ran === null ? "–" : duration(ran)),
    h("td.track", track(run, start, end)), h("td", h("code.soft", run.worker || "–"))),
  isOpen && h("tr.detail", { key: `${key}/error` }, h("td", { colspan: "5" }, errorOf(run.error)))];
}

// Outcomes of runs borrow the shapes of the statuses.
const tone = (outcome) => ({ timed_out: "failed", lost: "failed", released: "retrying" })[outcome] || outcome;

function track(run, start, end) {
  const x = (t) => (1000 * (t - start)) / (end - start);
  const waitEnd = run.started ?? run.ended ?? Math.max(run.due ?? 0, now());
  const wait = [x(run.from), x(waitEnd)];
  const ran = run.started === null ? null : [x(run.started), x(run.ended ?? now())];
  const label = `waited ${duration((waitEnd - run.from) / 1000)}${ran ? `, ran ${duration(((run.ended ?? now()) - run.started) / 1000)}` : ""}`;
  return h("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("line.ground", { x1: 0, x2: 1000, y1: 8, y2: 8 }),
    h("rect.wait", { x: wait[0], width: Math.max(0, wait[1] - wait[0]), y: 5.5, height: 5 }),
    ran && h("rect", { class: `run ${tone(run.outcome)}`, x: Math.min(ran[0], 996), width: Math.max(4, ran[1] - ran[0]), y: 1, height: 14 }));
}

export function errorOf(error) {
  return h("div.error", h("p", h("strong", error.type), error.message && [": ", error.message]),
    error.traceback && h("pre", { tabindex: "0", "aria-label": "Traceback" }, error.traceback));
}

export const totalOf = (task) => duration(seconds(task.created_at, task.finished_at || new Date(now()).toISOString()));
