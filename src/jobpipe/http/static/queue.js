// One queue: how it stands, the rules in force beside who said them, and its keys.
import { h } from "./dom.js";
import { count, duration } from "./format.js";
import { holdText, may, orBlank, pause, pauseButton, pausedBadge, runs, who } from "./flow.js";
import { Keys } from "./queue_keys.js";
import { Resource, shownOf } from "./resource.js";
import { Rules } from "./rules.js";
import { fill } from "./queues.js";
import { crumbed, fact, icon } from "./ui.js";

export function queue(app, route) {
  const name = route.id;
  const path = `queues/${encodeURIComponent(name)}`;
  const blank = { queue: name, missing: true, queued: 0, running: 0, done: 0, failed: 0, cancelled: 0, paused: false, declared: null, set: null, hold_until: null, oldest_ready_s: null };
  const one = new Resource(path, { every: 1000, idle: 5000, read: orBlank(blank) });
  const rules = new Rules(app, path, one);
  const keys = new Keys(app, path, one, route.query.get("key"));
  const toggle = async () => {
    if (may() && one.data && (await pause(path, name, stopped(one.data) === null))) app.refresh();
  };
  return {
    title: name,
    resources: [one, ...keys.resources],
    keys: () => ({ p: () => (may() && one.data ? void toggle() : false), "/": () => document.getElementById("find-key")?.focus() }),
    view: () => [
      crumbed("Queues", "#/queues", name, one.data?.paused && pausedBadge()),
      shownOf(one, (data) => [state(data, toggle), facts(data), rules.view(data), keys.view()]),
    ],
  };
}

const stopped = (q) => (q.paused ? "paused" : q.hold_until ? "held" : null);

// A line that is always there, so that nothing moves when it says something else.
function state(q, toggle) {
  const how = stopped(q);
  const said = how === "paused"
    ? [h("b", "Paused"), who(q.set), `: nothing starts, new tasks are taken. ${count(q.queued)} wait.`]
    : how === "held" ? [h("b", "Held"), " after a refusal from outside ", holdText(q.hold_until), `. ${count(q.queued)} wait.`]
      : [h("b", "Open"), q.missing ? ": it holds neither tasks nor rules yet." : ": tasks start as they come and its rules allow."];
  return h("section.panel.state", { key: "state", class: how || "open", id: "state", role: "status", "aria-label": "How it stands" },
    icon(how ? "pause" : "running"), h("p", said), pauseButton(q.queue, how !== null, toggle, { class: how ? "primary" : "" }));
}

function facts(q) {
  const link = (status) => fact(status, h("a", { href: `#/tasks?queue=${encodeURIComponent(q.queue)}&status=${status}`, "data-count": status }, count(q[status])));
  return h("dl.panel.grid.short", { key: "facts" },
    fact("Waiting", q.missing ? count(0) : fill(q)), fact("Running", runs(q.running, q.rules?.concurrency)),
    fact("Oldest due", h("span", { class: q.oldest_ready_s > 60 ? "late" : "" }, q.oldest_ready_s === null ? "–" : duration(Math.floor(q.oldest_ready_s)))),
    ["done", "failed", "cancelled"].map(link),
    fact("Tasks", h("a", { href: `#/tasks?queue=${encodeURIComponent(q.queue)}` }, "All of them")));
}
