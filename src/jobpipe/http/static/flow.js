// What flow has in common on every page: a pause that nobody overlooks, why a task is held, rates as people write them.
import { Problem, call, can } from "./api.js";
import { toast } from "./dialogs.js";
import { h } from "./dom.js";
import { ago, count, duration, full, percent, second } from "./format.js";
import { health } from "./health.js";
import { complain } from "./steering.js";
import { icon, queueHref } from "./ui.js";

export const may = () => can("admin") && !health.shut;

// --- why a task is held ---

const WHY = {
  paused: "its queue is paused",
  key_paused: "its key is paused",
  hold: "its queue or key is held after a refusal from outside",
  concurrency: "its queue runs as many as it may",
  key_concurrency: "its key runs as many as it may",
  rate: "its queue has started as many as it may for now",
  key_rate: "its key has started as many as it may for now",
};

export const why = (held) => WHY[held] || held;
export const heldNote = (task) => h("span", { class: task.held.includes("paused") ? "late" : "" }, `held: ${why(task.held)}`);
export const heldLink = (task) => task.held && h("a.held", { id: "held", href: `${queueHref(task.queue)}${task.key ? `?key=${encodeURIComponent(task.key)}` : ""}` }, `held: ${why(task.held)}`);

// --- pauses ---

export const pausedBadge = () => h("span.badge.paused", icon("pause"), "paused");

// Whether it was done.
export async function pause(path, what, to) {
  return done(`${path}/${to ? "pause" : "resume"}`, { method: "POST" }, `${what} ${to ? "paused" : "goes on"}`);
}

export async function done(path, options, says) {
  if (health.shut) return false;
  try {
    await call(path, options);
    toast(says);
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

export const pauseButton = (what, paused, act, more = {}) => can("admin") && h("button", { ...more, onclick: act, disabled: health.shut, "aria-label": `${paused ? "Resume" : "Pause"} ${what}` },
  icon(paused ? "running" : "pause"), h("span", paused ? "Resume" : "Pause"));

// --- rates ---

const PERIODS = { s: 1, m: 60, h: 3600, d: 86400 };

// "100/m", or "100/90 s burst 5" for what has no short form.
export function rateText(rate) {
  if (rate === null || rate === undefined || typeof rate === "string") return rate ?? "";
  const unit = Object.keys(PERIODS).find((name) => PERIODS[name] === rate.period);
  return `${rate.limit}/${unit || `${rate.period} s`}${rate.burst ? ` burst ${rate.burst}` : ""}`;
}

// As the API takes it; what it cannot be is sent as it was typed, and refused by name.
export function rateOf(text) {
  const match = /^(\d+)\s*\/\s*(?:([smhd])|([\d.]+)\s*s)(?:\s+burst\s+(\d+))?$/.exec(text);
  if (!match || (match[2] && !match[4])) return text.replace(/\s/g, "");
  return { limit: Number(match[1]), period: match[2] ? PERIODS[match[2]] : Number(match[3]), ...(match[4] ? { burst: Number(match[4]) } : {}) };
}

// --- how much of a limit runs ---

// The rules in few words, for a row.
export function brief(rules = {}) {
  const parts = [rules.concurrency && `${count(rules.concurrency)} at a time`, rules.rate && rateText(rules.rate),
    rules.key_concurrency && `${count(rules.key_concurrency)} a key`, rules.key_rate && `${rateText(rules.key_rate)} a key`, rules.fair && "in turns"];
  return parts.filter(Boolean).join(", ");
}

export function runs(running, limit) {
  if (!limit) return h("span.of", h("b", { "data-count": "running" }, count(running)));
  return h("span.fill", { class: running >= limit ? "high" : "" }, h("span.level", { "aria-hidden": "true" }, h("i", { style: { "--part": `${percent(running, limit)}%` } })),
    h("span.of", h("b", { "data-count": "running" }, count(running)), ` of ${count(limit)}`));
}

// Until when a refusal from outside holds; a hold ends by itself.
export function holdText(until) {
  const left = (Date.parse(until) - Date.now()) / 1000;
  return h("span.late", { title: full(until) }, `until ${second(Date.parse(until))}`, left > 0 && h("span", { "aria-hidden": "true" }, `, ${duration(Math.ceil(left))}`));
}

export const who = (set) => (set?.changed_at ? h("span", { title: full(set.changed_at) }, ` ${set.changed_by ? `by ${set.changed_by}, ` : ""}${ago(set.changed_at)}`) : null);

// What is not there is told as empty, so that it can be given rules.
export const orBlank = (blank, read = ({ text }) => JSON.parse(text)) => async (path, options) => {
  try {
    return read(await call(path, options));
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return blank;
    throw error;
  }
};
