// The form that enqueues a task, empty or filled from another. The payload is sent as it was typed.
import { Problem, can, post } from "./api.js";
import { copy, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { health } from "./health.js";
import { head, hrefOf, icon, taskLink } from "./ui.js";
import { parse, pretty } from "./json.js";
import { Resource, failure } from "./resource.js";
import { body, curl, fieldsOf, python } from "./snippets.js";
import { fieldsIn as fieldsOfSchema, schemaForm } from "./schema.js";
import { complain } from "./steering.js";
import { readTask } from "./task.js";

const BLANK = { handler: "", queue: "", id: "", priority: "", max_retries: "", timeout: "", delay: "" };
const NUMBERS = ["priority", "max_retries", "timeout", "delay"];

export function enqueue(app, route) {
  const from = route.query.get("from");
  const source = from ? new Resource(`tasks/${encodeURIComponent(from)}`, { idle: Infinity, read: readTask }) : null;
  const queues = new Resource("queues", { idle: 60000 });
  const known = new Resource("handlers", { idle: 60000 });
  const form = { fields: { ...BLANK, handler: route.query.get("handler") || "" }, payload: "{}", filled: !from, problem: null, sending: false, raw: Boolean(from), drafts: {} };

  const send = async (event) => {
    event.preventDefault();
    if (form.sending || health.shut || payloadError(form.payload)) return;
    form.sending = true;
    form.problem = null;
    app.render();
    try {
      const task = await post("enqueue", body(fieldsIn(form), form.payload));
      toast("Enqueued");
      app.go(hrefOf(task.id));
    } catch (error) {
      if (error instanceof Problem) form.problem = error;
      else complain(error);
    }
    form.sending = false;
    app.render();
    if (form.problem?.field) document.getElementById(`f-${form.problem.field}`)?.focus();
  };

  return {
    title: "Enqueue",
    resources: source ? [source, queues, known] : [queues, known],
    view() {
      if (source?.data && !form.filled) fillIn(form, source.data);
      return [head("Enqueue", from && ["like ", taskLink(from)]),
        !can("enqueue") ? h("p.empty", "This key may not enqueue.") : source?.error && !form.filled ? failure(source.error) : view(form, queues.data || [], known.data || [], send, app)];
    },
  };
}

function fillIn(form, { task, payload }) {
  form.filled = true;
  for (const [name, value] of Object.entries(fieldsOf(task))) if (value !== undefined) form.fields[name] = String(value);
  form.payload = pretty(payload);
}

function fieldsIn(form) {
  const given = Object.entries(form.fields).filter(([, value]) => value !== "");
  return Object.fromEntries(given.map(([name, value]) => [name, NUMBERS.includes(name) ? Number(value) : value]));
}

function payloadError(text) {
  try {
    parse(text);
    return null;
  } catch (error) {
    return error instanceof SyntaxError ? error.message : String(error);
  }
}

// What is told of the handler that was named, and what there is to say where nothing is.
function toldOf(form, known) {
  const one = known.find(({ handler }) => handler === form.fields.handler);
  const lacking = form.fields.handler && !one && known.some(({ declared_by }) => declared_by);
  return { schema: one?.payload, own: one?.payload?.["x-jobpipe"] || {}, lacking };
}

function view(form, queues, known, send, app) {
  const { schema, own, lacking } = toldOf(form, known);
  const byFields = !form.raw && fieldsOfSchema(schema) && !payloadError(form.payload) && parse(form.payload).kind === "object";
  const bad = payloadError(form.payload);
  const field = (name, label, hint, more = {}) => h("div", { key: name }, h("label", h("span", label),
    h("input", { id: `f-${name}`, value: form.fields[name], autocomplete: "off", spellcheck: "false", "aria-invalid": form.problem?.field === name && "true", "aria-describedby": `h-${name}`,
      oninput: (event) => ((form.fields[name] = event.target.value.trim()), app.render()), ...more })),
    h("small", { id: `h-${name}` }, form.problem?.field === name ? h("span.bad", form.problem.detail || form.problem.message) : hint));
  const number = (name, label, hint, more) => field(name, label, hint, { type: "number", inputmode: "decimal", ...more });
  return h("form.enqueue", { onsubmit: send },
    h("div.panel.form", {},
      field("handler", "Handler", lacking ? h("span.late", { id: "unknown-handler" }, "No app has told of this handler and no task of it has run here: the task waits for one that has it.") : "left out: the server's default", { list: "known-handlers" }),
      h("datalist", { id: "known-handlers" }, known.map((one) => h("option", { key: one.handler, value: one.handler }))),
      field("queue", "Queue", own.queue ? `left out: default; its app says ${own.queue}` : "left out: default", { list: "known-queues" }),
      h("datalist", { id: "known-queues" }, queues.map((q) => h("option", { key: q.queue, value: q.queue }))),
      number("priority", "Priority", "-100 to 100, higher first", { min: -100, max: 100, step: 1 }), number("delay", "Delay in seconds", "left out: at once", { min: 0, step: "any" }),
      number("max_retries", "Retries allowed", own.max_retries === undefined ? "left out: the server's setting" : `left out: the server's setting; its app says ${own.max_retries}`, { min: 0, max: 1000, step: 1 }), number("timeout", "Time limit in seconds", own.timeout ? `for one run; left out: ${own.timeout}, the handler's` : "for one run", { min: 0, step: "any" }),
      field("id", "Id", "left out: the server makes one")),
    byFields ? h("div.panel.form", { key: "fields" }, h("div.by", h("b", "Payload"), h("button.quiet", { type: "button", onclick: () => ((form.raw = true), app.render()) }, "As JSON")),
      schemaForm(form, schema, app.render)) : h("div.panel.form.wide", { key: "json" }, h("div",
      schema && fieldsOfSchema(schema) && h("button.quiet", { type: "button", disabled: Boolean(bad), onclick: () => ((form.raw = false), app.render()) }, "By its fields"), h("label", h("span", "Payload, any JSON"),
      h("textarea.code", { id: "f-payload", rows: 14, spellcheck: "false", value: form.payload, "aria-invalid": bad && "true", "aria-describedby": "h-payload",
        oninput: (event) => ((form.payload = event.target.value), app.render()) })),
      h("small", { id: "h-payload", "aria-live": "polite" }, bad ? h("span.bad", `Not JSON yet: ${bad}`) : "sent as it is typed"))),
    form.problem && !(form.problem.field in form.fields) && h("div", { role: "alert" }, failure(form.problem)),
    h("div.toolbar", h("button.primary", { type: "submit", disabled: Boolean(bad) || form.sending || health.shut }, icon("enqueue"), form.sending ? "Enqueueing …" : "Enqueue"),
      h("span.space"),
      h("button.quiet", { type: "button", disabled: Boolean(bad), onclick: () => copy(curl(fieldsIn(form), form.payload), "curl command") }, icon("copy"), "curl"),
      h("button.quiet", { type: "button", disabled: Boolean(bad), onclick: () => copy(python({ handler: null, ...fieldsIn(form) }, parse(form.payload)), "Python") }, icon("copy"), "Python")));
}
