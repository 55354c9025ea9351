// The schedules, and one of them: when it comes, here and in its own zone, what it made and how that ended; run, pause, delete.
import { Problem, can } from "./api.js";
import { h, heads } from "./dom.js";
import { done, may, pause, pauseButton, pausedBadge, who } from "./flow.js";
import { ago, count, duration, full, plural, seconds } from "./format.js";
import { health } from "./health.js";
import { Tree } from "./json.js";
import { Lazy } from "./lazy.js";
import { Resource, shownOf } from "./resource.js";
import { form } from "./schedule_form.js";
import { hrefTo, pathOf, readSchedule, soon, times } from "./schedule_times.js";
import { agreed } from "./steering.js";
import { Still } from "./still.js";
import { crumbed, fact, finder, head, hrefOf, icon, region, taskLink } from "./ui.js";

const ROW_PX = 46;
const LAST = 40;
const FIELDS = "id,status,scheduled_for,created_at,started_at,finished_at";

export function schedules(app, route) {
  if (route.id === null) return list(app, route);
  if (route.id === "+") return form(app, null);
  return route.id.endsWith("/edit") ? form(app, route.id.slice(0, -5)) : one(app, route.id);
}

// --- the list ---

const expression = (s) => h("code", s.cron ?? `every ${duration(s.every)}`);

function list(app, route) {
  const all = new Resource("schedules", { every: 3000, idle: 8000 });
  const lazy = new Lazy(app.render);
  const state = { find: route.query.get("find") || "" };
  const find = (event) => {
    state.find = event.target.value.trim();
    history.replaceState(null, "", state.find ? `#/schedules?${new URLSearchParams({ find: state.find })}` : "#/schedules");
    app.render();
  };
  const view = (data) => {
    const wanted = data.filter((s) => s.name.includes(state.find));
    return [h("div.toolbar.steady", { key: "bar", role: "group", "aria-label": "Which schedules" }, finder("Find a schedule", state.find, find), h("span.soft", `${count(wanted.length)} of ${count(data.length)} shown`)),
    h("div", { key: "table" }, region("Schedules", "panel", h("table.full.cards.dense", h("caption.hidden", "Schedules"),
      heads("Schedule", "When", "Next", "Last", "#Missed", "Last error", ...(can("admin") ? [h("th", { key: "act", scope: "col" }, h("span.hidden", "Pause"))] : [])),
      h("tbody", lazy.rows(wanted, (s) => s.name, (s) => line(s, app)))), lazy.more(wanted, ROW_PX)))];
  };
  return {
    title: "Schedules",
    resources: [all],
    keys: () => ({ "/": () => document.getElementById("find")?.focus() }),
    view: () => [head("Schedules", all.data && [paused(all.data), `${plural(all.data.length, "schedule")}; each time makes one task.`], can("admin") && h("a.button", { href: "#/schedules/+" }, icon("enqueue"), "New schedule")),
      shownOf(all, view, "Nothing is scheduled. A schedule makes a task at each of its times; apps declare them too.")],
  };
}

const paused = (data) => data.some((s) => s.paused) && h("b.late", `${count(data.filter((s) => s.paused).length)} paused. `);

function line(s, app) {
  const toggle = async () => {
    if (may() && (await pause(pathOf(s.name), s.name, !s.paused))) app.refresh();
  };
  return h("tr", { key: s.name, "data-schedule": s.name, class: s.paused ? "halted" : "" },
    h("th", { scope: "row" }, h("a.id", { href: hrefTo(s.name) }, s.name), s.paused && [" ", pausedBadge()]),
    h("td", { "data-label": "when" }, s.in_words, h("small.block", expression(s), s.cron && ` ${s.timezone}`)),
    h("td", { "data-label": "next", title: full(s.next_at) }, s.next_at ? soon(s.next_at) : s.paused ? "–" : "over"),
    h("td", { "data-label": "last", title: full(s.last_at) }, s.last_task ? h("a", { href: hrefOf(s.last_task) }, ago(s.last_at)) : "–"),
    h("td.num", { "data-label": "missed", class: s.missed ? "late" : "" }, count(s.missed)),
    h("td.cut.brief", { "data-label": "error", title: s.last_error || "" }, s.last_error ? h("span.bad", s.last_error) : "–"),
    can("admin") && h("td.acts", pauseButton(s.name, s.paused, toggle)));
}

// --- one ---

function one(app, name) {
  const it = new Resource(pathOf(name), { every: 500, idle: 5000, read: readSchedule });
  const last = new Resource(`tasks?${new URLSearchParams({ schedule: name, limit: LAST, fields: FIELDS })}`, { every: 500, idle: 8000 });
  const tree = new Tree(app.render);
  const still = new Still();
  const after = async (what) => {
    if (may() && it.data && (await what)) app.refresh();
  };
  const act = {
    run: () => after(done(`${pathOf(name)}/run`, { method: "POST" }, "A task of it is made")),
    pause: () => it.data && after(pause(pathOf(name), name, !it.data.schedule.paused)),
    forget: async () => {
      const { declared_by: declared } = it.data.schedule;
      if ((await agreed("Delete this schedule?", "Delete", h("p", h("code", name), " makes no tasks any more; those that it made stay."),
        declared && h("p.late", `It comes back when ${declared} declares it again: pause it instead.`))) && (await done(pathOf(name), { method: "DELETE" }, `${name} deleted`))) app.go("#/schedules");
    },
  };
  return {
    title: name,
    resources: [it, last],
    live(delta) {
      if (!delta.dropped && !delta.tasks.some((task) => task.id.startsWith(`${name}@`))) return;
      it.touch();
      last.touch();
    },
    keys: () => ({ p: () => (may() && it.data ? void act.pause() : false) }),
    view() {
      const top = crumbed("Schedules", "#/schedules", name, it.data?.schedule.paused && pausedBadge());
      if (it.error instanceof Problem && it.error.status === 404) return [top, h("p.empty", "There is no such schedule: it was deleted, or is declared no more.")];
      return [top, shownOf(it, ({ schedule, task }) => [state(schedule, act), tools(schedule, act), about(schedule),
        schedule.last_error && h("section.panel.last-error", { key: "error" }, h("header", h("h2", "Last error")), h("p.error", h("strong", schedule.last_error))),
        h("section.panel", { key: "last", id: "last" }, h("header", h("h2", "Last tasks"), h("a.more", { href: `#/tasks?schedule=${encodeURIComponent(name)}` }, "All", h("span.hidden", " of its tasks"))),
          shownOf(last, (rows) => still.of("last ol", () => strip(rows)), "It has made none that is kept.")),
        h("div.two", { key: "two" }, h("section.panel", h("header", h("h2", "Next times")), schedule.next.length ? times(schedule) : h("p.empty", schedule.paused ? "None while it is paused." : "None comes any more.")),
          h("section.panel.value", h("header", h("h2", "What it enqueues")), tree.view(task)))])];
    },
  };
}

function state(s, act) {
  const said = s.paused ? [h("b", "Paused"), who(s), ": it makes no tasks; times that pass meanwhile are not missed."]
    : !s.next_at ? [h("b", "Over"), ": no time comes any more."]
      : [h("b", s.in_words), s.cron ? ` in ${s.timezone}` : "", ". Next ", h("b", { id: "next", title: full(s.next_at) }, soon(s.next_at)), "."];
  return h("section.panel.state", { key: "state", class: s.paused ? "paused" : "open", id: "state", role: "group", "aria-label": "How it stands" },
    icon(s.paused ? "pause" : "scheduled"), h("p", said), pauseButton(s.name, s.paused, () => void act.pause(), { class: s.paused ? "primary" : "" }));
}

const tools = (s, act) => can("admin") && h("div.toolbar", { key: "tools", role: "group", "aria-label": "This schedule" },
  h("button", { onclick: () => void act.run(), disabled: health.shut }, icon("running"), "Run now"), h("a.button", { href: `${hrefTo(s.name)}/edit` }, icon("edit"), "Edit"),
  h("button.danger", { onclick: () => void act.forget(), disabled: health.shut }, icon("delete"), "Delete"));

function about(s) {
  return h("dl.panel.grid", { key: "about" },
    fact(s.cron ? "Cron" : "Every", expression(s)), fact("Time zone", s.cron ? s.timezone : "any: it follows real time"),
    fact("Missed times", h("b", { id: "missed", class: s.missed ? "late" : "" }, count(s.missed)), h("small", s.catch_up === "latest" ? " the latest is made up for" : " none is made up for")),
    fact("Overlap", s.overlap === "skip" ? "skipped while the last one runs" : "allowed"),
    fact("Last", s.last_task ? [taskLink(s.last_task), h("small", ` ${ago(s.last_at)}`)] : "–"),
    s.jitter > 0 && fact("Jitter", `up to ${duration(s.jitter)}`), s.starts && fact("Starts", full(s.starts)), s.ends && fact("Ends", full(s.ends)),
    fact("Declared by", s.declared_by ? h("code", s.declared_by) : "–"), fact("Changed by people", s.changed_at ? who(s) : "never"));
}

// The oldest first: a cell for each, its end as a shape and a tone.
function strip(rows) {
  const ends = {};
  for (const { status } of rows) ends[status] = (ends[status] || 0) + 1;
  return h("div.ends", h("ol", { "aria-label": "Its last tasks, the oldest first" }, [...rows].reverse().map((task) => {
    const ran = task.started_at && task.finished_at ? `, ran ${duration(seconds(task.started_at, task.finished_at))}` : "";
    const what = `${task.status}, for ${full(task.scheduled_for || task.created_at)}${ran}`;
    return h("li", { key: task.id }, h("a", { class: task.status, href: hrefOf(task.id), title: what, "aria-label": what, "data-end": task.status }, icon(task.status)));
  })), h("p.note", Object.entries(ends).map(([status, n]) => `${count(n)} ${status}`).join(", ")));
}
