// The form of a schedule, new or changed. While it is typed the server says what it would be: in words, with its next
// times, or what is wrong with it; nothing is kept before it is saved.
import { Problem, call, can, get } from "./api.js";
import { toast } from "./dialogs.js";
import { h } from "./dom.js";
import { may } from "./flow.js";
import { health } from "./health.js";
import { member, parse, pretty } from "./json.js";
import { Resource, failure, shownOf } from "./resource.js";
import { HERE, hrefTo, pathOf, readSchedule, times } from "./schedule_times.js";
import { complain } from "./steering.js";
import { head, icon } from "./ui.js";

const PAUSE_MS = 250;
const BLANK = { name: "", kind: "cron", cron: "30 2 * * *", timezone: HERE, every: "3600", overlap: "allow", catch_up: "latest", jitter: "", starts: "", ends: "", handler: "", queue: "", more: '{\n  "payload": {}\n}' };
const WIDE = ["cron", "every", "more"];
const SPLIT = ["handler", "queue"];
const ZONES = h("datalist", { id: "zones" }, (Intl.supportedValuesOf?.("timeZone") || []).map((name) => h("option", { key: name, value: name })));

export function form(app, name) {
  const source = name === null ? null : new Resource(pathOf(name), { idle: Infinity, read: readSchedule });
  const it = { fields: { ...BLANK }, filled: name === null, kept: {}, preview: null, problem: null, sending: false, timer: 0, asking: null };
  const set = (field) => (event) => {
    it.fields[field] = event.target.value;
    it.problem = null;
    clearTimeout(it.timer);
    it.timer = setTimeout(() => void look(it, name, app), PAUSE_MS);
    app.render();
  };
  const send = async (event) => {
    event.preventDefault();
    if (it.sending || !may()) return;
    it.sending = true;
    app.render();
    const saved = await save(it, name);
    it.sending = false;
    if (saved) app.go(hrefTo(saved));
    app.render();
    if (it.problem) document.getElementById(idOf(it.problem.field))?.focus();
  };
  if (it.filled) void look(it, name, app);
  return {
    title: name === null ? "New schedule" : `Edit ${name}`,
    resources: source ? [source] : [],
    view() {
      if (source?.data && !it.filled) {
        fillIn(it, source.data);
        void look(it, name, app);
      }
      const body = !can("admin") ? h("p.empty", "This key may not change schedules.") : it.filled ? view(it, name, set, send) : shownOf(source);
      return [head(this.title, h("a", { href: name === null ? "#/schedules" : hrefTo(name) }, "Back")), body];
    },
  };
}

const local = (time) => (time ? new Date(Date.parse(time) - new Date(time).getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "");

function fillIn(it, { schedule: s, task }) {
  const rest = task.entries.filter(([key]) => !SPLIT.includes(JSON.parse(key)));
  it.filled = true;
  it.kept = s;
  const text = (name) => JSON.parse(member(task, name).text) ?? "";
  Object.assign(it.fields, {
    name: s.name, kind: s.cron === null ? "every" : "cron", cron: s.cron ?? "", timezone: s.timezone, every: String(s.every ?? ""), overlap: s.overlap, catch_up: s.catch_up,
    jitter: s.jitter ? String(s.jitter) : "", starts: local(s.starts), ends: local(s.ends), handler: text("handler"), queue: text("queue"),
    more: pretty({ kind: "object", entries: rest }),
  });
}

// --- what is sent ---

const json = (name, text) => `${JSON.stringify(name)}: ${text}`;
const number = (text) => (/^\d+(\.\d+)?$/.test(text.trim()) ? text.trim().replace(/^0+(?=\d)/, "") : JSON.stringify(text));

// As JSON text, so that payloads stay as they were typed. Raises SyntaxError, with the field.
function bodyOf({ fields: f, kept }, paused) {
  const when = f.kind === "cron" ? [json("cron", JSON.stringify(f.cron)), json("timezone", JSON.stringify(f.timezone.trim() || null))] : [json("every", number(f.every)), json("timezone", JSON.stringify(kept.timezone ?? null))];
  const moment = (name) => f[name] && json(name, JSON.stringify(f[name] === local(kept[name]) ? kept[name] : new Date(f[name]).toISOString()));
  const task = [...SPLIT.map((name) => f[name].trim() && json(name, JSON.stringify(f[name].trim()))), ...(read(f.more).entries || []).map(([key, node]) => `${key}: ${node.text}`)];
  const parts = [...when, json("catch_up", JSON.stringify(f.catch_up)), json("overlap", JSON.stringify(f.overlap)), f.jitter.trim() && json("jitter", number(f.jitter)),
    moment("starts"), moment("ends"), paused !== undefined && json("paused", paused), json("task", `{${task.filter(Boolean).join(", ")}}`)];
  return `{${parts.filter(Boolean).join(", ")}}`;
}

function read(text) {
  try {
    return parse(text.trim());
  } catch (error) {
    throw new Problem(0, { error: `Not JSON yet: ${error.message}`, field: "more" });
  }
}

// What the server would make of it; the newest question alone counts.
async function look(it, name, app) {
  it.asking?.abort();
  const asking = (it.asking = new AbortController());
  if (health.shut) return;
  try {
    const where = pathOf(name ?? (it.fields.name.trim() || "preview"));
    const { text } = await call(`${where}?dry_run=true`, { method: "PUT", body: bodyOf(it, false), signal: asking.signal });
    [it.preview, it.problem] = [JSON.parse(text), null];
  } catch (error) {
    if (asking.signal.aborted) return;
    [it.preview, it.problem] = [null, error instanceof Problem ? error : null];
  }
  app.render();
}

// The name under which it is kept now; null when it was refused.
async function save(it, name) {
  try {
    const to = name ?? it.fields.name.trim();
    const body = bodyOf(it);
    if (name === null && (await isThere(to))) throw new Problem(409, { error: "there is a schedule of this name", field: "name" });
    await call(pathOf(to), { method: "PUT", body });
    toast(name === null ? "Scheduled" : "Saved");
    return to;
  } catch (error) {
    if (error instanceof Problem) it.problem = error;
    else complain(error);
    return null;
  }
}

const isThere = async (name) => (await get("schedules")).some((schedule) => schedule.name === name);

// --- the fields ---

// What is wrong within the task is shown at its field, or at the rest of it.
const idOf = (field) => {
  const name = field.replace(/^task\.?/, "").split(".")[0];
  return `s-${field.startsWith("task") && !SPLIT.includes(name) ? "more" : name}`;
};

function view(it, name, set, send) {
  const { fields: f, problem } = it;
  const ids = new Set(Object.keys(f).map((field) => `s-${field}`));
  const wrong = problem && ids.has(idOf(problem.field)) ? idOf(problem.field) : null;
  const labelled = (field, label, hint, control) => h("div", { key: field, class: WIDE.includes(field) ? "wide" : "" }, h("label", h("span", label), control),
    h("small", { id: `h-${field}`, "aria-live": "polite" }, wrong === `s-${field}` ? h("span.bad", problem.detail || problem.message) : hint));
  const common = (field) => ({ id: `s-${field}`, value: f[field], oninput: set(field), autocomplete: "off", spellcheck: "false", "aria-describedby": `h-${field}`, "aria-invalid": wrong === `s-${field}` && "true" });
  const input = (field, label, hint, more) => labelled(field, label, hint, h("input", { ...common(field), ...more }));
  const choice = (field, label, options) => labelled(field, label, "", h("select", { ...common(field) }, Object.entries(options).map(([value, text]) => h("option", { key: value, value }, text))));
  const cron = f.kind === "cron";
  return h("form.enqueue.schedule", { onsubmit: send },
    h("div.panel.form", {},
      name === null && input("name", "Name", "letters, digits, _ . and -", { required: true }),
      choice("kind", "Comes", { cron: "by a cron expression", every: "every so many seconds" }),
      cron ? input("cron", "Cron", "minute hour day month weekday, or @daily") : input("every", "Every, in seconds", "counted from the start, else from 1970", { inputmode: "numeric" }),
      cron && input("timezone", "Time zone", "UTC when left out", { list: "zones" }), cron && ZONES,
      h("div.wide", { key: "preview" }, preview(it)),
      choice("overlap", "While the last one runs", { allow: "make one all the same", skip: "skip the time" }), choice("catch_up", "Missed times", { latest: "make up for the latest", none: "make up for none" }),
      input("starts", "Not before, here", "left out: at once", { type: "datetime-local", step: 1 }), input("ends", "Not after, here", "left out: for ever", { type: "datetime-local", step: 1 }),
      input("jitter", "Jitter in seconds", "puts each task off, by up to this", { inputmode: "decimal" })),
    h("div.panel.form", {},
      input("handler", "Handler", "left out: the server's default"), input("queue", "Queue", "left out: default"),
      labelled("more", "The rest of the task, a JSON object", "payload, priority, max_retries, timeout, key, unique, expires: sent as it is typed", h("textarea.code", { ...common("more"), rows: 16 }))),
    it.kept.declared_by && h("p.late.across", `${it.kept.declared_by} declares it: what is changed here stands over that.`),
    problem && !wrong && h("div", { role: "alert" }, failure(problem)),
    h("div.toolbar", h("button.primary", { type: "submit", disabled: it.sending || health.shut || Boolean(problem) }, icon("scheduled"), it.sending ? "Saving …" : name === null ? "Schedule it" : "Save")));
}

// It keeps its height, whatever it says.
const preview = ({ preview: s }) => h("div.preview", { id: "preview", role: "status", "aria-label": "Read back" },
  s ? [h("p", h("b", { id: "words" }, s.in_words), s.cron ? ` in ${s.timezone}` : ""), times(s)] : h("p.soft", "Not a time yet."));
