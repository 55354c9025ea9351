// Retry, cancel and delete, of one task or of many. Before many are changed, the server counts them; what is then asked
// for is bound to the statuses that were counted.
import { Away, Problem, can, call, post } from "./api.js";
import { dialog, renderDialog, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { count, plural } from "./format.js";
import { health } from "./health.js";
import { icon } from "./ui.js";
import { sentence } from "./resource.js";

export const VERBS = {
  retry: { name: "Retry", done: "queued again", from: ["failed", "cancelled"], says: "They start over, with all attempts before them." },
  cancel: { name: "Cancel", done: "cancelled or asked to stop", from: ["queued", "running"], says: "Those that run are told to stop." },
  delete: { name: "Delete", done: "deleted", from: ["done", "failed", "cancelled"], says: "They are forgotten for good, history included." },
};

const CALLS = {
  retry: (id) => call(`tasks/${encodeURIComponent(id)}/retry`, { method: "POST" }),
  cancel: (id) => call(`tasks/${encodeURIComponent(id)}/cancel`, { method: "POST" }),
  delete: (id) => call(`tasks/${encodeURIComponent(id)}`, { method: "DELETE" }),
};

// Scheduled and retrying tasks are queued ones.
export const reaches = (verb, status) => VERBS[verb].from.includes(/scheduled|retrying/.test(status) ? "queued" : status);
export const allowed = (verb, status) => can("admin") && !health.shut && VERBS[verb].from.includes(status);

export function complain(error) {
  if (error instanceof Problem || error instanceof Away) toast([sentence(error.message), error.detail].filter(Boolean).join(": "), { bad: true });
  else throw error;
}

// Whether it was done.
export async function steer(verb, task) {
  if (verb === "delete" && !(await confirmOne(task))) return false;
  try {
    const { status } = await CALLS[verb](task.id);
    toast(verb === "cancel" ? (status === 202 ? "Its worker is told to stop" : "Cancelled") : verb === "retry" ? "Queued again" : "Deleted");
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

const confirmOne = (task) => agreed("Delete this task?", "Delete", h("p", h("code", task.id), " is forgotten for good, history included."));

// Whether the reader says yes to something that cannot be undone.
export const agreed = (title, label, ...says) => dialog(title, (close) => [...says, buttons(close, label, "delete", () => close(true))]);

function buttons(close, label, verb, act, disabled = false) {
  return h("footer", {},
    h("button", { type: "button", onclick: () => close(null), "data-first": disabled || undefined }, "Keep"),
    h("button.primary", { type: "button", class: verb === "retry" ? "" : "danger", onclick: act, disabled: disabled || health.shut, "data-first": !disabled || undefined }, icon(verb), label));
}

// `filter` is the body of the bulk routes, `meant` says in words what it stands for. How many were changed, null for none.
export async function steerMany(verb, filter, meant) {
  if (health.shut) return null;
  const rule = VERBS[verb];
  const statuses = filter.status ? [filter.status].filter((status) => reaches(verb, status)) : rule.from;
  const stop = new AbortController();
  const state = { counts: null, error: null, typed: "", typing: verb === "delete" && Object.keys(filter).every((name) => name === "all" || name === "status") };
  countAll(verb, filter, statuses, stop.signal)
    .then((counts) => (state.counts = counts), (error) => (state.error = error))
    .finally(renderDialog);
  const agreed = await dialog(`${rule.name} many tasks`, (close) => question(verb, meant, state, close));
  stop.abort();
  if (!agreed) return null;
  return change(verb, filter, state.counts);
}

async function countAll(verb, filter, statuses, signal) {
  const counts = [];
  for (const status of statuses) {
    const { matched } = await post(`tasks/${verb}`, { ...filter, status, dry_run: true }, { signal, timeout: 600000 });
    if (matched) counts.push([status, matched]);
  }
  return counts;
}

function question(verb, meant, state, close) {
  const { counts, error } = state;
  const rule = VERBS[verb];
  const total = counts?.reduce((sum, [, n]) => sum + n, 0);
  const label = total ? `${rule.name} ${plural(total, "task")}` : rule.name;
  const body = error ? h("p.bad", sentence(error.message))
    : !counts ? h("p", { "aria-busy": "true" }, "Counting …")
      : !total ? h("p", `None of them can be: ${verb} is for tasks that are ${rule.from.join(" or ")}.`)
        : [h("p.huge", { id: "bulk-count" }, count(total)),
          h("p", counts.map(([status, n]) => `${count(n)} ${status}`).join(", "), ". ", rule.says)];
  const missing = state.typing && state.typed.replace(/\D/g, "") !== String(total);
  return [h("p", "Chosen: ", h("strong", meant)), h("div", { "aria-live": "polite" }, body),
    state.typing && total > 0 && h("label", h("span", "Type the number of tasks, to delete them all"),
      h("input", { id: "typed", inputmode: "numeric", autocomplete: "off", value: state.typed, oninput: (event) => ((state.typed = event.target.value), renderDialog()) })),
    buttons(close, label, verb, () => close(true), !total || missing)];
}

async function change(verb, filter, counts) {
  const counted = counts.reduce((sum, [, n]) => sum + n, 0);
  let changed = 0;
  try {
    for (const [status] of counts) {
      changed += (await post(`tasks/${verb}`, { ...filter, status }, { timeout: 600000 })).changed;
    }
  } catch (error) {
    complain(error);
  }
  toast(`${count(changed)} of ${plural(counted, "task")} ${VERBS[verb].done}`, { bad: changed < counted });
  return changed;
}
