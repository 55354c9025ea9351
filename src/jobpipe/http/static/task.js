// One task: what it is, what happened to it when, why it failed, and what can be done about it.
import { Problem, call, can, get, post } from "./api.js";
import { copy, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { ago, count, duration, full, shown } from "./format.js";
import { heldLink } from "./flow.js";
import { health } from "./health.js";
import { placeOf, trail } from "./rows.js";
import { badge, fact, hrefOf, icon, queueHref } from "./ui.js";
import { Tree, member, parse, pretty } from "./json.js";
import { Resource, shownOf } from "./resource.js";
import { body, curl, fieldsOf, python } from "./snippets.js";
import { VERBS, allowed, complain, steer } from "./steering.js";
import { errorOf, timeline, totalOf } from "./timeline.js";

export function task(app, route) {
  const path = `tasks/${encodeURIComponent(route.id)}`;
  const one = new Resource(path, { every: 400, idle: 10000, read: readTask });
  const attempts = new Resource(`${path}/attempts`, { every: 400, idle: 15000 });
  // Known once the task is: most have a handler that was told of, and of others there is nothing to show.
  const told = new Resource(() => `handlers/${encodeURIComponent(one.data.task.handler)}`, { every: 60000, idle: 60000, read: (of, options) => get(of, options).catch(() => ({})) });
  const payload = new Tree(app.render);
  const result = new Tree(app.render);
  const open = new Set();
  const act = async (verb) => {
    if (!(await steer(verb, one.data.task))) return;
    if (verb === "delete") app.go("#/tasks");
    else app.refresh();
  };
  // One like it, at once: what a finished one says stays as it was.
  const again = async () => {
    try {
      const made = await post("enqueue", body(fieldsOf(one.data.task), one.data.payload.text));
      toast("Enqueued as a new task");
      app.go(hrefOf(made.id));
    } catch (error) {
      complain(error);
    }
  };
  const beside = (which) => () => {
    const id = placeOf(route.id)?.[which];
    return id === undefined ? false : app.go(hrefOf(id));
  };
  const steering = (verb) => () => (one.data && allowed(verb, one.data.task.status) ? void act(verb) : false);
  const toggle = (key) => {
    if (!open.delete(key)) open.add(key);
    app.render();
  };
  return {
    title: route.id,
    resources: [one, attempts, told],
    holds: (resource) => resource === told && one.data === null,
    live(delta) {
      if (!delta.dropped && !delta.tasks.some((changed) => changed.id === route.id)) return false;
      one.touch();
      attempts.touch();
      return false; // drawn when the answers come
    },
    keys: () => ({ r: steering("retry"), c: steering("cancel"), j: beside("after"), k: beside("before") }),
    view() {
      const head = h("div.head.task-head", h("p.crumb", h("a", { href: trail.href }, "Tasks"), " /"),
        h("h1", { tabindex: "-1" }, h("code", route.id)), one.data && badge(shown(one.data.task)), one.data && heldLink(one.data.task),
        h("button.icon-only", { onclick: () => copy(route.id, "Id"), "aria-label": "Copy the id" }, icon("copy")), neighbours(placeOf(route.id)));
      if (one.error instanceof Problem && one.error.status === 404) {
        return [head, h("p.empty", "There is no such task: it was deleted, or forgotten after its retention.")];
      }
      if (!one.data) return [head, shownOf(one)];
      return [head, actions(one.data, act, again), facts(one.data.task, told.data, app.stats.data),
        h("section.panel", h("header", h("h2", "Timeline"), h("span.soft", `${totalOf(one.data.task)} ${one.data.task.finished_at ? "in all" : "so far"}`)),
          shownOf(attempts, (list) => timeline(one.data.task, list, open, toggle))),
        lastError(one.data.task),
        h("div.two", value("Payload", one.data.payload, payload), one.data.task.status === "done" && value("Result", one.data.result, result))];
    },
  };
}

// The fields as values, payload and result as they were written.
export async function readTask(path, options) {
  const { text } = await call(path, options);
  const node = parse(text);
  return { task: JSON.parse(text), payload: member(node, "payload"), result: member(node, "result") };
}

function neighbours(place) {
  if (place === null) return null;
  const to = (id, label, cls) => (id === undefined ? h("span.icon-only") : h("a.button.icon-only", { href: hrefOf(id), "aria-label": label, title: label }, icon("next", cls)));
  return h("nav.beside", { "aria-label": "The list it was opened from" }, to(place.before, "Task before (k)", "back"), h("span.soft", `${place.at + 1} of ${place.total}`), to(place.after, "Task after (j)"));
}

function actions({ task, payload }, act, again) {
  const fields = fieldsOf(task);
  // All of them, always: a button that took the place of another would be clicked for it.
  const off = (verb) => health.shut || !allowed(verb, task.status) || (verb === "cancel" && task.cancel_requested);
  return h("div.toolbar", { role: "group", "aria-label": "This task" },
    can("admin") && Object.keys(VERBS).map((verb) =>
      h("button", { key: verb, class: verb === "delete" ? "danger" : "", onclick: () => act(verb), disabled: off(verb) }, icon(verb), verb === "cancel" && task.cancel_requested && task.status === "running" ? "Told to stop" : VERBS[verb].name)),
    can("enqueue") && h("button", { onclick: again, disabled: health.shut || !task.finished_at }, icon("enqueue"), "Run again as new"),
    can("enqueue") && h("a.button", { href: `#/enqueue?from=${encodeURIComponent(task.id)}` }, icon("clone"), "Clone and edit"),
    h("span.space"),
    h("button.quiet", { onclick: () => copy(curl(fields, payload.text), "curl command") }, icon("copy"), "curl"),
    h("button.quiet", { onclick: () => copy(python(fields, payload), "Python") }, icon("copy"), "Python"));
}

// Of the task, else of its handler, else of the server.
function limit(task, told, stats) {
  if (task.timeout !== null) return duration(task.timeout);
  const own = told?.payload?.["x-jobpipe"]?.timeout;
  if (own) return [duration(own), h("small", " the handler's")];
  return stats ? [stats.timeout === undefined ? "none" : duration(stats.timeout), h("small", " the server's, where its handler has none")] : "…";
}

function facts(task, told, stats) {
  const time = (name, value) => fact(name, value ? h("time", { datetime: value, title: full(value) }, full(value), h("small", ` ${ago(value)}`)) : "–");
  return h("dl.panel.grid", {},
    fact("Handler", h("a", { href: `#/tasks?handler=${encodeURIComponent(task.handler)}` }, h("code", task.handler))),
    fact("Queue", h("a", { href: queueHref(task.queue) }, h("code", task.queue))),
    fact("Attempts", [h("b", { "data-count": "attempts" }, count(task.attempts)), h("small", ` ${count(task.failures)} failed, ${count(task.lost)} lost, ${count(task.max_retries)} ${task.max_retries === 1 ? "retry" : "retries"} allowed`)]),
    fact("Priority", String(task.priority)),
    time("Created", task.created_at), time(task.status === "queued" ? "Due" : "Was due", task.run_at), time("Started", task.started_at), time("Finished", task.finished_at),
    fact("Time limit", limit(task, told, stats)),
    fact("Worker", task.worker ? h("a", { href: `#/workers?find=${encodeURIComponent(task.worker)}` }, h("code", task.worker)) : "–"),
    task.worker && fact("In its log", h("button.quiet.line", { onclick: () => copy(logLine(task), "What its log says"), title: "Copy what to search for" }, h("code", logLine(task)))),
    task.key && fact("Key", h("a", { href: `${queueHref(task.queue)}?key=${encodeURIComponent(task.key)}` }, h("code", task.key))),
    task.schedule && fact("Schedule", [h("a", { href: `#/schedules/${encodeURIComponent(task.schedule)}` }, h("code", task.schedule)), task.scheduled_for && h("small", ` for ${full(task.scheduled_for)}`)]),
    task.unique && fact("Unique key", [h("code", task.unique.key), h("small", ` ${lives(task.unique)}`)]),
    task.expires_at && time("Expires", task.expires_at));
}

const lives = ({ until, on_conflict }) => `${typeof until === "string" ? `until its ${until}` : `for ${duration(until)}`}, ${on_conflict}`;

// What a handler says by `ctx.log` begins so.
const logLine = (task) => `task ${task.id} attempt ${task.attempts}:`;

function lastError(task) {
  if (!task.last_error || task.status === "done") return null;
  return h("section.panel.last-error", h("header", h("h2", "Last error"), h("span.soft", `attempt ${task.last_error.attempt}, ${ago(task.last_error.at)}`),
    h("a.more", { href: `#/tasks?error_group=${task.error_group}` }, "Others with this error")), errorOf(task.last_error));
}

function value(title, node, tree) {
  return h("section.panel.value", h("header", h("h2", title), h("span.soft", `${count(new Blob([node.text]).size)} bytes`),
    h("button.quiet", { onclick: () => copy(pretty(node), title) }, icon("copy"), "Copy", h("span.hidden", ` the ${title.toLowerCase()}`))), tree.view(node));
}
