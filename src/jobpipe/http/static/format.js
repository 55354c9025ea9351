// Numbers, durations and times as people read them. `now` is the server's clock as far as its answers tell.

const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const SECOND = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3,
});

let skew = 0;

export const now = () => Date.now() + skew;

// The Date header has whole seconds: only a clock that is clearly wrong is corrected.
export function learnClock(date) {
  const off = Date.parse(date) + 500 - Date.now();
  if (Number.isFinite(off)) skew = Math.abs(off) > 2000 ? off : 0;
}

export const count = (n) => (n === null || n === undefined ? "–" : COUNT.format(n));
export const short = (n) => (n < 10000 ? COUNT.format(n) : SHORT.format(n));
export const rate = (n) => (n === null || n === undefined ? "–" : n === 0 ? "0" : n < 10 ? n.toFixed(1) : short(Math.round(n)));
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const percent = (part, whole) => (whole > 0 ? Math.min(100, (100 * part) / whole) : 0);

// Seconds as the two largest units that matter: 12 ms, 1.25 s, 3 m 20 s, 2 h 5 m, 4 d 3 h.
export function duration(s) {
  if (s === null || s === undefined) return "–";
  const v = Math.max(0, s);
  if (v < 0.0005) return "0 ms";
  if (v < 0.9995) return `${Math.max(1, Math.round(v * 1000))} ms`;
  if (v < 10) return `${Number(v.toFixed(2))} s`;
  if (v < 60) return `${Number(v.toFixed(1))} s`;
  const [size, big, part, small] = v < 3600 ? [60, "m", 1, "s"] : v < 86400 ? [3600, "h", 60, "m"] : [86400, "d", 3600, "h"];
  const rest = Math.floor((v % size) / part);
  return `${Math.floor(v / size)} ${big}${rest ? ` ${rest} ${small}` : ""}`;
}

// One unit, whole: for ages that tick.
export function coarse(s) {
  const v = Math.max(0, s);
  if (v < 60) return `${Math.floor(v)} s`;
  if (v < 3600) return `${Math.floor(v / 60)} m`;
  if (v < 86400) return `${Math.floor(v / 3600)} h`;
  return `${Math.floor(v / 86400)} d`;
}

export const seconds = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;
export const since = (time) => (now() - Date.parse(time)) / 1000;

export function ago(time) {
  if (!time) return "–";
  const s = since(time);
  return s < -0.5 ? `in ${coarse(-s + 0.5)}` : s < 1 ? "now" : `${coarse(s)} ago`;
}

export const clock = (ms) => CLOCK.format(ms);
export const second = (ms) => SECOND.format(ms);
export const day = (ms) => DAY.format(ms);
export const full = (time) => (time ? FULL.format(new Date(time)) : "–");

// A task that waits is queued; that it waits for a retry or for its hour is told by its other fields.
export function shown(task) {
  if (task.status === "queued" && Date.parse(task.run_at) > now() + 250) return task.attempts ? "retrying" : "scheduled";
  return task.status;
}
